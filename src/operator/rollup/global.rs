//! `GlobalRollupExec`: partial states into those that are remembered, and the rows that changed.

use super::exchange::join;
use super::shape::{RollupShape, hidden};
use crate::state::{GroupRows, ROLLUP_SHARDS, RollupMemory, hashes_of};
use crate::types::{Emit, Position, with_intervals};
use arrow::array::{ArrayRef, BooleanArray};
use arrow::compute::cast;
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

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
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
        let mut input = self.input.execute(partition, context)?;
        let partitions = self.input.output_partitioning().partition_count();
        let (shape, merged) = (Arc::clone(&self.shape), Arc::clone(&self.merged));
        let rows_out = MetricBuilder::new(&self.metrics).output_rows(partition);
        let rows = async move {
            let mut changed = Vec::new();
            while let Some(states) = input.try_next().await? {
                let own = Arc::clone(&shape);
                let merge = SpawnedTask::spawn_blocking(move || own.merge(&states));
                changed.extend(join(merge).await?);
            }
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
    /// Merges the states of some shards, one shard after the other.
    fn merge(&self, states: &RecordBatch) -> Result<Vec<GroupRows>> {
        let shards: Vec<usize> =
            hashes_of(states).into_iter().map(RollupMemory::shard_of).collect();
        let (mut changed, mut from) = (Vec::new(), 0);
        for own in shards.chunk_by(|one, two| one == two) {
            let rows = states.slice(from, own.len());
            from += own.len();
            changed.extend(self.memory.merge(own[0], &self.aggregates, &rows)?);
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
