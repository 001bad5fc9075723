//! `session(time, gap)` in GROUP BY: where the session of a row begins. Rows that the other columns of
//! GROUP BY put together are in one session if each comes less than a gap after the one before it.
//!
//! ```text
//!   plain query    Aggregate: session(at, 5 minutes), k
//!                    ->  Aggregate: start, k
//!                          start = newest beginning so far of the key
//!                            beginning = at, if the one before it is a gap away, or there is none
//!   pipeline       stays, and is computed as the time of the row; the rollup does the rest
//! ```

use super::PlanError;
use super::expressions::fixed_us;
use super::written::written;
use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::common::{Column, Result, plan_err};
use datafusion::functions::datetime::date_bin;
use datafusion::functions_aggregate::min_max::max_udaf;
use datafusion::functions_window::lead_lag::lag;
use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::type_coercion::functions::fields_with_udf;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprFunctionExt, ExprSchemable, LogicalPlan, LogicalPlanBuilder,
    ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, WindowFrame,
    WindowFunctionDefinition, cast, col, lit, when,
};
use std::sync::Arc;

const USAGE: &str = "write session(time, gap), such as session(event_time, INTERVAL '5 minutes')";

/// The function.
#[must_use]
pub fn session_function() -> ScalarUDF {
    ScalarUDF::new_from_impl(Session { signature: Signature::user_defined(Volatility::Immutable) })
}

/// The gap in microseconds, if `expr` is a call of `session`.
///
/// # Errors
///
/// A gap that is refused, and what to write.
pub(super) fn gap_of(expr: &Expr) -> Result<Option<i64>> {
    let Expr::ScalarFunction(call) = expr else { return Ok(None) };
    if !call.func.inner().is::<Session>() {
        return Ok(None);
    }
    let [_, gap] = call.args.as_slice() else { return plan_err!("{USAGE}") };
    match fixed_us(gap, "session: gap").map_err(PlanError::window)? {
        us @ 1.. => Ok(Some(us)),
        _ => {
            let gap = written(gap);
            let reason = format!("session: gap {gap} is not longer than nothing; {USAGE}");
            Err(PlanError::window(reason).into())
        }
    }
}

/// `input` with a column that says where the session of each row begins, among the rows with the
/// same `keys`.
pub(super) fn begun(
    input: &LogicalPlan,
    call: &Expr,
    keys: &[Expr],
) -> Result<(LogicalPlan, Column)> {
    const AT: &str = "__onefold_at";
    const BEFORE: &str = "__onefold_before";
    const BEGINS: &str = "__onefold_begins";
    const SESSION: &str = "__onefold_session";
    let (Some(gap_us), Expr::ScalarFunction(own)) = (gap_of(call)?, call) else {
        return plan_err!("{USAGE}");
    };
    let time = call.get_type(input.schema())?;
    let at = own.args[0].clone().cast_to(&time, input.schema())?;
    let columns: Vec<Expr> = input.schema().columns().into_iter().map(Expr::Column).collect();
    let shown = |more: Vec<Expr>| columns.iter().cloned().chain(more);
    let in_order = |function: Expr| {
        let function = function.order_by(vec![col(AT).sort(true, false)]);
        let until_equal_times = WindowFrame::new(Some(false));
        function.partition_by(keys.to_vec()).window_frame(until_equal_times).build()
    };
    let newest = WindowFunctionDefinition::AggregateUDF(max_udaf());
    let newest = Expr::from(WindowFunction::new(newest, vec![col(BEGINS)]));
    let is_apart = col(BEFORE).is_null().or((col(AT) - col(BEFORE)).gt_eq(lit(gap_us)));
    let begins = when(is_apart, col(AT)).end()?;
    let start = when(col(AT).is_not_null(), cast(col(SESSION), time)).end()?;
    let plan = LogicalPlanBuilder::from(input.clone())
        .project(shown(vec![cast(at, DataType::Int64).alias(AT)]))?
        .window([in_order(lag(col(AT), Some(1), None))?.alias(BEFORE)])?
        .project(shown(vec![col(AT), begins.alias(BEGINS)]))?
        .window([in_order(newest)?.alias(SESSION)])?
        .project(shown(vec![start.alias(SESSION)]))?
        .build()?;
    Ok((plan, Column::new_unqualified(SESSION)))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Session {
    signature: Signature,
}

impl ScalarUDFImpl for Session {
    fn name(&self) -> &'static str {
        "session"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let [time, gap] = types else { return plan_err!("{USAGE}") };
        let field = |own: &DataType| -> FieldRef { Arc::new(Field::new("", own.clone(), true)) };
        let bin = fields_with_udf(&[field(gap), field(time)], date_bin().as_ref())?;
        match bin[1].data_type() {
            DataType::Timestamp(_, zone) => {
                let time = DataType::Timestamp(TimeUnit::Microsecond, zone.clone());
                Ok(vec![time, bin[0].data_type().clone()])
            }
            _ => plan_err!("session: the first argument is a timestamp"),
        }
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types.first() {
            Some(time) => Ok(time.clone()),
            None => plan_err!("{USAGE}"),
        }
    }

    fn invoke_with_args(&self, mut call: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Ok(call.args.swap_remove(0))
    }
}
