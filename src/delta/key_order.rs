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

/// Bits of a key that are compared at once.
const KEY_BITS: u32 = u128::BITS;

/// The rows of a key with these columns in ascending order.
pub(super) fn key_order(columns: &[ArrayRef]) -> Result<UInt32Array, DeltaError> {
    if let Some((mut keys, bits)) = packed(columns)? {
        if bits + u32::BITS > KEY_BITS {
            return Ok(sorted(keys, |_, _| Ordering::Equal));
        }
        for (key, row) in keys.iter_mut().zip(0..) {
            *key = *key << u32::BITS | row;
        }
        let share = keys.len().div_ceil(threads()).max(1);
        side_by_side(keys.chunks_mut(share), <[u128]>::sort_unstable);
        #[allow(clippy::stable_sort_primitive, reason = "it merges what is sorted")]
        keys.sort();
        return Ok(UInt32Array::from_iter_values(keys.into_iter().map(|key| key as u32)));
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

/// Keys of integers and times as numbers in the same order, and how many bits they have, if they fit
/// and none has a NULL.
fn packed(columns: &[ArrayRef]) -> Result<Option<(Vec<u128>, u32)>, ArrowError> {
    let mut keys = vec![0_u128; columns.first().map_or(0, Array::len)];
    let mut all_bits = 0;
    for column in columns {
        let is_time = matches!(column.data_type(), DataType::Timestamp(..) | DataType::Date32);
        let is_number = is_time || column.data_type().is_signed_integer();
        if !is_number || column.null_count() > 0 {
            return Ok(None);
        }
        let narrow = match column.data_type() {
            DataType::Date32 => cast(column, &DataType::Int32)?,
            _ => Arc::clone(column),
        };
        let wide = cast(&narrow, &DataType::Int64)?;
        let values = wide.as_primitive::<Int64Type>().values();
        let least = values.iter().copied().min().unwrap_or_default();
        let most = values.iter().copied().max().unwrap_or_default();
        let bits = u64::BITS - most.abs_diff(least).leading_zeros();
        all_bits += bits;
        if all_bits > KEY_BITS {
            return Ok(None);
        }
        for (key, value) in keys.iter_mut().zip(values) {
            *key = *key << bits | u128::from(value.abs_diff(least));
        }
    }
    Ok(Some((keys, all_bits)))
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
        (proptest::collection::vec(row, 0..400), 0..9_usize).prop_map(|(rows, which)| {
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
                4 => vec![Arc::clone(&time), time, near], // more bits than are compared at once
                5 => vec![large, near],
                6 => vec![small, time, near],
                7 => vec![Arc::clone(&time), time],
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
