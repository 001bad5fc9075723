//! A source of your own: numbers that are squares, read again from any offset.

use onefold::arrow::array::{ArrayRef, UInt64Array};
use onefold::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use onefold::arrow::record_batch::RecordBatch;
use onefold::arrow::util::pretty::pretty_format_batches;
use onefold::datafusion::prelude::SessionContext;
use onefold::prelude::*;
use onefold::source::{
    Chunk, Poll, PollLimits, Source, SourceError, SourceReader, SourceStart, SourceTableOptions,
};
use onefold::types::{Offset, PartitionId};
use std::io::Write;
use std::sync::Arc;

const ROWS: u64 = 1_000;

#[derive(Debug)]
struct Squares;

#[async_trait::async_trait]
impl Source for Squares {
    fn schema(&self) -> SchemaRef {
        let field = |name| Field::new(name, DataType::UInt64, false);
        Arc::new(Schema::new(vec![field("n"), field("square")]))
    }

    fn fingerprint(&self) -> String {
        "squares".to_owned()
    }

    async fn open(&self, start: SourceStart) -> Result<Box<dyn SourceReader>, SourceError> {
        let offsets = start.position.map(|position| position.partitions).unwrap_or_default();
        let next = offsets.get(&partition()).copied();
        Ok(Box::new(Reader { schema: self.schema(), next }))
    }

    async fn position_at(&self, _: i64) -> Result<SourceStart, SourceError> {
        Ok(SourceStart::default())
    }
}

#[derive(Debug)]
struct Reader {
    schema: SchemaRef,
    /// `None` before the partition was started.
    next: Option<Offset>,
}

#[async_trait::async_trait]
impl SourceReader for Reader {
    async fn poll(&mut self, limits: PollLimits) -> Result<Poll, SourceError> {
        let mut poll = Poll::default();
        if self.next.is_none() {
            poll.started.push(partition());
        }
        let from = self.next.unwrap_or_default();
        let to = Offset(ROWS.min(from.0 + limits.rows_max));
        if to > from {
            let numbers: UInt64Array = (from.0..to.0).collect();
            let squares: UInt64Array = (from.0..to.0).map(|n| n * n).collect();
            let columns: Vec<ArrayRef> = vec![Arc::new(numbers), Arc::new(squares)];
            let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns);
            let batch = batch.map_err(|error| SourceError::Invalid {
                source_name: "squares".to_owned(),
                reason: error.to_string(),
            })?;
            poll.chunks.push(Chunk {
                partition: partition(),
                offsets: from..to,
                batch,
                malformed: 0,
                arrived_us: None,
            });
        }
        self.next = Some(to);
        poll.position.partitions.insert(partition(), to);
        poll.is_at_end = to.0 == ROWS;
        Ok(poll)
    }
}

fn partition() -> PartitionId {
    PartitionId("0".to_owned())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let context = SessionContext::new().with_onefold(Settings::default())?;
    let options = SourceTableOptions { is_unbounded: true, ..SourceTableOptions::default() };
    context.register_source("squares", Arc::new(Squares), options)?;
    context
        .run_sql(
            "CREATE EXTERNAL TABLE ends (digit BIGINT NOT NULL, n BIGINT, PRIMARY KEY (digit))
             STORED AS DELTA LOCATION 'memory:///ends';
             INSERT INTO ends SELECT square % 10, n FROM squares",
        )
        .await?;
    let status = context.pipeline("ends")?.run_until_idle().await?;
    writeln!(std::io::stdout(), "{} rows in, {} rows out", status.rows_in, status.rows_out)?;
    for frame in context.run_sql("SELECT digit, n AS last_n FROM ends ORDER BY digit").await? {
        writeln!(std::io::stdout(), "{}", pretty_format_batches(&frame.collect().await?)?)?;
    }
    Ok(())
}
