//! The file of groups.
//!
//! ```text
//!   "OFROLL01"   an Arrow IPC stream, its buffers LZ4   crc32 u32 LE of all before
//!
//!   columns of the stream: those of a chunk, and the step that wrote the row, UInt64
//! ```
//!
//! Of rows with the same hash, in whichever files, the one with the highest step counts.

use super::shard::{OPEN_END, hashes_of};
use crate::key::KeyTable;
use crate::state::{EncodedState, StateError};
use crate::types::EventTime;
use arrow::array::cast::AsArray;
use arrow::array::types::{Int64Type, UInt64Type};
use arrow::array::{ArrayRef, UInt64Array};
use arrow::compute::interleave_record_batch;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use arrow::ipc::CompressionType;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"OFROLL01";
const TAIL_BYTES: usize = 4;
const STEP: &str = "step";

/// `rows` with the step that wrote them.
pub(super) fn with_step(rows: &RecordBatch, step: u64) -> Result<RecordBatch, StateError> {
    let steps: ArrayRef = Arc::new(UInt64Array::from(vec![step; rows.num_rows()]));
    let mut fields: Vec<_> = rows.schema().fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(STEP, DataType::UInt64, false)));
    let columns = rows.columns().iter().cloned().chain([steps]).collect();
    Ok(RecordBatch::try_new(
        Arc::new(Schema::new_with_metadata(fields, rows.schema().metadata().clone())),
        columns,
    )?)
}

/// Whether the last column of `rows` is their step.
pub(super) fn has_step(rows: &RecordBatch) -> bool {
    rows.schema().fields().last().is_some_and(|own| own.name() == STEP)
}

/// Writes rows with their steps; `None` if there are none.
pub(super) fn encode(batches: &[RecordBatch]) -> Result<Option<EncodedState>, StateError> {
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let Some(first) = batches.first().filter(|_| rows > 0) else { return Ok(None) };
    let options =
        IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME))?;
    let mut writer = StreamWriter::try_new_with_options(MAGIC.to_vec(), &first.schema(), options)?;
    for batch in batches {
        writer.write(batch)?;
    }
    let mut bytes = writer.into_inner()?;
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    let ends =
        batches.iter().flat_map(|batch| batch.column(1).as_primitive::<Int64Type>().values());
    let (first, last) = (ends.clone().min().copied(), ends.max().copied());
    let time = |end: Option<i64>| end.filter(|_| last != Some(OPEN_END)).map(EventTime);
    Ok(Some(EncodedState {
        bytes: bytes.into(),
        entries: rows as u64,
        time_min: time(first),
        time_max: time(last),
    }))
}

/// Reads what [`encode`] wrote.
pub(super) fn decode(file: &Bytes) -> Result<Vec<RecordBatch>, StateError> {
    let corrupt = |reason: &str| StateError::Corrupt { reason: reason.to_owned() };
    if file.len() < MAGIC.len() + TAIL_BYTES || &file[..MAGIC.len()] != MAGIC {
        return Err(corrupt("it is not a file of rollup states"));
    }
    let (body, crc) = file.split_at(file.len() - TAIL_BYTES);
    if crc32fast::hash(body).to_le_bytes() != crc {
        return Err(corrupt("its checksum is wrong"));
    }
    let reader = StreamReader::try_new(&body[MAGIC.len()..], None)?;
    let batches = reader.collect::<Result<Vec<_>, ArrowError>>()?;
    let is_whole = |batch: &RecordBatch| {
        let schema = batch.schema();
        let types: Vec<&DataType> = schema.fields().iter().map(|own| own.data_type()).collect();
        matches!(
            types.as_slice(),
            [DataType::FixedSizeBinary(16), DataType::Int64, .., DataType::UInt64]
        )
    };
    if batches.iter().all(is_whole) {
        return Ok(batches);
    }
    Err(corrupt("its columns are not those of rollup states"))
}

/// The newest row of each group, without those that end at `last` or before.
pub(super) fn newest(
    batches: &[RecordBatch],
    last: i64,
) -> Result<Option<RecordBatch>, StateError> {
    let mut newest: KeyTable<(u32, u32)> = KeyTable::new();
    for (index, batch) in batches.iter().enumerate() {
        let here = index as u32;
        let steps = |batch: u32| {
            let columns = batches[batch as usize].columns();
            columns[columns.len() - 1].as_primitive::<UInt64Type>()
        };
        for (row, hash) in hashes_of(batch).into_iter().enumerate() {
            let own = (here, row as u32);
            if let crate::key::Entry::Found(best) = newest.find_or_insert(hash, own)
                && steps(best.0).value(best.1 as usize) < steps(here).value(row)
            {
                *best = own;
            }
        }
    }
    let is_open = |(batch, row): &(usize, usize)| {
        batches[*batch].column(1).as_primitive::<Int64Type>().value(*row) > last
    };
    let places = newest.iter().map(|(_, (batch, row))| (batch as usize, row as usize));
    let places: Vec<(usize, usize)> = places.filter(is_open).collect();
    if places.is_empty() {
        return Ok(None);
    }
    let batches: Vec<&RecordBatch> = batches.iter().collect();
    Ok(Some(interleave_record_batch(&batches, &places)?))
}

/// The highest step of any row.
pub(super) fn last_step(batches: &[RecordBatch]) -> u64 {
    let steps = batches.iter().filter_map(|batch| batch.columns().last());
    let steps = steps.flat_map(|steps| steps.as_primitive::<UInt64Type>().values().iter().copied());
    steps.max().unwrap_or_default()
}
