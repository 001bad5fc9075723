//! `onefold run`: runs the pipelines of a script, with progress.

use super::{Failure, Format, script};
use indicatif::{HumanBytes, HumanCount, HumanDuration, ProgressBar, ProgressStyle};
use onefold::datafusion::common::runtime::SpawnedTask;
use onefold::datafusion::prelude::SessionContext;
use onefold::pipeline::PipelineStatus;
use onefold::prelude::*;
use onefold::types::{Clock, LateRows, SystemClock, format_duration_us};
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::watch;

/// Runs scripts; each pipeline is drained before the next statement, or with `is_watching` all of
/// them go on together until the program is told to stop.
pub(super) async fn run(
    context: &SessionContext,
    files: Vec<PathBuf>,
    is_watching: bool,
) -> Result<(), Failure> {
    let stop = stop_signal()?;
    for path in files {
        let text = std::fs::read_to_string(&path)
            .map_err(|source| Failure::File { path: path.clone(), source })?;
        for statement in script::statements(&text)? {
            let before = context.pipelines().len();
            let frames = context.run_sql(&statement).await?;
            let made = context.pipelines().split_off(before.min(context.pipelines().len()));
            for frame in frames.into_iter().filter(|_| made.is_empty()) {
                super::print::frame(frame, Format::Table).await?;
            }
            if !is_watching {
                for pipeline in made {
                    drive(&pipeline, stop.clone(), false).await?;
                    if *stop.borrow() {
                        return Ok(());
                    }
                }
            }
        }
    }
    if !is_watching {
        return Ok(());
    }
    let mut running = Vec::new();
    for pipeline in context.pipelines() {
        let stop = stop.clone();
        running.push(SpawnedTask::spawn(async move { drive(&pipeline, stop, true).await }));
    }
    for task in running {
        task.join_unwind().await.map_err(|error| Failure::Io(std::io::Error::other(error)))??;
    }
    Ok(())
}

async fn drive(
    pipeline: &PipelineHandle,
    stop: watch::Receiver<bool>,
    is_watching: bool,
) -> Result<(), Failure> {
    let clock = SystemClock;
    let began = clock.monotonic();
    let bar = bar(pipeline);
    let told = wait_for(stop.clone());
    let work =
        async { if is_watching { pipeline.run(told).await } else { pipeline.drain(told).await } };
    let mut work = Box::pin(work);
    let mut status = pipeline.status();
    let done = loop {
        tokio::select! {
            biased;
            done = &mut work => break done,
            Ok(()) = status.changed() => {
                let now = status.borrow_and_update().clone();
                bar.set_message(line(&now, clock.monotonic().saturating_sub(began)));
            }
        }
    };
    bar.finish_and_clear();
    let done = done?;
    let spent = clock.monotonic().saturating_sub(began);
    summary(pipeline, &done, spent)?;
    Ok(())
}

fn bar(pipeline: &PipelineHandle) -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix}  {msg}") {
        bar.set_style(style);
    }
    bar.set_prefix(pipeline.table().to_owned());
    bar.set_message("opening");
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

fn line(status: &PipelineStatus, spent: Duration) -> String {
    let count = HumanCount;
    format!(
        "{} rows in, {} duplicates, {} late, {} rows out | epoch {}, version {} | {} rows/s",
        count(status.rows_in),
        count(status.rows_duplicate),
        count(status.rows_late),
        count(status.rows_out),
        status.epoch,
        status.version,
        count(rate(status.rows_in, spent)),
    )
}

fn rate(rows: u64, spent: Duration) -> u64 {
    (rows as f64 / spent.as_secs_f64().max(0.001)) as u64
}

/// What was done, with counts that add up, and how to look at it.
fn summary(
    pipeline: &PipelineHandle,
    status: &PipelineStatus,
    spent: Duration,
) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let (table, id) = (pipeline.table(), pipeline.id());
    writeln!(out, "{table}: pipeline {id}, epoch {}, version {}", status.epoch, status.version)?;
    let mut row = |name: &str, count: u64, note: String| {
        writeln!(out, "  {name:<16}{:>14}{note}", HumanCount(count).to_string())
    };
    let (new, replaced) = (HumanCount(status.rows_inserted), HumanCount(status.rows_updated));
    row("rows read", status.rows_in, String::new())?;
    row("= to the table", status.rows_out, format!("   {new} new, {replaced} replaced"))?;
    row("+ duplicates", status.rows_duplicate, String::new())?;
    row("+ late", status.rows_late, late_note(status))?;
    row("+ filtered", status.rows_filtered.unsigned_abs(), String::new())?;
    row("+ malformed", status.rows_malformed, String::new())?;
    let speed = HumanCount(rate(status.rows_in, spent));
    let (written, took) = (HumanBytes(status.bytes_written), HumanDuration(spent));
    let epochs = if status.epochs == 1 { "epoch" } else { "epochs" };
    writeln!(out, "  {} {epochs} in {took}, {speed} rows/s, {written} written", status.epochs)?;
    let location = pipeline.location();
    let location = location.strip_prefix("file://").unwrap_or(location);
    let create = format!("CREATE EXTERNAL TABLE {table} STORED AS DELTA LOCATION '{location}'");
    let select = format!("SELECT count(*) FROM {table}");
    let program = std::env::args().next().unwrap_or_else(|| "onefold".to_owned());
    writeln!(out, "  query it:  {program} sql -c \"{create}; {select}\"")?;
    Ok(out.flush()?)
}

fn late_note(status: &PipelineStatus) -> String {
    let Some(LateRows { oldest, behind_us }) = status.late.filter(|_| status.rows_late > 0) else {
        return String::new();
    };
    let behind = format_duration_us(behind_us);
    format!(
        "   DROPPED; the oldest is of {oldest}, and the watermark had passed the latest, or its \
         window, by {behind} when it came: more than that as ALLOWED LATENESS of DEDUP BY, or as \
         onefold.window_lateness_ms of GROUP BY, would have kept them"
    )
}

/// Becomes true at the first SIGINT or SIGTERM.
fn stop_signal() -> Result<watch::Receiver<bool>, Failure> {
    let (told, stop) = watch::channel(false);
    #[cfg(unix)]
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let listen = SpawnedTask::spawn(async move {
        #[cfg(unix)]
        let terminated = terminate.recv();
        #[cfg(not(unix))]
        let terminated = std::future::pending::<Option<()>>();
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminated => {}
        }
        told.send_replace(true);
        told.closed().await;
    });
    std::mem::forget(listen); // it lives as long as the program
    Ok(stop)
}

async fn wait_for(mut stop: watch::Receiver<bool>) {
    if stop.wait_for(|told| *told).await.is_err() {
        std::future::pending::<()>().await;
    }
}
