//! The functions that ask sketches, and combine bitmaps.

use super::aggregate::stored;
use crate::state::{BitmapSketch, HllSketch, QuantileSketch, Sketch};
use arrow::array::cast::AsArray;
use arrow::array::types::Float64Type;
use arrow::array::{ArrayRef, BinaryArray, Float64Array, Int64Array};
use arrow::datatypes::DataType;
use datafusion::common::{Result, ScalarValue, internal_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use std::sync::Arc;

/// `hll_estimate`, `quantile_estimate`, `quantile_error`, `bitmap_count`, `bitmap_and`,
/// `bitmap_or`, `bitmap_andnot`.
#[must_use]
pub fn sketch_functions() -> Vec<Arc<ScalarUDF>> {
    let function = |function| Arc::new(ScalarUDF::from(SketchFunction::new(function)));
    Function::ALL.map(function).into()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Function {
    HllEstimate,
    QuantileEstimate,
    QuantileError,
    BitmapCount,
    BitmapAnd,
    BitmapOr,
    BitmapAndNot,
}

impl Function {
    const ALL: [Self; 7] = [
        Self::HllEstimate,
        Self::QuantileEstimate,
        Self::QuantileError,
        Self::BitmapCount,
        Self::BitmapAnd,
        Self::BitmapOr,
        Self::BitmapAndNot,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::HllEstimate => "hll_estimate",
            Self::QuantileEstimate => "quantile_estimate",
            Self::QuantileError => "quantile_error",
            Self::BitmapCount => "bitmap_count",
            Self::BitmapAnd => "bitmap_and",
            Self::BitmapOr => "bitmap_or",
            Self::BitmapAndNot => "bitmap_andnot",
        }
    }

    const fn usage(self) -> &'static str {
        match self {
            Self::HllEstimate => "hll_estimate(sketch)",
            Self::QuantileEstimate => "quantile_estimate(sketch, q)",
            Self::QuantileError => "quantile_error(sketch)",
            Self::BitmapCount => "bitmap_count(sketch)",
            Self::BitmapAnd => "bitmap_and(sketch, sketch)",
            Self::BitmapOr => "bitmap_or(sketch, sketch)",
            Self::BitmapAndNot => "bitmap_andnot(sketch, sketch)",
        }
    }

    const fn returned(self) -> DataType {
        match self {
            Self::HllEstimate | Self::BitmapCount => DataType::Int64,
            Self::QuantileEstimate | Self::QuantileError => DataType::Float64,
            Self::BitmapAnd | Self::BitmapOr | Self::BitmapAndNot => DataType::Binary,
        }
    }

    fn answer(self, columns: &[ArrayRef]) -> Result<ArrayRef> {
        match (self, columns) {
            (Self::HllEstimate, [sketches]) => {
                let counts = each(sketches, |sketch: HllSketch| Ok(capped(sketch.estimate())));
                Ok(Arc::new(counts.collect::<Result<Int64Array>>()?))
            }
            (Self::BitmapCount, [sketches]) => {
                let counts = each(sketches, |sketch: BitmapSketch| Ok(capped(sketch.count())));
                Ok(Arc::new(counts.collect::<Result<Int64Array>>()?))
            }
            (Self::QuantileError, [sketches]) => {
                let errors = each(sketches, |sketch: QuantileSketch| Ok(sketch.relative_error()));
                Ok(Arc::new(errors.collect::<Result<Float64Array>>()?))
            }
            (Self::QuantileEstimate, [sketches, ranks]) => {
                let ranks = ranks.as_primitive::<Float64Type>();
                let values = sketches.as_binary::<i32>().iter().zip(ranks);
                let values = values.map(|pair| match pair {
                    (Some(bytes), Some(q)) => Ok(QuantileSketch::from_bytes(bytes)?.estimate(q)?),
                    _ => Ok(None),
                });
                Ok(Arc::new(values.collect::<Result<Float64Array>>()?))
            }
            (Self::BitmapAnd, [left, right]) => pairs(left, right, |left, right| {
                left.intersect(&right);
                Ok(())
            }),
            (Self::BitmapOr, [left, right]) => {
                pairs(left, right, |left, right| Ok(left.merge(&right)?))
            }
            (Self::BitmapAndNot, [left, right]) => pairs(left, right, |left, right| {
                left.subtract(&right);
                Ok(())
            }),
            (_, columns) => internal_err!("{} of {} columns", self.name(), columns.len()),
        }
    }
}

/// What `ask` says of each sketch of a column.
fn each<S: Sketch, T>(
    column: &ArrayRef,
    ask: impl Fn(S) -> Result<T>,
) -> impl Iterator<Item = Result<Option<T>>> {
    let bytes = column.as_binary::<i32>().iter();
    bytes.map(move |bytes| bytes.map(|bytes| ask(S::from_bytes(bytes)?)).transpose())
}

/// The bitmaps of `left`, each changed by the one beside it.
fn pairs(
    left: &ArrayRef,
    right: &ArrayRef,
    change: impl Fn(&mut BitmapSketch, BitmapSketch) -> Result<()>,
) -> Result<ArrayRef> {
    let pairs = left.as_binary::<i32>().iter().zip(right.as_binary::<i32>());
    let changed = pairs.map(|pair| match pair {
        (Some(left), Some(right)) => {
            let mut left = BitmapSketch::from_bytes(left)?;
            change(&mut left, BitmapSketch::from_bytes(right)?)?;
            Ok(Some(left.to_bytes()))
        }
        _ => Ok(None),
    });
    Ok(Arc::new(BinaryArray::from_iter(changed.collect::<Result<Vec<Option<Vec<u8>>>>>()?)))
}

/// Counts are BIGINT.
fn capped(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct SketchFunction {
    function: Function,
    signature: Signature,
}

impl SketchFunction {
    fn new(function: Function) -> Self {
        Self { function, signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for SketchFunction {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        let usage = self.function.usage();
        match (self.function, given) {
            (Function::QuantileEstimate, [sketch, q]) if q.is_numeric() || q.is_null() => {
                Ok(vec![stored(usage, sketch)?, DataType::Float64])
            }
            (Function::BitmapAnd | Function::BitmapOr | Function::BitmapAndNot, [left, right]) => {
                Ok(vec![stored(usage, left)?, stored(usage, right)?])
            }
            (Function::HllEstimate | Function::QuantileError | Function::BitmapCount, [sketch]) => {
                Ok(vec![stored(usage, sketch)?])
            }
            _ => plan_err!("write {usage}"),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.function.returned())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let answer = self.function.answer(&ColumnarValue::values_to_arrays(&args.args)?)?;
        if is_constant {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&answer, 0)?));
        }
        Ok(ColumnarValue::Array(answer))
    }
}
