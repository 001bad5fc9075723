//! The canonical encoding of a key and its keyed 128-bit hash.
//!
//! ```text
//!   NULL       0
//!   integer    1 i64 LE, or 2 u64 LE above i64::MAX
//!   text       1 length u64 LE, bytes           binary likewise
//!   float      1 f64 bits LE, one NaN, no -0
//!   decimal    1 i128 LE without trailing zeros, scale i8
//!   time       1 i128 LE nanoseconds            timestamps, times, durations
//!   date       1 i64 LE days
//!   interval   1 months i32, days i32, nanoseconds i64, LE
//!   boolean    1 byte
//! ```
//!
//! Every value is prefix-free, so `("a", "bc")` and `("ab", "c")` differ. State outlives releases:
//! changing this encoding means a new state format.

use super::KeyError;
use arrow::array::cast::AsArray;
use arrow::array::types::{
    Date32Type, Date64Type, Decimal128Type, DurationMicrosecondType, DurationMillisecondType,
    DurationNanosecondType, DurationSecondType, Float64Type, Int64Type, IntervalMonthDayNanoType,
    Time64NanosecondType, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType, UInt64Type,
};
use arrow::array::{Array, ArrayRef, BinaryViewArray, BooleanArray, StringViewArray};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::compute::cast;
use arrow::datatypes::{DataType, IntervalMonthDayNano, TimeUnit};
use siphasher::sip128::SipHasher13;
use std::sync::Arc;

/// Hashes keys of fixed types with SipHash-1-3, 128 bits, under a secret key.
#[derive(Clone, Debug)]
pub struct KeyHasher {
    sip: SipHasher13,
    types: Arc<[DataType]>,
}

impl KeyHasher {
    /// A hasher for keys of `types` under the secret `key`.
    ///
    /// # Errors
    ///
    /// [`KeyError::Type`] for nested types and others without canonical equality.
    pub fn try_new(key: [u8; 16], types: &[DataType]) -> Result<Self, KeyError> {
        if let Some(data_type) = types.iter().find(|data_type| plain_type(data_type).is_none()) {
            return Err(KeyError::Type { data_type: data_type.clone() });
        }
        Ok(Self { sip: SipHasher13::new_with_key(&key), types: types.into() })
    }

    /// A hash that depends on the secret key and on nothing else; it does not give the key away.
    #[must_use]
    pub fn fingerprint(&self) -> u128 {
        self.sip.hash(b"onefold").as_u128()
    }

    /// Appends the hash of each row of `columns` to `hashes`.
    ///
    /// Returns which rows have no NULL in their key, or `None` if all rows have none. Costs about
    /// one pass over the bytes of the key; dictionaries are unpacked first.
    pub fn hash(
        &self,
        columns: &[ArrayRef],
        hashes: &mut Vec<u128>,
    ) -> Result<Option<NullBuffer>, KeyError> {
        let mut nulls = None;
        let mut cells = Vec::with_capacity(columns.len());
        for (index, (column, expected)) in columns.iter().zip(self.types.iter()).enumerate() {
            if column.data_type() != expected {
                let found = column.data_type().clone();
                return Err(KeyError::Mismatch { index, expected: expected.clone(), found });
            }
            nulls = NullBuffer::union(nulls.as_ref(), column.logical_nulls().as_ref());
            cells.push(Cells::try_new(column)?);
        }
        let rows = columns.first().map_or(0, Array::len);
        hashes.reserve(rows);
        let mut bytes = Vec::with_capacity(64);
        for row in 0..rows {
            bytes.clear();
            for column in &cells {
                column.encode(row, &mut bytes);
            }
            hashes.push(self.sip.hash(&bytes).as_u128());
        }
        Ok(nulls.filter(|nulls| nulls.null_count() > 0))
    }
}

/// A column in the form in which it is encoded.
enum Cells {
    Integers(ScalarBuffer<i64>, Option<NullBuffer>),
    Unsigned(ScalarBuffer<u64>, Option<NullBuffer>),
    Text(StringViewArray),
    Bytes(BinaryViewArray),
    Floats(ScalarBuffer<f64>, Option<NullBuffer>),
    Decimals(ScalarBuffer<i128>, i8, Option<NullBuffer>),
    /// Values and the nanoseconds that one of them counts.
    Times(ScalarBuffer<i64>, i128, Option<NullBuffer>),
    Days(ScalarBuffer<i64>, Option<NullBuffer>),
    Intervals(ScalarBuffer<IntervalMonthDayNano>, Option<NullBuffer>),
    Booleans(BooleanArray),
    Nulls,
}

