//! Reading an upsert table: scans after many epochs, rows by key, and opening with a saved index.
//!
//! Answers: what a scan of a table after 200 random upsert epochs costs beside DataFusion's scan of
//! the same rows as plain Parquet, and after OPTIMIZE; what a row by its key costs beside a plain file sorted by key;
//! and what opening a table of 20 million keys to write it costs with a saved index, beside reading
//! its keys. The least of several runs counts.
#![allow(clippy::future_not_send, reason = "a bench waits on one thread")]

use onefold::arrow::array::cast::AsArray;
use onefold::arrow::array::types::Int64Type;
use onefold::commit::Ledger;
use onefold::datafusion::prelude::{SessionConfig, SessionContext};
use onefold::delta::{DeltaSettings, DeltaTable};
use onefold::prelude::*;
use onefold::store::{DurableLocal, Location};
use onefold::types::{PipelineId, SystemClock, SystemEntropy};
use std::error::Error as StdError;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn StdError>>;

const ROWS: u64 = 2_000_000;
const EPOCHS: u64 = 200;
const EPOCH_ROWS: u64 = 5_000;
const KEYS: u64 = 20_000_000;
const RUNS: usize = 7;

fn main() -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        reads().await?;
        opens().await
    })
}

async fn reads() -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let context = session(folder.path())?;
    let plain = folder.path().join("plain.parquet").display().to_string();
    run(
        &context,
        &format!(
            "INSERT INTO t SELECT value, 0, value * 1.5 FROM generate_series(0, {})",
            ROWS - 1
        ),
    )
    .await?;
    for epoch in 1..=EPOCHS {
        let insert = format!(
            "INSERT INTO t SELECT DISTINCT CAST(random() * {} AS BIGINT), {epoch}, 0.5 FROM generate_series(1, {EPOCH_ROWS})",
            ROWS - 1
        );
        run(&context, &insert).await?;
    }
    let copy = format!(
        "COPY (SELECT * FROM t ORDER BY k) TO '{plain}' STORED AS PARQUET OPTIONS ('compression' 'zstd(1)')"
    );
    run(&context, &copy).await?;
    run(&context, &format!("CREATE EXTERNAL TABLE p STORED AS PARQUET LOCATION '{plain}'")).await?;
    let sum = "SELECT sum(k) + sum(v), sum(amount) FROM";
    let (ours, base) = pair(&context, &format!("{sum} t"), &format!("{sum} p")).await?;
    report("scan after 200 epochs", ours, base)?;
    let mut key = 17;
    let (mut ours, mut base) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..20 {
        key = (key * 7919) % ROWS;
        let select = |table: &str| format!("SELECT k + v FROM {table} WHERE k = {key}");
        let (one, two) = pair(&context, &select("t"), &select("p")).await?;
        ours += one;
        base += two;
    }
    report("row by its key", ours / 20, base / 20)?;
    run(&context, "OPTIMIZE t").await?;
    let (ours, base) = pair(&context, &format!("{sum} t"), &format!("{sum} p")).await?;
    report("scan after OPTIMIZE", ours, base)
}

async fn opens() -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let context = session(folder.path())?;
    for part in 0..20 {
        let from = part * KEYS / 20;
        let insert = format!(
            "INSERT INTO t SELECT value, 0, 0.5 FROM generate_series({from}, {})",
            from + KEYS / 20 - 1
        );
        run(&context, &insert).await?;
    }
    run(&context, "CHECKPOINT t").await?;
    drop(context);
    let index = folder.path().join("t/_onefold/table.index");
    let moved = folder.path().join("moved");
    let (mut loaded, mut built) = (Duration::MAX, Duration::MAX);
    for _ in 0..3 {
        std::fs::rename(&index, &moved)?;
        built = built.min(opened(folder.path()).await?);
        std::fs::rename(&moved, &index)?;
        loaded = loaded.min(opened(folder.path()).await?);
    }
    report("open 20 M keys with a saved index", loaded, built)
}

/// The time from nothing to a pipeline that can commit.
#[allow(clippy::disallowed_methods, reason = "a bench reads the clock")]
async fn opened(folder: &Path) -> Outcome<Duration> {
    let url = url::Url::from_directory_path(folder.join("t")).map_err(|()| "no folder")?;
    let start = Instant::now();
    let location = Location::from_store(url.as_str(), Arc::new(DurableLocal::new()))?;
    let ports = (Arc::new(SystemEntropy) as _, Arc::new(SystemClock) as _);
    let table = DeltaTable::create_or_open("t", location, None, DeltaSettings::default(), ports);
    let table = table.await?;
    table.open(&PipelineId::default()).await?;
    assert_eq!(table.rows(), KEYS);
    Ok(start.elapsed())
}

fn session(folder: &Path) -> Outcome<SessionContext> {
    let context = SessionContext::new_with_config(SessionConfig::new());
    let context = context.with_onefold(Settings::default())?;
    let create = format!(
        "CREATE EXTERNAL TABLE t (k BIGINT NOT NULL, v BIGINT, amount DOUBLE, PRIMARY KEY (k))
         STORED AS DELTA LOCATION '{}'",
        folder.join("t").display()
    );
    let made = tokio::task::block_in_place(|| {
        tokio::runtime::Handle::current().block_on(context.run_sql(&create))
    });
    made?;
    Ok(context)
}

async fn run(context: &SessionContext, script: &str) -> Outcome<()> {
    for frame in context.run_sql(script).await? {
        frame.collect().await?;
    }
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "a bench reads the clock")]
async fn timed(context: &SessionContext, query: &str) -> Outcome<Duration> {
    let start = Instant::now();
    run(context, query).await?;
    Ok(start.elapsed())
}

/// The least time of each of two queries that must agree, run one after the other.
async fn pair(context: &SessionContext, ours: &str, base: &str) -> Outcome<(Duration, Duration)> {
    let first = async |query: &str| -> Outcome<i64> {
        let batches = context.sql(query).await?.collect().await?;
        let batch = batches.iter().find(|batch| batch.num_rows() > 0).ok_or("no row")?;
        Ok(batch.column(0).as_primitive::<Int64Type>().value(0))
    };
    let (found, expected) = (first(ours).await?, first(base).await?);
    assert_eq!(found, expected, "{ours}");
    let (mut one, mut two) = (Duration::MAX, Duration::MAX);
    for _ in 0..RUNS {
        one = one.min(timed(context, ours).await?);
        two = two.min(timed(context, base).await?);
    }
    Ok((one, two))
}

fn report(what: &str, ours: Duration, base: Duration) -> Outcome<()> {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    writeln!(
        std::io::stdout(),
        "{what}: {:.2} ms, baseline {:.2} ms, ratio {:.2}",
        ms(ours),
        ms(base),
        ms(ours) / ms(base)
    )?;
    Ok(())
}
