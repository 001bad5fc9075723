//! Which expressions may be keys, times and intervals of a clause.

use super::written::written;
use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, Volatility};

/// Why `key` cannot be a key, with what to write instead.
pub(super) fn refuse_key(key: &Expr) -> Option<String> {
    let holds = |test: fn(&Expr) -> bool| expr_exists(key, test);
    let own = written(key);
    if holds(|expr| matches!(expr, Expr::AggregateFunction(_))) {
        return Some(format!("key {own} is an aggregate; DEDUP judges single rows"));
    }
    if holds(|expr| matches!(expr, Expr::WindowFunction(_))) {
        return Some(format!("key {own} is a window function; compute it in a subquery first"));
    }
    if holds(is_subquery) {
        return Some(format!("key {own} holds a subquery; join it in a derived table first"));
    }
    refuse_volatile(key, "key").or_else(|| {
        key.column_refs()
            .is_empty()
            .then(|| format!("key {own} is a constant, so all rows would be duplicates"))
    })
}

/// Why `time` cannot be the time of OF.
pub(super) fn refuse_time(time: &Expr, data_type: &DataType) -> Option<String> {
    if let Some(reason) = refuse_volatile(time, "OF") {
        return Some(reason);
    }
    let own = written(time);
    if expr_exists(time, is_subquery) {
        return Some(format!("OF {own} holds a subquery; join it in a derived table first"));
    }
    match data_type {
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => None,
        _ => Some(format!(
            "OF {own} has type {data_type}; write a timestamp or date, such as \
             to_timestamp({own})"
        )),
    }
}

/// The length of an interval in microseconds.
///
/// # Errors
///
/// The reason why it has none, or not this one.
pub(super) fn fixed_us(interval: &Expr, clause: &str) -> Result<i64, String> {
    let Expr::Literal(value, _) = interval else {
        let own = written(interval);
        return Err(format!("{clause} {own} is not a constant; write INTERVAL '1 hour'"));
    };
    let (months, days, nanos) = match value {
        ScalarValue::IntervalMonthDayNano(Some(it)) => (it.months, it.days, it.nanoseconds),
        ScalarValue::IntervalDayTime(Some(it)) => {
            (0, it.days, i64::from(it.milliseconds) * 1_000_000)
        }
        ScalarValue::IntervalYearMonth(Some(months)) => (*months, 0, 0),
        _ => return Err(format!("{clause} {value} is not an interval; write INTERVAL '1 hour'")),
    };
    if months != 0 {
        return Err(format!("{clause}: months and years have no fixed length; write days"));
    }
    if nanos % 1_000 != 0 {
        return Err(format!("{clause}: event times are microseconds; nothing finer can be kept"));
    }
    let us = i64::from(days) * 86_400_000_000;
    us.checked_add(nanos / 1_000).ok_or_else(|| format!("{clause}: the interval is too long"))
}

fn refuse_volatile(expr: &Expr, what: &str) -> Option<String> {
    let changes = expr_exists(expr, |expr| {
        matches!(expr, Expr::ScalarFunction(call)
            if call.func.signature().volatility != Volatility::Immutable)
    });
    let reason = "gives another value for the same row each time; use immutable functions only";
    changes.then(|| format!("{what} {} {reason}", written(expr)))
}

fn is_subquery(expr: &Expr) -> bool {
    matches!(
        expr,
        Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_) | Expr::SetComparison(_)
    )
}

fn expr_exists(expr: &Expr, test: fn(&Expr) -> bool) -> bool {
    use datafusion::common::tree_node::TreeNode;
    expr.exists(|expr| Ok(test(expr))).unwrap_or(true)
}
