//! Whether times are whole microseconds, which is all that tables keep: two times of one microsecond
//! would be one key.

use super::nulls::{column, group_of};
use super::positions::as_dedup;
use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan};

/// Whether nothing of `expr`, over the columns that `plan` shows, is cut off in a table.
pub(super) fn is_kept_whole(plan: &LogicalPlan, expr: &Expr) -> bool {
    if !matches!(expr.get_type(plan.schema()), Ok(DataType::Timestamp(TimeUnit::Nanosecond, _))) {
        return true;
    }
    match expr {
        Expr::Column(own) => plan
            .schema()
            .maybe_index_of_column(own)
            .is_some_and(|index| is_column_kept_whole(plan, index)),
        Expr::Alias(alias) => is_kept_whole(plan, &alias.expr),
        Expr::Cast(cast) => is_kept_whole(plan, &cast.expr),
        Expr::Literal(..) => is_whole(expr),
        Expr::ScalarFunction(call) => match (call.name(), call.args.as_slice()) {
            ("date_bin", [interval, _, origin @ ..])
            | ("tumble" | "tumble_end", [_, interval, origin @ ..]) => {
                is_whole(interval) && origin.iter().all(is_whole)
            }
            ("hop", [_, _, _, origin @ ..]) => origin.iter().all(is_whole),
            ("date_trunc", [Expr::Literal(unit, _), _]) => {
                unit.try_as_str().flatten().is_some_and(|unit| !unit.starts_with("nano"))
            }
            ("coalesce", args) => args.iter().all(|own| is_kept_whole(plan, own)),
            _ => false,
        },
        _ => false,
    }
}

fn is_column_kept_whole(plan: &LogicalPlan, index: usize) -> bool {
    let same = |input: &LogicalPlan| is_kept_whole(input, &column(input.schema(), index));
    match plan {
        LogicalPlan::Projection(own) => is_kept_whole(&own.input, &own.expr[index]),
        LogicalPlan::SubqueryAlias(alias) => same(&alias.input),
        LogicalPlan::Filter(filter) => same(&filter.input),
        LogicalPlan::Sort(sort) => same(&sort.input),
        LogicalPlan::Limit(limit) => same(&limit.input),
        LogicalPlan::Aggregate(aggregate) => {
            group_of(aggregate, index).is_some_and(|group| is_kept_whole(&aggregate.input, group))
        }
        LogicalPlan::Extension(_) => as_dedup(plan).is_some_and(|node| same(&node.input)),
        LogicalPlan::Union(union) => union.inputs.iter().all(|input| same(input)),
        LogicalPlan::Join(join) => {
            let own = Expr::Column(Column::from(plan.schema().qualified_field(index)));
            let has_it = |side: &&LogicalPlan| {
                own.column_refs().iter().all(|own| side.schema().has_column(own))
            };
            let mut sides = [join.left.as_ref(), join.right.as_ref()].into_iter();
            sides.find(has_it).is_some_and(|side| is_kept_whole(side, &own))
        }
        _ => false,
    }
}

/// Whether a constant time or interval has no digits below a microsecond.
fn is_whole(expr: &Expr) -> bool {
    const NANOS: i64 = 1_000;
    match expr {
        Expr::Literal(value, _) => match value {
            ScalarValue::IntervalMonthDayNano(Some(own)) => own.nanoseconds % NANOS == 0,
            ScalarValue::TimestampNanosecond(Some(own), _) => own % NANOS == 0,
            _ => !value.is_null(),
        },
        Expr::Cast(cast) => match cast.expr.as_ref() {
            Expr::Literal(text, _) => {
                let cast = text.cast_to(cast.field.data_type());
                cast.is_ok_and(|value| is_whole(&Expr::Literal(value, None)))
            }
            _ => false,
        },
        _ => false,
    }
}
