//! Whether an expression can be NULL, by all that its plan says: filters, joins and DEDUP too, which
//! DataFusion's own schemas do not tell.

use super::pipeline::streams;
use super::positions::as_dedup;
use super::windows::is_window;
use crate::types::LatePolicy;
use datafusion::common::{Column, DFSchema, NullEquality};
use datafusion::logical_expr::utils::{grouping_set_to_exprlist, split_conjunction};
use datafusion::logical_expr::{Aggregate, Expr, ExprSchemable, Join, JoinType, LogicalPlan};
use datafusion::logical_expr::{GroupingSet, Operator};

/// Functions that give NULL for a NULL only.
const STRICT: [&str; 14] = [
    "abs",
    "btrim",
    "date_bin",
    "date_part",
    "date_trunc",
    "floor",
    "hop",
    "lower",
    "round",
    "session",
    "tumble",
    "tumble_end",
    "upper",
    "to_timestamp",
];

/// Whether `expr`, over the columns that `plan` shows, is never NULL.
pub(super) fn is_never_null(plan: &LogicalPlan, expr: &Expr) -> bool {
    if !expr.nullable(plan.schema()).unwrap_or(true) {
        return true;
    }
    if let LogicalPlan::Filter(filter) = plan
        && excludes_null(&filter.predicate, expr)
    {
        return true;
    }
    match expr {
        Expr::Column(column) => {
            let index = plan.schema().maybe_index_of_column(column);
            index.is_some_and(|index| is_column_never_null(plan, index))
        }
        Expr::Alias(alias) => is_never_null(plan, &alias.expr),
        Expr::Cast(cast) => is_never_null(plan, &cast.expr),
        Expr::BinaryExpr(both) => {
            is_never_null(plan, &both.left) && is_never_null(plan, &both.right)
        }
        Expr::ScalarFunction(call) if call.name() == "coalesce" => {
            call.args.iter().any(|own| is_never_null(plan, own))
        }
        Expr::ScalarFunction(call) if STRICT.contains(&call.name()) => {
            call.args.iter().all(|own| is_never_null(plan, own))
        }
        _ => false,
    }
}

/// Whether the column at `index` of `plan`, which its schema calls nullable, is never NULL.
fn is_column_never_null(plan: &LogicalPlan, index: usize) -> bool {
    let same = |input: &LogicalPlan| is_never_null(input, &column(input.schema(), index));
    match plan {
        LogicalPlan::Projection(own) => is_never_null(&own.input, &own.expr[index]),
        LogicalPlan::SubqueryAlias(alias) => same(&alias.input),
        LogicalPlan::Filter(filter) => same(&filter.input),
        LogicalPlan::Sort(sort) => same(&sort.input),
        LogicalPlan::Limit(limit) => same(&limit.input),
        LogicalPlan::Union(union) => union.inputs.iter().all(|input| same(input)),
        LogicalPlan::Aggregate(aggregate) => {
            !is_left_out(aggregate, index) && is_given(aggregate, index)
        }
        LogicalPlan::Join(join) => is_joined_never_null(join, index),
        LogicalPlan::Extension(_) => as_dedup(plan).is_some_and(|node| {
            // A row without a time cannot be decided, and goes where late rows go.
            let drops = node.options.late != LatePolicy::Pass;
            (drops && node.time.as_ref() == Some(&column(plan.schema(), index)))
                || same(&node.input)
        }),
        _ => false,
    }
}

fn is_joined_never_null(join: &Join, index: usize) -> bool {
    use JoinType as J;
    let own = column(&join.schema, index);
    if join.join_type == JoinType::Inner {
        let is_key = join.null_equality == NullEquality::NullEqualsNothing
            && join.on.iter().any(|(left, right)| *left == own || *right == own);
        let is_kept = join.filter.as_ref().is_some_and(|filter| excludes_null(filter, &own));
        if is_key || is_kept {
            return true;
        }
    }
    let left = join.left.schema().fields().len();
    match join.join_type {
        J::Inner | J::Left | J::LeftSemi | J::LeftAnti | J::LeftMark if index < left => {
            is_never_null(&join.left, &own)
        }
        J::Inner | J::Right if index >= left => is_never_null(&join.right, &own),
        _ => false,
    }
}

/// Whether a row for which `expr` is NULL does not meet `predicate`.
fn excludes_null(predicate: &Expr, expr: &Expr) -> bool {
    let is_it = |own: &Expr| own == expr;
    split_conjunction(predicate).into_iter().any(|own| match own {
        Expr::IsNotNull(inner) => is_it(inner),
        Expr::BinaryExpr(both) => {
            use Operator as O;
            let compares = matches!(both.op, O::Eq | O::NotEq | O::Lt | O::LtEq | O::Gt | O::GtEq);
            compares && (is_it(&both.left) || is_it(&both.right))
        }
        Expr::InList(list) => is_it(&list.expr),
        Expr::Between(between) => is_it(&between.expr),
        Expr::Like(like) => is_it(&like.expr),
        _ => false,
    })
}

/// The expression of the group column at `index`; `None` if that is no group column.
pub(super) fn group_of(aggregate: &Aggregate, index: usize) -> Option<&Expr> {
    grouping_set_to_exprlist(&aggregate.group_expr).ok()?.get(index).copied()
}

/// Whether the group column at `index` is never NULL of its own. In a pipeline, a row without a time
/// is in no window, and so in no group.
pub(super) fn is_given(aggregate: &Aggregate, index: usize) -> bool {
    let input = &aggregate.input;
    group_of(aggregate, index).is_some_and(|group| {
        is_never_null(input, group) || (streams(input) && is_window(input, group))
    })
}

/// Whether there are rows in which the group column at `index` is NULL because a grouping set does
/// not have it.
pub(super) fn is_left_out(aggregate: &Aggregate, index: usize) -> bool {
    let [Expr::GroupingSet(set)] = aggregate.group_expr.as_slice() else { return false };
    match (set, group_of(aggregate, index)) {
        (GroupingSet::GroupingSets(sets), Some(own)) => sets.iter().any(|set| !set.contains(own)),
        _ => true,
    }
}

/// The column at `index`.
pub(super) fn column(schema: &DFSchema, index: usize) -> Expr {
    Expr::Column(Column::from(schema.qualified_field(index)))
}
