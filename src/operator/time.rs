//! Event times as microseconds: digits below are cut off, towards the past.

use super::DedupError;
use arrow::array::cast::AsArray;
use arrow::array::types::{
    ArrowPrimitiveType, Date32Type, Date64Type, Int64Type, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use arrow::array::{Array, ArrayRef, Int64Array};
use arrow::datatypes::{DataType, TimeUnit};

/// Whether [`to_micros`] accepts the type.
pub(super) fn is_time(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Timestamp(..) | DataType::Date32 | DataType::Date64)
}

/// The times of `column` in microseconds since the Unix epoch.
pub(super) fn to_micros(column: &ArrayRef) -> Result<Int64Array, DedupError> {
    let data_type = column.data_type();
    match data_type {
        DataType::Timestamp(TimeUnit::Second, _) => {
            scaled::<TimestampSecondType>(column, 1_000_000)
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            scaled::<TimestampMillisecondType>(column, 1_000)
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            Ok(column.as_primitive::<TimestampMicrosecondType>().reinterpret_cast::<Int64Type>())
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => Ok(column
            .as_primitive::<TimestampNanosecondType>()
            .unary::<_, Int64Type>(|ns| ns.div_euclid(1_000))),
        DataType::Date32 => scaled::<Date32Type>(column, 86_400_000_000),
        DataType::Date64 => scaled::<Date64Type>(column, 1_000),
        _ => Err(DedupError::TimeType { data_type: data_type.clone() }),
    }
}

/// So many microseconds in the units of a timestamp; `None` if that is no whole number of them.
#[must_use]
pub fn in_units(us: i64, time: &DataType) -> Option<i64> {
    let DataType::Timestamp(unit, _) = time else { return None };
    let whole = |micros: i64| (us % micros == 0).then_some(us / micros);
    match unit {
        TimeUnit::Second => whole(1_000_000),
        TimeUnit::Millisecond => whole(1_000),
        TimeUnit::Microsecond => Some(us),
        TimeUnit::Nanosecond => us.checked_mul(1_000),
    }
}

fn scaled<T>(column: &ArrayRef, micros: i64) -> Result<Int64Array, DedupError>
where
    T: ArrowPrimitiveType,
    T::Native: Into<i64>,
{
    column.as_primitive::<T>().try_unary::<_, Int64Type, _>(|value| {
        let value: i64 = value.into();
        value
            .checked_mul(micros)
            .ok_or_else(|| DedupError::TimeRange { value, data_type: column.data_type().clone() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Date32Array, TimestampNanosecondArray, TimestampSecondArray};
    use std::sync::Arc;

    #[test]
    fn digits_below_a_microsecond_are_cut_off_towards_the_past() {
        let times: ArrayRef =
            Arc::new(TimestampNanosecondArray::from(vec![Some(1_999), Some(-1), None]));
        let micros = to_micros(&times).unwrap();
        assert_eq!(micros.iter().collect::<Vec<_>>(), [Some(1), Some(-1), None]);
        let days: ArrayRef = Arc::new(Date32Array::from(vec![1]));
        assert_eq!(to_micros(&days).unwrap().value(0), 86_400_000_000);
    }

    #[test]
    fn a_length_is_whole_in_its_units_or_none() {
        let units = |unit| in_units(1_500_000, &DataType::Timestamp(unit, None));
        assert_eq!(units(TimeUnit::Second), None);
        assert_eq!(units(TimeUnit::Millisecond), Some(1_500));
        assert_eq!(units(TimeUnit::Microsecond), Some(1_500_000));
        assert_eq!(units(TimeUnit::Nanosecond), Some(1_500_000_000));
        assert_eq!(in_units(i64::MAX, &DataType::Timestamp(TimeUnit::Nanosecond, None)), None);
    }

    #[test]
    fn a_time_that_does_not_fit_is_named() {
        let times: ArrayRef = Arc::new(TimestampSecondArray::from(vec![i64::MAX]));
        let error = to_micros(&times).unwrap_err().to_string();
        assert!(error.contains("9223372036854775807"), "{error}");
    }
}
