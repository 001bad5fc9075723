//! `Quick`: an accumulator with one word for each group, as long as no row is NULL or left out.
//!
//! Most columns of numbers have no NULL and most aggregates no FILTER. Then each group has a value,
//! nothing is to be remembered beside it, and a sum has half the bytes of its exact state. What does
//! not fit is gone on with by the accumulator that this one stands for.

use arrow::array::cast::AsArray;
use arrow::array::types::{
    ArrowPrimitiveType, Date32Type, Decimal128Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::array::{Array, ArrayRef, ArrowNativeTypeOp, BooleanArray, PrimitiveArray};
use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::Result;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use std::mem::size_of;
use std::sync::Arc;

type Exact = Box<dyn GroupsAccumulator>;

/// What stands for the accumulator of `function` while it can; else that one itself. For groups that
/// are made of rows.
pub(super) fn quickened(function: &AggregateFunctionExpr, exact: Exact) -> Result<Exact> {
    let (name, shown) = (function.fun().name(), function.field().data_type().clone());
    let states = function.state_fields()?;
    let [state] = states.as_slice() else { return Ok(exact) };
    let state = state.data_type().clone();
    if name == "sum" && shown == DataType::Int64 && matches!(state, DataType::Decimal128(..)) {
        return Ok(sums(state, exact));
    }
    let is_max = match name {
        "max" => true,
        "min" => false,
        _ => return Ok(exact),
    };
    Ok(match state {
        DataType::Int8 => extremes::<Int8Type>(is_max, state, exact),
        DataType::Int16 => extremes::<Int16Type>(is_max, state, exact),
        DataType::Int32 => extremes::<Int32Type>(is_max, state, exact),
        DataType::Int64 => extremes::<Int64Type>(is_max, state, exact),
        DataType::UInt8 => extremes::<UInt8Type>(is_max, state, exact),
        DataType::UInt16 => extremes::<UInt16Type>(is_max, state, exact),
        DataType::UInt32 => extremes::<UInt32Type>(is_max, state, exact),
        DataType::UInt64 => extremes::<UInt64Type>(is_max, state, exact),
        DataType::Date32 => extremes::<Date32Type>(is_max, state, exact),
        DataType::Timestamp(unit, _) => match unit {
            TimeUnit::Second => extremes::<TimestampSecondType>(is_max, state, exact),
            TimeUnit::Millisecond => extremes::<TimestampMillisecondType>(is_max, state, exact),
            TimeUnit::Microsecond => extremes::<TimestampMicrosecondType>(is_max, state, exact),
            TimeUnit::Nanosecond => extremes::<TimestampNanosecondType>(is_max, state, exact),
        },
        _ => exact,
    })
}

/// Sums that fit into 64 bits.
fn sums(state: DataType, exact: Exact) -> Exact {
    let states = move |sums: PrimitiveArray<Int64Type>| {
        let wide = sums.unary::<_, Decimal128Type>(i128::from);
        Arc::new(wide.with_data_type(state.clone())) as ArrayRef
    };
    Box::new(Quick::<Int64Type, _, _>::new(0, i64::checked_add, states, exact))
}

fn extremes<T: ArrowPrimitiveType<Native: Ord> + Send>(
    is_max: bool,
    state: DataType,
    exact: Exact,
) -> Exact {
    let states =
        move |own: PrimitiveArray<T>| Arc::new(own.with_data_type(state.clone())) as ArrayRef;
    if is_max {
        let fold = |best: T::Native, value| Some(best.max(value));
        return Box::new(Quick::<T, _, _>::new(T::Native::MIN_TOTAL_ORDER, fold, states, exact));
    }
    let fold = |best: T::Native, value| Some(best.min(value));
    Box::new(Quick::<T, _, _>::new(T::Native::MAX_TOTAL_ORDER, fold, states, exact))
}

/// Stands for another accumulator, with one state for each group.
struct Quick<T: ArrowPrimitiveType, F, S> {
    /// What each group has; with `exact` from the first row on that does not fit.
    words: Option<Vec<T::Native>>,
    /// What a group without rows has.
    start: T::Native,
    /// What a group has after one more value; `None` if that does not fit.
    fold: F,
    /// Words as the states of `exact`.
    states: S,
    exact: Exact,
}

impl<T, F, S> Quick<T, F, S>
where
    T: ArrowPrimitiveType + Send,
    F: Fn(T::Native, T::Native) -> Option<T::Native> + Send + 'static,
    S: Fn(PrimitiveArray<T>) -> ArrayRef + Send + 'static,
{
    fn new(start: T::Native, fold: F, states: S, exact: Exact) -> Self {
        Self { words: Some(Vec::new()), start, fold, states, exact }
    }

    /// Folds values one by one; returns how many were, all but those from one on that does not fit.
    fn fold_plain(&mut self, values: &[T::Native], ids: &[usize], groups: usize) -> usize {
        let Some(words) = &mut self.words else { return 0 };
        words.resize(groups, self.start);
        for (row, (value, id)) in values.iter().zip(ids).enumerate() {
            let Some(word) = (self.fold)(words[*id], *value) else { return row };
            words[*id] = word;
        }
        values.len()
    }

    /// Hands what there is on to the exact accumulator.
    fn give_up(&mut self) -> Result<()> {
        match self.words.take() {
            Some(words) if !words.is_empty() => {
                let groups: Vec<usize> = (0..words.len()).collect();
                let states = (self.states)(PrimitiveArray::new(words.into(), None));
                self.exact.merge_batch(&[states], &groups, groups.len())
            }
            _ => Ok(()),
        }
    }
}

impl<T, F, S> GroupsAccumulator for Quick<T, F, S>
where
    T: ArrowPrimitiveType + Send,
    F: Fn(T::Native, T::Native) -> Option<T::Native> + Send + 'static,
    S: Fn(PrimitiveArray<T>) -> ArrayRef + Send + 'static,
{
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        ids: &[usize],
        filter: Option<&BooleanArray>,
        groups: usize,
    ) -> Result<()> {
        let mut done = 0;
        if self.words.is_some() {
            let plain = match values {
                [own] if filter.is_none() && own.null_count() == 0 => own.as_primitive_opt::<T>(),
                _ => None,
            };
            if let Some(plain) = plain {
                done = self.fold_plain(plain.values(), ids, groups);
                if done == ids.len() {
                    return Ok(());
                }
            }
            self.give_up()?;
        }
        if done == 0 {
            return self.exact.update_batch(values, ids, filter, groups);
        }
        let rest: Vec<ArrayRef> =
            values.iter().map(|own| own.slice(done, ids.len() - done)).collect();
        self.exact.update_batch(&rest, &ids[done..], None, groups)
    }

    fn merge_batch(&mut self, states: &[ArrayRef], ids: &[usize], groups: usize) -> Result<()> {
        self.give_up()?;
        self.exact.merge_batch(states, ids, groups)
    }

    fn evaluate(&mut self, emit: EmitTo) -> Result<ArrayRef> {
        self.give_up()?;
        self.exact.evaluate(emit)
    }

    fn state(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>> {
        match &mut self.words {
            Some(words) => {
                let own = PrimitiveArray::new(emit.take_needed(words).into(), None);
                Ok(vec![(self.states)(own)])
            }
            None => self.exact.state(emit),
        }
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        self.exact.convert_to_state(values, filter)
    }

    fn size(&self) -> usize {
        let words = self.words.as_ref().map_or(0, Vec::capacity);
        words * size_of::<T::Native>() + self.exact.size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::exact_sum;
    use arrow::array::Int64Array;
    use arrow::datatypes::{Field, Schema};
    use datafusion::functions_aggregate::min_max::{max_udaf, min_udaf};
    use datafusion::logical_expr::AggregateUDF;
    use datafusion::physical_expr::aggregate::AggregateExprBuilder;
    use datafusion::physical_expr::expressions::col;
    use proptest::prelude::*;

    /// Rows of one batch: the group, the value, and whether the filter lets it through.
    type Rows = Vec<(usize, Option<i64>, bool)>;

    fn function(own: Arc<AggregateUDF>) -> AggregateFunctionExpr {
        let schema = Arc::new(Schema::new(vec![Field::new("v", DataType::Int64, true)]));
        let builder = AggregateExprBuilder::new(own, vec![col("v", &schema).unwrap()]);
        builder.schema(schema).alias("own").build().unwrap()
    }

    /// The states after all batches. A group is made by its first row, as a fold makes it.
    fn folded(mut own: Exact, batches: &[(Rows, bool)], emits: EmitTo) -> Vec<ArrayRef> {
        let (mut numbers, mut groups) = ([None; 9], 0);
        for (rows, has_filter) in batches {
            let ids: Vec<usize> = rows
                .iter()
                .map(|(group, _, _)| {
                    *numbers[*group].get_or_insert_with(|| {
                        groups += 1;
                        groups - 1
                    })
                })
                .collect();
            let values: ArrayRef = Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>());
            let filter = BooleanArray::from(rows.iter().map(|row| row.2).collect::<Vec<_>>());
            own.update_batch(&[values], &ids, has_filter.then_some(&filter), groups).unwrap();
        }
        let first = match emits {
            EmitTo::First(count) => EmitTo::First(count.min(groups)),
            EmitTo::All => EmitTo::All,
        };
        let mut states = own.state(first).unwrap();
        if first != EmitTo::All {
            states.extend(own.state(EmitTo::All).unwrap());
        }
        states
    }

    proptest! {
        #[test]
        fn states_are_those_of_the_accumulator_that_it_stands_for(
            batches in proptest::collection::vec((
                proptest::collection::vec((
                    0..9_usize,
                    prop_oneof![8 => -9..9_i64, 1 => any::<i64>(), 1 => Just(i64::MAX)],
                    0..10_u8,
                    any::<bool>(),
                ), 0..40),
                0..4_u8,
            ), 0..6),
            has_nulls in any::<bool>(),
            first in proptest::option::of(0..9_usize),
        ) {
            let row = |(group, value, null, passes): (usize, i64, u8, bool)| {
                (group, Some(value).filter(|_| !has_nulls || null > 0), passes)
            };
            let batches: Vec<(Rows, bool)> = batches
                .into_iter()
                .map(|(rows, filter)| (rows.into_iter().map(row).collect(), filter == 0))
                .collect();
            let emits = first.map_or(EmitTo::All, EmitTo::First);
            for own in [exact_sum(), max_udaf(), min_udaf()] {
                let function = function(own);
                let exact = || function.create_groups_accumulator().unwrap();
                let expected = folded(exact(), &batches, emits);
                let quick = quickened(&function, exact()).unwrap();
                prop_assert_eq!(folded(quick, &batches, emits), expected, "{}", function.name());
            }
        }
    }
}
