//! `GlobalRollupExec`: partial states into those that are remembered, and the rows that changed.

use super::shape::{RollupShape, hidden};
use crate::state::{FIXED_COLUMNS, GroupRows, ROLLUP_SHARDS, RollupMemory, hashes_of};
use crate::types::{Emit, Position, with_intervals};
use arrow::array::{ArrayRef, BooleanArray};
use arrow::compute::{cast, interleave};
use arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{Distribution, EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{CardinalityEffect, EmissionType};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties,
    InputDistributionRequirements, PlanProperties, ReplaceChildrenOptions,
};
use futures::{StreamExt, TryStreamExt};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Merges the states of an epoch into those that are remembered; executed once, all partitions.
#[derive(Debug)]
pub struct GlobalRollupExec {
    input: Arc<dyn ExecutionPlan>,
    shape: Arc<RollupShape>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
    /// Partitions that have merged what is theirs.
    merged: Arc<AtomicUsize>,
}

impl GlobalRollupExec {
    pub(super) fn new(input: Arc<dyn ExecutionPlan>, shape: Arc<RollupShape>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&shape.output)),
            Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            EmissionType::Final,
            input.boundedness(),
        );
        let metrics = ExecutionPlanMetricsSet::new();
        Self { input, shape, properties: Arc::new(properties), metrics, merged: Arc::default() }
    }
}

impl DisplayAs for GlobalRollupExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (groups, aggregates) = self.shape.names();
        let emit = self.shape.options.emit;
        write!(f, "GlobalRollupExec: gby=[{groups}], aggr=[{aggregates}], emit={emit}, ")?;
        let windows = &self.shape.expressions.windows;
        let names = windows.iter().map(|own| self.shape.output.field(own.column).name().as_str());
        write!(f, "windows=[{}]", with_intervals(&names.collect::<Vec<_>>().join(", ")))
    }
}

impl ExecutionPlan for GlobalRollupExec {
    fn name(&self) -> &'static str {
        "GlobalRollupExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        let last = self.shape.partial.fields().len() - 1;
        let shard = Column::new(self.shape.partial.field(last).name(), last);
        InputDistributionRequirements::new(vec![Distribution::KeyPartitioned(vec![Arc::new(
            shard,
        )])])
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![true]
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Unknown
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue) // its expressions are those of LocalRollupExec
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(children.swap_remove(0), Arc::clone(&self.shape))))
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
        let input = self.input.execute(partition, context)?;
        let partitions = self.input.output_partitioning().partition_count();
        let (shape, merged) = (Arc::clone(&self.shape), Arc::clone(&self.merged));
        let rows_out = MetricBuilder::new(&self.metrics).output_rows(partition);
        let rows = async move {
            let partials = input.try_collect::<Vec<_>>().await?;
            let own = Arc::clone(&shape);
            let changed = join(SpawnedTask::spawn_blocking(move || own.merge(&partials))).await?;
            let is_last = merged.fetch_add(1, Ordering::AcqRel) + 1 == partitions;
            let rows = match shape.options.emit {
                Emit::Changes => changed,
                Emit::Final if is_last => {
                    let own = Arc::clone(&shape);
                    join(SpawnedTask::spawn_blocking(move || own.closed())).await?
                }
                Emit::Final => Vec::new(),
            };
            let rows = shape.shown(partition, &rows)?;
            rows_out.add(rows.iter().map(RecordBatch::num_rows).sum());
            Ok::<_, DataFusionError>(futures::stream::iter(rows).map(Ok))
        };
        let rows = futures::stream::once(rows).try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.shape.output), rows)))
    }
}

impl RollupShape {
    /// Merges what came to one partition.
    fn merge(&self, partials: &[RecordBatch]) -> Result<Vec<GroupRows>> {
        let states = FIXED_COLUMNS + self.group_columns() + self.aggregates.state_fields().len();
        let mut shards: Vec<Vec<(usize, usize)>> = vec![Vec::new(); ROLLUP_SHARDS];
        for (batch, partial) in partials.iter().enumerate() {
            for (row, hash) in hashes_of(partial).into_iter().enumerate() {
                shards[RollupMemory::shard_of(hash)].push((batch, row));
            }
        }
        let places: Vec<(usize, usize)> = shards.iter().flatten().copied().collect();
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let mut columns = Vec::with_capacity(states);
        for column in 0..states {
            let parts = partials.iter().map(|partial| partial.column(column).as_ref());
            columns.push(interleave(&parts.collect::<Vec<_>>(), &places)?);
        }
        let rows = RecordBatch::try_new(Arc::clone(&self.rows), columns)?;
        let (mut changed, mut from) = (Vec::with_capacity(ROLLUP_SHARDS), 0);
        for (shard, own) in shards.iter().enumerate().filter(|(_, own)| !own.is_empty()) {
            let own = rows.slice(from, own.len());
            from += own.num_rows();
            changed.extend(self.memory.merge(shard, &self.aggregates, &own)?);
        }
        Ok(changed)
    }

    /// The groups that this epoch closes.
    fn closed(&self) -> Result<Vec<GroupRows>> {
        let mut closed = Vec::new();
        for shard in 0..ROLLUP_SHARDS {
            closed.extend(self.memory.closed(shard, &self.aggregates)?);
        }
        Ok(closed)
    }

    /// Groups as rows of the plan above.
    fn shown(&self, partition: usize, groups: &[GroupRows]) -> Result<Vec<RecordBatch>> {
        let mut shown = Vec::with_capacity(groups.len());
        let mut first = Position::new(partition as u64, 0).0;
        for own in groups {
            let columns = &own.columns[..self.group_columns() + self.shown_aggregates()];
            let is_gone = || Arc::new(BooleanArray::from(vec![own.is_gone; own.rows])) as ArrayRef;
            let is_gone = self.options.session.map(|_| is_gone());
            let columns = columns.iter().cloned().chain(hidden(own.rows, first)).chain(is_gone);
            let typed = columns.zip(self.output.fields()).map(|(column, field)| {
                if column.data_type() == field.data_type() {
                    return Ok(column);
                }
                Ok(cast(&column, field.data_type())?)
            });
            let typed = typed.collect::<Result<Vec<ArrayRef>>>()?;
            shown.push(RecordBatch::try_new(Arc::clone(&self.output), typed)?);
            first += own.rows as u64;
        }
        Ok(shown)
    }
}

async fn join<T: 'static + Send>(task: SpawnedTask<Result<T>>) -> Result<T> {
    match task.join_unwind().await {
        Ok(result) => result,
        Err(error) => Err(DataFusionError::External(Box::new(error))),
    }
}
