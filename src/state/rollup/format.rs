//! The file of groups.
//!
//! ```text
//!   "OFROLL01"   an Arrow IPC stream, its buffers LZ4   crc32 u32 LE of all before
//!
//!   columns of the stream: those of a chunk, and the step that wrote the row, UInt64
//! ```
//!
//! Of rows with the same hash, in whichever files, the one with the highest step counts. A file is
//! read and written batch by batch.

use super::shard::{OPEN_END, ends_of};
use crate::state::{ContentWriter, EncodedState, StateContent, StateError};
use crate::types::EventTime;
use arrow::array::cast::AsArray;
use arrow::array::types::UInt64Type;
use arrow::array::{ArrayRef, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::ipc::CompressionType;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use arrow::record_batch::RecordBatch;
use std::io::{self, Read, Write};
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"OFROLL01";
const TAIL_BYTES: u64 = 4;
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

/// The steps that wrote rows.
pub(super) fn steps_of(rows: &RecordBatch) -> &UInt64Array {
    rows.column(rows.num_columns() - 1).as_primitive::<UInt64Type>()
}

/// Whether the last column of `rows` is their step.
pub(super) fn has_step(rows: &RecordBatch) -> bool {
    rows.schema().fields().last().is_some_and(|own| own.name() == STEP)
}

/// Rows without the steps that wrote them, as those of a chunk.
pub(super) fn without_step(rows: &RecordBatch) -> Result<RecordBatch, StateError> {
    let columns: Vec<usize> = (0..rows.num_columns() - 1).collect();
    Ok(rows.project(&columns)?)
}

/// Writes rows with their steps, to memory; `None` if there are none.
pub(super) fn encode(batches: &[RecordBatch]) -> Result<Option<EncodedState>, StateError> {
    let mut encoder = Encoder::new(usize::MAX);
    for batch in batches {
        encoder.write(batch)?;
    }
    encoder.finish()
}

/// Writes rows with their steps, batch by batch; not more than a limit stays in memory.
pub(super) struct Encoder {
    held_max: usize,
    /// `None` before the first rows.
    stream: Option<StreamWriter<Summed<ContentWriter>>>,
    rows: u64,
    ends: (i64, i64),
}

impl Encoder {
    pub(super) const fn new(held_max: usize) -> Self {
        Self { held_max, stream: None, rows: 0, ends: (i64::MAX, i64::MIN) }
    }

    pub(super) fn write(&mut self, rows: &RecordBatch) -> Result<(), StateError> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let mut file = Summed::new(ContentWriter::new(self.held_max));
                file.write_all(MAGIC).map_err(StateError::disk)?;
                let options = IpcWriteOptions::default()
                    .try_with_compression(Some(CompressionType::LZ4_FRAME))?;
                let stream = StreamWriter::try_new_with_options(file, &rows.schema(), options)?;
                self.stream.insert(stream)
            }
        };
        stream.write(rows)?;
        self.rows += rows.num_rows() as u64;
        for end in ends_of(rows).values() {
            self.ends = (self.ends.0.min(*end), self.ends.1.max(*end));
        }
        Ok(())
    }

    /// The file; `None` if nothing was written.
    pub(super) fn finish(self) -> Result<Option<EncodedState>, StateError> {
        let Some(stream) = self.stream else { return Ok(None) };
        let Summed { mut inner, sum } = stream.into_inner()?;
        inner.write_all(&sum.finalize().to_le_bytes()).map_err(StateError::disk)?;
        let (first, last) = self.ends;
        let time = |end: i64| Some(EventTime(end)).filter(|_| last != OPEN_END);
        Ok(Some(EncodedState {
            content: inner.finish()?,
            entries: self.rows,
            time_min: time(first),
            time_max: time(last),
        }))
    }
}

/// Reads what [`Encoder`] wrote, batch by batch; nothing before all of it is known to be whole.
pub(super) fn decode(
    file: &StateContent,
) -> Result<impl Iterator<Item = Result<RecordBatch, StateError>> + '_, StateError> {
    let bytes = file.bytes().checked_sub(TAIL_BYTES).ok_or_else(|| corrupt("it is cut off"))?;
    let mut magic = [0; MAGIC.len()];
    if file.reader()?.read_exact(&mut magic).is_err() || magic != *MAGIC {
        return Err(corrupt("it is not a file of rollup states"));
    }
    let (mut whole, mut sum, mut tail) = (file.reader()?, Summed::new(io::sink()), [0; 4]);
    io::copy(&mut whole.by_ref().take(bytes), &mut sum).map_err(StateError::disk)?;
    if whole.read_exact(&mut tail).is_err() || sum.sum.finalize().to_le_bytes() != tail {
        return Err(corrupt("its checksum is wrong"));
    }
    drop(whole);
    let mut stream = file.reader()?;
    stream.read_exact(&mut magic).map_err(StateError::disk)?;
    let batches = StreamReader::try_new(stream, None)?;
    Ok(batches.map(|batch| batch.map_err(StateError::from).and_then(checked)))
}

fn checked(batch: RecordBatch) -> Result<RecordBatch, StateError> {
    let schema = batch.schema();
    let types: Vec<&DataType> = schema.fields().iter().map(|own| own.data_type()).collect();
    match types.as_slice() {
        [DataType::FixedSizeBinary(16), DataType::Int64, .., DataType::UInt64] => Ok(batch),
        _ => Err(corrupt("its columns are not those of rollup states")),
    }
}

fn corrupt(reason: &str) -> StateError {
    StateError::Corrupt { reason: reason.to_owned() }
}

/// Knows the checksum of what went through it.
struct Summed<T> {
    inner: T,
    sum: crc32fast::Hasher,
}

impl<T> Summed<T> {
    fn new(inner: T) -> Self {
        Self { inner, sum: crc32fast::Hasher::new() }
    }
}

impl<T: Write> Write for Summed<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.sum.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
