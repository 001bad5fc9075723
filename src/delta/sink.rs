//! `INSERT INTO` by a plain query: one commit, of all rows or of none.

use super::table::DeltaTable;
use super::token::{spend_token, token_of};
use crate::commit::EpochRows;
use crate::types::{POSITION_COLUMN, Position};
use arrow::array::UInt64Array;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::common::Result;
use datafusion::datasource::sink::DataSink;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType};
use futures::StreamExt;
use std::fmt;
use std::sync::{Arc, Weak};

/// Collects rows and upserts them; of rows with the same key the last one stays.
#[derive(Debug)]
pub(super) struct UpsertSink {
    table: Weak<DeltaTable>,
    schema: SchemaRef,
    name: String,
}

impl UpsertSink {
    pub(super) fn new(table: &DeltaTable) -> Self {
        Self {
            table: Weak::clone(&table.this),
            schema: nullable(&table.shape.input),
            name: table.name().to_owned(),
        }
    }
}

impl DisplayAs for UpsertSink {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UpsertSink: {}", self.name)
    }
}

#[async_trait]
impl DataSink for UpsertSink {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    async fn write_all(
        &self,
        mut rows: SendableRecordBatchStream,
        context: &Arc<TaskContext>,
    ) -> Result<u64> {
        let Some(table) = self.table.upgrade() else {
            return datafusion::common::internal_err!("table {} is gone", self.name);
        };
        let mut positioned: Option<SchemaRef> = None;
        let mut batches = Vec::new();
        let mut next = Position::new(0, 0).0;
        while let Some(batch) = rows.next().await.transpose()? {
            let count = batch.num_rows() as u64;
            let schema = positioned.get_or_insert_with(|| {
                let mut fields = batch.schema().fields().to_vec();
                fields.push(Arc::new(Field::new(POSITION_COLUMN, DataType::UInt64, false)));
                Arc::new(Schema::new(fields))
            });
            let mut columns = batch.columns().to_vec();
            columns.push(Arc::new(UInt64Array::from_iter_values(next..next + count)));
            batches.push(RecordBatch::try_new(Arc::clone(schema), columns)?);
            next += count;
        }
        let token = token_of(context);
        if next == 0 && token.is_none() {
            return Ok(0);
        }
        let staged = table.stage_rows(EpochRows { partitions: vec![batches] }).await?;
        let written = table.write(&staged, token.as_deref()).await?;
        spend_token(context, token.as_deref());
        Ok(if written.is_repeated { 0 } else { next })
    }
}

/// DataFusion would refuse a NULL by column; we name the row.
fn nullable(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}
