//! Keeps volatile predicates above DEDUP.

use super::DedupNode;
use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::logical_expr::{Expr, Filter, LogicalPlan, LogicalPlanBuilder, col};
use datafusion::optimizer::AnalyzerRule;
use std::sync::Arc;

const FLAG: &str = "__onefold_volatile";

/// Computes a volatile predicate above DEDUP as a column, and filters by the column.
///
/// `WHERE random() < 0.5` names no column, and DataFusion 55 pushes such a predicate through any
/// extension node: rows would be lost before DEDUP sees them. It does not push a filter through a
/// projection that computes something volatile.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeepVolatileAboveDedup;

impl AnalyzerRule for KeepVolatileAboveDedup {
    fn name(&self) -> &'static str {
        "keep_volatile_above_dedup"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|plan| match plan {
            LogicalPlan::Filter(filter) if must_stay(&filter)? => {
                let columns = filter.input.schema().columns().into_iter().map(Expr::Column);
                let columns: Vec<Expr> = columns.collect();
                let flag = filter.predicate.alias(FLAG);
                let plan = LogicalPlanBuilder::from(Arc::unwrap_or_clone(filter.input))
                    .project(columns.iter().cloned().chain([flag]))?
                    .filter(col(FLAG))?
                    .project(columns)?
                    .build()?;
                Ok(Transformed::yes(plan))
            }
            other => Ok(Transformed::no(other)),
        })
        .map(|transformed| transformed.data)
    }
}

fn must_stay(filter: &Filter) -> Result<bool> {
    let is_dedup = |plan: &LogicalPlan| {
        matches!(plan, LogicalPlan::Extension(extension)
            if extension.node.as_any().is::<DedupNode>())
    };
    Ok(filter.predicate.is_volatile() && filter.input.exists(|plan| Ok(is_dedup(plan)))?)
}
