//! Carries a row's position and watermark from its source up to where they are needed.
//!
//! ```text
//!   Projection, Filter, SubqueryAlias, Dedup, Sort, Limit      carried
//!   Join                                                       carried from the one side that has them
//!   Union                                                      carried if all branches have them
//!   Aggregate, Window, Distinct, other tables, ...             lost: rows are no longer source rows
//! ```
//!
//! Where a row may take back another, the column that says so goes with them.

use super::DedupNode;
use crate::source::SourceTable;
use crate::types::{
    CHANGE_COLUMN, POSITION_COLUMN, Position, TIME_COLUMN, WATERMARK_COLUMN, is_hidden,
};
use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, DFSchema, Result, TableReference};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::logical_expr::{
    Expr, Extension, LogicalPlan, LogicalPlanBuilder, SubqueryAlias, TableScan, TableScanBuilder,
    Union, lit, try_cast,
};
use datafusion::optimizer::AnalyzerRule;
use std::sync::Arc;

const MICROSECONDS: DataType = DataType::Timestamp(TimeUnit::Microsecond, None);

/// Gives every DEDUP of a plain query the positions and watermarks of its source rows, where the
/// input still has them.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExposePositions;

impl AnalyzerRule for ExposePositions {
    fn name(&self) -> &'static str {
        "expose_positions"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_down_with_subqueries(|plan| {
            let Some(node) = as_dedup(&plan).filter(|node| node.hidden.is_none()) else {
                return Ok(Transformed::no(plan));
            };
            let shown = plan.schema().columns();
            match expose(&plan, &mut plain_scan)? {
                Some(exposed) if !shown.iter().any(|column| is_hidden(&column.name)) => {
                    let shown = shown.into_iter().map(Expr::Column);
                    Ok(Transformed::yes(
                        LogicalPlanBuilder::from(exposed.plan).project(shown)?.build()?,
                    ))
                }
                _ => {
                    debug_assert!(node.operator.is_none());
                    Ok(Transformed::no(plan))
                }
            }
        })
        .map(|transformed| transformed.data)
    }
}

/// A plan whose schema has the hidden columns somewhere, under these names.
#[derive(Clone, Debug)]
pub(super) struct Exposed {
    pub(super) plan: LogicalPlan,
    pub(super) position: Column,
    pub(super) watermark: Column,
    /// The event time of the rows, where they have one.
    pub(super) time: Option<Column>,
    /// Whether a row came or went, where rows can go.
    pub(super) change: Option<Column>,
}

/// What takes the place of the scan of a source.
pub(super) type ReplaceScan<'a> =
    dyn FnMut(&TableScan, &SourceTable) -> Result<Option<LogicalPlan>> + 'a;

/// The table of a source that `plan` scans, if it is such a scan.
pub(super) fn source_of(plan: &LogicalPlan) -> Option<SourceTable> {
    let LogicalPlan::TableScan(scan) = plan else { return None };
    let provider = source_as_provider(&scan.source).ok()?;
    provider.downcast_ref::<SourceTable>().cloned()
}

/// The DEDUP that `plan` is.
pub(super) fn as_dedup(plan: &LogicalPlan) -> Option<&DedupNode> {
    let LogicalPlan::Extension(extension) = plan else { return None };
    extension.node.as_any().downcast_ref::<DedupNode>()
}

