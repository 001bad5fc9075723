//! `DedupEpochExec`: DEDUP of one epoch of a pipeline, against what earlier epochs accepted.

use super::facts::facts;
use super::{DedupError, DedupExpressions};
use crate::key::KeyHasher;
use crate::state::{DEDUP_SHARDS, DedupMemory, DedupRow, DedupRows, Judged};
use crate::types::{DedupOptions, LatePolicy, Position, format_duration_us};
use arrow::array::{Array, BooleanArray};
use arrow::buffer::NullBuffer;
use arrow::compute::filter_record_batch;
use arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{CardinalityEffect, EmissionType};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties,
    PlanProperties, ReplaceChildrenOptions, apply_expression_roots,
};
use futures::{StreamExt, TryStreamExt};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OnceCell;

/// The memories of the pipeline whose epoch is being planned, by operator name; an extension of
/// the session's configuration.
#[derive(Debug, Default)]
pub struct DedupMemories(pub HashMap<String, Arc<DedupMemory>>);

/// Plans DEDUP of one epoch over `input`; the schema stays that of `input`.
///
/// # Errors
///
/// A key type without equality, a time that is neither timestamp nor date, or an input without
/// positions.
pub fn plan_epoch_dedup(
    input: Arc<dyn ExecutionPlan>,
    expressions: DedupExpressions,
    options: DedupOptions,
    memory: Arc<DedupMemory>,
) -> Result<Arc<dyn ExecutionPlan>> {
    if expressions.hidden.is_none() {
        return datafusion::common::internal_err!("rows of an epoch have positions");
    }
    let hasher = expressions.hasher(memory.hash_key(), &input.schema())?;
    let judge = Arc::new(EpochJudge { expressions, options, hasher, memory });
    Ok(Arc::new(DedupEpochExec::new(input, judge)))
}

/// Drops the duplicates of one epoch; executed once, all partitions at the same time.
#[derive(Debug)]
pub struct DedupEpochExec {
    input: Arc<dyn ExecutionPlan>,
    judge: Arc<EpochJudge>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
    run: Arc<OnceCell<Outputs>>,
}

/// What is left of each partition, or why the epoch failed.
type Outputs = Result<Vec<Mutex<Vec<RecordBatch>>>, Arc<DataFusionError>>;

#[derive(Debug)]
struct EpochJudge {
    expressions: DedupExpressions,
    options: DedupOptions,
    hasher: KeyHasher,
    memory: Arc<DedupMemory>,
}

impl DedupEpochExec {
    fn new(input: Arc<dyn ExecutionPlan>, judge: Arc<EpochJudge>) -> Self {
        let partitions = input.output_partitioning().partition_count();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(input.schema()),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Final,
            input.boundedness(),
        );
        Self {
            input,
            judge,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
            run: Arc::default(),
        }
    }
}

impl DisplayAs for DedupEpochExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DedupOptions { within, lateness_us, late, nulls } = &self.judge.options;
        let keys: Vec<String> =
            self.judge.expressions.keys.iter().map(ToString::to_string).collect();
        let lateness = format_duration_us(lateness_us.unsigned_abs());
        write!(f, "DedupEpochExec: by=[{}], within={within}, ", keys.join(", "))?;
        write!(f, "lateness={lateness}, late={late}, nulls={nulls}")
    }
}

impl ExecutionPlan for DedupEpochExec {
    fn name(&self) -> &'static str {
        "DedupEpochExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::LowerEqual
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        let DedupExpressions { keys, time, hidden } = &self.judge.expressions;
        apply_expression_roots(keys.iter().chain(time).chain(hidden.iter().flatten()), f)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(children.swap_remove(0), Arc::clone(&self.judge))))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        self.replace_children(children, options)
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let (input, judge) = (Arc::clone(&self.input), Arc::clone(&self.judge));
        let (run, metrics) = (Arc::clone(&self.run), self.metrics.clone());
        let batches = async move {
            let run = run.get_or_init(|| async move {
                judge.run(input, context, metrics).await.map_err(Arc::new)
            });
            let ran = run.await;
            // Whoever ran it has woken the others, which would wait on its thread.
            tokio::task::yield_now().await;
            match ran {
                Ok(outputs) => {
                    let mut own = outputs[partition].lock().unwrap_or_else(PoisonError::into_inner);
                    Ok(futures::stream::iter(std::mem::take(&mut *own)).map(Ok))
                }
                Err(error) => Err(DataFusionError::Shared(Arc::clone(error))),
            }
        };
        let batches = futures::stream::once(batches).try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), batches)))
    }
}

/// One input partition, read to its end, with its rows by shard.
struct Held {
    /// With which rows of each could be decided, if not all.
    batches: Vec<(RecordBatch, Option<NullBuffer>)>,
    rows: DedupRows,
}

const ROW_BITS: u32 = 40;

impl EpochJudge {
    async fn run(
        self: Arc<Self>,
        input: Arc<dyn ExecutionPlan>,
        context: Arc<TaskContext>,
        metrics: ExecutionPlanMetricsSet,
    ) -> Result<Vec<Mutex<Vec<RecordBatch>>>> {
        let partitions = input.output_partitioning().partition_count();
        let mut reads = Vec::with_capacity(partitions);
        for partition in 0..partitions {
            let rows = input.execute(partition, Arc::clone(&context))?;
            reads.push(SpawnedTask::spawn(Arc::clone(&self).read(partition, rows)));
        }
        let (mut held, mut rows) = (Vec::with_capacity(partitions), Vec::new());
        for read in reads {
            let read = join(read).await?;
            held.push(read.batches);
            rows.push(read.rows);
        }
        let threads = context.session_config().target_partitions();
        let dropped = Arc::clone(&self).judge(rows, threads).await?;
        let count = |name| MetricBuilder::new(&metrics).counter(name, 0);
        let (rows_in, rows_duplicate) = (count("rows_in"), count("rows_duplicate"));
        let mut writes = Vec::with_capacity(partitions);
        for (held, dropped) in held.into_iter().zip(dropped) {
            rows_in.add(held.iter().map(|(batch, _)| batch.num_rows()).sum());
            rows_duplicate.add(dropped.len());
            let judge = Arc::clone(&self);
            writes.push(SpawnedTask::spawn_blocking(move || judge.filter(held, &dropped)));
        }
        let mut outputs = Vec::with_capacity(partitions);
        for write in writes {
            outputs.push(Mutex::new(join(write).await?));
        }
        Ok(outputs)
    }

