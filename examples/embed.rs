//! A DataFusion session with our SQL: tables of your own, DEDUP BY over them.

use onefold::arrow::util::pretty::pretty_format_batches;
use onefold::datafusion::prelude::SessionContext;
use onefold::prelude::*;
use std::io::Write;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let context = SessionContext::new().with_onefold(Settings::default())?;
    context
        .run_sql(
            "CREATE TABLE readings AS SELECT * FROM (VALUES
               ('t1', 20.5, TIMESTAMP '2024-05-01 12:00:00'),
               ('t1', 20.5, TIMESTAMP '2024-05-01 12:00:00'),
               ('t1', 21.0, TIMESTAMP '2024-05-01 12:05:00')
             ) AS v(sensor, celsius, at)",
        )
        .await?;
    let frames = context
        .run_sql(
            "SELECT sensor, count(*) AS readings, avg(celsius) AS celsius
             FROM readings DEDUP BY sensor, celsius WITHIN INTERVAL '1 minute' OF at
             GROUP BY sensor",
        )
        .await?;
    for frame in frames {
        let table = pretty_format_batches(&frame.collect().await?)?;
        writeln!(std::io::stdout(), "{table}")?;
    }
    Ok(())
}
