//! A sketch that rows or other sketches are folded into.

use crate::key::KeyHasher;
use crate::state::{BitmapSketch, HllSketch, QuantileSketch, Sketch};
use arrow::array::ArrayRef;
use arrow::array::cast::AsArray;
use arrow::array::types::{Float64Type, Int64Type};
use arrow::datatypes::DataType;
use datafusion::common::{Result, ScalarValue, internal_err};
use datafusion::logical_expr::Accumulator;
use std::fmt::Debug;

/// The key of all hashes in sketches. It is part of the format: another one, another version.
const HASH_KEY: [u8; 16] = *b"onefold-sketch-1";

/// How a column goes into a sketch; NULLs do not.
pub(super) trait Feed<S>: Debug + Send + Sync + 'static {
    fn feed(&self, column: &ArrayRef, sketch: &mut S) -> Result<()>;

    /// Bytes of memory behind the struct itself.
    fn heap_bytes(&self) -> usize {
        0
    }
}

/// Values by their hash.
#[derive(Debug)]
pub(super) struct Hashes(KeyHasher);

impl Hashes {
    pub(super) fn try_new(data_type: DataType) -> Result<Self> {
        Ok(Self(KeyHasher::try_new(HASH_KEY, &[data_type])?))
    }
}

impl Feed<HllSketch> for Hashes {
    fn feed(&self, column: &ArrayRef, sketch: &mut HllSketch) -> Result<()> {
        let mut hashes = Vec::new();
        let nulls = self.0.hash(std::slice::from_ref(column), &mut hashes)?;
        for (row, hash) in hashes.into_iter().enumerate() {
            if nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row)) {
                sketch.insert(hash as u64);
            }
        }
        Ok(())
    }

    fn heap_bytes(&self) -> usize {
        2 * size_of::<usize>() + size_of::<DataType>()
    }
}

/// Numbers as they are.
#[derive(Debug)]
pub(super) struct Numbers;

impl Feed<QuantileSketch> for Numbers {
    fn feed(&self, column: &ArrayRef, sketch: &mut QuantileSketch) -> Result<()> {
        for value in column.as_primitive::<Float64Type>().iter().flatten() {
            sketch.insert(value)?;
        }
        Ok(())
    }
}

impl Feed<BitmapSketch> for Numbers {
    fn feed(&self, column: &ArrayRef, sketch: &mut BitmapSketch) -> Result<()> {
        column.as_primitive::<Int64Type>().iter().flatten().for_each(|value| sketch.insert(value));
        Ok(())
    }
}

/// Sketches in their stored form.
#[derive(Debug)]
pub(super) struct Sketches;

impl<S: Sketch> Feed<S> for Sketches {
    fn feed(&self, column: &ArrayRef, sketch: &mut S) -> Result<()> {
        for bytes in column.as_binary::<i32>().iter().flatten() {
            sketch.merge(&S::from_bytes(bytes)?)?;
        }
        Ok(())
    }
}

/// The sketch of one group.
#[derive(Debug)]
pub(super) struct SketchAccumulator<S, F> {
    pub(super) sketch: S,
    pub(super) feed: F,
}

impl<S: Sketch, F: Feed<S>> Accumulator for SketchAccumulator<S, F> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let Some(column) = values.first() else { return internal_err!("no column to sketch") };
        self.feed.feed(column, &mut self.sketch)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Binary(Some(self.sketch.to_bytes())))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.sketch.heap_bytes() + self.feed.heap_bytes()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let Some(column) = states.first() else { return internal_err!("no states to merge") };
        Sketches.feed(column, &mut self.sketch)
    }
}
