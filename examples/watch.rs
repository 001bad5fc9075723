//! Queries a table while a pipeline writes it, then tells the pipeline to stop.

use onefold::arrow::util::pretty::pretty_format_batches;
use onefold::datafusion::common::runtime::SpawnedTask;
use onefold::datafusion::prelude::SessionContext;
use onefold::prelude::*;
use std::io::Write;
use tokio::sync::oneshot;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let context = SessionContext::new().with_onefold(Settings::default())?;
    context
        .run_sql(
            "SET onefold.epoch_rows_max = 20000;
             CREATE UNBOUNDED EXTERNAL TABLE clicks (
               event_id VARCHAR NOT NULL, post_id BIGINT, event_time TIMESTAMP,
               WATERMARK FOR event_time AS event_time - INTERVAL '30 seconds'
             ) STORED AS GENERATOR OPTIONS ('rows' '100000');
             CREATE EXTERNAL TABLE unique_clicks (
               event_id VARCHAR NOT NULL, post_id BIGINT, event_time TIMESTAMP,
               PRIMARY KEY (event_id)
             ) STORED AS DELTA LOCATION 'memory:///unique_clicks';
             INSERT INTO unique_clicks SELECT event_id, post_id, event_time
             FROM clicks DEDUP BY event_id WITHIN INTERVAL '1 hour'",
        )
        .await?;
    let pipeline = context.pipeline("unique_clicks")?;
    let mut status = pipeline.status();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = SpawnedTask::spawn({
        let pipeline = pipeline.clone();
        async move { pipeline.run(async { drop(stopped.await) }).await }
    });
    let mut out = std::io::stdout();
    // Each committed epoch is a version of the table that queries can read at once.
    loop {
        let now = status.wait_for(|status| status.epochs > 0).await?.clone();
        let counted = context.run_sql("SELECT count(*) AS rows FROM unique_clicks").await?;
        for frame in counted {
            let table = pretty_format_batches(&frame.collect().await?)?;
            writeln!(out, "after epoch {} (version {}):\n{table}", now.epoch, now.version)?;
        }
        if now.rows_in >= 100_000 {
            break;
        }
        status.changed().await?;
    }
    drop(stop);
    let done = running.join().await??;
    writeln!(out, "{} rows in, {} duplicates", done.rows_in, done.rows_duplicate)?;
    Ok(())
}