/// The type a column is brought to before it is encoded; `None` if it cannot be a key.
fn plain_type(data_type: &DataType) -> Option<DataType> {
    use DataType as T;
    Some(match data_type {
        T::Int8 | T::Int16 | T::Int32 | T::Int64 | T::UInt8 | T::UInt16 | T::UInt32 => T::Int64,
        T::Utf8 | T::LargeUtf8 | T::Utf8View => T::Utf8View,
        T::Binary | T::LargeBinary | T::BinaryView | T::FixedSizeBinary(_) => T::BinaryView,
        T::Float16 | T::Float32 | T::Float64 => T::Float64,
        T::Decimal32(precision, scale)
        | T::Decimal64(precision, scale)
        | T::Decimal128(precision, scale) => T::Decimal128(*precision, *scale),
        T::Time32(_) | T::Time64(_) => T::Time64(TimeUnit::Nanosecond),
        T::Interval(_) => T::Interval(arrow::datatypes::IntervalUnit::MonthDayNano),
        T::UInt64
        | T::Boolean
        | T::Date32
        | T::Date64
        | T::Null
        | T::Timestamp(..)
        | T::Duration(_) => data_type.clone(),
        T::Dictionary(_, values) => return plain_type(values),
        _ => return None,
    })
}

impl Cells {
    fn try_new(column: &ArrayRef) -> Result<Self, KeyError> {
        const MS: i128 = 1_000_000;
        let refused = || KeyError::Type { data_type: column.data_type().clone() };
        let plain = plain_type(column.data_type()).ok_or_else(refused)?;
        let column =
            if *column.data_type() == plain { Arc::clone(column) } else { cast(column, &plain)? };
        let nulls = column.nulls().cloned();
        macro_rules! values {
            ($kind:ty) => {
                column.as_primitive::<$kind>().values().clone()
            };
        }
        Ok(match plain {
            DataType::Int64 => Self::Integers(values!(Int64Type), nulls),
            DataType::UInt64 => Self::Unsigned(values!(UInt64Type), nulls),
            DataType::Utf8View => Self::Text(column.as_string_view().clone()),
            DataType::BinaryView => Self::Bytes(column.as_binary_view().clone()),
            DataType::Float64 => Self::Floats(values!(Float64Type), nulls),
            DataType::Decimal128(_, scale) => Self::Decimals(values!(Decimal128Type), scale, nulls),
            DataType::Timestamp(TimeUnit::Second, _) => {
                Self::Times(values!(TimestampSecondType), 1000 * MS, nulls)
            }
            DataType::Timestamp(TimeUnit::Millisecond, _) => {
                Self::Times(values!(TimestampMillisecondType), MS, nulls)
            }
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                Self::Times(values!(TimestampMicrosecondType), 1000, nulls)
            }
            DataType::Timestamp(TimeUnit::Nanosecond, _) => {
                Self::Times(values!(TimestampNanosecondType), 1, nulls)
            }
            DataType::Duration(TimeUnit::Second) => {
                Self::Times(values!(DurationSecondType), 1000 * MS, nulls)
            }
            DataType::Duration(TimeUnit::Millisecond) => {
                Self::Times(values!(DurationMillisecondType), MS, nulls)
            }
            DataType::Duration(TimeUnit::Microsecond) => {
                Self::Times(values!(DurationMicrosecondType), 1000, nulls)
            }
            DataType::Duration(TimeUnit::Nanosecond) => {
                Self::Times(values!(DurationNanosecondType), 1, nulls)
            }
            DataType::Time64(_) => Self::Times(values!(Time64NanosecondType), 1, nulls),
            DataType::Date32 => {
                let days = column.as_primitive::<Date32Type>().values();
                Self::Days(days.iter().map(|day| i64::from(*day)).collect(), nulls)
            }
            DataType::Date64 => {
                let times = column.as_primitive::<Date64Type>().values();
                Self::Days(times.iter().map(|ms| ms.div_euclid(86_400_000)).collect(), nulls)
            }
            DataType::Interval(_) => Self::Intervals(values!(IntervalMonthDayNanoType), nulls),
            DataType::Boolean => Self::Booleans(column.as_boolean().clone()),
            DataType::Null => Self::Nulls,
            _ => return Err(refused()),
        })
    }

    fn encode(&self, row: usize, out: &mut Vec<u8>) {
        if self.is_null(row) {
            out.push(0);
            return;
        }
        match self {
            Self::Integers(values, _) | Self::Days(values, _) => {
                out.push(1);
                out.extend_from_slice(&values[row].to_le_bytes());
            }
            Self::Unsigned(values, _) => {
                out.push(if i64::try_from(values[row]).is_ok() { 1 } else { 2 });
                out.extend_from_slice(&values[row].to_le_bytes());
            }
            Self::Text(values) => encode_bytes(values.value(row).as_bytes(), out),
            Self::Bytes(values) => encode_bytes(values.value(row), out),
            Self::Floats(values, _) => {
                out.push(1);
                out.extend_from_slice(&canonical_bits(values[row]).to_le_bytes());
            }
            Self::Decimals(values, scale, _) => {
                let (value, scale) = without_trailing_zeros(values[row], *scale);
                out.push(1);
                out.extend_from_slice(&value.to_le_bytes());
                out.extend_from_slice(&scale.to_le_bytes());
            }
            Self::Times(values, nanoseconds, _) => {
                out.push(1);
                out.extend_from_slice(&(i128::from(values[row]) * nanoseconds).to_le_bytes());
            }
            Self::Intervals(values, _) => {
                out.push(1);
                out.extend_from_slice(&values[row].months.to_le_bytes());
                out.extend_from_slice(&values[row].days.to_le_bytes());
                out.extend_from_slice(&values[row].nanoseconds.to_le_bytes());
            }
            Self::Booleans(values) => out.extend_from_slice(&[1, u8::from(values.value(row))]),
            Self::Nulls => out.push(0),
        }
    }

    fn is_null(&self, row: usize) -> bool {
        match self {
            Self::Integers(_, nulls)
            | Self::Unsigned(_, nulls)
            | Self::Floats(_, nulls)
            | Self::Decimals(_, _, nulls)
            | Self::Times(_, _, nulls)
            | Self::Days(_, nulls)
            | Self::Intervals(_, nulls) => nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)),
            Self::Text(values) => values.is_null(row),
            Self::Bytes(values) => values.is_null(row),
            Self::Booleans(values) => values.is_null(row),
            Self::Nulls => true,
        }
    }
}

