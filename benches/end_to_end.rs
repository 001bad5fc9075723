//! Files -> DEDUP -> Delta, beside `DataFusion`'s plain COPY of the same files to Parquet.
//!
//! Answers: what exactly-once costs, in rows per second, against writing the rows down without
//! looking at them. Each measurement is a process of its own, bound to its cores by taskset; the
//! two are run in turns, and the best of three counts.

use onefold::datafusion::prelude::{SessionConfig, SessionContext};
use onefold::prelude::*;
use std::error::Error as StdError;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

const ROWS: u64 = 2_000_000;
const FILES: u64 = 8;
const TURNS: usize = 3;

const COLUMNS: &str = "event_id VARCHAR NOT NULL, user_id BIGINT, post_id BIGINT, kind VARCHAR,
    amount DOUBLE, event_time TIMESTAMP";

fn main() -> Result<(), Box<dyn StdError>> {
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Runtime::new()?;
    if let [_, job, format, folder, cores] = arguments.as_slice() {
        let seconds = runtime.block_on(run(job, format, Path::new(folder), cores.parse()?))?;
        writeln!(std::io::stdout(), "{seconds}")?;
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    runtime.block_on(write_files(folder.path()))?;
    let mut out = std::io::stdout();
    for format in ["parquet", "json"] {
        for cores in [1, 2] {
            let (mut onefold, mut copy) = (f64::MAX, f64::MAX);
            for _ in 0..TURNS {
                copy = copy.min(measure("copy", format, folder.path(), cores)?);
                onefold = onefold.min(measure("onefold", format, folder.path(), cores)?);
            }
            let rate = |seconds: f64| ROWS as f64 / seconds / 1e3;
            writeln!(
                out,
                "{format}, {cores} core(s): onefold {:.0} k rows/s, COPY {:.0} k rows/s, ratio {:.2}",
                rate(onefold),
                rate(copy),
                copy / onefold
            )?;
        }
    }
    Ok(())
}

fn measure(job: &str, format: &str, folder: &Path, cores: usize) -> Result<f64, Box<dyn StdError>> {
    for output in ["table", "copy"] {
        let output = folder.join(output);
        if output.exists() {
            std::fs::remove_dir_all(output)?;
        }
    }
    let set = if cores == 1 { "0" } else { "0,1" };
    let done = Command::new("taskset")
        .args(["-c", set])
        .arg(std::env::current_exe()?)
        .args([job, format])
        .arg(folder)
        .arg(cores.to_string())
        .output()?;
    let text = String::from_utf8(done.stdout)?;
    text.trim()
        .parse()
        .map_err(|_| format!("{job}: {}", String::from_utf8_lossy(&done.stderr)).into())
}

/// Seconds that one job takes, the opening of the session left out.
#[allow(clippy::disallowed_methods, reason = "a bench reads the clock")]
async fn run(
    job: &str,
    format: &str,
    folder: &Path,
    cores: usize,
) -> Result<f64, Box<dyn StdError>> {
    let config = SessionConfig::new().with_target_partitions(cores);
    let context = SessionContext::new_with_config(config).with_onefold(Settings::default())?;
    let place = folder.display();
    let kind = format.to_uppercase();
    if job == "copy" {
        let table = format!(
            "CREATE EXTERNAL TABLE events ({COLUMNS}) STORED AS {kind} LOCATION '{place}/{format}/'"
        );
        context.run_sql(&table).await?;
        let start = Instant::now();
        let copy = format!("COPY (SELECT * FROM events) TO '{place}/copy/' STORED AS PARQUET");
        context.run_sql(&copy).await?;
        return Ok(start.elapsed().as_secs_f64());
    }
    let script = format!(
        "CREATE UNBOUNDED EXTERNAL TABLE events ({COLUMNS},
           WATERMARK FOR event_time AS event_time - INTERVAL '30 seconds')
         STORED AS {kind} LOCATION '{place}/{format}/';
         CREATE EXTERNAL TABLE t ({COLUMNS}, PRIMARY KEY (event_id))
         STORED AS DELTA LOCATION '{place}/table';
         INSERT INTO t SELECT * FROM events DEDUP BY event_id WITHIN INTERVAL '1 hour'"
    );
    context.run_sql(&script).await?;
    let start = Instant::now();
    let status = context.pipeline("t")?.run_until_idle().await?;
    assert_eq!(status.rows_in, ROWS, "every row is read");
    Ok(start.elapsed().as_secs_f64())
}

async fn write_files(folder: &Path) -> Result<(), Box<dyn StdError>> {
    let context = SessionContext::new().with_onefold(Settings::default())?;
    let rows = ROWS / FILES;
    for file in 0..FILES {
        let script = format!(
            "CREATE EXTERNAL TABLE g{file} STORED AS GENERATOR
               OPTIONS ('rows' '{rows}', 'seed' '{file}', 'partitions' '1', 'late_percent' '0');
             COPY (SELECT * FROM g{file}) TO '{0}/parquet/{file}.parquet' STORED AS PARQUET;
             COPY (SELECT * FROM g{file}) TO '{0}/json/{file}.json' STORED AS JSON",
            folder.display()
        );
        context.run_sql(&script).await?;
    }
    Ok(())
}
