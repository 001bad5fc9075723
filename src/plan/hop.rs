//! `hop(time, slide, size [, origin])` in GROUP BY: where the windows of a time begin. They are `size`
//! long, one begins each `slide`, and a time is in all that hold it.
//!
//! ```text
//!   plain query    Aggregate: hop(at, 1 minute, 5 minutes)
//!                    ->  Aggregate: start
//!                          Unnest: start
//!                            Projection: every column, hop_starts(at, ..) AS start
//!   pipeline       stays, and is computed as the start of the last window; the rollup does the rest
//! ```

use super::PlanError;
use super::expressions::fixed_us;
use super::written::written;
use crate::operator::in_units;
use crate::types::format_duration_us;
use arrow::array::cast::AsArray;
use arrow::array::types::Int64Type;
use arrow::array::{Array, ArrayRef, Int64Array, ListArray};
use arrow::buffer::OffsetBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Column, Result, UnnestOptions, plan_err};
use datafusion::error::DataFusionError;
use datafusion::functions::datetime::date_bin;
use datafusion::logical_expr::type_coercion::functions::fields_with_udf;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use std::sync::Arc;

/// Windows that a row may be in at most.
const WINDOWS_MAX: i64 = 2048;

const USAGE: &str = "write hop(time, slide, size [, origin]), such as hop(event_time, INTERVAL '1 \
                     minute', INTERVAL '5 minutes')";

/// The function.
#[must_use]
pub fn hop_function() -> ScalarUDF {
    ScalarUDF::new_from_impl(Hop::new(Starts::Last))
}

/// How a call of `hop` cuts time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct HopSpec {
    pub(super) slide_us: i64,
    pub(super) size_us: i64,
}

impl HopSpec {
    /// What `expr` says, if it is a call of `hop`.
    ///
    /// # Errors
    ///
    /// Windows that are refused, and what to write.
    pub(super) fn of(expr: &Expr) -> Result<Option<Self>> {
        let Expr::ScalarFunction(call) = expr else { return Ok(None) };
        if !call.func.inner().downcast_ref::<Hop>().is_some_and(|own| own.starts == Starts::Last) {
            return Ok(None);
        }
        let [_, slide, size, ..] = call.args.as_slice() else { return plan_err!("{USAGE}") };
        let length = |expr: &Expr, which: &str| {
            let us = fixed_us(expr, which)?;
            if us > 0 {
                return Ok(us);
            }
            Err(format!("{which} {} is not longer than nothing; {USAGE}", written(expr)))
        };
        let length = |expr: &Expr, which: &str| length(expr, which).map_err(PlanError::window);
        let (slide_us, size_us) = (length(slide, "hop: slide")?, length(size, "hop: size")?);
        if size_us % slide_us != 0 {
            return Err(PlanError::window(format!(
                "hop: the size {} is no multiple of the slide {}; {USAGE}",
                format_duration_us(size_us.unsigned_abs()),
                format_duration_us(slide_us.unsigned_abs())
            ))
            .into());
        }
        if size_us / slide_us > WINDOWS_MAX {
            return Err(PlanError::window(format!(
                "hop: a row would be in {} windows, and {WINDOWS_MAX} is the most; write a longer \
                 slide or a shorter size",
                size_us / slide_us
            ))
            .into());
        }
        Ok(Some(Self { slide_us, size_us }))
    }
}

/// `input` with one row for each window of each row, and the column that says which.
pub(super) fn expanded(input: &LogicalPlan, call: &Expr) -> Result<(LogicalPlan, Column)> {
    const START: &str = "__onefold_hop";
    let (Some(spec), Expr::ScalarFunction(call)) = (HopSpec::of(call)?, call) else {
        return plan_err!("{USAGE}");
    };
    let starts = ScalarUDF::new_from_impl(Hop::new(Starts::All(spec)));
    let starts = starts.call(call.args.clone()).alias(START);
    let columns = input.schema().columns().into_iter().map(Expr::Column);
    let plan = LogicalPlanBuilder::from(input.clone())
        .project(columns.chain([starts]))?
        .unnest_column_with_options(
            Column::new_unqualified(START),
            UnnestOptions::new().with_preserve_nulls(true),
        )?
        .build()?;
    Ok((plan, Column::new_unqualified(START)))
}

