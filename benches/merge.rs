//! Sixty epochs of 1,000 random upserts into a table of a million rows, on a local folder.
//!
//! Answers: how many times the rows per second of the `deltalake` Python package's MERGE we commit,
//! with the same keys and columns in the same run. Needs python3 with venv, and a network.

use onefold::datafusion::prelude::SessionContext;
use onefold::prelude::*;
use std::error::Error as StdError;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

const ROWS: u64 = 1_000_000;
const EPOCHS: u64 = 60;
const EPOCH_ROWS: usize = 1_000;

fn main() -> Result<(), Box<dyn StdError>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ours = runtime.block_on(ours())?;
    let theirs = theirs()?;
    let rate = |seconds: f64| EPOCH_ROWS as f64 / seconds;
    writeln!(
        std::io::stdout(),
        "{EPOCH_ROWS} upserts an epoch over {} M rows: {:.0} rows/s, deltalake MERGE {:.0} rows/s, \
         ratio {:.0}",
        ROWS / 1_000_000,
        rate(ours),
        rate(theirs),
        theirs / ours
    )?;
    Ok(())
}

/// Seconds per epoch; each is one INSERT statement.
#[allow(clippy::disallowed_methods, reason = "a bench reads the clock")]
async fn ours() -> Result<f64, Box<dyn StdError>> {
    let folder = tempfile::tempdir()?;
    let context = SessionContext::new().with_onefold(Settings::default())?;
    let create = format!(
        "CREATE EXTERNAL TABLE t (k BIGINT NOT NULL, v BIGINT, amount DOUBLE, PRIMARY KEY (k))
         STORED AS DELTA LOCATION '{}';
         INSERT INTO t SELECT value, 0, value * 1.5 FROM generate_series(0, {})",
        folder.path().join("t").display(),
        ROWS - 1
    );
    context.run_sql(&create).await?;
    let mut state = 1_u64;
    let mut spent = 0.0;
    for epoch in 1..=EPOCHS {
        let mut keys = std::collections::BTreeSet::new();
        while keys.len() < EPOCH_ROWS {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            keys.insert((state >> 33) % ROWS);
        }
        let rows: Vec<String> =
            keys.iter().map(|key| format!("({key}, {epoch}, {}e0)", *key as f64 * 1.5)).collect();
        let values = format!("CREATE OR REPLACE TABLE s AS VALUES {}", rows.join(", "));
        context.run_sql(&values).await?;
        let start = Instant::now();
        context.run_sql("INSERT INTO t SELECT * FROM s").await?;
        spent += start.elapsed().as_secs_f64();
    }
    Ok(spent / EPOCHS as f64)
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
