//! A rollup as a pipeline, beside one query over the same rows.
//!
//! Answers: what it costs to keep `count`, `sum` and `max` per key and minute in an upsert table,
//! with a commit for each million rows, beside DataFusion's GROUP BY over the same Parquet at once;
//! what a key costs that has nine rows of ten; what it costs where the table is compacted once, nearly
//! all of it; and where the groups have a fourth of the memory that they would take. Each time is the
//! best of three, taken in turns.
#![allow(clippy::future_not_send, reason = "a bench waits on one thread")]

use onefold::arrow::array::cast::AsArray;
use onefold::arrow::array::types::Int64Type;
use onefold::datafusion::prelude::{SessionConfig, SessionContext};
use onefold::pipeline::PipelineStatus;
use onefold::prelude::*;
use std::error::Error as StdError;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn StdError>>;

const ROWS: u64 = 20_000_000;
const FILES: u64 = 4;
/// Of Zipf's law they make a million groups.
const KEYS: u64 = 61_500;
const RUNS: usize = 3;
/// Files that make a compaction: more than a run commits, and a few less.
const FILES_MIN: [u64; 2] = [32, 16];
/// All event times lie within this many minutes.
const MINUTES: u64 = 20;

/// How keys are spread over rows, as an expression of `r`, uniform in 0 to 1.
const SPREADS: [(&str, &str); 3] = [
    // The inverse of the distribution function of Zipf's law with exponent 1.1, for large counts.
    ("zipf 1.1", "CAST(power(1 - r * (1 - power(K, -0.1)), -10) AS BIGINT)"),
    ("uniform", "CAST(r * K AS BIGINT)"),
    (
        "one key with 9 of 10 rows",
        "CASE WHEN r < 0.9 THEN 0 ELSE CAST((r - 0.9) * 10 * K AS BIGINT) END",
    ),
];

fn main() -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        for (name, spread) in SPREADS {
            measure(name, spread).await?;
        }
        Ok(())
    })
}

async fn measure(name: &str, spread: &str) -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    write_rows(folder.path(), spread).await?;
    let group = "id, date_bin(INTERVAL '1 minute', at)";
    let select = "SELECT id, date_bin(INTERVAL '1 minute', at) AS minute, count(*) AS n, \
                  sum(v) AS s, max(v) AS m FROM";
    let plain = SessionContext::new_with_config(SessionConfig::new());
    let files = folder.path().join("rows").display().to_string();
    let create = format!("CREATE EXTERNAL TABLE e STORED AS PARQUET LOCATION '{files}/'");
    plain.sql(&create).await?.collect().await?;
    let query =
        format!("SELECT count(*), sum(n), sum(s), sum(m) FROM ({select} e GROUP BY {group})");
    let mut state_bytes_max = Settings::default().state_bytes_max;
    for (run, files_min) in
        [("held", FILES_MIN[0]), ("compacted", FILES_MIN[1]), ("spilled", FILES_MIN[0])]
    {
        let mut best: Option<(Duration, PipelineStatus, f64)> = None;
        let (mut baseline, mut expected) = (Duration::MAX, Vec::new());
        for number in 0..RUNS {
            let start = now();
            expected = numbers(&plain, &query).await?;
            baseline = baseline.min(start.elapsed());
            let target = folder.path().join(format!("{run}{number}")).display().to_string();
            let select = format!("{select} e GROUP BY {group}");
            forget_peak()?;
            let start = now();
            let (context, status) =
                pipeline((&files, &target), &select, (state_bytes_max, files_min)).await?;
            let (time, peak) = (start.elapsed(), peak_mib()?);
            let found = numbers(&context, "SELECT count(*), sum(n), sum(s), sum(m) FROM t").await?;
            assert_eq!(found, expected, "{name}");
            if best.as_ref().is_none_or(|(least, ..)| time < *least) {
                best = Some((time, status, peak));
            }
        }
        let (ours, status, peak) = best.ok_or("no run")?;
        let rate = |time: Duration| ROWS as f64 / time.as_secs_f64() / 1e6;
        writeln!(
            std::io::stdout(),
            "{name}, {run}: {:.2} M rows/s, {} groups, {} epochs, {} changes, commits {:.2} s, state \
             {:.0} MiB, process {peak:.0} MiB at most; one query {:.2} M rows/s, ratio {:.2}",
            rate(ours),
            expected[0],
            status.epochs,
            status.rows_inserted + status.rows_updated,
            status.commit_us as f64 / 1e6,
            status.state_bytes as f64 / f64::from(1 << 20),
            rate(baseline),
            baseline.as_secs_f64() / ours.as_secs_f64()
        )?;
        if run == "compacted" {
            state_bytes_max = status.state_bytes / 4;
        }
    }
    Ok(())
}

/// Runs the whole pipeline from `files` into `target`.
async fn pipeline(
    (files, target): (&str, &str),
    select: &str,
    (state_bytes_max, files_min): (u64, u64),
) -> Outcome<(SessionContext, PipelineStatus)> {
    let context = SessionContext::new_with_config(SessionConfig::new());
    let context = context.with_onefold(Settings::default())?;
    let script = format!(
        "SET onefold.state_bytes_max = {state_bytes_max};
         SET onefold.compact_files_min = {files_min};
         CREATE UNBOUNDED EXTERNAL TABLE e (id BIGINT, at TIMESTAMP(6), v BIGINT,
           WATERMARK FOR at AS at - INTERVAL '1 hour')
         STORED AS PARQUET LOCATION '{files}/';
         CREATE EXTERNAL TABLE t (id BIGINT NOT NULL, minute TIMESTAMP NOT NULL, n BIGINT, s BIGINT,
           m BIGINT, PRIMARY KEY (id, minute))
         STORED AS DELTA LOCATION '{target}';
         INSERT INTO t {select}"
    );
    context.run_sql(&script).await?;
    let status = context.pipeline("t")?.run_until_idle().await?;
    Ok((context, status))
}

/// Begins to measure the peak of this process's memory anew.
fn forget_peak() -> Outcome<()> {
    Ok(std::fs::write("/proc/self/clear_refs", "5")?)
}

/// The peak of this process's memory, in MiB.
fn peak_mib() -> Outcome<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).ok_or("no peak")?;
    let kib: f64 = line.split_whitespace().nth(1).ok_or("no number")?.parse()?;
    Ok(kib / 1024.0)
}

async fn write_rows(folder: &Path, spread: &str) -> Outcome<()> {
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
    let spread = spread.replace('K', &KEYS.to_string());
    let per_file = ROWS / FILES;
    for file in 0..FILES {
        let from = file * per_file;
        let path = folder.join(format!("rows/{file}.parquet")).display().to_string();
        let copy = format!(
            "COPY (SELECT {spread} AS id, v,
               to_timestamp_micros(1767225600000000 + v * {MINUTES} * 60000000 / {ROWS}) AS at
             FROM (SELECT value AS v, random() AS r FROM generate_series({from}, {})))
             TO '{path}' STORED AS PARQUET",
            from + per_file - 1
        );
        context.sql(&copy).await?.collect().await?;
    }
    Ok(())
}

async fn numbers(context: &SessionContext, query: &str) -> Outcome<Vec<i64>> {
    let batches = context.sql(query).await?.collect().await?;
    let batch = batches.iter().find(|batch| batch.num_rows() > 0).ok_or("no row")?;
    let number = |column: usize| batch.column(column).as_primitive::<Int64Type>().value(0);
    Ok((0..batch.num_columns()).map(number).collect())
}

#[allow(clippy::disallowed_methods, reason = "a bench reads the clock")]
fn now() -> Instant {
    Instant::now()
}
