//! `DedupExec`: plan facts and EXPLAIN; no rows.

use super::DedupExpressions;
use super::prepare::{ADDED, DedupPrepareExec};
use super::stream::DedupStream;
use crate::types::{DedupOptions, format_duration_us};
use arrow::compute::SortOptions;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use datafusion::common::Result;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{
    Distribution, EquivalenceProperties, LexRequirement, OrderingRequirements, Partitioning,
    PhysicalExpr, PhysicalSortRequirement,
};
use datafusion::physical_plan::execution_plan::{CardinalityEffect, EmissionType};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties,
    InputDistributionRequirements, PlanProperties, ReplaceChildrenOptions,
};
use std::fmt;
use std::sync::Arc;

/// Plans DEDUP over `input` in a plain bounded query; the schema stays that of `input`.
///
/// # Errors
///
/// A key type without equality, or a time that is neither timestamp nor date.
pub fn plan_bounded_dedup(
    input: Arc<dyn ExecutionPlan>,
    expressions: DedupExpressions,
    options: DedupOptions,
) -> Result<Arc<dyn ExecutionPlan>> {
    let keys: Vec<String> = expressions.keys.iter().map(ToString::to_string).collect();
    let schema = input.schema();
    let order = if expressions.hidden.is_some() { RowOrder::Position } else { RowOrder::Time };
    let prepared = Arc::new(DedupPrepareExec::try_new(input, expressions, options)?);
    Ok(Arc::new(DedupExec::new(prepared, schema, (options, order), keys.join(", "))))
}

/// In which order the rows of one key are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RowOrder {
    /// By source position.
    Position,
    /// By time and all columns, where rows have no position.
    Time,
}

/// Drops duplicates from rows that come sorted by key hash, then by position or by time and all
/// columns.
#[derive(Clone, Debug)]
pub struct DedupExec {
    input: Arc<dyn ExecutionPlan>,
    schema: SchemaRef,
    options: DedupOptions,
    order: RowOrder,
    keys: String,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl DedupExec {
    fn new(
        input: Arc<dyn ExecutionPlan>,
        schema: SchemaRef,
        (options, order): (DedupOptions, RowOrder),
        keys: String,
    ) -> Self {
        let partitions = input.output_partitioning().partition_count();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Incremental,
            input.boundedness(),
        );
        Self {
            input,
            schema,
            options,
            order,
            keys,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    fn added(&self, which: usize) -> Arc<dyn PhysicalExpr> {
        Arc::new(Column::new(ADDED[which], self.schema.fields().len() + which))
    }
}

impl DisplayAs for DedupExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DedupOptions { within, lateness_us, late, nulls } = &self.options;
        let lateness = format_duration_us(lateness_us.unsigned_abs());
        write!(
            f,
            "DedupExec: by=[{}], within={within}, lateness={lateness}, late={late}, nulls={nulls}",
            self.keys
        )
    }
}

impl ExecutionPlan for DedupExec {
    fn name(&self) -> &'static str {
        "DedupExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        InputDistributionRequirements::new(vec![Distribution::KeyPartitioned(vec![self.added(1)])])
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        let order = SortOptions { descending: false, nulls_first: false };
        let by = |expr| PhysicalSortRequirement::new(expr, Some(order));
        let mut sorts = vec![by(self.added(0)), by(self.added(1))];
        match self.order {
            RowOrder::Position => sorts.push(by(self.added(4))),
            RowOrder::Time => {
                sorts.push(by(self.added(2)));
                sorts.extend(sortable(&self.schema).map(by));
            }
        }
        vec![LexRequirement::new(sorts).map(OrderingRequirements::new)]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![false]
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::LowerEqual
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue) // its expressions are those of DedupPrepareExec
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let (schema, keys) = (Arc::clone(&self.schema), self.keys.clone());
        let how = (self.options, self.order);
        Ok(Arc::new(Self::new(children.swap_remove(0), schema, how, keys)))
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
        let schema = Arc::clone(&self.schema);
        Ok(Box::pin(DedupStream::new(input, schema, self.options, (&self.metrics, partition))))
    }
}

/// The columns that have an order; a map has none, and two rows that differ only there are one.
fn sortable(schema: &Schema) -> impl Iterator<Item = Arc<dyn PhysicalExpr>> {
    schema.fields().iter().enumerate().filter_map(|(index, field)| {
        let has_order = RowConverter::supports_fields(&[SortField::new(field.data_type().clone())]);
        has_order.then(|| Arc::new(Column::new(field.name(), index)) as Arc<dyn PhysicalExpr>)
    })
}
