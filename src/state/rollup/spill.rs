//! Rows that left memory: in files on local disk that vanish with the process.
//!
//! ```text
//!   file     block | block | ...         each an Arrow IPC stream of 256 rows of some chunk
//!   memory   per block where it begins, and a checksum
//! ```
//!
//! Chunks of all shards share files, since a process may have only so many open. A file goes when the
//! last chunk in it does.

use crate::state::StateError;
use arrow::compute::{concat_batches, interleave_record_batch};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use arrow::record_batch::RecordBatch;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Rows that are read together.
pub(super) const BLOCK_ROWS: usize = 256;
/// A file of so many bytes takes no more chunks.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// A file that rows are appended to.
#[derive(Debug)]
pub(super) struct SpillFile {
    file: Mutex<File>,
    /// Bytes written.
    length: AtomicU64,
    folder: PathBuf,
}

impl SpillFile {
    /// An empty file in `folder`.
    pub(super) fn create(folder: PathBuf) -> Result<Self, StateError> {
        let created = tempfile::tempfile_in(&folder);
        let file = Mutex::new(created.map_err(|source| disk(&folder, source))?);
        Ok(Self { file, length: AtomicU64::new(0), folder })
    }

    /// Where it is.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    fn is_full(&self) -> bool {
        self.length.load(Ordering::Relaxed) >= FILE_BYTES_MAX
    }

    /// Writes `bytes` behind all others; returns where they begin.
    fn append(&self, bytes: &[u8]) -> Result<u64, StateError> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let start = self.length.load(Ordering::Relaxed);
        let written = file.seek(SeekFrom::Start(start)).and_then(|_| file.write_all(bytes));
        written.map_err(|source| disk(&self.folder, source))?;
        self.length.store(start + bytes.len() as u64, Ordering::Relaxed);
        Ok(start)
    }

    fn read(&self, block: Block) -> Result<Vec<u8>, StateError> {
        let mut bytes = vec![0; block.bytes];
        {
            let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
            let read = file.seek(SeekFrom::Start(block.start));
            let read = read.and_then(|_| file.read_exact(&mut bytes));
            read.map_err(|source| disk(&self.folder, source))?;
        }
        if crc32fast::hash(&bytes) == block.crc32 {
            return Ok(bytes);
        }
        let source = io::Error::other("a file of spilled groups is not as it was written");
        Err(disk(&self.folder, source))
    }
}

/// Files that take what leaves memory, one after the other.
#[derive(Debug, Default)]
pub(super) struct SpillFiles(Mutex<Option<Arc<SpillFile>>>);

impl SpillFiles {
    /// Where they are.
    pub(super) fn folder() -> PathBuf {
        std::env::temp_dir()
    }

    /// The one that is not full.
    pub(super) fn current(&self) -> Result<Arc<SpillFile>, StateError> {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = file.as_ref().filter(|own| !own.is_full()) {
            return Ok(Arc::clone(own));
        }
        let fresh = Arc::new(SpillFile::create(Self::folder())?);
        *file = Some(Arc::clone(&fresh));
        Ok(fresh)
    }
}

/// A batch of rows on disk.
#[derive(Debug)]
pub(super) struct SpilledRows {
    file: Arc<SpillFile>,
    schema: SchemaRef,
    blocks: Vec<Block>,
}

#[derive(Clone, Copy, Debug)]
struct Block {
    start: u64,
    bytes: usize,
    crc32: u32,
}

impl SpilledRows {
    /// Writes `rows` to `file`.
    pub(super) fn write(file: &Arc<SpillFile>, rows: &RecordBatch) -> Result<Self, StateError> {
        let mut own = Self::empty(file, &rows.schema());
        own.blocks.reserve_exact(rows.num_rows().div_ceil(BLOCK_ROWS));
        own.append(rows)?;
        Ok(own)
    }

    /// No rows yet.
    pub(super) fn empty(file: &Arc<SpillFile>, schema: &SchemaRef) -> Self {
        Self { file: Arc::clone(file), schema: Arc::clone(schema), blocks: Vec::new() }
    }

    /// Writes `rows` behind the others, which are whole blocks.
    pub(super) fn append(&mut self, rows: &RecordBatch) -> Result<(), StateError> {
        for from in (0..rows.num_rows()).step_by(BLOCK_ROWS) {
            let block = rows.slice(from, BLOCK_ROWS.min(rows.num_rows() - from));
            let mut stream = StreamWriter::try_new(Vec::new(), &block.schema())?;
            stream.write(&block)?;
            let bytes = stream.into_inner()?;
            let crc32 = crc32fast::hash(&bytes);
            let start = self.file.append(&bytes)?;
            self.blocks.push(Block { start, bytes: bytes.len(), crc32 });
        }
        Ok(())
    }

    /// The rows of one block; `None` behind the last.
    pub(super) fn block(&self, number: usize) -> Result<Option<RecordBatch>, StateError> {
        self.blocks.get(number).map(|block| self.read(*block)).transpose()
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
        let bytes = self.file.read(block)?;
        let reader = StreamReader::try_new(bytes.as_slice(), None)?;
        let batches = reader.collect::<Result<Vec<_>, ArrowError>>()?;
        Ok(concat_batches(&self.schema, &batches)?)
    }
}

fn disk(folder: &Path, source: io::Error) -> StateError {
    StateError::Disk { folder: folder.display().to_string(), source }
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

    fn file() -> (tempfile::TempDir, Arc<SpillFile>) {
        let folder = tempfile::tempdir().unwrap();
        let file = SpillFile::create(folder.path().to_owned()).unwrap();
        (folder, Arc::new(file))
    }

    #[test]
    fn rows_come_back_as_they_were_all_or_some() {
        let (folder, file) = file();
        let counts = [1, 255, 256, 257, 1_000];
        let all = counts.map(|count| SpilledRows::write(&file, &rows(count)).unwrap());
        for (count, spilled) in counts.into_iter().zip(all) {
            assert_eq!(spilled.all().unwrap(), rows(count));
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
        let (_folder, file) = file();
        let spilled = SpilledRows::write(&file, &rows(600)).unwrap();
        {
            let mut file = file.file.lock().unwrap();
            file.seek(SeekFrom::Start(spilled.blocks[1].start + 700)).unwrap();
            file.write_all(b"x").unwrap();
        }
        assert!(spilled.pick(&[300]).is_err() && spilled.all().is_err());
        assert_eq!(spilled.pick(&[599, 0]).unwrap().num_rows(), 2, "of other blocks");
    }
}