    async fn read(
        self: Arc<Self>,
        partition: usize,
        mut input: SendableRecordBatchStream,
    ) -> Result<Held> {
        let mut rows = self.memory.rows();
        let mut batches = Vec::new();
        let mut first = (partition as u64) << ROW_BITS;
        let mut late: BTreeMap<u64, Judged> = BTreeMap::new();
        while let Some(batch) = input.next().await.transpose()? {
            let facts = facts(&batch, &self.expressions, self.options, &self.hasher)?;
            rows.reserve(batch.num_rows())?;
            let positions = facts.positions.clone().unwrap_or_default();
            if facts.late.is_some() && self.options.late != LatePolicy::Pass {
                let ordinal = Position(positions[0]).partition();
                let seen = Judged { late: facts.late, ..Judged::default() };
                late.entry(ordinal).or_default().add(&seen);
            }
            for (row, hash) in facts.hashes.iter().enumerate() {
                let position = positions[row];
                let is_distinct = facts.distinct.as_ref().is_some_and(|keys| keys.is_null(row));
                if facts.times.is_null(row) || is_distinct {
                    let ordinal = Position(position).partition();
                    let counts = late.entry(ordinal).or_default();
                    match (facts.times.is_null(row), self.options.late) {
                        (true, LatePolicy::Pass) => counts.rows_late_passed += 1,
                        (true, _) => counts.rows_late += 1,
                        (false, _) => counts.rows_null_key += 1,
                    }
                    continue;
                }
                let at = facts.times.value(row);
                rows.push(DedupRow::new(*hash, at, position, first + row as u64));
            }
            first += batch.num_rows() as u64;
            batches.push((batch, facts.times.nulls().cloned()));
            tokio::task::yield_now().await; // rows in memory would be read without a pause
        }
        self.memory.record(late);
        Ok(Held { batches, rows })
    }

    /// The rows to drop of each partition, ascending.
    async fn judge(self: Arc<Self>, rows: Vec<DedupRows>, threads: usize) -> Result<Vec<Vec<u64>>> {
        let threads = threads.clamp(1, DEDUP_SHARDS);
        let mut dropped: Vec<Vec<u64>> = vec![Vec::new(); rows.len()];
        let rows = Arc::new(rows);
        let mut tasks = Vec::with_capacity(threads);
        for thread in 0..threads {
            let (judge, rows) = (Arc::clone(&self), Arc::clone(&rows));
            tasks.push(SpawnedTask::spawn_blocking(move || {
                let mut dropped = Vec::new();
                for shard in (thread..DEDUP_SHARDS).step_by(threads) {
                    let parts: Vec<_> = rows.iter().map(|rows| rows.shard(shard)).collect();
                    judge.memory.judge(shard, &parts, |row| dropped.push(row.row))?;
                }
                Ok(dropped)
            }));
        }
        for task in tasks {
            for row in join(task).await? {
                dropped[(row >> ROW_BITS) as usize].push(row & ((1 << ROW_BITS) - 1));
            }
        }
        for rows in Arc::into_inner(rows).into_iter().flatten() {
            self.memory.take_back(rows);
        }
        for rows in &mut dropped {
            rows.sort_unstable();
        }
        Ok(dropped)
    }

    fn filter(
        &self,
        held: Vec<(RecordBatch, Option<NullBuffer>)>,
        dropped: &[u64],
    ) -> Result<Vec<RecordBatch>> {
        let drops_late = self.options.late == LatePolicy::Drop;
        let (mut first, mut next) = (0, 0);
        let mut kept = Vec::with_capacity(held.len());
        for (batch, decided) in held {
            let end = first + batch.num_rows() as u64;
            let own = next + dropped[next..].partition_point(|row| *row < end);
            let hidden = decided.filter(|own| drops_late && own.null_count() > 0);
            if next == own && hidden.is_none() {
                kept.push(batch);
            } else {
                let mut keep: Vec<bool> = match hidden {
                    Some(decided) => decided.iter().collect(),
                    None => vec![true; batch.num_rows()],
                };
                for row in &dropped[next..own] {
                    keep[(row - first) as usize] = false;
                }
                kept.push(filter_record_batch(&batch, &BooleanArray::from(keep))?);
            }
            (first, next) = (end, own);
        }
        Ok(kept)
    }
}

async fn join<T: 'static + Send>(task: SpawnedTask<Result<T>>) -> Result<T> {
    match task.join_unwind().await {
        Ok(result) => result,
        Err(error) => Err(DataFusionError::External(Box::new(error))),
    }
}

impl DedupMemories {
    /// The memory of `operator`.
    pub fn find(&self, operator: &str) -> Result<Arc<DedupMemory>, DedupError> {
        let missing = || DedupError::NoMemory { operator: operator.to_owned() };
        self.0.get(operator).map(Arc::clone).ok_or_else(missing)
    }
}
