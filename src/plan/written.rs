//! Expressions as a user would write them, for errors that say what to write.

use arrow::datatypes::DataType;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan};

/// `expr` as a user would write it.
pub(super) fn written(expr: &Expr) -> String {
    expr.clone().unalias_nested().data.human_display().to_string()
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