/// `plan` with the hidden columns of its source rows; `None` if they are lost in it. `replace`
/// gives the scan with hidden columns for each scan of a source.
pub(super) fn expose(plan: &LogicalPlan, replace: &mut ReplaceScan<'_>) -> Result<Option<Exposed>> {
    match plan {
        LogicalPlan::TableScan(scan) => {
            let Some(table) = source_of(plan) else { return Ok(None) };
            let relation = Some(&scan.table_name);
            let watermark = table.options().watermark.as_ref();
            let time = watermark.map(|own| Column::new(relation.cloned(), &own.column));
            Ok(replace(scan, &table)?.map(|plan| Exposed { time, ..Exposed::of(plan, relation) }))
        }
        LogicalPlan::Projection(projection) => {
            let Some(input) = expose(&projection.input, replace)? else { return Ok(None) };
            let index = input.time.as_ref().and_then(|time| index_of(&projection.expr, time));
            let carried = input.time.clone().filter(|_| index.is_none());
            let carried = carried.map(|own| Expr::Column(own).alias(TIME_COLUMN));
            let time = match index {
                Some(index) => Some(Column::from(projection.schema.qualified_field(index))),
                None => carried.as_ref().map(|_| Column::new_unqualified(TIME_COLUMN)),
            };
            let shown = projection.expr.iter().cloned().chain(input.hidden()).chain(carried);
            let built = LogicalPlanBuilder::from(input.plan.clone()).project(shown)?.build()?;
            Ok(Some(Exposed { plan: built, time, ..input }))
        }
        LogicalPlan::SubqueryAlias(alias) => {
            let Some(input) = expose(&alias.input, replace)? else { return Ok(None) };
            let index = input.time.and_then(|own| input.plan.schema().maybe_index_of_column(&own));
            let built = SubqueryAlias::try_new(Arc::new(input.plan), alias.alias.clone())?;
            let time = index.map(|index| Column::from(built.schema.qualified_field(index)));
            let exposed = Exposed::of(LogicalPlan::SubqueryAlias(built), Some(&alias.alias));
            Ok(Some(Exposed { time, ..exposed }))
        }
        LogicalPlan::Union(union) => expose_union(union, replace),
        LogicalPlan::Join(join) => {
            let left = expose(&join.left, replace)?;
            let right = expose(&join.right, replace)?;
            let (exposed, inputs) = match (left, right) {
                (Some(left), None) => {
                    let inputs = vec![left.plan.clone(), join.right.as_ref().clone()];
                    (left, inputs)
                }
                (None, Some(right)) => {
                    let inputs = vec![join.left.as_ref().clone(), right.plan.clone()];
                    (right, inputs)
                }
                _ => return Ok(None),
            };
            rebuilt(plan, inputs, exposed)
        }
        LogicalPlan::Filter(_) | LogicalPlan::Sort(_) | LogicalPlan::Limit(_) => {
            let inputs = plan.inputs();
            let Some(input) = expose(inputs[0], replace)? else { return Ok(None) };
            rebuilt(plan, vec![input.plan.clone()], input)
        }
        LogicalPlan::Extension(_) => {
            let Some(node) = as_dedup(plan) else { return Ok(None) };
            if node.hidden.is_some() {
                return Ok(None);
            }
            let Some(input) = expose(&node.input, replace)? else { return Ok(None) };
            let hidden = [input.position.clone(), input.watermark.clone()].map(Expr::Column);
            let node = node.clone();
            let built = DedupNode { input: input.plan.clone(), hidden: Some(hidden), ..node };
            let built = LogicalPlan::Extension(Extension { node: Arc::new(built) });
            Ok(Some(Exposed { plan: built, ..input }))
        }
        _ => Ok(None),
    }
}

/// The table's watermark column as `plan` shows it, if it still does.
pub(super) fn watermark_column(plan: &LogicalPlan) -> Option<Column> {
    match plan {
        LogicalPlan::TableScan(scan) => {
            let table = source_of(plan)?;
            let spec = table.options().watermark.as_ref()?;
            let column = Column::new(Some(scan.table_name.clone()), spec.column.clone());
            plan.schema().has_column(&column).then_some(column)
        }
        LogicalPlan::SubqueryAlias(alias) => {
            let column = watermark_column(&alias.input)?;
            let index = alias.input.schema().maybe_index_of_column(&column)?;
            Some(Column::from(plan.schema().qualified_field(index)))
        }
        LogicalPlan::Projection(projection) => {
            let column = watermark_column(&projection.input)?;
            let index = index_of(&projection.expr, &column)?;
            Some(Column::from(plan.schema().qualified_field(index)))
        }
        LogicalPlan::Filter(filter) => watermark_column(&filter.input),
        LogicalPlan::Sort(sort) => watermark_column(&sort.input),
        LogicalPlan::Extension(_) => watermark_column(&as_dedup(plan)?.input),
        _ => None,
    }
}

