//! How the columns of a data file are encoded.
//!
//! Integers that lie close to their neighbours, as the keys of a file sorted by key do, are written
//! as differences. A dictionary of them overflows, and what is behind it are plain integers whose
//! compression is most of what a scan costs.

use super::DeltaError;
use arrow::array::cast::AsArray;
use arrow::array::types::Int64Type;
use arrow::array::{Array, ArrayRef};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use datafusion::parquet::basic::{Compression, Encoding, ZstdLevel};
use datafusion::parquet::file::properties::WriterProperties;
use datafusion::parquet::schema::types::ColumnPath;

/// A dictionary that grows larger is given up.
const DICTIONARY_BYTES: usize = 128 << 10;
/// Values that are looked at to see whether a dictionary is worth it.
const SAMPLE: usize = 32_768;
/// Marks, by hash, that count how many of them are different.
const MARKS: usize = 2 * SAMPLE;
/// Differences that are written with the same number of bits.
const BLOCK: usize = 64;

/// What a file of `rows` is written with.
pub(super) fn properties(rows: &RecordBatch) -> Result<WriterProperties, DeltaError> {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_dictionary_page_size_limit(DICTIONARY_BYTES);
    for (field, column) in rows.schema().fields().iter().zip(rows.columns()) {
        if is_close(column)? {
            let path = ColumnPath::new(vec![field.name().clone()]);
            properties = properties
                .set_column_dictionary_enabled(path.clone(), false)
                .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
        }
    }
    Ok(properties.build())
}

/// Whether a column holds integers that seldom repeat, and whose differences take half their bits
/// or less.
fn is_close(column: &ArrayRef) -> Result<bool, DeltaError> {
    let bits = match column.data_type() {
        DataType::Int32 | DataType::Date32 => 32,
        DataType::Int64 | DataType::Timestamp(..) => 64,
        _ => return Ok(false),
    };
    let integers = cast(column, &DataType::Int64)?;
    let integers = integers.as_primitive::<Int64Type>();
    if integers.null_count() == 0 {
        return Ok(seldom_repeat(integers.values()) && are_close(integers.values(), bits));
    }
    let values: Vec<i64> = integers.iter().flatten().collect();
    Ok(seldom_repeat(&values) && are_close(&values, bits))
}

/// Whether more than about half of the first values are different.
fn seldom_repeat(values: &[i64]) -> bool {
    let sample = &values[..values.len().min(SAMPLE)];
    let mut marks = vec![0_u64; MARKS / 64];
    for value in sample {
        let mark = mixed(*value) as usize % MARKS;
        marks[mark / 64] |= 1 << (mark % 64);
    }
    let different: u32 = marks.iter().map(|marks| marks.count_ones()).sum();
    different as usize * 2 > sample.len()
}

/// A hash of a number that spreads also those at even distances.
fn mixed(value: i64) -> u64 {
    const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15; // 2^64 over the golden ratio: Fibonacci hashing
    let once = value.cast_unsigned().wrapping_mul(SPREAD);
    (once ^ once >> 32).wrapping_mul(SPREAD) >> 32
}

