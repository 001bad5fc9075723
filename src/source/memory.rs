//! `MemorySource`: partitions that a program fills, for tests and for embedding.

use super::{
    Chunk, Poll, PollLimits, Source, SourceError, SourcePosition, SourceReader, SourceStart,
};
use crate::types::{Offset, PartitionId};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Rows in memory, in any number of partitions; a clone is the same source.
#[derive(Clone, Debug)]
pub struct MemorySource {
    name: String,
    schema: SchemaRef,
    partitions: Arc<Mutex<BTreeMap<PartitionId, Log>>>,
}

#[derive(Debug)]
struct Log {
    rows: RecordBatch,
    /// Offset of the first row still held.
    first: u64,
    is_idle: bool,
    is_finished: bool,
}

impl MemorySource {
    /// An empty source; `name` identifies its data when a pipeline is opened again.
    #[must_use]
    pub fn new(name: &str, schema: SchemaRef) -> Self {
        Self { name: name.to_owned(), schema, partitions: Arc::default() }
    }

    /// Appends rows to a partition, which is made if there is none of that name.
    ///
    /// # Errors
    ///
    /// The columns are others than those of the source.
    pub fn push(&self, partition: &str, batch: &RecordBatch) -> Result<(), ArrowError> {
        let mut partitions = self.locked();
        let log = self.log(&mut partitions, partition);
        log.rows = concat_batches(&self.schema, [&log.rows, batch])?;
        log.is_idle = false;
        Ok(())
    }

    /// Declares that a partition is idle until rows come: it no longer holds the watermark back.
    pub fn set_idle(&self, partition: &str) {
        self.log(&mut self.locked(), partition).is_idle = true;
    }

    /// Declares that nothing will ever be appended to a partition again.
    pub fn finish(&self, partition: &str) {
        self.log(&mut self.locked(), partition).is_finished = true;
    }

    /// Forgets the rows of a partition before `offset`, as a broker's retention does.
    pub fn truncate_before(&self, partition: &str, offset: u64) {
        let mut partitions = self.locked();
        let log = self.log(&mut partitions, partition);
        let gone = (offset.saturating_sub(log.first) as usize).min(log.rows.num_rows());
        log.rows = log.rows.slice(gone, log.rows.num_rows() - gone);
        log.first += gone as u64;
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<PartitionId, Log>> {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log<'a>(&self, partitions: &'a mut BTreeMap<PartitionId, Log>, name: &str) -> &'a mut Log {
        let rows = RecordBatch::new_empty(Arc::clone(&self.schema));
        let empty = Log { rows, first: 0, is_idle: false, is_finished: false };
        partitions.entry(PartitionId(name.to_owned())).or_insert(empty)
    }
}

#[async_trait]
impl Source for MemorySource {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn fingerprint(&self) -> String {
        format!("memory {}", self.name)
    }

    async fn open(&self, start: SourceStart) -> Result<Box<dyn SourceReader>, SourceError> {
        let next = start.position.map(|position| position.partitions).unwrap_or_default();
        Ok(Box::new(MemoryReader { source: self.clone(), next }))
    }

    async fn position_at(&self, _: i64) -> Result<SourceStart, SourceError> {
        Ok(SourceStart::default()) // rows in memory have no arrival time: all are newer
    }
}

struct MemoryReader {
    source: MemorySource,
    next: BTreeMap<PartitionId, Offset>,
}

impl std::fmt::Debug for MemoryReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryReader").field("next", &self.next).finish_non_exhaustive()
    }
}

#[async_trait]
impl SourceReader for MemoryReader {
    async fn poll(&mut self, limits: PollLimits) -> Result<Poll, SourceError> {
        let partitions = self.source.locked();
        let mut poll = Poll { is_at_end: true, ..Poll::default() };
        let mut left = limits.rows_max as usize;
        let started = partitions.keys().filter(|id| !self.next.contains_key(*id));
        poll.started = started.cloned().collect();
        for (id, log) in &*partitions {
            let next = self.next.entry(id.clone()).or_default();
            if next.0 < log.first {
                let (expected, available) = (*next, Offset(log.first));
                return Err(SourceError::Gap { partition: id.clone(), expected, available });
            }
            let from = (next.0 - log.first) as usize;
            let rows = (log.rows.num_rows().saturating_sub(from)).min(left);
            left -= rows;
            if rows > 0 {
                let end = Offset(next.0 + rows as u64);
                poll.chunks.push(Chunk {
                    partition: id.clone(),
                    offsets: *next..end,
                    batch: log.rows.slice(from, rows),
                    malformed: 0,
                    arrived_us: None,
                });
                *next = end;
            }
            if from + rows < log.rows.num_rows() {
                poll.is_at_end = false;
            } else if log.is_finished {
                poll.finished.push(id.clone());
            } else if log.is_idle {
                poll.idle.push(id.clone());
            }
        }
        poll.position.partitions.clone_from(&self.next);
        Ok(poll)
    }
}

/// A position from which every row of `partitions` is read again.
impl From<BTreeMap<PartitionId, Offset>> for SourcePosition {
    fn from(partitions: BTreeMap<PartitionId, Offset>) -> Self {
        Self { partitions, cursor: serde_json::Value::Null }
    }
}
