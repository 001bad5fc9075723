//! `min` and `max` of floats that do not depend on the order of rows.
//!
//! NaN is greater than any number, infinity too, and -0 is less than 0: the order of ORDER BY.
//! DataFusion's accumulator takes a NaN for greater or less, whichever came later, and has the
//! greatest finite number where all are infinite.

use arrow::array::ArrowNativeTypeOp;
use arrow::array::types::{ArrowPrimitiveType, Float16Type, Float32Type, Float64Type};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result, not_impl_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, GroupsAccumulator, Signature, Volatility,
};
use datafusion_functions_aggregate_common::aggregate::groups_accumulator::prim_op::PrimitiveGroupsAccumulator;
use std::sync::Arc;

/// The `min` or `max` of floats in place of DataFusion's; `None` for any other name.
#[must_use]
pub fn float_extreme(name: &str) -> Option<Arc<AggregateUDF>> {
    let is_max = match name {
        "min" => false,
        "max" => true,
        _ => return None,
    };
    let signature = Signature::any(1, Volatility::Immutable);
    Some(Arc::new(AggregateUDF::new_from_impl(FloatExtreme { is_max, signature })))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct FloatExtreme {
    is_max: bool,
    signature: Signature,
}

impl AggregateUDFImpl for FloatExtreme {
    fn name(&self) -> &'static str {
        if self.is_max { "max" } else { "min" }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(arguments[0].clone())
    }

    fn state_fields(&self, arguments: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let (name, own) = (arguments.name, arguments.input_fields[0].data_type());
        Ok(vec![Arc::new(Field::new(format!("{name}[{}]", self.name()), own.clone(), true))])
    }

    fn accumulator(&self, _: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        not_impl_err!("{} of a rollup has an accumulator for groups only", self.name())
    }

    fn groups_accumulator_supported(&self, _: AccumulatorArgs<'_>) -> bool {
        true
    }

    fn create_groups_accumulator(
        &self,
        arguments: AccumulatorArgs<'_>,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        match arguments.expr_fields[0].data_type() {
            DataType::Float16 => Ok(extreme::<Float16Type>(self.is_max)),
            DataType::Float32 => Ok(extreme::<Float32Type>(self.is_max)),
            DataType::Float64 => Ok(extreme::<Float64Type>(self.is_max)),
            own => not_impl_err!("{} of {own} as a float", self.name()),
        }
    }
}

fn extreme<T: ArrowPrimitiveType + Send>(is_max: bool) -> Box<dyn GroupsAccumulator>
where
    T::Native: Into<f64>,
{
    // One NaN for all of them, so that their bits do not tell which came first.
    let bare = |value: T::Native| {
        let is_nan = Into::<f64>::into(value).is_nan();
        if is_nan { T::Native::MAX_TOTAL_ORDER } else { value }
    };
    if is_max {
        let least = T::Native::ONE.neg_wrapping().div_wrapping(T::Native::ZERO);
        let own = PrimitiveGroupsAccumulator::<T, _>::new(&T::DATA_TYPE, move |best, value| {
            let value = bare(value);
            if value.is_gt(*best) {
                *best = value;
            }
        });
        return Box::new(own.with_starting_value(least));
    }
    let own = PrimitiveGroupsAccumulator::<T, _>::new(&T::DATA_TYPE, move |best, value| {
        let value = bare(value);
        if value.is_lt(*best) {
            *best = value;
        }
    });
    Box::new(own.with_starting_value(T::Native::MAX_TOTAL_ORDER))
}
