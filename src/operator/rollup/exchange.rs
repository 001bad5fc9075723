//! `ShardExchangeExec`: the states of all partitions, brought together by shard.
//!
//! ```text
//!   each partition below    states -> ordered by shard, in one pass
//!   once all have ended     whoever above is free takes the states of the next few shards
//! ```
//!
//! A partition above gets shards as it asks for them, so that none waits for another that has more to
//! do; the states of a shard come all at once, in one batch.

use crate::state::{ROLLUP_SHARDS, RollupMemory, hashes_of};
use arrow::array::UInt32Array;
use arrow::compute::{concat_batches, take_record_batch};
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
    PlanProperties, ReplaceChildrenOptions,
};
use futures::future::{BoxFuture, Shared};
use futures::{FutureExt, TryStreamExt};
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// Rows from which on shards are worth being handed out.
const ROWS_MIN: usize = 4_096;

/// What came from below; one for all partitions above.
type Arrival = Shared<BoxFuture<'static, Result<Arc<Arrived>, Arc<DataFusionError>>>>;

/// Brings the states of each shard together; executed once, all partitions.
#[derive(Debug)]
pub struct ShardExchangeExec {
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
    arrival: OnceLock<Arrival>,
    /// The next share to be handed out.
    next: Arc<AtomicUsize>,
}

impl ShardExchangeExec {
    /// To so many `partitions`. The first column of `input` is the hash of a group.
    pub(super) fn new(input: Arc<dyn ExecutionPlan>, partitions: usize) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(input.schema()),
            Partitioning::UnknownPartitioning(partitions.max(1)),
            EmissionType::Final,
            input.boundedness(),
        );
        Self {
            input,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
            arrival: OnceLock::new(),
            next: Arc::default(),
        }
    }

    /// Begins to execute what is below, once.
    fn arrival(&self, context: Arc<TaskContext>) -> Arrival {
        let begin = || {
            let input = Arc::clone(&self.input);
            async move { arrive(input, context).await.map(Arc::new).map_err(Arc::new) }
                .boxed()
                .shared()
        };
        self.arrival.get_or_init(begin).clone()
    }
}

impl DisplayAs for ShardExchangeExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (below, above) = (
            self.input.output_partitioning().partition_count(),
            self.properties.partitioning.partition_count(),
        );
        write!(f, "ShardExchangeExec: shards={ROLLUP_SHARDS}, partitions={below} to {above}")
    }
}

