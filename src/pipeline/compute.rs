//! Runs the plan of one epoch, and accounts for every row that went in.

use super::collect::{Collected, OpenSource};
use super::{EpochPlanner, OperatorPart, PipelineError};
use crate::commit::{EpochRows, LedgerRow};
use crate::state::{Judged, Unsaved};
use crate::types::{LateRows, Position, Watermark};
use arrow::array::Array;
use arrow::array::cast::AsArray;
use arrow::array::types::UInt64Type;
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use datafusion::common::runtime::SpawnedTask;
use datafusion::error::DataFusionError;
use datafusion::physical_plan::ExecutionPlanProperties;
use futures::TryStreamExt;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// An epoch that waits to be committed.
#[derive(Debug)]
pub(super) struct Computed {
    pub(super) rows: EpochRows,
    pub(super) rows_emitted: u64,
    /// By operator: what it accepted, and how many entries its files must hold.
    pub(super) added: Vec<(Option<Unsaved>, Option<u64>)>,
    pub(super) ledger: Vec<LedgerRow>,
    pub(super) late: Option<LateRows>,
    /// By source.
    pub(super) sources: Vec<ComputedSource>,
    pub(super) watermark: Option<Watermark>,
    pub(super) state_bytes: u64,
    pub(super) keys_held: u64,
}

/// Where a source stands after an epoch.
#[derive(Debug)]
pub(super) struct ComputedSource {
    pub(super) position: serde_json::Value,
    pub(super) clock: serde_json::Value,
    pub(super) entries: Vec<Bytes>,
}

/// Runs the plan over what was collected.
pub(super) async fn compute(
    planner: &Arc<dyn EpochPlanner>,
    operators: &[OperatorPart],
    sources: &mut [OpenSource],
    mut collected: Collected,
) -> Result<Computed, PipelineError> {
    for (source, batches) in sources.iter().zip(std::mem::take(&mut collected.batches)) {
        source.part.slot.fill(batches);
    }
    Collected::finish(sources);
    let watermark = lowest(sources);
    let reaches = |operator: &OperatorPart| {
        watermark.map(|watermark| Watermark(watermark.0.minus_us(operator.delay_us)))
    };
    for operator in operators {
        operator.memory.begin_epoch(reaches(operator));
    }
    let ran = execute(planner).await;
    for source in sources.iter() {
        source.part.slot.fill(Vec::new());
    }
    let (rows, is_one_to_one) = ran?;
    let mut folded = None;
    let mut judged: HashMap<u64, Judged> = HashMap::new();
    let mut added = Vec::with_capacity(operators.len());
    let finishes = operators.iter().map(|operator| {
        let (memory, watermark) = (Arc::clone(&operator.memory), reaches(operator));
        SpawnedTask::spawn_blocking(move || memory.finish_epoch(watermark))
    });
    for finish in finishes.collect::<Vec<_>>() {
        let changes = joined(finish).await??;
        for (ordinal, counts) in &changes.judged {
            judged.entry(*ordinal).or_default().add(counts);
        }
        added.push((changes.added, changes.entries_live));
        folded = changes.folded.or(folded);
    }
    let rows_emitted = rows.iter().flatten().map(|batch| batch.num_rows() as u64).sum();
    let emitted = match folded {
        Some(folded) => folded,
        None => emitted(&rows)?,
    };
    let ledger = ledger(sources, &collected, &emitted, &judged, is_one_to_one)?;
    let sources = sources.iter().zip(collected.entries).map(|(source, entries)| ComputedSource {
        position: serde_json::to_value(&source.position).unwrap_or_default(),
        clock: source.clock.to_json(),
        entries,
    });
    Ok(Computed {
        rows_emitted,
        rows: EpochRows { partitions: rows },
        added,
        ledger,
        late: judged
            .values()
            .filter_map(|counts| counts.late)
            .reduce(|one, two| one.and(Some(two))),
        sources: sources.collect(),
        watermark,
        state_bytes: operators.iter().map(|operator| operator.memory.state_bytes()).sum(),
        keys_held: operators.iter().map(|operator| operator.memory.keys_held()).sum(),
    })
}