/// Which windows of a time a function gives the starts of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Starts {
    Last,
    All(HopSpec),
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Hop {
    starts: Starts,
    signature: Signature,
}

impl Hop {
    fn new(starts: Starts) -> Self {
        Self { starts, signature: Signature::user_defined(Volatility::Immutable) }
    }
}

/// The slide in the units of `time`.
fn slide_of(spec: HopSpec, time: &DataType) -> Result<i64> {
    match in_units(spec.slide_us, time) {
        Some(slide) => Ok(slide),
        None => Err(PlanError::window(format!(
            "hop: a slide of {} is no whole number of the units of {time}; write CAST(time AS \
             TIMESTAMP(6))",
            format_duration_us(spec.slide_us.unsigned_abs())
        ))
        .into()),
    }
}

impl ScalarUDFImpl for Hop {
    fn name(&self) -> &'static str {
        match self.starts {
            Starts::Last => "hop",
            Starts::All(_) => "hop_starts",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let [time, slide, _, origin @ ..] = types else { return plan_err!("{USAGE}") };
        if origin.len() > 1 {
            return plan_err!("{USAGE}");
        }
        let field = |own: &DataType| -> FieldRef { Arc::new(Field::new("", own.clone(), true)) };
        let bin: Vec<FieldRef> = [slide, time].into_iter().chain(origin).map(field).collect();
        let bin = fields_with_udf(&bin, date_bin().as_ref())?;
        let bin: Vec<DataType> = bin.iter().map(|own| own.data_type().clone()).collect();
        let [slide, time, origin @ ..] = bin.as_slice() else { return plan_err!("{USAGE}") };
        let all = [time, slide, slide].into_iter().chain(origin);
        Ok(all.cloned().collect())
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match (types.first(), self.starts) {
            (Some(time @ DataType::Timestamp(..)), Starts::Last) => Ok(time.clone()),
            (Some(time @ DataType::Timestamp(..)), Starts::All(_)) => {
                Ok(DataType::List(Arc::new(Field::new_list_field(time.clone(), true))))
            }
            _ => plan_err!("hop: the first argument is a timestamp"),
        }
    }

    fn invoke_with_args(&self, mut call: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = call.number_rows;
        call.args.remove(2); // what is left are the arguments of date_bin, but for their order
        call.arg_fields.remove(2);
        call.args.swap(0, 1);
        call.arg_fields.swap(0, 1);
        call.return_field = Arc::clone(&call.arg_fields[1]);
        let last = date_bin().invoke_with_args(call)?;
        match self.starts {
            Starts::Last => Ok(last),
            Starts::All(spec) => Ok(ColumnarValue::Array(all(&last.into_array(rows)?, spec)?)),
        }
    }
}

/// Refuses windows whose starts a timestamp of the type of `call` cannot hold.
pub(super) fn refuse_units(call: &Expr, spec: HopSpec, input: &LogicalPlan) -> Result<()> {
    slide_of(spec, &call.get_type(input.schema())?).map(|_| ())
}

/// The starts of all windows, from those of the last ones; the earliest first.
fn all(last: &ArrayRef, spec: HopSpec) -> Result<ArrayRef> {
    let time = last.data_type();
    let slide = slide_of(spec, time)?;
    let count = spec.size_us / spec.slide_us;
    let panes = cast(last, &DataType::Int64)?;
    let panes = panes.as_primitive::<Int64Type>();
    let mut starts = Vec::with_capacity(panes.len() - panes.null_count());
    for pane in panes.iter().flatten() {
        for back in (0..count).rev() {
            let start = back.checked_mul(slide).and_then(|back| pane.checked_sub(back));
            let outside = || format!("hop: a window of {pane} begins before all time");
            starts.push(start.ok_or_else(|| DataFusionError::Execution(outside()))?);
        }
    }
    let lengths = (0..panes.len()).map(|row| usize::from(panes.is_valid(row)) * count as usize);
    let starts = cast(&Int64Array::from(starts), time)?;
    let item = Arc::new(Field::new_list_field(time.clone(), true));
    let offsets = OffsetBuffer::from_lengths(lengths);
    Ok(Arc::new(ListArray::try_new(item, offsets, starts, panes.nulls().cloned())?))
}
