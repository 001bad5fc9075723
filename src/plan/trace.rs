//! Where a column of a query comes from.

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result};
use datafusion::logical_expr::{Expr, LogicalPlan};

/// `expr` over `plan` as an expression over the input of `plan`, where `plan` only shows its input;
/// `None` if it does more, or `expr` has another column.
pub(super) fn below<'a>(plan: &'a LogicalPlan, expr: &Expr) -> Option<(&'a LogicalPlan, Expr)> {
    match plan {
        LogicalPlan::Projection(own) => {
            let defined = replaced(expr, |column| {
                let index = plan.schema().maybe_index_of_column(column)?;
                Some(own.expr[index].clone().unalias_nested().data)
            })?;
            Some((&own.input, defined))
        }
        LogicalPlan::SubqueryAlias(own) => Some((&own.input, renamed(plan, &own.input, expr)?)),
        LogicalPlan::Filter(own) => Some((&own.input, expr.clone())),
        LogicalPlan::Sort(own) => Some((&own.input, expr.clone())),
        _ => None,
    }
}

/// `expr` with the columns of `input` in place of those of `plan`, by their numbers.
pub(super) fn renamed(plan: &LogicalPlan, input: &LogicalPlan, expr: &Expr) -> Option<Expr> {
    replaced(expr, |column| {
        let index = plan.schema().maybe_index_of_column(column)?;
        Some(Expr::Column(Column::from(input.schema().qualified_field(index))))
    })
}

/// `expr` with other expressions in place of its columns; `None` if one has none.
fn replaced(expr: &Expr, of: impl Fn(&Column) -> Option<Expr>) -> Option<Expr> {
    let mut is_whole = true;
    let replaced: Result<Transformed<Expr>> = expr.clone().transform_down(|expr| {
        let Expr::Column(column) = &expr else { return Ok(Transformed::no(expr)) };
        match of(column) {
            Some(own) => Ok(Transformed::new(own, true, TreeNodeRecursion::Jump)),
            None => {
                is_whole = false;
                Ok(Transformed::no(expr))
            }
        }
    });
    replaced.ok().filter(|_| is_whole).map(|own| own.data)
}