impl ExecutionPlan for ShardExchangeExec {
    fn name(&self) -> &'static str {
        "ShardExchangeExec"
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

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue) // it has none
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let partitions = self.properties.partitioning.partition_count();
        Ok(Arc::new(Self::new(children.swap_remove(0), partitions)))
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
        let (arrival, next) = (self.arrival(context), Arc::clone(&self.next));
        let rows_out = MetricBuilder::new(&self.metrics).output_rows(partition);
        let rows = futures::stream::try_unfold((), move |()| {
            let (arrival, next, rows_out) = (arrival.clone(), Arc::clone(&next), rows_out.clone());
            async move {
                let arrived = arrival.await.map_err(DataFusionError::Shared)?;
                let share = arrived.shares.get(next.fetch_add(1, Ordering::Relaxed));
                let Some(share) = share else { return Ok(None) };
                let rows = arrived.rows_of(share.clone())?;
                rows_out.add(rows.num_rows());
                Ok::<_, DataFusionError>(Some((rows, ())))
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }
}

/// All states of an epoch.
#[derive(Debug)]
struct Arrived {
    parts: Vec<Sharded>,
    /// Shards that are handed out together.
    shares: Vec<Range<usize>>,
}

impl Arrived {
    fn new(parts: Vec<Sharded>) -> Self {
        let (mut shares, mut from, mut rows) = (Vec::new(), 0, 0);
        for shard in 0..ROLLUP_SHARDS {
            rows += parts.iter().map(|part| part.of(shard).len()).sum::<usize>();
            if rows >= ROWS_MIN || (rows > 0 && shard + 1 == ROLLUP_SHARDS) {
                shares.push(from..shard + 1);
                (from, rows) = (shard + 1, 0);
            }
        }
        Self { parts, shares }
    }

    /// The states of some shards, one shard after the other; there is at least one.
    fn rows_of(&self, shards: Range<usize>) -> Result<RecordBatch> {
        let own = |shard| {
            self.parts.iter().map(move |part| {
                let rows = part.of(shard);
                part.rows.slice(rows.start, rows.len())
            })
        };
        let slices: Vec<RecordBatch> =
            shards.flat_map(own).filter(|slice| slice.num_rows() > 0).collect();
        Ok(concat_batches(self.parts[0].rows.schema_ref(), &slices)?)
    }
}

/// States ordered by shard.
#[derive(Debug)]
struct Sharded {
    rows: RecordBatch,
    /// Where each shard ends.
    ends: [usize; ROLLUP_SHARDS],
}

impl Sharded {
    fn new(rows: &RecordBatch) -> Result<Self> {
        let hashes = hashes_of(rows);
        let mut ends = [0; ROLLUP_SHARDS];
        for hash in &hashes {
            ends[RollupMemory::shard_of(*hash)] += 1;
        }
        let (mut free, mut before) = ([0; ROLLUP_SHARDS], 0);
        for (free, end) in free.iter_mut().zip(&mut ends) {
            *free = before;
            before += *end;
            *end = before;
        }
        let mut order = vec![0; hashes.len()];
        for (row, hash) in (0..).zip(&hashes) {
            let free = &mut free[RollupMemory::shard_of(*hash)];
            order[*free] = row;
            *free += 1;
        }
        Ok(Self { rows: take_record_batch(rows, &UInt32Array::from(order))?, ends })
    }

    /// The rows of a shard.
    fn of(&self, shard: usize) -> Range<usize> {
        let start = if shard == 0 { 0 } else { self.ends[shard - 1] };
        start..self.ends[shard]
    }
}

/// Executes all partitions of `input`, side by side.
async fn arrive(input: Arc<dyn ExecutionPlan>, context: Arc<TaskContext>) -> Result<Arrived> {
    let partitions = input.output_partitioning().partition_count();
    let mut tasks = Vec::with_capacity(partitions);
    for partition in 0..partitions {
        let mut states = input.execute(partition, Arc::clone(&context))?;
        tasks.push(SpawnedTask::spawn(async move {
            let mut sharded = Vec::new();
            while let Some(rows) = states.try_next().await? {
                if rows.num_rows() > 0 {
                    sharded.push(Sharded::new(&rows)?);
                }
            }
            Ok(sharded)
        }));
    }
    let mut parts = Vec::with_capacity(partitions);
    for task in tasks {
        parts.extend(join(task).await?);
    }
    Ok(Arrived::new(parts))
}

/// What came of `task`; its panic is one here.
pub(super) async fn join<T: 'static + Send>(task: SpawnedTask<Result<T>>) -> Result<T> {
    match task.join_unwind().await {
        Ok(result) => result,
        Err(error) => Err(DataFusionError::External(Box::new(error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::hash_array;
    use arrow::array::cast::AsArray;
    use arrow::array::types::Int64Type;
    use arrow::array::{ArrayRef, Int64Array};
    use datafusion::datasource::memory::MemorySourceConfig;
    use datafusion::prelude::SessionContext;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn states(hashes: &[u128], first: i64) -> RecordBatch {
        let numbers: ArrayRef =
            Arc::new(Int64Array::from_iter_values(first..first + hashes.len() as i64));
        RecordBatch::try_from_iter([("hash", hash_array(hashes)), ("number", numbers)]).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn each_shard_comes_at_once_and_no_state_is_lost_or_doubled(
            parts in proptest::collection::vec(
                proptest::collection::vec(
                    proptest::collection::vec((0..70_u128, 0..9_u128), 0..3_000), 0..4), 1..4),
            above in 1..5_usize,
        ) {
            let mut expected = HashMap::new();
            let mut input = Vec::new();
            for batches in parts {
                let mut own = Vec::new();
                for batch in batches {
                    let hashes: Vec<u128> = batch.iter().map(|(low, high)| high << 64 | low).collect();
                    let first = expected.len() as i64;
                    expected.extend((first..).zip(hashes.iter().copied()));
                    own.push(states(&hashes, first));
                }
                input.push(own);
            }
            let source = MemorySourceConfig::try_new_exec(&input, states(&[], 0).schema(), None);
            let plan = ShardExchangeExec::new(source.unwrap(), above);
            let context = SessionContext::new().task_ctx();
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build();
            let all = runtime.unwrap().block_on(async {
                let own = (0..above).map(|own| plan.execute(own, Arc::clone(&context)).unwrap());
                let own = own.map(TryStreamExt::try_collect::<Vec<_>>);
                futures::future::try_join_all(own).await.unwrap()
            });
            let mut found = HashMap::new();
            let mut shards = HashMap::new();
            for (share, batch) in all.iter().flatten().enumerate() {
                let numbers = batch.column(1).as_primitive::<Int64Type>().values();
                for (hash, number) in hashes_of(batch).into_iter().zip(numbers) {
                    prop_assert_eq!(found.insert(*number, hash), None);
                    prop_assert_eq!(*shards.entry(RollupMemory::shard_of(hash)).or_insert(share), share);
                }
                let order: Vec<usize> = hashes_of(batch).into_iter().map(RollupMemory::shard_of).collect();
                prop_assert!(order.is_sorted());
            }
            prop_assert_eq!(found, expected);
        }
    }
}
