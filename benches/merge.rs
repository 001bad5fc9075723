//! Sixty epochs of 1,000 random upserts into a table of a million rows, on a local folder.
//!
//! Answers: how many times the rows per second of the `deltalake` Python package's MERGE we commit,
//! as the epochs of a pipeline and as INSERT statements, with the same keys and columns in the same
//! run. Needs python3 with venv, and a network.
#![allow(clippy::future_not_send, reason = "a bench waits on one thread")]

use onefold::arrow::array::{ArrayRef, Float64Array, Int64Array, UInt64Array};
use onefold::arrow::record_batch::RecordBatch;
use onefold::commit::{EpochRows, Ledger, ManifestRef, Outcome, Proposal, Staged};
use onefold::datafusion::prelude::SessionContext;
use onefold::delta::{DeltaSettings, DeltaTable, TableDefinition};
use onefold::prelude::*;
use onefold::store::{DurableLocal, Location};
use onefold::types::{Epoch, POSITION_COLUMN, PipelineId, SystemClock, SystemEntropy};
use std::collections::{BTreeSet, HashMap};
use std::error::Error as StdError;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

const ROWS: u64 = 1_000_000;
const EPOCHS: u64 = 60;
const EPOCH_ROWS: usize = 1_000;
/// A new file is made quickly, and how often that is looked for, each five seconds.
const SETTLED: Duration = Duration::from_micros(60);
const SETTLE_ROUNDS: usize = 60;

fn main() -> Result<(), Box<dyn StdError>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    // Both stay until the end, so that what one frees does not slow the other.
    let (first, second) = (tempfile::tempdir()?, tempfile::tempdir()?);
    settle(first.path())?;
    let statements = runtime.block_on(statements(first.path()))?;
    let epochs = runtime.block_on(epochs(second.path()))?;
    let theirs = theirs()?;
    let rate = |seconds: f64| EPOCH_ROWS as f64 / seconds;
    writeln!(
        std::io::stdout(),
        "{EPOCH_ROWS} upserts an epoch over {} M rows: {:.0} rows/s as epochs, {:.0} rows/s as INSERT \
         statements, deltalake MERGE {:.0} rows/s, ratios {:.0} and {:.0}",
        ROWS / 1_000_000,
        rate(epochs),
        rate(statements),
        rate(theirs),
        theirs / epochs,
        theirs / statements,
    )?;
    Ok(())
}

/// Waits until a new file is made quickly again. Without a journal, ext4 passes over all inodes that
/// were freed in the last minutes, so that a file costs 0.02 ms or 0.3: our epochs make several.
#[allow(clippy::disallowed_methods, reason = "a bench reads the clock, and waits")]
fn settle(folder: &Path) -> Result<(), Box<dyn StdError>> {
    for round in 0..SETTLE_ROUNDS {
        let mut quickest = Duration::MAX;
        for number in 0..20 {
            let start = Instant::now();
            std::fs::File::create_new(folder.join(format!("{round}-{number}")))?;
            quickest = quickest.min(start.elapsed());
        }
        if quickest < SETTLED {
            return Ok(());
        }
        std::thread::sleep(Duration::from_secs(5));
    }
    writeln!(std::io::stdout(), "files are made slowly here, which is part of what is measured")?;
    Ok(())
}

/// The keys of the next epoch.
fn next_keys(state: &mut u64) -> BTreeSet<u64> {
    let mut keys = BTreeSet::new();
    while keys.len() < EPOCH_ROWS {
        *state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        keys.insert((*state >> 33) % ROWS);
    }
    keys
}

/// Seconds per epoch; each is one INSERT statement.
#[allow(clippy::disallowed_methods, reason = "a bench reads the clock")]
async fn statements(folder: &Path) -> Result<f64, Box<dyn StdError>> {
    let context = SessionContext::new().with_onefold(Settings::default())?;
    let create = format!(
        "CREATE EXTERNAL TABLE t (k BIGINT NOT NULL, v BIGINT, amount DOUBLE, PRIMARY KEY (k))
         STORED AS DELTA LOCATION '{}';
         INSERT INTO t SELECT value, 0, value * 1.5 FROM generate_series(0, {})",
        folder.join("t").display(),
        ROWS - 1
    );
    context.run_sql(&create).await?;
    let (mut state, mut spent) = (1, 0.0);
    for epoch in 1..=EPOCHS {
        let rows: Vec<String> = next_keys(&mut state)
            .iter()
            .map(|key| format!("({key}, {epoch}, {}e0)", *key as f64 * 1.5))
            .collect();
        let values = format!("CREATE OR REPLACE TABLE s AS VALUES {}", rows.join(", "));
        context.run_sql(&values).await?;
        let start = Instant::now();
        context.run_sql("INSERT INTO t SELECT * FROM s").await?;
        spent += start.elapsed().as_secs_f64();
    }
    Ok(spent / EPOCHS as f64)
}

