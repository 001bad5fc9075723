//! `sum` of whole and decimal numbers that is exact, and an error where it leaves its type.
//!
//! ```text
//!   input                  state               value
//!   whole numbers          Decimal128(38, 0)   Int64 or UInt64
//!   Decimal(p, s)          Decimal256(76, s)   Decimal(min(38, p + 10), s)
//! ```
//!
//! The state holds more than 2^64 rows of any value, so what is in between never overflows and the
//! answer does not depend on the order of rows. DataFusion's own `sum` wraps.
//!
//! The signed sum has a second argument: where it is below zero, the value is taken away.

use arrow::array::cast::AsArray;
use arrow::array::types::{
    ArrowPrimitiveType, Decimal128Type, Decimal256Type, Int8Type, Int16Type, Int32Type, Int64Type,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::array::{Array, ArrayRef, ArrowNativeTypeOp, BooleanArray, PrimitiveArray};
use arrow::buffer::NullBuffer;
use arrow::compute::kernels::arity::binary;
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::{DataType, DecimalType, Field, FieldRef};
use datafusion::common::{Result, exec_err, not_impl_err};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility,
};
use std::mem::size_of;
use std::sync::Arc;

/// The exact `sum`, in place of DataFusion's for the types it has.
#[must_use]
pub fn exact_sum() -> Arc<AggregateUDF> {
    Arc::new(AggregateUDF::new_from_impl(ExactSum {
        signature: Signature::any(1, Volatility::Immutable),
    }))
}

/// The exact sum of values, each with a sign behind it: a number that is not NULL.
#[must_use]
pub fn signed_sum() -> Arc<AggregateUDF> {
    Arc::new(AggregateUDF::new_from_impl(ExactSum {
        signature: Signature::any(2, Volatility::Immutable),
    }))
}

/// Whether [`exact_sum`] takes `data_type`.
#[must_use]
pub fn has_exact_sum(data_type: &DataType) -> bool {
    data_type.is_integer() || matches!(data_type, DataType::Decimal128(..))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ExactSum {
    signature: Signature,
}

/// The type of the state.
fn state_type(input: &DataType) -> DataType {
    match input {
        DataType::Decimal128(_, scale) => DataType::Decimal256(76, *scale),
        _ => DataType::Decimal128(38, 0),
    }
}

impl AggregateUDFImpl for ExactSum {
    fn name(&self) -> &'static str {
        "sum"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match &arguments[0] {
            DataType::Decimal128(precision, scale) => {
                Ok(DataType::Decimal128((precision + 10).min(38), *scale))
            }
            own if own.is_unsigned_integer() => Ok(DataType::UInt64),
            own if own.is_integer() => Ok(DataType::Int64),
            own => not_impl_err!("an exact sum of {own}"),
        }
    }

    fn state_fields(&self, arguments: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let input = arguments.input_fields[0].data_type();
        let name = format!("{}[exact sum]", arguments.name);
        Ok(vec![Arc::new(Field::new(name, state_type(input), true))])
    }

    fn accumulator(&self, _: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        not_impl_err!("an exact sum has an accumulator for groups only")
    }

    fn groups_accumulator_supported(&self, _: AccumulatorArgs<'_>) -> bool {
        true
    }

    fn create_groups_accumulator(
        &self,
        arguments: AccumulatorArgs<'_>,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        let input = arguments.expr_fields[0].data_type();
        let value = self.return_type(std::slice::from_ref(input))?;
        let name = arguments.name.to_owned();
        Ok(match state_type(input) {
            own @ DataType::Decimal256(..) => Box::new(Sums::<Decimal256Type> {
                name,
                state: own,
                value,
                totals: Vec::new(),
                seen: Vec::new(),
            }),
            own => Box::new(Sums::<Decimal128Type> {
                name,
                state: own,
                value,
                totals: Vec::new(),
                seen: Vec::new(),
            }),
        })
    }
}

/// The sum of each group so far.
struct Sums<T: ArrowPrimitiveType> {
    name: String,
    state: DataType,
    value: DataType,
    totals: Vec<T::Native>,
    /// Whether there was a value that is not NULL.
    seen: Vec<bool>,
}

