//! The aggregates of a rollup: how states merge, and what they are worth.

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{Result, internal_err};
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion_functions_aggregate_common::aggregate::groups_accumulator::GroupsAccumulatorAdapter;
use std::ops::Range;
use std::sync::Arc;

/// Aggregates whose value is their one state.
const OWN_STATE: [&str; 11] = [
    "count",
    "sum",
    "min",
    "max",
    "bool_and",
    "bool_or",
    "bit_and",
    "bit_or",
    "bit_xor",
    "hll_state",
    "bitmap_state",
];

/// The aggregates of a rollup, in the order of its columns.
#[derive(Clone, Debug)]
pub struct Aggregates {
    all: Arc<[Own]>,
    fields: Arc<[FieldRef]>,
}

#[derive(Debug)]
struct Own {
    function: Arc<AggregateFunctionExpr>,
    /// Its states among those of all.
    states: Range<usize>,
    is_own_state: bool,
}

/// States of some groups: what they are, and the group of each row.
pub type Part<'a> = (&'a [ArrayRef], &'a [usize]);

impl Aggregates {
    /// The aggregates.
    ///
    /// # Errors
    ///
    /// A function that cannot tell its states.
    pub fn try_new(functions: Vec<Arc<AggregateFunctionExpr>>) -> Result<Self> {
        let (mut all, mut fields) = (Vec::with_capacity(functions.len()), Vec::new());
        for function in functions {
            let own = function.state_fields()?;
            let field = function.field();
            let is_own_state = OWN_STATE.contains(&function.fun().name())
                && own.len() == 1
                && own[0].data_type() == field.data_type();
            let states = fields.len()..fields.len() + own.len();
            fields.extend(own);
            all.push(Own { function, states, is_own_state });
        }
        Ok(Self { all: all.into(), fields: fields.into() })
    }

    /// What the states are.
    #[must_use]
    pub fn state_fields(&self) -> &[FieldRef] {
        &self.fields
    }

    /// The functions.
    #[must_use]
    pub fn functions(&self) -> impl ExactSizeIterator<Item = &Arc<AggregateFunctionExpr>> {
        self.all.iter().map(|own| &own.function)
    }

    /// Fresh accumulators, one of each function.
    ///
    /// # Errors
    ///
    /// A function that has none.
    pub fn accumulators(&self) -> Result<Vec<Box<dyn GroupsAccumulator>>> {
        self.all.iter().map(Own::accumulator).collect()
    }

    /// The states of `groups` groups, merged from all `parts`. The first part has a row for each of
    /// them: DataFusion's accumulators take a group that is new in a part for one that has a value there.
    ///
    /// # Errors
    ///
    /// An aggregate that fails, such as a sum that leaves its type.
    pub fn merge(&self, parts: &[Part<'_>], groups: usize) -> Result<Vec<ArrayRef>> {
        let mut merged = Vec::with_capacity(self.fields.len());
        for own in self.all.iter() {
            let mut accumulator = own.accumulator()?;
            for (states, ids) in parts {
                accumulator.merge_batch(&states[own.states.clone()], ids, groups)?;
            }
            let states = accumulator.state(EmitTo::All)?;
            if states.len() != own.states.len() {
                return internal_err!("{} has another number of states", own.function.name());
            }
            merged.extend(states);
        }
        Ok(merged)
    }

    /// What states are worth: one value for each row and function.
    pub(super) fn values(&self, states: &[ArrayRef]) -> Result<Vec<ArrayRef>> {
        let rows = states.first().map_or(0, |states| states.len());
        let ids: Vec<usize> = (0..rows).collect();
        let value = |own: &Own| {
            if own.is_own_state {
                return Ok(Arc::clone(&states[own.states.start]));
            }
            let mut accumulator = own.accumulator()?;
            accumulator.merge_batch(&states[own.states.clone()], &ids, rows)?;
            accumulator.evaluate(EmitTo::All)
        };
        self.all.iter().map(value).collect()
    }
}

impl Own {
    fn accumulator(&self) -> Result<Box<dyn GroupsAccumulator>> {
        if self.function.groups_accumulator_supported() {
            return self.function.create_groups_accumulator();
        }
        let function = Arc::clone(&self.function);
        Ok(Box::new(GroupsAccumulatorAdapter::new(move || function.create_accumulator())))
    }
}

/// Whether states of these types take bounded room: a list grows with its rows, except that of a
/// quantile sketch.
#[must_use]
pub fn is_bounded(function: &AggregateFunctionExpr) -> bool {
    let is_list = |field: &FieldRef| {
        matches!(
            field.data_type(),
            DataType::List(_) | DataType::LargeList(_) | DataType::ListView(_) | DataType::Map(..)
        )
    };
    let is_sketch = function.fun().name().starts_with("approx_");
    is_sketch || !function.state_fields().is_ok_and(|fields| fields.iter().any(is_list))
}
