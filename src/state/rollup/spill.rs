//! Rows that left memory: in a file on local disk that vanishes with the process.
//!
//! ```text
//!   file     block 0 | block 1 | ...     each an Arrow IPC stream of 256 rows
//!   memory   per block where it begins, and a checksum
//! ```

use crate::state::StateError;
use arrow::compute::{concat_batches, interleave_record_batch};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use arrow::record_batch::RecordBatch;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Rows that are read together.
const BLOCK_ROWS: usize = 256;

/// A batch of rows on disk.
#[derive(Debug)]
pub(super) struct SpilledRows {
    file: Mutex<File>,
    schema: SchemaRef,
    blocks: Vec<Block>,
    folder: String,
}

#[derive(Clone, Copy, Debug)]
struct Block {
    start: u64,
    bytes: usize,
    crc32: u32,
}

impl SpilledRows {
    /// Writes `rows` to a file in `folder`.
    pub(super) fn write(folder: &Path, rows: &RecordBatch) -> Result<Self, StateError> {
        let name = folder.display().to_string();
        let disk = |source| StateError::Disk { folder: name.clone(), source };
        let mut writer =
            BufWriter::with_capacity(1 << 18, tempfile::tempfile_in(folder).map_err(disk)?);
        let mut blocks = Vec::with_capacity(rows.num_rows().div_ceil(BLOCK_ROWS));
        let mut start = 0;
        for from in (0..rows.num_rows()).step_by(BLOCK_ROWS) {
            let block = rows.slice(from, BLOCK_ROWS.min(rows.num_rows() - from));
            let mut stream = StreamWriter::try_new(Vec::new(), &block.schema())?;
            stream.write(&block)?;
            let bytes = stream.into_inner()?;
            writer.write_all(&bytes).map_err(disk)?;
            blocks.push(Block { start, bytes: bytes.len(), crc32: crc32fast::hash(&bytes) });
            start += bytes.len() as u64;
        }
        let file = writer.into_inner().map_err(|error| disk(error.into_error()))?;
        Ok(Self { file: Mutex::new(file), schema: rows.schema(), blocks, folder: name })
    }

    /// All rows.
    pub(super) fn all(&self) -> Result<RecordBatch, StateError> {
        let blocks = self.blocks.iter().map(|block| self.read(*block));
        let blocks = blocks.collect::<Result<Vec<_>, _>>()?;
        Ok(concat_batches(&self.schema, &blocks)?)
    }

    /// The rows with these numbers, in this order; each block is read once.
    pub(super) fn pick(&self, rows: &[usize]) -> Result<RecordBatch, StateError> {
        let mut wanted: Vec<usize> = rows.iter().map(|row| row / BLOCK_ROWS).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut batches = Vec::with_capacity(wanted.len());
        for block in &wanted {
            batches.push(self.read(self.blocks[*block])?);
        }
        let place = |row: &usize| {
            let block = wanted.partition_point(|own| *own < row / BLOCK_ROWS);
            (block, row % BLOCK_ROWS)
        };
        let places: Vec<(usize, usize)> = rows.iter().map(place).collect();
        Ok(interleave_record_batch(&batches.iter().collect::<Vec<_>>(), &places)?)
    }

    /// The columns.
    pub(super) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Bytes of memory, not of disk.
    pub(super) const fn allocated_bytes(&self) -> usize {
        self.blocks.capacity() * size_of::<Block>()
    }

    fn read(&self, block: Block) -> Result<RecordBatch, StateError> {
        let mut bytes = vec![0; block.bytes];
        {
            let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
            let read = file.seek(SeekFrom::Start(block.start));
            let read = read.and_then(|_| file.read_exact(&mut bytes));
            read.map_err(|source| StateError::Disk { folder: self.folder.clone(), source })?;
        }
        if crc32fast::hash(&bytes) != block.crc32 {
            let source = io::Error::other("a file of spilled groups is not as it was written");
            return Err(StateError::Disk { folder: self.folder.clone(), source });
        }
        let reader = StreamReader::try_new(bytes.as_slice(), None)?;
        let batches = reader.collect::<Result<Vec<_>, ArrowError>>()?;
        Ok(concat_batches(&self.schema, &batches)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::cast::AsArray;
    use arrow::array::types::Int64Type;
    use arrow::array::{ArrayRef, Int64Array, StringArray};
    use std::sync::Arc;

    fn rows(count: i64) -> RecordBatch {
        let names = (0..count).map(|row| (row % 3 > 0).then(|| format!("row {row}")));
        let columns: [(&str, ArrayRef); 2] = [
            ("n", Arc::new(Int64Array::from_iter_values(0..count))),
            ("name", Arc::new(names.collect::<StringArray>())),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    #[test]
    fn rows_come_back_as_they_were_all_or_some() {
        let folder = tempfile::tempdir().unwrap();
        for count in [1, 255, 256, 257, 1_000] {
            let rows = rows(count);
            let spilled = SpilledRows::write(folder.path(), &rows).unwrap();
            assert_eq!(spilled.all().unwrap(), rows);
            let wanted: Vec<usize> = (0..count as usize).rev().step_by(7).collect();
            let picked = spilled.pick(&wanted).unwrap();
            let numbers = picked.column(0).as_primitive::<Int64Type>().values().to_vec();
            assert_eq!(numbers, wanted.iter().map(|row| *row as i64).collect::<Vec<_>>());
            assert!(spilled.allocated_bytes() < 200);
        }
        assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none(), "nothing is left");
    }

    #[test]
    fn a_block_that_changed_on_disk_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let spilled = SpilledRows::write(folder.path(), &rows(600)).unwrap();
        {
            let mut file = spilled.file.lock().unwrap();
            file.seek(SeekFrom::Start(spilled.blocks[1].start + 700)).unwrap();
            file.write_all(b"x").unwrap();
        }
        assert!(spilled.pick(&[300]).is_err() && spilled.all().is_err());
        assert_eq!(spilled.pick(&[599, 0]).unwrap().num_rows(), 2, "of other blocks");
    }
}