impl<T: DecimalType + Send> Sums<T> {
    fn add(
        &mut self,
        values: &PrimitiveArray<T>,
        ids: &[usize],
        filter: Option<&BooleanArray>,
        groups: usize,
    ) -> Result<()> {
        self.totals.resize(groups, T::Native::ZERO);
        self.seen.resize(groups, false);
        if filter.is_none() && values.null_count() == 0 {
            for (id, value) in ids.iter().zip(values.values()) {
                let sum = self.totals[*id].add_checked(*value);
                self.totals[*id] = sum.map_err(|_| self.overflow())?;
                self.seen[*id] = true;
            }
            return Ok(());
        }
        for (row, id) in ids.iter().enumerate() {
            let is_in = filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
            if is_in && values.is_valid(row) {
                let sum = self.totals[*id].add_checked(values.value(row));
                self.totals[*id] = sum.map_err(|_| self.overflow())?;
                self.seen[*id] = true;
            }
        }
        Ok(())
    }

    fn overflow(&self) -> DataFusionError {
        let (name, value) = (&self.name, &self.value);
        DataFusionError::Execution(format!(
            "{name} does not fit into {value}: cast what is added to a wider type"
        ))
    }

    fn take(&mut self, emit: EmitTo) -> ArrayRef {
        let sums = emit.take_needed(&mut self.totals);
        let seen = NullBuffer::from(emit.take_needed(&mut self.seen));
        let array = PrimitiveArray::<T>::new(sums.into(), Some(seen));
        Arc::new(array.with_data_type(self.state.clone()))
    }

    /// The values, with their signs where they have such.
    fn signed(&self, arguments: &[ArrayRef]) -> Result<PrimitiveArray<T>> {
        let values = self.widened(&arguments[0])?;
        let Some(signs) = arguments.get(1) else { return Ok(values) };
        let Some(signs) = signs.as_primitive_opt::<Int64Type>() else {
            return exec_err!("a sum with signs of {}", signs.data_type());
        };
        // A wide value has no lowest one, whose negative would not fit.
        let signed = |value: T::Native, sign| if sign < 0 { value.neg_wrapping() } else { value };
        Ok(binary(&values, signs, signed)?)
    }

    fn widened(&self, values: &ArrayRef) -> Result<PrimitiveArray<T>> {
        let wide: ArrayRef = match values.data_type() {
            DataType::Int8 => whole::<Int8Type>(values),
            DataType::Int16 => whole::<Int16Type>(values),
            DataType::Int32 => whole::<Int32Type>(values),
            DataType::Int64 => whole::<Int64Type>(values),
            DataType::UInt8 => whole::<UInt8Type>(values),
            DataType::UInt16 => whole::<UInt16Type>(values),
            DataType::UInt32 => whole::<UInt32Type>(values),
            DataType::UInt64 => whole::<UInt64Type>(values),
            _ => cast(values, &self.state)?,
        };
        match wide.as_primitive_opt::<T>() {
            Some(wide) => Ok(wide.clone()),
            None => exec_err!("an exact sum of {}", values.data_type()),
        }
    }
}

fn whole<T: ArrowPrimitiveType>(values: &ArrayRef) -> ArrayRef
where
    T::Native: Into<i128>,
{
    Arc::new(values.as_primitive::<T>().unary::<_, Decimal128Type>(Into::into))
}

impl<T: DecimalType + Send> GroupsAccumulator for Sums<T> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        ids: &[usize],
        filter: Option<&BooleanArray>,
        groups: usize,
    ) -> Result<()> {
        let values = self.signed(values)?;
        self.add(&values, ids, filter, groups)
    }

    fn merge_batch(&mut self, states: &[ArrayRef], ids: &[usize], groups: usize) -> Result<()> {
        let states = states[0].as_primitive::<T>().clone();
        self.add(&states, ids, None, groups)
    }

    fn evaluate(&mut self, emit: EmitTo) -> Result<ArrayRef> {
        let sums = self.take(emit);
        let strict = CastOptions { safe: false, ..CastOptions::default() };
        cast_with_options(&sums, &self.value, &strict).map_err(|_| self.overflow())
    }

    fn state(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![self.take(emit)])
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        let values = self.signed(values)?;
        let kept = filter.map(|filter| {
            let passes = filter.iter().map(|own| own == Some(true));
            NullBuffer::from(passes.collect::<Vec<bool>>())
        });
        let nulls = NullBuffer::union(values.nulls(), kept.as_ref());
        let states = PrimitiveArray::<T>::new(values.values().clone(), nulls);
        Ok(vec![Arc::new(states.with_data_type(self.state.clone()))])
    }

    fn size(&self) -> usize {
        self.totals.capacity() * size_of::<T::Native>() + self.seen.capacity()
    }
}