fn encode_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(1);
    out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn canonical_bits(value: f64) -> u64 {
    if value.is_nan() {
        f64::NAN.to_bits() & !(1 << 63)
    } else if value == 0.0 {
        0
    } else {
        value.to_bits()
    }
}

fn without_trailing_zeros(mut value: i128, mut scale: i8) -> (i128, i8) {
    if value == 0 {
        return (0, 0);
    }
    while value % 10 == 0 && scale > i8::MIN {
        value /= 10;
        scale -= 1;
    }
    (value, scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::types::Int8Type;
    use arrow::array::{
        Date32Array, Date64Array, Decimal128Array, DictionaryArray, Float32Array, Float64Array,
        Int32Array, Int64Array, NullArray, StringArray, TimestampMicrosecondArray,
        TimestampSecondArray, UInt64Array,
    };

    #[test]
    fn equal_values_hash_alike_whatever_their_encoding() {
        let seven = hash_one(Int64Array::from(vec![7]));
        assert_eq!(hash_one(Int32Array::from(vec![7])), seven);
        assert_eq!(hash_one(UInt64Array::from(vec![7])), seven);
        let text = hash_one(StringArray::from(vec!["a text of more than twelve bytes"]));
        assert_eq!(hash_one(StringViewArray::from(vec!["a text of more than twelve bytes"])), text);
        let dictionary: DictionaryArray<Int8Type> =
            vec!["a text of more than twelve bytes"].into_iter().collect();
        assert_eq!(hash_one(dictionary), text);
        assert_eq!(
            hash_one(Float32Array::from(vec![0.5])),
            hash_one(Float64Array::from(vec![0.5]))
        );
        assert_eq!(
            hash_one(Float64Array::from(vec![-0.0])),
            hash_one(Float64Array::from(vec![0.0]))
        );
        let nan = f64::from_bits(f64::NAN.to_bits() | 1 << 63 | 1);
        assert_eq!(
            hash_one(Float64Array::from(vec![nan])),
            hash_one(Float64Array::from(vec![f64::NAN]))
        );
        let second = TimestampSecondArray::from(vec![3]).with_timezone("+02:00");
        assert_eq!(hash_one(second), hash_one(TimestampMicrosecondArray::from(vec![3_000_000])));
        assert_eq!(
            hash_one(Date32Array::from(vec![-1])),
            hash_one(Date64Array::from(vec![-86_400_000]))
        );
        assert_eq!(hash_one(decimal(150, 2)), hash_one(decimal(15, 1)));
        assert_eq!(hash_one(decimal(0, 2)), hash_one(decimal(0, 0)));
    }

    #[test]
    fn different_values_hash_apart() {
        assert_ne!(
            hash_one(Int64Array::from(vec![-1])),
            hash_one(UInt64Array::from(vec![u64::MAX]))
        );
        assert_ne!(hash_one(decimal(15, 1)), hash_one(decimal(15, 2)));
        let two = |a: &str, b: &str| {
            hash(&[Arc::new(StringArray::from(vec![a])), Arc::new(StringArray::from(vec![b]))]).0[0]
        };
        assert_ne!(two("a", "bc"), two("ab", "c"));
        assert_ne!(two("", "a"), two("a", ""));
    }

    #[test]
    fn a_null_in_any_column_marks_the_row() {
        let a: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(1)]));
        let b: ArrayRef = Arc::new(StringArray::from(vec![Some("x"), Some("x"), None]));
        let (hashes, nulls) = hash(&[a, b]);
        let nulls = nulls.unwrap();
        assert_eq!((0..3).map(|row| nulls.is_null(row)).collect::<Vec<_>>(), [false, true, true]);
        assert!(hashes[0] != hashes[1] && hashes[0] != hashes[2] && hashes[1] != hashes[2]);
        assert!(hash(&[Arc::new(Int64Array::from(vec![1]))]).1.is_none());
        assert!(hash(&[Arc::new(NullArray::new(1))]).1.is_some());
    }

    #[test]
    fn another_secret_gives_other_hashes() {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![7]));
        let with = |secret| {
            let mut found = Vec::new();
            let hasher = KeyHasher::try_new([secret; 16], &[DataType::Int64]).unwrap();
            hasher.hash(&[Arc::clone(&column)], &mut found).unwrap();
            found[0]
        };
        assert_ne!(with(1), with(2));
    }

    #[test]
    fn the_encoding_never_changes() {
        // State outlives releases: this number may only change together with the state format.
        assert_eq!(
            hash_one(StringArray::from(vec!["onefold"])),
            hash_one(StringViewArray::from(vec!["onefold"]))
        );
        let mut bytes = Vec::new();
        let column: ArrayRef = Arc::new(StringArray::from(vec!["ab"]));
        Cells::try_new(&column).unwrap().encode(0, &mut bytes);
        assert_eq!(bytes, [1, 2, 0, 0, 0, 0, 0, 0, 0, b'a', b'b']);
    }

    #[test]
    fn nested_keys_are_refused_by_type() {
        let list = DataType::new_list(DataType::Int64, true);
        let error = KeyHasher::try_new([0; 16], &[list]).unwrap_err();
        assert!(error.to_string().starts_with("a key cannot have type List"), "{error}");
    }

    fn decimal(value: i128, scale: i8) -> Decimal128Array {
        Decimal128Array::from(vec![value]).with_precision_and_scale(20, scale).unwrap()
    }

    fn hash_one(column: impl Array + 'static) -> u128 {
        hash(&[Arc::new(column)]).0[0]
    }

    fn hash(columns: &[ArrayRef]) -> (Vec<u128>, Option<NullBuffer>) {
        let types: Vec<DataType> = columns.iter().map(|c| c.data_type().clone()).collect();
        let mut found = Vec::new();
        let hasher = KeyHasher::try_new([7; 16], &types).unwrap();
        let nulls = hasher.hash(columns, &mut found).unwrap();
        (found, nulls)
    }
}
