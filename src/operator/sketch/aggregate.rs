//! The aggregates that make and merge sketches.

use super::accumulator::{Hashes, Numbers, SketchAccumulator, Sketches};
use crate::key::KeyHasher;
use crate::state::{BitmapSketch, HllSketch, QuantileSketch, Sketch, SketchError};
use arrow::datatypes::{DataType, Field, FieldRef};
use arrow::record_batch::RecordBatch;
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, Signature, Volatility,
};
use std::sync::Arc;

/// `hll_state`, `hll_merge`, `quantile_state`, `quantile_merge`, `bitmap_state`, `bitmap_merge`.
#[must_use]
pub fn sketch_aggregates() -> Vec<Arc<AggregateUDF>> {
    let aggregate = |function| Arc::new(AggregateUDF::from(SketchAggregate::new(function)));
    Function::ALL.map(aggregate).into()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Function {
    HllState,
    HllMerge,
    QuantileState,
    QuantileMerge,
    BitmapState,
    BitmapMerge,
}

impl Function {
    const ALL: [Self; 6] = [
        Self::HllState,
        Self::HllMerge,
        Self::QuantileState,
        Self::QuantileMerge,
        Self::BitmapState,
        Self::BitmapMerge,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::HllState => "hll_state",
            Self::HllMerge => "hll_merge",
            Self::QuantileState => "quantile_state",
            Self::QuantileMerge => "quantile_merge",
            Self::BitmapState => "bitmap_state",
            Self::BitmapMerge => "bitmap_merge",
        }
    }

    const fn usage(self) -> &'static str {
        match self {
            Self::HllState => "hll_state(expression [, lg_k])",
            Self::HllMerge => "hll_merge(sketch)",
            Self::QuantileState => "quantile_state(number [, k])",
            Self::QuantileMerge => "quantile_merge(sketch)",
            Self::BitmapState => "bitmap_state(integer)",
            Self::BitmapMerge => "bitmap_merge(sketch)",
        }
    }

    /// The type in which the first argument is wanted.
    fn coerced(self, given: &DataType) -> Result<DataType> {
        let usage = self.usage();
        match self {
            Self::HllState => {
                KeyHasher::try_new([0; 16], std::slice::from_ref(given))?;
                Ok(given.clone())
            }
            Self::QuantileState if given.is_numeric() || given.is_null() => Ok(DataType::Float64),
            Self::BitmapState if given.is_integer() || given.is_null() => Ok(DataType::Int64),
            Self::QuantileState => plan_err!("{usage} is given a {given}: cast it to DOUBLE"),
            Self::BitmapState => plan_err!("{usage} is given a {given}: cast it to BIGINT"),
            Self::HllMerge | Self::QuantileMerge | Self::BitmapMerge => stored(usage, given),
        }
    }

    const fn has_parameter(self) -> bool {
        matches!(self, Self::HllState | Self::QuantileState)
    }
}

/// The type in which a stored sketch is wanted.
pub(super) fn stored(usage: &str, given: &DataType) -> Result<DataType> {
    if given.is_binary() || given.is_null() {
        return Ok(DataType::Binary);
    }
    plan_err!("{usage} is given a {given}, and a sketch is BYTEA")
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct SketchAggregate {
    function: Function,
    signature: Signature,
}

impl SketchAggregate {
    fn new(function: Function) -> Self {
        Self { function, signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl AggregateUDFImpl for SketchAggregate {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        match given {
            [input] => Ok(vec![self.function.coerced(input)?]),
            [input, parameter] if self.function.has_parameter() && parameter.is_integer() => {
                Ok(vec![self.function.coerced(input)?, DataType::Int64])
            }
            _ => plan_err!("write {}", self.function.usage()),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Binary)
    }

    fn is_nullable(&self) -> bool {
        false
    }

    fn default_value(&self, _: &DataType) -> Result<ScalarValue> {
        let bytes = match self.function {
            Function::HllState | Function::HllMerge => empty_hll()?.to_bytes(),
            Function::QuantileState | Function::QuantileMerge => empty_quantile()?.to_bytes(),
            Function::BitmapState | Function::BitmapMerge => BitmapSketch::new().to_bytes(),
        };
        Ok(ScalarValue::Binary(Some(bytes)))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let name = format_state_name(args.name, "sketch");
        Ok(vec![Arc::new(Field::new(name, DataType::Binary, true))])
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let is_of_sets =
            !matches!(self.function, Function::QuantileState | Function::QuantileMerge);
        if args.is_distinct && !is_of_sets {
            let usage = self.function.usage();
            return plan_err!("{usage} takes no DISTINCT here: select the distinct values first");
        }
        Ok(match self.function {
            Function::HllState => {
                let range = HllSketch::LG_K;
                let (min, max) = (u32::from(*range.start()), u32::from(*range.end()));
                let lg_k = parameter(&args, "lg_k", u32::from(HllSketch::LG_K_DEFAULT), min..=max)?;
                let sketch = HllSketch::try_new(lg_k as u8)?;
                let input = args.expr_fields.first().map(|field| field.data_type().clone());
                let feed = Hashes::try_new(input.unwrap_or(DataType::Null))?;
                Box::new(SketchAccumulator { sketch, feed })
            }
            Function::HllMerge => {
                Box::new(SketchAccumulator { sketch: empty_hll()?, feed: Sketches })
            }
            Function::QuantileState => {
                let k = parameter(&args, "k", QuantileSketch::K_DEFAULT, QuantileSketch::K)?;
                Box::new(SketchAccumulator { sketch: QuantileSketch::try_new(k)?, feed: Numbers })
            }
            Function::QuantileMerge => {
                Box::new(SketchAccumulator { sketch: empty_quantile()?, feed: Sketches })
            }
            Function::BitmapState => {
                Box::new(SketchAccumulator { sketch: BitmapSketch::new(), feed: Numbers })
            }
            Function::BitmapMerge => {
                Box::new(SketchAccumulator { sketch: BitmapSketch::new(), feed: Sketches })
            }
        })
    }
}

fn empty_hll() -> Result<HllSketch, SketchError> {
    HllSketch::try_new(HllSketch::LG_K_DEFAULT)
}

fn empty_quantile() -> Result<QuantileSketch, SketchError> {
    QuantileSketch::try_new(QuantileSketch::K_DEFAULT)
}

/// The constant that is the second argument.
fn parameter(
    args: &AccumulatorArgs<'_>,
    name: &'static str,
    default: u32,
    range: std::ops::RangeInclusive<u32>,
) -> Result<u32> {
    let Some(expr) = args.exprs.get(1) else { return Ok(default) };
    let (min, max) = range.into_inner();
    let nothing = RecordBatch::new_empty(Arc::new(args.schema.clone()));
    let found = match expr.evaluate(&nothing)? {
        ColumnarValue::Scalar(ScalarValue::Int64(Some(value))) => match u32::try_from(value) {
            Ok(value) if (min..=max).contains(&value) => return Ok(value),
            _ => value.to_string(),
        },
        ColumnarValue::Scalar(_) => "NULL".to_owned(),
        ColumnarValue::Array(_) => expr.to_string(),
    };
    Err(SketchError::Parameter { name, min, max, found }.into())
}