/// Which of `exprs` is just `column`.
fn index_of(exprs: &[Expr], column: &Column) -> Option<usize> {
    exprs.iter().position(|expr| {
        let expr = expr.clone().unalias_nested().data;
        matches!(expr, Expr::Column(own) if own == *column)
    })
}

/// A scan of a plain query: the same table with its hidden columns.
fn plain_scan(scan: &TableScan, table: &SourceTable) -> Result<Option<LogicalPlan>> {
    if table.is_positioned() || scan.projection.is_some() || table.feed().is_some() {
        return Ok(None);
    }
    let source = provider_as_source(table.positioned());
    let name = scan.table_name.clone();
    let built = TableScanBuilder::new(name, source)
        .with_filters(scan.filters.clone())
        .with_fetch(scan.fetch)
        .build()?;
    Ok(Some(LogicalPlan::TableScan(built)))
}

/// Branches of one union may have the same positions: each branch gets its own sixteenth of them.
fn expose_union(union: &Union, replace: &mut ReplaceScan<'_>) -> Result<Option<Exposed>> {
    if union.inputs.len() as u64 > Position::BRANCHES_MAX {
        return Ok(None);
    }
    let mut branches = Vec::with_capacity(union.inputs.len());
    for input in &union.inputs {
        let Some(exposed) = expose(input, replace)? else { return Ok(None) };
        branches.push((input, exposed));
    }
    let can_go = branches.iter().any(|(_, own)| own.change.is_some());
    let is_timed = branches.iter().all(|(_, own)| own.time.is_some());
    let mut inputs = Vec::with_capacity(branches.len());
    for (branch, (input, exposed)) in branches.into_iter().enumerate() {
        let shown = input.schema().columns().into_iter().map(Expr::Column);
        let position = Expr::Column(exposed.position) + lit(Position::of_branch(branch as u64));
        let hidden = [
            position.alias(POSITION_COLUMN),
            Expr::Column(exposed.watermark).alias(WATERMARK_COLUMN),
        ];
        let change = exposed.change.map_or_else(|| lit(1_i64), Expr::Column).alias(CHANGE_COLUMN);
        let time = exposed.time.filter(|_| is_timed).map(Expr::Column);
        let time = time.map(|own| try_cast(own, MICROSECONDS).alias(TIME_COLUMN));
        let hidden = hidden.into_iter().chain(can_go.then_some(change)).chain(time);
        let built = LogicalPlanBuilder::from(exposed.plan).project(shown.chain(hidden))?.build()?;
        inputs.push(Arc::new(built));
    }
    let built = LogicalPlan::Union(Union::try_new_with_loose_types(inputs)?);
    let time = is_timed.then(|| Column::new_unqualified(TIME_COLUMN));
    Ok(Some(Exposed { time, ..Exposed::of(built, None) }))
}

fn rebuilt(
    plan: &LogicalPlan,
    inputs: Vec<LogicalPlan>,
    exposed: Exposed,
) -> Result<Option<Exposed>> {
    let built = plan.with_new_exprs(plan.expressions(), inputs)?;
    if !has(built.schema(), &exposed.position) {
        return Ok(None); // a semi join shows one side only
    }
    Ok(Some(Exposed { plan: built, ..exposed }))
}

fn has(schema: &DFSchema, column: &Column) -> bool {
    schema.has_column(column)
}

impl Exposed {
    /// A plan that has the hidden columns under their own names, and no event time.
    pub(super) fn of(plan: LogicalPlan, relation: Option<&TableReference>) -> Self {
        let column = |name| Column::new(relation.cloned(), name);
        let change = Some(column(CHANGE_COLUMN)).filter(|own| has(plan.schema(), own));
        let (position, watermark) = (column(POSITION_COLUMN), column(WATERMARK_COLUMN));
        Self { plan, position, watermark, time: None, change }
    }

    /// The hidden columns, without the event time.
    pub(super) fn hidden(&self) -> impl Iterator<Item = Expr> + use<> {
        let own = [self.position.clone(), self.watermark.clone()];
        own.into_iter().chain(self.change.clone()).map(Expr::Column)
    }
}