/// The lowest watermark of the sources; `None` while one of them has none.
pub(super) fn lowest(sources: &[OpenSource]) -> Option<Watermark> {
    let timed = sources.iter().filter(|source| source.part.watermark.is_some());
    timed.map(|source| source.clock.watermark()).min().flatten()
}

async fn execute(
    planner: &Arc<dyn EpochPlanner>,
) -> Result<(Vec<Vec<RecordBatch>>, bool), PipelineError> {
    let epoch = planner.plan_epoch().await?;
    let partitions = epoch.plan.output_partitioning().partition_count();
    let mut tasks = Vec::with_capacity(partitions);
    for partition in 0..partitions {
        let stream = epoch.plan.execute(partition, Arc::clone(&epoch.context))?;
        tasks.push(SpawnedTask::spawn(stream.try_collect::<Vec<RecordBatch>>()));
    }
    let mut rows = Vec::with_capacity(partitions);
    for task in tasks {
        rows.push(joined(task).await??);
    }
    Ok((rows, epoch.is_one_to_one))
}

async fn joined<T: Send + 'static>(task: SpawnedTask<T>) -> Result<T, DataFusionError> {
    task.join_unwind().await.map_err(|error| DataFusionError::External(Box::new(error)))
}

/// Rows that came out, by the ordinal of the partition they came from.
fn emitted(rows: &[Vec<RecordBatch>]) -> Result<BTreeMap<u64, u64>, PipelineError> {
    let mut counts = BTreeMap::new();
    for batch in rows.iter().flatten() {
        let positions =
            batch.columns().last().and_then(|column| column.as_primitive_opt::<UInt64Type>());
        let Some(positions) = positions.filter(|positions| positions.null_count() == 0) else {
            return Err(DataFusionError::Internal("rows without a position".to_owned()).into());
        };
        let mut run: Option<(u64, u64)> = None;
        for position in positions.values() {
            let ordinal = Position(*position).partition();
            match &mut run {
                Some((same, count)) if *same == ordinal => *count += 1,
                _ => {
                    if let Some((ordinal, count)) = run.replace((ordinal, 1)) {
                        *counts.entry(ordinal).or_default() += count;
                    }
                }
            }
        }
        if let Some((ordinal, count)) = run {
            *counts.entry(ordinal).or_default() += count;
        }
    }
    Ok(counts)
}

fn ledger(
    sources: &[OpenSource],
    collected: &Collected,
    emitted: &BTreeMap<u64, u64>,
    judged: &HashMap<u64, Judged>,
    is_one_to_one: bool,
) -> Result<Vec<LedgerRow>, PipelineError> {
    let mut rows = Vec::with_capacity(collected.partitions.len());
    for (ordinal, read) in collected.partitions.iter().enumerate() {
        let ordinal = ordinal as u64;
        let counts = judged.get(&ordinal).copied().unwrap_or_default();
        let rows_emitted = emitted.get(&ordinal).copied().unwrap_or_default();
        let rows_read = read.offsets.end.0 - read.offsets.start.0;
        let known = rows_emitted + counts.rows_duplicate + counts.rows_late + read.malformed;
        let rows_filtered = rows_read as i64 - known as i64;
        let source = sources[read.source].part.name.clone();
        let is_short = read.rows + read.malformed != rows_read;
        if is_short || (is_one_to_one && rows_filtered < 0) {
            return Err(PipelineError::Unbalanced {
                source_name: source,
                partition: read.partition.to_string(),
                read: rows_read,
                more: rows_filtered.unsigned_abs(),
            });
        }
        rows.push(LedgerRow {
            source,
            partition: read.partition.clone(),
            offsets: read.offsets.clone(),
            rows_read,
            rows_emitted,
            rows_duplicate: counts.rows_duplicate,
            rows_late: counts.rows_late,
            rows_filtered,
            rows_malformed: read.malformed,
            digest: format!("{:032x}", counts.digest),
        });
    }
    Ok(rows)
}
