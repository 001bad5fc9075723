//! Sequences: what orders rows that arrive out of order.
//!
//! ```text
//!   sequence_by 'lsn'        prefix = lsn, exact
//!   sequence_by 'at, name'   prefix = at; rows of equal prefix are compared whole
//! ```
//!
//! The key index holds 8 bytes of each row's sequence, in an encoding that keeps the order. Where
//! that is all of the sequence, nothing else is ever read.

use super::DeltaError;
use arrow::array::cast::AsArray;
use arrow::array::types::{Decimal128Type, Float32Type, Float64Type, Int64Type};
use arrow::array::{Array, ArrayRef};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::row::{RowConverter, Rows, SortField};
use std::cmp::Ordering;

const SIGN: u64 = 1 << 63;

/// Eight bytes of each row's sequence, which order rows as their first column does.
pub(super) fn prefixes(first: &ArrayRef) -> Result<Vec<u64>, DeltaError> {
    Ok(match first.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            let text = cast(first, &DataType::Utf8)?;
            let text = text.as_string::<i32>();
            (0..text.len()).map(|row| leading(text.value(row).as_bytes())).collect()
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
            let bytes = cast(first, &DataType::Binary)?;
            let bytes = bytes.as_binary::<i32>();
            (0..bytes.len()).map(|row| leading(bytes.value(row))).collect()
        }
        DataType::Decimal128(precision, _) => {
            let shift = if *precision <= 18 { 0 } else { 64 };
            let values = first.as_primitive::<Decimal128Type>().values();
            values.iter().map(|value| (value >> shift) as i64 as u64 ^ SIGN).collect()
        }
        DataType::Float32 => {
            let values = first.as_primitive::<Float32Type>().values();
            values.iter().map(|value| float(f64::from(*value))).collect()
        }
        DataType::Float64 => {
            first.as_primitive::<Float64Type>().values().iter().map(|value| float(*value)).collect()
        }
        _ => {
            let numbers = cast(first, &DataType::Int64)?;
            let values = numbers.as_primitive::<Int64Type>().values();
            values.iter().map(|value| *value as u64 ^ SIGN).collect()
        }
    })
}

/// Whether equal prefixes mean equal sequences.
pub(super) fn is_exact(types: &[DataType]) -> bool {
    let [first] = types else { return false };
    match first {
        DataType::Decimal128(precision, _) => *precision <= 18,
        other => other.is_primitive(),
    }
}

fn leading(bytes: &[u8]) -> u64 {
    let mut prefix = [0; 8];
    let length = bytes.len().min(8);
    prefix[..length].copy_from_slice(&bytes[..length]);
    u64::from_be_bytes(prefix)
}

fn float(value: f64) -> u64 {
    let bits = value.to_bits();
    if bits & SIGN == 0 { bits ^ SIGN } else { !bits }
}

/// Sequences that can be compared whole.
pub(super) struct Whole {
    converter: RowConverter,
}

impl Whole {
    pub(super) fn try_new(types: &[DataType]) -> Result<Self, DeltaError> {
        let fields = types.iter().cloned().map(SortField::new).collect();
        Ok(Self { converter: RowConverter::new(fields)? })
    }

    /// The sequences of the rows of `columns`, comparable with each other and with those of other
    /// calls on the same converter.
    pub(super) fn rows(&self, columns: &[ArrayRef]) -> Result<Rows, DeltaError> {
        Ok(self.converter.convert_columns(columns)?)
    }