/// Seconds per epoch, as a pipeline commits them: the files of the next one are written meanwhile.
#[allow(clippy::disallowed_methods, reason = "a bench reads the clock")]
async fn epochs(folder: &Path) -> Result<f64, Box<dyn StdError>> {
    let url = url::Url::from_directory_path(folder).map_err(|()| "no folder")?;
    let location = Location::from_store(url.as_str(), Arc::new(DurableLocal::new()))?;
    let definition = TableDefinition {
        schema: batch(&BTreeSet::new(), 0).project(&[0, 1, 2])?.schema(),
        primary_key: vec!["k".to_owned()],
        options: HashMap::new(),
        checks: Vec::new(),
        view: None,
        partition_by: Vec::new(),
    };
    let ports = (Arc::new(SystemEntropy) as _, Arc::new(SystemClock) as _);
    let settings = DeltaSettings::default();
    let table =
        DeltaTable::create_or_open("t", location, Some(definition), settings, ports).await?;
    let pipeline = PipelineId::default();
    let incarnation = table.open(&pipeline).await?.incarnation;
    let mut state = 1;
    let rows: Vec<RecordBatch> =
        (1..=EPOCHS).map(|number| batch(&next_keys(&mut state), number as i64)).collect();
    let mut epoch = Epoch::default();
    let mut commit = async |staged: Staged| {
        epoch = epoch.next();
        let manifest =
            ManifestRef { epoch, path: String::new(), sha256: String::new(), owns_rows: false };
        let pipeline = pipeline.clone();
        let proposal = Proposal { pipeline, incarnation, epoch, manifest, staged };
        let outcome = table.commit(proposal).await?;
        assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
        Ok::<_, Box<dyn StdError>>(())
    };
    let write = async |rows: RecordBatch| {
        Ok::<_, Box<dyn StdError>>(table.stage(EpochRows { partitions: vec![vec![rows]] }).await?)
    };
    commit(write(batch(&(0..ROWS).collect(), 0)).await?).await?;
    let start = Instant::now();
    let mut rows = rows.into_iter();
    let mut next = write(rows.next().ok_or("no epoch")?).await?;
    for rows in rows {
        let (committed, staged) = futures::join!(commit(next), write(rows));
        committed?;
        next = staged?;
    }
    commit(next).await?;
    Ok(start.elapsed().as_secs_f64() / EPOCHS as f64)
}

fn batch(keys: &BTreeSet<u64>, value: i64) -> RecordBatch {
    let rows = keys.len() as u64;
    let columns: [(&str, ArrayRef, bool); 4] = [
        ("k", Arc::new(Int64Array::from_iter_values(keys.iter().map(|key| *key as i64))), false),
        ("v", Arc::new(Int64Array::from(vec![value; keys.len()])), true),
        (
            "amount",
            Arc::new(Float64Array::from_iter_values(keys.iter().map(|key| *key as f64 * 1.5))),
            true,
        ),
        (POSITION_COLUMN, Arc::new(UInt64Array::from_iter_values(0..rows)), false),
    ];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap_or_else(|_| unreachable!())
}

fn theirs() -> Result<f64, Box<dyn StdError>> {
    let home = std::env::var("CARGO_TARGET_DIR").or_else(|_| std::env::var("HOME"))?;
    let venv = Path::new(&home).join("merge-venv");
    let python = venv.join("bin/python");
    if !venv.join("ready-1").exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        let packages = ["deltalake==1.6.6", "pyarrow", "numpy"];
        run(Command::new(venv.join("bin/pip")).args(["install", "--quiet"]).args(packages))?;
        std::fs::write(venv.join("ready-1"), "")?;
    }
    let folder = tempfile::tempdir()?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/merge_peer.py");
    let output = Command::new(python)
        .arg(script)
        .arg(folder.path().join("t"))
        .args([ROWS.to_string(), EPOCHS.to_string(), EPOCH_ROWS.to_string()])
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

fn run(command: &mut Command) -> Result<(), Box<dyn StdError>> {
    if command.status()?.success() { Ok(()) } else { Err(format!("{command:?} failed").into()) }
}
