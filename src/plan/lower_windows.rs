//! `LowerWindows`: `hop` and `session` in GROUP BY, in words that any planner knows.
//!
//! A row is in several windows of `hop`, and its session depends on other rows: neither is a value of
//! the row, so they stand in GROUP BY only, bare. What a pipeline groups stays as it is: its rollup
//! knows such windows.

use super::PlanError;
use super::hop::{HopSpec, expanded, refuse_units};
use super::nulls::is_left_out;
use super::pipeline::streams;
use super::rollup::as_rollup;
use super::session::{begun, gap_of};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::utils::grouping_set_to_exprlist;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan};
use datafusion::optimizer::AnalyzerRule;
use std::sync::Arc;

/// Groups rows by every window that they are in, and by sessions.
#[derive(Clone, Copy, Debug, Default)]
pub struct LowerWindows {
    keeps_streams: bool,
}

impl LowerWindows {
    /// What the rule is called.
    pub const NAME: &str = "lower_windows";

    /// The rule for the query of a pipeline.
    #[must_use]
    pub const fn of_pipelines() -> Self {
        Self { keeps_streams: true }
    }
}

impl AnalyzerRule for LowerWindows {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|plan| {
            if as_rollup(&plan).is_some() || !plan_has_call(&plan)? {
                return Ok(Transformed::no(plan));
            }
            let LogicalPlan::Aggregate(aggregate) = plan else {
                return Err(misplaced("it stands elsewhere"));
            };
            let (call, kind) = call_of(&aggregate)?;
            if let WindowKind::Hop(spec) = kind {
                refuse_units(&call, spec, &aggregate.input)?;
            }
            if self.keeps_streams && streams(&aggregate.input) {
                return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
            }
            let input = aggregate.input.as_ref();
            let (input, column) = match kind {
                WindowKind::Hop(_) => expanded(input, &call)?,
                WindowKind::Session(_) => begun(input, &call, &others(&aggregate, &call))?,
            };
            grouped_by(aggregate, input, &call, &column).map(Transformed::yes)
        })
        .map(|transformed| transformed.data)
    }
}

/// How a call cuts time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WindowKind {
    /// `hop`.
    Hop(HopSpec),
    /// `session`, with its gap in microseconds.
    Session(i64),
}

impl WindowKind {
    fn of(expr: &Expr) -> Result<Option<Self>> {
        if let Some(spec) = HopSpec::of(expr)? {
            return Ok(Some(Self::Hop(spec)));
        }
        Ok(gap_of(expr)?.map(Self::Session))
    }
}

/// The column among `groups`, of a rollup, that is a call.
pub(super) fn call_among(groups: &[Expr]) -> Result<Option<(usize, WindowKind)>> {
    for (index, own) in groups.iter().enumerate() {
        if let Some(kind) = WindowKind::of(&bare(own))? {
            return Ok(Some((index, kind)));
        }
    }
    Ok(None)
}

/// The one call in GROUP BY.
fn call_of(aggregate: &Aggregate) -> Result<(Expr, WindowKind)> {
    let groups = grouping_set_to_exprlist(&aggregate.group_expr)?;
    let mut found = None;
    for (index, group) in groups.into_iter().enumerate() {
        if !has_call(group)? {
            continue;
        }
        let call = bare(group);
        let Some(kind) = WindowKind::of(&call)? else {
            return Err(misplaced("it stands inside another expression"));
        };
        if is_left_out(aggregate, index) {
            return Err(misplaced("a grouping set does not have it"));
        }
        if found.replace((call, kind)).is_some() {
            return Err(misplaced("there are two"));
        }
    }
    for own in &aggregate.aggr_expr {
        if has_call(own)? {
            return Err(misplaced("it stands inside an aggregate"));
        }
    }
    let has_sets = matches!(aggregate.group_expr.as_slice(), [Expr::GroupingSet(_)]);
    match found {
        Some((_, WindowKind::Session(_))) if has_sets => {
            let reason = "session(...) with ROLLUP, CUBE or GROUPING SETS is refused, as each set \
                          has sessions of its own; write a query for each";
            Err(PlanError::window(reason).into())
        }
        Some(found) => Ok(found),
        None => Err(misplaced("it stands elsewhere")),
    }
}

/// What is grouped by besides `call`.
fn others(aggregate: &Aggregate, call: &Expr) -> Vec<Expr> {
    aggregate.group_expr.iter().map(bare).filter(|own| own != call).collect()
}

/// `aggregate` over `input`, with `column` in the place of `call`.
fn grouped_by(
    aggregate: Aggregate,
    input: LogicalPlan,
    call: &Expr,
    column: &Column,
) -> Result<LogicalPlan> {
    let name = call.schema_name().to_string();
    let in_place = |own: Expr| {
        if own != *call {
            return Ok(Transformed::no(own));
        }
        let own = Expr::Column(column.clone()).alias(&name);
        Ok(Transformed::new(own, true, TreeNodeRecursion::Jump))
    };
    let groups = aggregate.group_expr.into_iter();
    let groups = groups.map(|own| Ok(own.transform_down(in_place)?.data));
    let groups = groups.collect::<Result<Vec<Expr>>>()?;
    Ok(LogicalPlan::Aggregate(Aggregate::try_new(Arc::new(input), groups, aggregate.aggr_expr)?))
}

fn plan_has_call(plan: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    plan.apply_expressions(|expr| {
        found |= has_call(expr)?;
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

fn has_call(expr: &Expr) -> Result<bool> {
    expr.exists(|expr| Ok(WindowKind::of(expr)?.is_some()))
}

fn bare(expr: &Expr) -> Expr {
    expr.clone().unalias_nested().data
}

fn misplaced(found: &str) -> DataFusionError {
    let reason = format!(
        "hop(...) or session(...) is a column of GROUP BY, bare and once, as it is no value of a row \
         alone; {found}"
    );
    PlanError::window(reason).into()
}
