//! Runs the .slt files through our session, under several partitionings and batch sizes.

use async_trait::async_trait;
use onefold::arrow::util::display::{ArrayFormatter, FormatOptions};
use onefold::datafusion::dataframe::DataFrame;
use onefold::datafusion::prelude::{SessionConfig, SessionContext};
use onefold::object_store::memory::InMemory;
use onefold::prelude::*;
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType, Runner};
use std::sync::Arc;

#[tokio::test]
async fn every_placement_and_option_of_the_clause() {
    run_everywhere("dedup.slt").await;
}

#[tokio::test]
async fn everything_refused_says_what_to_write() {
    run_everywhere("refused.slt").await;
}

#[tokio::test]
async fn sources_have_watermarks_options_and_settings() {
    run_everywhere("sources.slt").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_that_change_tables_say_what_they_did_or_why_they_cannot() {
    run_everywhere("table.slt").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sketches_of_minutes_give_the_estimate_of_the_day() {
    run_everywhere("sketches.slt").await;
}

#[tokio::test]
async fn windows_that_tumble_are_bins() {
    run_everywhere("tumble.slt").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nexmark_as_pipelines_is_nexmark_at_once() {
    run_everywhere("nexmark.slt").await;
}

#[tokio::test]
async fn windows_that_hop_hold_each_row_several_times() {
    run_everywhere("hop.slt").await;
}

#[tokio::test]
async fn sessions_end_where_nothing_comes_for_a_while() {
    run_everywhere("session.slt").await;
}

#[tokio::test]
async fn plain_statements_are_unchanged() {
    run_everywhere("plain.slt").await;
    run("plain.slt", || Database { context: SessionContext::new(), is_plain: true }).await;
}

async fn run_everywhere(file: &str) {
    for (partitions, batch_size) in [(1, 8192), (2, 1), (8, 7)] {
        run(file, || {
            let config = SessionConfig::new()
                .with_target_partitions(partitions)
                .with_batch_size(batch_size)
                .with_information_schema(true);
            let context =
                SessionContext::new_with_config(config).with_onefold(Settings::default()).unwrap();
            let url = "memory:///".parse().unwrap();
            context.runtime_env().register_object_store(&url, Arc::new(InMemory::new()));
            Database { context, is_plain: false }
        })
        .await;
    }
}

async fn run(file: &str, database: impl Fn() -> Database) {
    let path = format!("{}/tests/slt/{file}", env!("CARGO_MANIFEST_DIR"));
    let mut runner = Runner::new(|| {
        let database = database();
        async move { Ok(database) }
    });
    if let Err(error) = runner.run_file_async(&path).await {
        panic!("{}", error.display(false));
    }
}

struct Database {
    context: SessionContext,
    is_plain: bool,
}

#[async_trait]
impl AsyncDB for Database {
    type Error = Error;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Error> {
        if let Some(pipeline) = sql.strip_prefix("RUN ") {
            self.context.pipeline(pipeline)?.run_until_idle().await?;
            return Ok(DBOutput::StatementComplete(0));
        }
        let frames = if self.is_plain {
            vec![self.context.sql(sql).await?]
        } else {
            self.context.run_sql(sql).await?
        };
        let mut output = DBOutput::StatementComplete(0);
        for frame in frames {
            output = rows_of(frame).await?;
        }
        Ok(output)
    }

    async fn shutdown(&mut self) {}
}

async fn rows_of(frame: DataFrame) -> Result<DBOutput<DefaultColumnType>, Error> {
    let columns = frame.schema().fields().len();
    let batches = frame.collect().await?;
    if columns == 0 {
        return Ok(DBOutput::StatementComplete(0));
    }
    let options = FormatOptions::default().with_null("NULL");
    let mut rows = Vec::new();
    for batch in &batches {
        let cells: Vec<ArrayFormatter<'_>> = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).unwrap())
            .collect();
        for row in 0..batch.num_rows() {
            rows.push(cells.iter().map(|cell| cell.value(row).to_string()).collect());
        }
    }
    Ok(DBOutput::Rows { types: vec![DefaultColumnType::Any; columns], rows })
}
