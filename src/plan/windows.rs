//! Which columns of a GROUP BY hold windows on event time.
//!
//! ```text
//!   date_bin(INTERVAL '5 minutes', event_time [, origin])    date_trunc('hour', event_time)
//!   event_time::DATE                                         a column of a subquery that is one
//!   hop(event_time, slide, size [, origin])                  session(event_time, gap)
//! ```

use super::positions::{as_dedup, source_of};
use super::trace::{below, renamed};
use crate::operator::{WindowColumn, WindowStep};
use arrow::datatypes::{DataType, IntervalMonthDayNano};
use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::{Expr, LogicalPlan};

const SECOND_US: i64 = 1_000_000;
const DAY_US: i64 = 86_400 * SECOND_US;

/// The columns of `groups`, over `input`, that hold windows on its watermark column.
pub(super) fn windows_of(input: &LogicalPlan, groups: &[Expr]) -> Vec<WindowColumn> {
    let window = |(column, expr): (usize, &Expr)| {
        Some(WindowColumn { column, step: window_of(input, expr)? })
    };
    groups.iter().enumerate().filter_map(window).collect()
}

/// Whether `expr`, over `plan`, names windows on its watermark column.
pub(super) fn is_window(plan: &LogicalPlan, expr: &Expr) -> bool {
    window_of(plan, expr).is_some()
}

/// How long the windows are that `expr`, over `plan`, names; `None` if it names none.
fn window_of(plan: &LogicalPlan, expr: &Expr) -> Option<WindowStep> {
    match plan {
        LogicalPlan::Extension(_) => window_of(&as_dedup(plan)?.input, expr),
        LogicalPlan::Join(own) => {
            let columns = expr.column_refs();
            let mut sides = [&own.left, &own.right].into_iter();
            let side = sides.find(|side| columns.iter().all(|own| side.schema().has_column(own)));
            window_of(side?, expr)
        }
        LogicalPlan::Union(own) => {
            let mut steps = own.inputs.iter().map(|input| {
                let renamed = renamed(plan, input, expr)?;
                window_of(input, &renamed)
            });
            let first = steps.next()??;
            steps.all(|step| step == Some(first)).then_some(first)
        }
        LogicalPlan::TableScan(scan) => {
            let table = source_of(plan)?;
            let spec = table.options().watermark.as_ref()?;
            step_of(expr, &Column::new(Some(scan.table_name.clone()), spec.column.clone()))
        }
        _ => {
            let (input, expr) = below(plan, expr)?;
            window_of(input, &expr)
        }
    }
}

/// How long the windows are that `expr` makes of the column `time`.
fn step_of(expr: &Expr, time: &Column) -> Option<WindowStep> {
    match expr {
        Expr::Alias(own) => step_of(&own.expr, time),
        Expr::Cast(own)
            if own.field.data_type() == &DataType::Date32 && is_time(&own.expr, time) =>
        {
            Some(WindowStep::Micros(DAY_US))
        }
        Expr::Cast(own) if matches!(own.field.data_type(), DataType::Timestamp(..)) => {
            step_of(&own.expr, time)
        }
        Expr::ScalarFunction(call) => match (call.func.name(), call.args.as_slice()) {
            ("date_bin", [Expr::Literal(width, _), own, ..]) if is_time(own, time) => {
                width_of(width)
            }
            // As it is written; an analysed plan has date_bin in its place.
            ("tumble", [own, Expr::Literal(width, _), ..]) if is_time(own, time) => width_of(width),
            ("session", [own, Expr::Literal(gap, _)]) if is_time(own, time) => width_of(gap),
            ("hop", [own, _, Expr::Literal(size, _), ..]) if is_time(own, time) => width_of(size),
            ("date_trunc", [Expr::Literal(unit, _), own]) if is_time(own, time) => {
                unit_of(unit, own)
            }
            _ => None,
        },
        _ => None,
    }
}

/// Whether `expr` is the column `time`, perhaps as another type of timestamp.
fn is_time(expr: &Expr, time: &Column) -> bool {
    match expr {
        Expr::Column(column) => column == time,
        Expr::Cast(own) => {
            matches!(own.field.data_type(), DataType::Timestamp(..)) && is_time(&own.expr, time)
        }
        Expr::Alias(own) => is_time(&own.expr, time),
        _ => false,
    }
}

fn width_of(width: &ScalarValue) -> Option<WindowStep> {
    let (months, days, nanos) = match width {
        ScalarValue::IntervalMonthDayNano(Some(own)) => {
            let IntervalMonthDayNano { months, days, nanoseconds } = *own;
            (months, days, nanoseconds)
        }
        ScalarValue::IntervalDayTime(Some(own)) => {
            (0, own.days, i64::from(own.milliseconds) * 1_000_000)
        }
        ScalarValue::IntervalYearMonth(Some(months)) => (*months, 0, 0),
        _ => return None,
    };
    match (months, i64::from(days) * DAY_US + nanos / 1_000) {
        (0, length @ 1..) if nanos % 1_000 == 0 => Some(WindowStep::Micros(length)),
        (1.., 0) if nanos == 0 => Some(WindowStep::Months(months.unsigned_abs())),
        _ => None,
    }
}

/// The windows of `date_trunc`. A day where clocks are changed is not always 24 hours long, so in
/// such a zone there are none of a day or longer.
fn unit_of(unit: &ScalarValue, time: &Expr) -> Option<WindowStep> {
    let unit = unit.try_as_str()??.to_lowercase();
    let has_zone = match time {
        Expr::Cast(own) => {
            matches!(own.field.data_type(), DataType::Timestamp(_, Some(zone)) if !is_utc(zone))
        }
        _ => false,
    };
    let step = match unit.as_str() {
        "microsecond" => WindowStep::Micros(1),
        "millisecond" => WindowStep::Micros(1_000),
        "second" => WindowStep::Micros(SECOND_US),
        "minute" => WindowStep::Micros(60 * SECOND_US),
        "hour" => WindowStep::Micros(3_600 * SECOND_US),
        _ if has_zone => return None,
        "day" => WindowStep::Micros(DAY_US),
        "week" => WindowStep::Micros(7 * DAY_US),
        "month" => WindowStep::Months(1),
        "quarter" => WindowStep::Months(3),
        "year" => WindowStep::Months(12),
        _ => return None,
    };
    Some(step)
}

fn is_utc(zone: &str) -> bool {
    ["UTC", "Z", "+00:00"].contains(&zone)
}
