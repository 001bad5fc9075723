//! How the columns of a data file are encoded.
//!
//! Integers that lie close to their neighbours, as the keys of a file sorted by key do, are written
//! as differences. A dictionary of them overflows, and what is behind it are plain integers whose
//! compression is most of what a scan costs.

use super::DeltaError;
use super::stage::{side_by_side, threads};
use arrow::array::cast::AsArray;
use arrow::array::types::Int64Type;
use arrow::array::{Array, ArrayRef};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::arrow::arrow_writer::{
    ArrowColumnChunk, ArrowColumnWriter, compute_leaves,
};
use datafusion::parquet::basic::{Compression, Encoding, ZstdLevel};
use datafusion::parquet::file::properties::WriterProperties;
use datafusion::parquet::schema::types::ColumnPath;
use std::sync::{Mutex, PoisonError};

/// A dictionary that grows larger is given up.
const DICTIONARY_BYTES: usize = 128 << 10;
/// Values that are looked at to see whether a dictionary is worth it.
const SAMPLE: usize = 32_768;
/// Marks, by hash, that count how many of them are different.
const MARKS: usize = 2 * SAMPLE;
/// Differences that are written with the same number of bits.
const BLOCK: usize = 64;

/// Rows from which on the columns of a file are encoded side by side.
const SIDE_BY_SIDE_MIN: usize = 200_000;

/// A data file of `rows`.
pub(super) fn encode(rows: &RecordBatch) -> Result<Bytes, DeltaError> {
    let mut bytes = Vec::with_capacity(rows.get_array_memory_size() / 4);
    let properties = properties(rows)?;
    let group_rows = properties.max_row_group_row_count().unwrap_or(usize::MAX);
    let mut writer = ArrowWriter::try_new(&mut bytes, rows.schema(), Some(properties))?;
    if (SIDE_BY_SIDE_MIN..=group_rows).contains(&rows.num_rows()) {
        let (mut file, columns) = writer.into_serialized_writer()?;
        let mut group = file.next_row_group()?;
        for column in chunks(columns.create_column_writers(0)?, rows)? {
            column.append_to_row_group(&mut group)?;
        }
        group.close()?;
        file.close()?;
    } else {
        writer.write(rows)?;
        writer.close()?;
    }
    Ok(bytes.into())
}

/// The columns of a row group, in their order; each thread takes the next that nobody has taken.
fn chunks(
    writers: Vec<ArrowColumnWriter>,
    rows: &RecordBatch,
) -> Result<Vec<ArrowColumnChunk>, DeltaError> {
    let mut leaves = Vec::with_capacity(writers.len());
    for (field, column) in rows.schema().fields().iter().zip(rows.columns()) {
        leaves.extend(compute_leaves(field, column)?);
    }
    let columns = Mutex::new(writers.into_iter().zip(leaves).enumerate());
    let next = || columns.lock().unwrap_or_else(PoisonError::into_inner).next();
    let encode_some = |_| {
        let mut encoded = Vec::new();
        while let Some((column, (mut writer, leaf))) = next() {
            writer.write(&leaf)?;
            encoded.push((column, writer.close()?));
        }
        Ok::<_, DeltaError>(encoded)
    };
    let mut encoded = Vec::new();
    for some in side_by_side(0..threads(), encode_some) {
        encoded.extend(some?);
    }
    encoded.sort_by_key(|(column, _)| *column);
    Ok(encoded.into_iter().map(|(_, chunk)| chunk).collect())
}

/// What a file of `rows` is written with.
fn properties(rows: &RecordBatch) -> Result<WriterProperties, DeltaError> {
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
    let (mut last, mut total) = (*first, 0);
    for block in rest.chunks(BLOCK) {
        let (mut low, mut high) = (i64::MAX, i64::MIN);
        for value in block {
            let difference = value.wrapping_sub(last);
            (low, high, last) = (low.min(difference), high.max(difference), *value);
        }
        let range = high.wrapping_sub(low).cast_unsigned();
        total += block.len() * (u64::BITS - range.leading_zeros()) as usize;
    }
    total * 2 <= values.len() * bits
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::types::Int32Type;
    use arrow::array::{
        Date32Array, Int32Array, Int64Array, ListArray, StringArray, StructArray,
        TimestampMicrosecondArray,
    };
    use arrow::datatypes::{Field, Schema};
    use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use std::sync::Arc;

    /// A column by itself: whether it became differences, and how many bytes it took. It must be
    /// read as it was.
    fn written(column: ArrayRef) -> (bool, i64) {
        let field = Field::new("c", column.data_type().clone(), true);
        let rows = RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![column]).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(encode(&rows).unwrap()).unwrap();
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
    fn the_columns_of_many_rows_are_written_side_by_side_and_in_their_places() {
        let rows = SIDE_BY_SIDE_MIN as i64;
        let texts = (0..rows).map(|row| (row % 5 > 0).then(|| format!("text {}", row % 1_000)));
        let texts: ArrayRef = Arc::new(texts.collect::<StringArray>());
        let parts = StructArray::try_from(vec![
            ("number", integers((0..rows).map(|row| row * row))),
            ("text", Arc::clone(&texts)),
        ]);
        let lists = (0..rows).map(|row| {
            (row % 7 > 0).then(|| (0..row as i32 % 3).map(Some).collect::<Vec<Option<i32>>>())
        });
        let columns: [(&str, ArrayRef); 4] = [
            ("key", integers(0..rows)),
            ("parts", Arc::new(parts.unwrap())),
            ("lists", Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists))),
            ("text", texts),
        ];
        let rows = RecordBatch::try_from_iter_with_nullable(
            columns.map(|(name, column)| (name, column, true)),
        );
        let rows = rows.unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(encode(&rows).unwrap()).unwrap();
        let [group] = reader.metadata().row_groups() else { panic!("several row groups") };
        assert_eq!(group.num_rows(), SIDE_BY_SIDE_MIN as i64);
        assert_eq!(group.num_columns(), 5);
        let read = reader.with_batch_size(SIDE_BY_SIDE_MIN).build().unwrap().next();
        assert_eq!(read.unwrap().unwrap(), rows);
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