/// Whether the differences between neighbours take at most half of `bits` for each value.
fn are_close(values: &[i64], bits: usize) -> bool {
    let Some((first, rest)) = values.split_first() else { return false };
    let (mut previous, mut total) = (*first, 0);
    for block in rest.chunks(BLOCK) {
        let (mut least, mut most) = (i64::MAX, i64::MIN);
        for value in block {
            let difference = value.wrapping_sub(previous);
            (least, most, previous) = (least.min(difference), most.max(difference), *value);
        }
        let range = most.wrapping_sub(least).cast_unsigned();
        total += block.len() * (u64::BITS - range.leading_zeros()) as usize;
    }
    total * 2 <= values.len() * bits
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Date32Array, Int32Array, Int64Array, TimestampMicrosecondArray};
    use arrow::datatypes::{Field, Schema};
    use bytes::Bytes;
    use datafusion::parquet::arrow::ArrowWriter;
    use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use std::sync::Arc;

    /// A column by itself: whether it became differences, and how many bytes it took. It must be
    /// read as it was.
    fn written(column: ArrayRef) -> (bool, i64) {
        let field = Field::new("c", column.data_type().clone(), true);
        let rows = RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![column]).unwrap();
        let mut bytes = Vec::new();
        let properties = properties(&rows).unwrap();
        let mut writer = ArrowWriter::try_new(&mut bytes, rows.schema(), Some(properties)).unwrap();
        writer.write(&rows).unwrap();
        writer.close().unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(bytes)).unwrap();
        let Some(group) = reader.metadata().row_groups().first() else { return (false, 0) };
        let chunk = group.column(0).clone();
        let read = reader.with_batch_size(rows.num_rows()).build().unwrap().next();
        assert_eq!(read.unwrap().unwrap(), rows);
        let is_close = chunk.encodings().any(|own| own == Encoding::DELTA_BINARY_PACKED);
        (is_close, chunk.compressed_size())
    }

    fn integers(values: impl Iterator<Item = i64>) -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(values))
    }

    #[test]
    fn sorted_keys_are_written_as_differences() {
        let (is_close, bytes) = written(integers((0..100_000).map(|key| key * 3 + key % 7)));
        assert!(is_close);
        assert!(bytes < 100_000, "{bytes}");
        for distance in [1, 7, 1_000, 1_000_000, 1 << 20, 1 << 40] {
            assert!(written(integers((0..50_000).map(|key| key * distance))).0, "{distance}");
            assert!(written(integers((0..50_000).map(|key| -key * distance))).0, "-{distance}");
        }
    }

    #[test]
    fn keys_without_order_are_differences_only_if_their_range_is_small() {
        let random = |key: i64, bits: u32| {
            let (high, low) = (mixed(2 * key), mixed(2 * key + 1));
            (high << 32 | low) >> (64 - bits)
        };
        for (bits, expected) in [(22, true), (30, true), (40, false), (64, false)] {
            let keys = integers((0..100_000).map(|key| random(key, bits).cast_signed()));
            assert_eq!(written(keys).0, expected, "{bits} bits");
        }
    }

    #[test]
    fn values_that_repeat_keep_their_dictionary() {
        for different in [1, 2, 1_000, 10_000] {
            let values = integers((0..100_000).map(|row| row % different * 1_000_003));
            assert!(!written(values).0, "{different} values");
        }
        assert!(written(integers((0..100_000).map(|row| row % 30_000))).0);
    }

    #[test]
    fn a_small_file_has_no_dictionary_of_keys_that_are_all_different() {
        assert!(written(integers((0..1_000).map(|key| key * 997))).0);
        assert!(!written(integers(0..0)).0);
    }

    #[test]
    fn the_ends_of_the_range_are_read_as_they_were() {
        for values in [vec![i64::MIN, i64::MAX], vec![i64::MAX, i64::MIN, 0], vec![7]] {
            written(integers(values.into_iter()));
        }
        let steps = (0..100_000).map(|row| i64::MAX.wrapping_add(row)); // over the end, and on
        assert!(written(integers(steps)).0);
    }

    #[test]
    fn dates_times_and_columns_with_nulls_are_judged_too_and_nothing_else_is() {
        let rows = || 0..50_000_i32;
        let close: [ArrayRef; 4] = [
            Arc::new(Int32Array::from_iter_values(rows())),
            Arc::new(Date32Array::from_iter_values(rows())),
            Arc::new(TimestampMicrosecondArray::from_iter_values(rows().map(i64::from))),
            Arc::new(
                rows().map(|row| (row % 3 > 0).then_some(i64::from(row))).collect::<Int64Array>(),
            ),
        ];
        for column in close {
            assert!(written(Arc::clone(&column)).0, "{}", column.data_type());
        }
        let nulls = Int64Array::new_null(50_000);
        let doubles = cast(&integers(0..50_000), &DataType::Float64).unwrap();
        let texts = cast(&integers(0..50_000), &DataType::Utf8).unwrap();
        for column in [Arc::new(nulls) as ArrayRef, doubles, texts] {
            assert!(!written(Arc::clone(&column)).0, "{}", column.data_type());
        }
    }
}
