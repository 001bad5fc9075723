//! The order of rows by their keys.

use super::DeltaError;
use super::stage::{side_by_side, threads};
use arrow::array::cast::AsArray;
use arrow::array::types::Int64Type;
use arrow::array::{Array, ArrayRef, UInt32Array};
use arrow::compute::{cast, sort_to_indices, take};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, SortField};
use std::cmp::Ordering;
use std::sync::Arc;

/// Bits of a key that is compared at once.
const KEY_BITS: u32 = u128::BITS;

/// The rows of a key with these columns in ascending order.
pub(super) fn key_order(columns: &[ArrayRef]) -> Result<UInt32Array, DeltaError> {
    if let Some(keys) = packed(columns)? {
        return Ok(sorted(keys, |_, _| Ordering::Equal));
    }
    if let [only] = columns {
        return Ok(sort_to_indices(only, None, None)?);
    }
    let fields = columns.iter().map(|own| SortField::new(own.data_type().clone()));
    let sortable = RowConverter::new(fields.collect())?.convert_columns(columns)?;
    let prefix = |row: usize| {
        let (mut first, own) = ([0; KEY_BITS as usize / 8], sortable.row(row));
        let length = own.data().len().min(first.len());
        first[..length].copy_from_slice(&own.data()[..length]);
        u128::from_be_bytes(first)
    };
    let keys = (0..sortable.num_rows()).map(prefix).collect();
    Ok(sorted(keys, |one, two| sortable.row(one as usize).cmp(&sortable.row(two as usize))))
}

/// The rows in the order of their `keys`, and where those are the same by `rest`.
fn sorted(keys: Vec<u128>, rest: impl Fn(u32, u32) -> Ordering + Sync) -> UInt32Array {
    let mut order: Vec<(u128, u32)> = keys.into_iter().zip(0..).collect();
    let by_key = |(one, first): &(u128, u32), (two, second): &(u128, u32)| {
        one.cmp(two).then_with(|| rest(*first, *second))
    };
    let share = order.len().div_ceil(threads()).max(1);
    side_by_side(order.chunks_mut(share), |part| part.sort_unstable_by(by_key));
    order.sort_by(by_key); // which merges what is sorted
    UInt32Array::from_iter_values(order.into_iter().map(|(_, row)| row))
}

/// Keys of integers and times as numbers in the same order, if they fit and none has a NULL.
fn packed(columns: &[ArrayRef]) -> Result<Option<Vec<u128>>, ArrowError> {
    let mut all = 0;
    for column in columns {
        let Some(bits) = bits_of(column.data_type()) else { return Ok(None) };
        all += bits;
        if all > KEY_BITS || column.null_count() > 0 {
            return Ok(None);
        }
    }
    let mut keys = vec![0_u128; columns.first().map_or(0, Array::len)];
    for column in columns {
        let bits = bits_of(column.data_type()).unwrap_or_default();
        let narrow = match column.data_type() {
            DataType::Date32 => cast(column, &DataType::Int32)?,
            _ => Arc::clone(column),
        };
        let wide = cast(&narrow, &DataType::Int64)?;
        let least = 1_i128 << (bits - 1); // so that no number is negative
        for (key, value) in keys.iter_mut().zip(wide.as_primitive::<Int64Type>().values()) {
            *key = *key << bits | (i128::from(*value) + least).cast_unsigned();
        }
    }
    Ok(Some(keys))
}

fn bits_of(data_type: &DataType) -> Option<u32> {
    let is_time = matches!(data_type, DataType::Timestamp(..) | DataType::Date32);
    let bytes = data_type.primitive_width().filter(|_| is_time || data_type.is_signed_integer())?;
    Some(bytes as u32 * 8)
}

/// The rows in another order.
pub(super) fn in_order(rows: &RecordBatch, order: &UInt32Array) -> Result<RecordBatch, DeltaError> {
    let share = rows.num_columns().div_ceil(threads()).max(1);
    let taken = side_by_side(rows.columns().chunks(share), |columns| {
        columns.iter().map(|own| take(own, order, None)).collect::<Result<Vec<_>, _>>()
    });
    let taken = taken.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(RecordBatch::try_new(rows.schema(), taken.concat())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{
        Date32Array, Int8Array, Int16Array, Int64Array, StringArray, TimestampMicrosecondArray,
        UInt64Array,
    };
    use proptest::prelude::*;

    fn any_columns() -> impl Strategy<Value = Vec<ArrayRef>> {
        let row = (any::<i64>(), any::<u64>(), any::<i8>(), -3..3_i64, any::<i32>());
        (proptest::collection::vec(row, 0..400), 0..7_usize).prop_map(|(rows, which)| {
            let times = rows.iter().map(|own| own.0);
            let time: ArrayRef = Arc::new(TimestampMicrosecondArray::from_iter_values(times));
            let large: ArrayRef =
                Arc::new(UInt64Array::from_iter_values(rows.iter().map(|own| own.1)));
            let small: ArrayRef =
                Arc::new(Int8Array::from_iter_values(rows.iter().map(|own| own.2)));
            let near: ArrayRef =
                Arc::new(Int64Array::from_iter_values(rows.iter().map(|own| own.3)));
            let day: ArrayRef =
                Arc::new(Date32Array::from_iter_values(rows.iter().map(|own| own.4)));
            let texts = rows.iter().map(|own| format!("{:03}", own.2));
            let text: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
            match which {
                0 => vec![near, time],
                1 => vec![small, day, near],
                2 => vec![near, text],
                3 => vec![text],
                4 => vec![near, time, small], // more bits than are compared at once
                5 => vec![large, near],
                _ => vec![time],
            }
        })
    }

    proptest! {
        #[test]
        fn rows_are_ordered_by_the_values_of_their_keys(columns in any_columns()) {
            let order = key_order(&columns).unwrap();
            let fields = columns.iter().map(|own| SortField::new(own.data_type().clone()));
            let rows = RowConverter::new(fields.collect()).unwrap().convert_columns(&columns).unwrap();
            let found: Vec<_> = order.values().iter().map(|row| rows.row(*row as usize)).collect();
            prop_assert!(found.is_sorted());
            let mut each = order.values().to_vec();
            each.sort_unstable();
            prop_assert_eq!(each, (0..rows.num_rows() as u32).collect::<Vec<_>>());
        }
    }

    #[test]
    fn all_columns_are_taken_in_the_order() {
        let columns: [(&str, ArrayRef); 3] = [
            ("a", Arc::new(Int16Array::from(vec![1, 2, 3]))),
            ("b", Arc::new(StringArray::from(vec![Some("x"), None, Some("z")]))),
            ("c", Arc::new(Int64Array::from(vec![4, 5, 6]))),
        ];
        let rows = RecordBatch::try_from_iter(columns).unwrap();
        let order = UInt32Array::from(vec![2, 0, 1]);
        let expected = arrow::compute::take_record_batch(&rows, &order).unwrap();
        assert_eq!(in_order(&rows, &order).unwrap(), expected);
    }
}