    /// The rank of each row among the rows of `columns`; equal sequences have equal ranks.
    pub(super) fn ranks(&self, columns: &[ArrayRef]) -> Result<Vec<u64>, DeltaError> {
        let rows = self.rows(columns)?;
        let mut order: Vec<usize> = (0..rows.num_rows()).collect();
        order.sort_unstable_by(|one, two| rows.row(*one).cmp(&rows.row(*two)));
        let mut ranks = vec![0; order.len()];
        let mut rank = 0;
        for (index, row) in order.iter().enumerate() {
            if index > 0 && rows.row(order[index - 1]).cmp(&rows.row(*row)) != Ordering::Equal {
                rank += 1;
            }
            ranks[*row] = rank;
        }
        Ok(ranks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{
        BinaryArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int8Array,
        Int16Array, Int32Array, Int64Array, LargeStringArray, StringArray, StringViewArray,
        TimestampMicrosecondArray,
    };
    use std::sync::Arc;

    #[test]
    fn prefixes_are_ordered_as_the_values_are() {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![i64::MIN, -1, 0, 1, i64::MAX])),
            Arc::new(Date32Array::from(vec![-3, -1, 0, 5, 9])),
            Arc::new(TimestampMicrosecondArray::from(vec![-3, -1, 0, 5, 9])),
            Arc::new(Float64Array::from(vec![f64::NEG_INFINITY, -1.5, 0.0, 1e-9, 7.0])),
            Arc::new(StringArray::from(vec!["", "A", "a", "aa", "b"])),
            Arc::new(Decimal128Array::from(vec![-(1 << 80), -(1 << 70), 0, 1 << 70, 1 << 80])),
        ];
        for column in columns {
            let found = prefixes(&column).unwrap();
            assert!(found.is_sorted_by(|one, two| one < two), "{}: {found:?}", column.data_type());
        }
    }

    /// Of values of any type: never against the order of the whole, and as fine where it is exact.
    #[test]
    fn a_prefix_never_contradicts_the_whole_sequence() {
        let decimal = |values: Vec<i128>, precision| -> ArrayRef {
            let array = Decimal128Array::from(values).with_precision_and_scale(precision, 2);
            Arc::new(array.unwrap())
        };
        let texts =
            ["", "\0", "\0\0", "a", "a\0", "abcdefgh", "abcdefgh\0", "abcdefghi", "\u{e9}", "~"];
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int8Array::from(vec![i8::MIN, -1, 0, 1, i8::MAX, -1])),
            Arc::new(Int16Array::from(vec![i16::MIN, -1, 0, 1, i16::MAX])),
            Arc::new(Int32Array::from(vec![i32::MIN, -1, 0, 1, i32::MAX])),
            Arc::new(Int64Array::from(vec![i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX, 0])),
            Arc::new(Float32Array::from(vec![
                f32::NEG_INFINITY,
                f32::MIN,
                -1.0,
                -f32::MIN_POSITIVE,
                -0.0,
                0.0,
                1e-40,
                1.0,
                f32::MAX,
                f32::INFINITY,
                f32::NAN,
                1.0,
            ])),
            Arc::new(Float64Array::from(vec![
                -f64::NAN,
                f64::NEG_INFINITY,
                f64::MIN,
                -1.0,
                -0.0,
                0.0,
                5e-324,
                1.0,
                f64::MAX,
                f64::INFINITY,
                f64::NAN,
                -1.0,
            ])),
            Arc::new(Date32Array::from(vec![i32::MIN, -1, 0, i32::MAX])),
            Arc::new(TimestampMicrosecondArray::from(vec![i64::MIN, -1, 0, 1, i64::MAX])),
            decimal(vec![-999, -1, 0, 1, 999, 0], 3),
            decimal(vec![-(10_i128.pow(18)) + 1, -1, 0, 1, 10_i128.pow(18) - 1], 18),
            decimal(vec![-(10_i128.pow(19)) + 1, -(1 << 64), -1, 0, 1, 1 << 64, (1 << 64) + 1], 19),
            decimal(vec![-(10_i128.pow(38)) + 1, -(1 << 64), -1, 0, 1, 10_i128.pow(38) - 1], 38),
            Arc::new(StringArray::from_iter_values(texts)),
            Arc::new(StringViewArray::from_iter_values(texts)),
            Arc::new(LargeStringArray::from_iter_values(texts)),
            Arc::new(BinaryArray::from_iter_values([
                &b""[..],
                &[0],
                &[1; 9],
                &[255; 8],
                &[255; 9],
            ])),
        ];
        for column in columns {
            let types = [column.data_type().clone()];
            let prefixes = prefixes(&column).unwrap();
            let ranks = Whole::try_new(&types).unwrap().ranks(&[Arc::clone(&column)]).unwrap();
            for one in 0..column.len() {
                for two in 0..column.len() {
                    let (prefix, whole) =
                        (prefixes[one].cmp(&prefixes[two]), ranks[one].cmp(&ranks[two]));
                    let fits = prefix == whole || (prefix.is_eq() && !is_exact(&types));
                    assert!(fits, "{types:?}: rows {one} and {two}: {prefix:?}, not {whole:?}");
                }
            }
        }
    }

    #[test]
    fn only_what_fits_eight_bytes_is_exact() {
        assert!(is_exact(&[DataType::Int64]) && is_exact(&[DataType::Decimal128(18, 2)]));
        assert!(!is_exact(&[DataType::Decimal128(19, 2)]) && !is_exact(&[DataType::Utf8]));
        assert!(!is_exact(&[DataType::Int64, DataType::Int64]));
    }

    #[test]
    fn ranks_compare_all_columns_and_are_equal_where_they_are() {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![2, 1, 2, 1])),
            Arc::new(StringArray::from(vec!["b", "z", "a", "z"])),
        ];
        let types = [DataType::Int64, DataType::Utf8];
        assert_eq!(Whole::try_new(&types).unwrap().ranks(&columns).unwrap(), [2, 0, 1, 0]);
    }
}
