//! Epochs of 100 000 random upserts over ten million keys, on a local folder with fsync.
//!
//! Answers: how many upserts per second one core commits, beside encoding the same rows as Parquet
//! in memory and nothing else; the median time of a commit; and calls to the store per commit. The
//! process binds itself to one core by taskset.

use onefold::arrow::array::{ArrayRef, Float64Array, Int64Array, UInt64Array};
use onefold::arrow::record_batch::RecordBatch;
use onefold::commit::{EpochRows, Ledger, ManifestRef, Outcome, Proposal};
use onefold::datafusion::parquet::arrow::ArrowWriter;
use onefold::datafusion::parquet::basic::{Compression, ZstdLevel};
use onefold::datafusion::parquet::file::properties::WriterProperties;
use onefold::delta::{DeltaSettings, DeltaTable, TableDefinition};
use onefold::store::{DurableLocal, Location};
use onefold::testing::{Fault, FaultyStore};
use onefold::types::{Epoch, POSITION_COLUMN, PipelineId, SystemClock, SystemEntropy};
use std::error::Error as StdError;
use std::hint::black_box;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

const KEYS: u64 = 10_000_000;
const EPOCH_ROWS: u64 = 100_000;
const EPOCHS: u64 = 40;

fn main() -> Result<(), Box<dyn StdError>> {
    if std::env::var_os("ONEFOLD_BOUND").is_none() {
        let done = std::process::Command::new("taskset")
            .args(["-c", "0"])
            .arg(std::env::current_exe()?)
            .env("ONEFOLD_BOUND", "1")
            .status()?;
        return if done.success() { Ok(()) } else { Err("the bench failed".into()) };
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(1).enable_all().build()?.block_on(run())
}

#[allow(clippy::disallowed_methods, reason = "a bench reads the clock")]
async fn run() -> Result<(), Box<dyn StdError>> {
    let folder = tempfile::tempdir()?;
    let url = url::Url::from_directory_path(folder.path()).map_err(|()| "no folder")?;
    let store = FaultyStore::once(Arc::new(DurableLocal::new()), u64::MAX, Fault::Lost);
    let location = Location::from_store(url.as_str(), Arc::new(store.clone()))?;
    let schema = batch(0..0, 0).project(&[0, 1, 2])?.schema();
    let definition = TableDefinition {
        schema,
        primary_key: vec!["k".to_owned()],
        partition_by: Vec::new(),
        options: std::collections::HashMap::new(),
        checks: Vec::new(),
        view: None,
    };
    let ports = (Arc::new(SystemEntropy) as _, Arc::new(SystemClock) as _);
    let settings = DeltaSettings::default();
    let table =
        DeltaTable::create_or_open("t", location, Some(definition), settings, ports).await?;
    let pipeline = PipelineId::default();
    let opened = table.open(&pipeline).await?;
    let mut epoch = Epoch::default();
    let mut random = 1_u64;
    for first in (0..KEYS).step_by(1_000_000) {
        epoch = epoch.next();
        let rows = batch(first..first + 1_000_000, 0);
        commit(&table, &pipeline, opened.incarnation, epoch, rows).await?;
    }
    let (mut spent, mut plain, mut commits, mut calls) =
        (Duration::ZERO, Duration::ZERO, Vec::new(), Vec::new());
    for _ in 0..EPOCHS {
        epoch = epoch.next();
        let keys = (0..EPOCH_ROWS).map(|_| next(&mut random) % KEYS).collect::<Vec<_>>();
        let rows = batch(keys, epoch.0 as i64);
        let start = Instant::now();
        black_box(encode(&rows)?);
        plain += start.elapsed();
        let before = store.calls();
        let start = Instant::now();
        let commit_time = commit(&table, &pipeline, opened.incarnation, epoch, rows).await?;
        spent += start.elapsed();
        commits.push(commit_time);
        calls.push(store.calls() - before);
    }
    let committing: Duration = commits.iter().sum();
    commits.sort();
    calls.sort_unstable();
    let upserts = (EPOCHS * EPOCH_ROWS) as f64;
    let rate = |time: Duration| upserts / time.as_secs_f64() / 1e6;
    writeln!(
        std::io::stdout(),
        "{} k upserts an epoch over {} M keys, one core: {:.2} M/s, Parquet encoding alone {:.2} M/s, \
         ratio {:.2}\ncommit p50 {:.1} ms, max {:.0} ms, {:.0} % of the time; calls to the store per epoch p50 {}, max {}",
        EPOCH_ROWS / 1_000,
        KEYS / 1_000_000,
        rate(spent),
        rate(plain),
        rate(spent) / rate(plain),
        commits[commits.len() / 2].as_secs_f64() * 1e3,
        commits[commits.len() - 1].as_secs_f64() * 1e3,
        committing.as_secs_f64() / spent.as_secs_f64() * 100.0,
        calls[calls.len() / 2],
        calls[calls.len() - 1],
    )?;
    Ok(())
}

/// Stages and commits an epoch; the time of the commit alone.
#[allow(clippy::disallowed_methods, reason = "a bench reads the clock")]
async fn commit(
    table: &Arc<DeltaTable>,
    pipeline: &PipelineId,
    incarnation: onefold::types::Incarnation,
    epoch: Epoch,
    rows: RecordBatch,
) -> Result<Duration, Box<dyn StdError>> {
    let staged = table.stage(EpochRows { partitions: vec![vec![rows]] }).await?;
    let manifest =
        ManifestRef { epoch, path: String::new(), sha256: String::new(), owns_rows: false };
    let pipeline = pipeline.clone();
    let start = Instant::now();
    let outcome = table.commit(Proposal { pipeline, incarnation, epoch, manifest, staged }).await?;
    assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
    Ok(start.elapsed())
}

fn batch(keys: impl IntoIterator<Item = u64>, value: i64) -> RecordBatch {
    let keys: Vec<i64> = keys.into_iter().map(|key| key as i64).collect();
    let amounts: Float64Array = keys.iter().map(|key| Some(*key as f64 * 1.5)).collect();
    let rows = keys.len() as u64;
    let columns: [(&str, ArrayRef, bool); 4] = [
        ("k", Arc::new(Int64Array::from(keys)), false),
        ("v", Arc::new(Int64Array::from(vec![value; rows as usize])), true),
        ("amount", Arc::new(amounts), true),
        (POSITION_COLUMN, Arc::new(UInt64Array::from_iter_values(0..rows)), false),
    ];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap_or_else(|_| unreachable!())
}

/// The same columns and settings as the table writes.
fn encode(rows: &RecordBatch) -> Result<usize, Box<dyn StdError>> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_dictionary_page_size_limit(128 << 10)
        .build();
    let rows = rows.project(&[0, 1, 2])?;
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, rows.schema(), Some(properties))?;
    writer.write(&rows)?;
    writer.close()?;
    Ok(bytes.len())
}

fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ z >> 31
}
