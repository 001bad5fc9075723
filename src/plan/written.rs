//! Expressions as a user would write them, for errors that say what to write.

use crate::types::format_interval;
use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::expr::Placeholder;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan};
use datafusion::sql::unparser::expr_to_sql;

/// `expr` as SQL.
pub(super) fn written(expr: &Expr) -> String {
    let bare = expr.clone().unalias_nested().data;
    let sql = with_intervals(bare.clone()).and_then(|own| expr_to_sql(&own));
    sql.map_or_else(|_| bare.human_display().to_string(), |own| own.to_string())
}

/// `coalesce(expr, a literal of its type)`; `expr` is over the columns that `plan` shows.
pub(super) fn filled(plan: &LogicalPlan, expr: &Expr) -> String {
    let literal = match expr.get_type(plan.schema()) {
        Ok(own) if own.is_numeric() => "0",
        Ok(DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) => "''",
        Ok(DataType::Boolean) => "false",
        Ok(DataType::Date32) => "DATE '1970-01-01'",
        Ok(DataType::Timestamp(..)) => "TIMESTAMP '1970-01-01'",
        _ => "a literal",
    };
    format!("coalesce({}, {literal})", written(expr))
}

/// `expr` with text in the place of intervals, which DataFusion would write as `1 MINS`.
fn with_intervals(expr: Expr) -> Result<Expr> {
    expr.transform_up(|own| {
        let Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(length)), _) = &own else {
            return Ok(Transformed::no(own));
        };
        let id = format_interval(length.months, length.days, length.nanoseconds);
        Ok(Transformed::yes(Expr::Placeholder(Placeholder { id, field: None })))
    })
    .map(|own| own.data)
}
