//! `sum` and `avg` of floats that do not depend on the order of rows.
//!
//! ```text
//!          states                                 value
//!   sum    BINARY, a stored `FloatSum`            the float nearest to the sum
//!   avg    UInt64, how many; BINARY, as above     that float, divided by how many
//! ```
//!
//! A group without a value is NULL. Bytes and values are the same for the same values, however they
//! were cut into batches and in whichever order their states were merged.

use crate::state::FloatSum;
use arrow::array::builder::BinaryBuilder;
use arrow::array::cast::AsArray;
use arrow::array::types::{Float64Type, UInt64Type};
use arrow::array::{Array, ArrayRef, BooleanArray, Float64Array, UInt64Array};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result, not_impl_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility,
};
use std::mem::size_of;
use std::sync::Arc;

/// The exact aggregate of floats in place of DataFusion's `sum` or `avg`; `None` for any other name.
#[must_use]
pub fn exact_float(name: &str) -> Option<Arc<AggregateUDF>> {
    let kind = match name {
        "sum" => Kind::Sum,
        "avg" => Kind::Avg,
        _ => return None,
    };
    let signature = Signature::exact(vec![DataType::Float64], Volatility::Immutable);
    Some(Arc::new(AggregateUDF::new_from_impl(ExactFloat { kind, signature })))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Sum,
    Avg,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ExactFloat {
    kind: Kind,
    signature: Signature,
}

impl AggregateUDFImpl for ExactFloat {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Sum => "sum",
            Kind::Avg => "avg",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn state_fields(&self, arguments: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let name = arguments.name;
        let sum = Field::new(format!("{name}[exact float sum]"), DataType::Binary, true);
        let count = Field::new(format!("{name}[count]"), DataType::UInt64, true);
        Ok(match self.kind {
            Kind::Sum => vec![Arc::new(sum)],
            Kind::Avg => vec![Arc::new(count), Arc::new(sum)],
        })
    }

    fn accumulator(&self, _: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        not_impl_err!("an exact sum has an accumulator for groups only")
    }

    fn groups_accumulator_supported(&self, _: AccumulatorArgs<'_>) -> bool {
        true
    }

    fn create_groups_accumulator(
        &self,
        _: AccumulatorArgs<'_>,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(FloatSums { kind: self.kind, ..FloatSums::default() }))
    }
}

/// The sum of each group so far.
#[derive(Debug)]
struct FloatSums {
    kind: Kind,
    sums: Vec<FloatSum>,
    /// How many values each group has; of an `avg` only.
    counts: Vec<u64>,
    heap_bytes: usize,
}

impl Default for FloatSums {
    fn default() -> Self {
        Self { kind: Kind::Sum, sums: Vec::new(), counts: Vec::new(), heap_bytes: 0 }
    }
}

impl FloatSums {
    fn resize(&mut self, groups: usize) {
        self.sums.resize(groups, FloatSum::default());
        if self.kind == Kind::Avg {
            self.counts.resize(groups, 0);
        }
    }

    fn add(&mut self, id: usize, value: f64) {
        self.heap_bytes += self.sums[id].add(value);
        if self.kind == Kind::Avg {
            self.counts[id] += 1;
        }
    }

    /// The sums and counts of the groups that are handed out.
    fn take(&mut self, emit: EmitTo) -> (Vec<FloatSum>, Vec<u64>) {
        let sums = emit.take_needed(&mut self.sums);
        self.heap_bytes -= sums.iter().map(FloatSum::heap_bytes).sum::<usize>();
        let counts = match self.kind {
            Kind::Sum => Vec::new(),
            Kind::Avg => emit.take_needed(&mut self.counts),
        };
        (sums, counts)
    }
}

impl GroupsAccumulator for FloatSums {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        ids: &[usize],
        filter: Option<&BooleanArray>,
        groups: usize,
    ) -> Result<()> {
        self.resize(groups);
        let values = values[0].as_primitive::<Float64Type>();
        if filter.is_none() && values.null_count() == 0 {
            for (id, value) in ids.iter().zip(values.values()) {
                self.add(*id, *value);
            }
            return Ok(());
        }
        for (row, id) in ids.iter().enumerate() {
            if is_in(values, filter, row) {
                self.add(*id, values.value(row));
            }
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef], ids: &[usize], groups: usize) -> Result<()> {
        self.resize(groups);
        if self.kind == Kind::Avg {
            let counts = states[0].as_primitive::<UInt64Type>();
            for (id, count) in ids.iter().zip(counts) {
                self.counts[*id] += count.unwrap_or_default();
            }
        }
        let sums = states[states.len() - 1].as_binary::<i32>();
        for (id, stored) in ids.iter().zip(sums) {
            if let Some(stored) = stored {
                self.heap_bytes += self.sums[*id].merge(stored)?;
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, emit: EmitTo) -> Result<ArrayRef> {
        let (sums, counts) = self.take(emit);
        let values = sums.iter().enumerate().map(|(group, sum)| {
            let value = (!sum.is_empty()).then(|| sum.value())?;
            Some(match self.kind {
                Kind::Sum => value,
                Kind::Avg => value / counts[group] as f64,
            })
        });
        Ok(Arc::new(values.collect::<Float64Array>()))
    }

    fn state(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>> {
        let (sums, counts) = self.take(emit);
        let mut stored = Stored::new(sums.len());
        for sum in &sums {
            stored.push(sum);
        }
        Ok(states(self.kind, counts, stored))
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        let values = values[0].as_primitive::<Float64Type>();
        let mut stored = Stored::new(values.len());
        let mut counts = Vec::with_capacity(values.len());
        for row in 0..values.len() {
            let is_in = is_in(values, filter, row);
            let mut sum = FloatSum::default();
            if is_in {
                let _ = sum.add(values.value(row));
            }
            stored.push(&sum);
            counts.push(u64::from(is_in));
        }
        Ok(states(self.kind, counts, stored))
    }

    fn size(&self) -> usize {
        let own = self.sums.capacity() * size_of::<FloatSum>();
        own + self.counts.capacity() * size_of::<u64>() + self.heap_bytes
    }
}

fn is_in(values: &Float64Array, filter: Option<&BooleanArray>, row: usize) -> bool {
    let passes = filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
    passes && values.is_valid(row)
}

fn states(kind: Kind, counts: Vec<u64>, mut stored: Stored) -> Vec<ArrayRef> {
    let sums: ArrayRef = Arc::new(stored.rows.finish());
    match kind {
        Kind::Sum => vec![sums],
        Kind::Avg => vec![Arc::new(UInt64Array::from(counts)), sums],
    }
}

/// Sums in their stored form; an empty one is NULL.
struct Stored {
    rows: BinaryBuilder,
    bytes: Vec<u8>,
}

impl Stored {
    fn new(rows: usize) -> Self {
        Self { rows: BinaryBuilder::with_capacity(rows, rows * 12), bytes: Vec::new() }
    }

    fn push(&mut self, sum: &FloatSum) {
        if sum.is_empty() {
            return self.rows.append_null();
        }
        self.bytes.clear();
        sum.write(&mut self.bytes);
        self.rows.append_value(&self.bytes);
    }
}
