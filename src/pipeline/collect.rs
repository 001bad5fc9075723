//! Collects the rows of one epoch from all sources.

use super::{PipelineError, SourcePart};
use crate::source::{PollLimits, SourceClock, SourcePosition, SourceReader};
use crate::types::{Offset, PartitionId, Settings};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

/// A source being read.
#[derive(Debug)]
pub(super) struct OpenSource {
    pub(super) part: SourcePart,
    pub(super) reader: Box<dyn SourceReader>,
    pub(super) clock: SourceClock,
    /// Where the last collected epoch ended.
    pub(super) position: Option<SourcePosition>,
    is_held: bool,
}

/// The rows of one epoch, as they were read.
#[derive(Debug, Default)]
pub(super) struct Collected {
    /// By source.
    pub(super) batches: Vec<Vec<RecordBatch>>,
    /// By partition ordinal.
    pub(super) partitions: Vec<ReadPartition>,
    /// By source: what must be remembered for ever.
    pub(super) entries: Vec<Vec<Bytes>>,
    pub(super) rows: u64,
    bytes: u64,
    /// Whether any source moved: an epoch without rows may still have read empty files.
    pub(super) has_moved: bool,
    pub(super) is_at_end: bool,
    /// When the first row came, by the monotonic clock.
    pub(super) began: Option<Duration>,
    ordinals: HashMap<(usize, PartitionId), usize>,
}

/// What was read of one partition.
#[derive(Debug)]
pub(super) struct ReadPartition {
    pub(super) source: usize,
    pub(super) partition: PartitionId,
    pub(super) offsets: Range<Offset>,
    pub(super) malformed: u64,
    /// Well-formed rows.
    pub(super) rows: u64,
}

impl OpenSource {
    pub(super) fn new(
        part: SourcePart,
        reader: Box<dyn SourceReader>,
        clock: SourceClock,
        position: Option<SourcePosition>,
    ) -> Self {
        Self { part, reader, clock, position, is_held: false }
    }
}

impl Collected {
    pub(super) fn new(sources: usize) -> Self {
        Self {
            batches: vec![Vec::new(); sources],
            entries: vec![Vec::new(); sources],
            ..Self::default()
        }
    }

    /// Whether the epoch must not grow.
    pub(super) const fn is_full(&self, settings: &Settings) -> bool {
        self.rows >= settings.epoch_rows_max || self.bytes >= settings.epoch_bytes_max
    }

    /// Polls every source once, as far as the limits allow.
    pub(super) async fn poll(
        &mut self,
        sources: &mut [OpenSource],
        settings: &Settings,
    ) -> Result<(), PipelineError> {
        self.is_at_end = true;
        for (index, source) in sources.iter_mut().enumerate() {
            if self.is_full(settings) {
                self.is_at_end = false;
                return Ok(());
            }
            let limits = PollLimits {
                rows_max: (settings.epoch_rows_max - self.rows).max(1),
                bytes_max: (settings.epoch_bytes_max - self.bytes).max(1),
            };
            let poll = source.reader.poll(limits).await?;
            source.clock.start(&poll);
            for chunk in &poll.chunks {
                self.bytes += chunk.batch.get_array_memory_size() as u64;
                let ordinal = self.ordinal(index, &chunk.partition, &chunk.offsets);
                let read = &mut self.partitions[ordinal];
                let first_row = read.rows;
                read.rows += chunk.batch.num_rows() as u64;
                read.malformed += chunk.malformed;
                read.offsets.end = chunk.offsets.end;
                self.rows += chunk.offsets.end.0 - chunk.offsets.start.0;
                if chunk.batch.num_rows() > 0 {
                    let stamped = source.clock.stamp(chunk, ordinal as u64, first_row)?;
                    self.batches[index].push(stamped);
                }
            }
            source.clock.end_poll(&poll);
            source.is_held = poll.is_held;
            self.is_at_end &= poll.is_at_end;
            self.entries[index].extend(poll.entries);
            self.has_moved |=
                source.position.as_ref() != Some(&poll.position) || !poll.chunks.is_empty();
            source.position = Some(poll.position);
        }
        Ok(())
    }

    /// Moves the watermarks to where the epoch has brought them.
    pub(super) fn finish(sources: &mut [OpenSource]) {
        for source in sources {
            source.clock.end_epoch(source.is_held);
        }
    }

    fn ordinal(
        &mut self,
        source: usize,
        partition: &PartitionId,
        offsets: &Range<Offset>,
    ) -> usize {
        let next = self.partitions.len();
        let ordinal = *self.ordinals.entry((source, partition.clone())).or_insert(next);
        if ordinal == next {
            let partition = partition.clone();
            let offsets = offsets.clone();
            self.partitions.push(ReadPartition {
                source,
                partition,
                offsets,
                malformed: 0,
                rows: 0,
            });
        }
        ordinal
    }
}
