//! The `Source` port: partitions that can be read again from an offset.

use super::SourceError;
use crate::types::{Offset, PartitionId};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

/// Something rows can be read from, again and again, from any offset it still holds.
///
/// # Contract
///
/// 1. Rows of one partition come in offset order, each offset once; `offsets` of consecutive
///    chunks of a partition join without a hole.
/// 2. Opening at a position that an earlier poll returned continues exactly after that poll, with
///    the same rows.
/// 3. Rows that are gone are [`SourceError::Gap`], never skipped.
///
/// `onefold::testing::source_conformance` checks all three.
#[async_trait]
pub trait Source: Debug + Send + Sync {
    /// The columns of the rows, as the user declared them; never the hidden ones, of which only a
    /// source of changes has one: `CHANGE_COLUMN`, last.
    fn schema(&self) -> SchemaRef;

    /// What identifies the data, independent of the table's name in a session: system, location
    /// and every option that changes rows. Stored in the manifest; another one is refused.
    fn fingerprint(&self) -> String;

    /// Opens a reader at `start`.
    async fn open(&self, start: SourceStart) -> Result<Box<dyn SourceReader>, SourceError>;

    /// The position from which every row is read that arrived at or after `arrived_us`
    /// (microseconds since the Unix epoch, in the time of the broker or the store).
    async fn position_at(&self, arrived_us: i64) -> Result<SourceStart, SourceError>;

    /// Sources that together hold the rows of this one, at most `count`, to be read in parallel by
    /// a plain query; `None` where it cannot be split.
    async fn split(&self, count: usize) -> Result<Option<Vec<Arc<dyn Source>>>, SourceError> {
        let _ = count;
        Ok(None)
    }

    /// Joins what earlier polls returned as [`Poll::entries`], oldest first, into one with the same
    /// meaning; the pipeline calls it when they have become many.
    fn merge_entries(&self, entries: &[Bytes]) -> Result<Bytes, SourceError> {
        Ok(entries.concat().into())
    }

    /// How far behind the newest event time the watermark is kept once every known row was read:
    /// in microseconds, `None` where the watermark then stays as it is.
    fn drained_delay_us(&self) -> Option<i64> {
        None
    }
}

/// One reader of a source, standing at a position.
#[async_trait]
pub trait SourceReader: Debug + Send {
    /// Reads what is there now, up to `limits`, without waiting for more.
    ///
    /// # Cancellation
    ///
    /// A dropped poll leaves the reader in an unknown place: open another.
    async fn poll(&mut self, limits: PollLimits) -> Result<Poll, SourceError>;

    /// Tells the source that everything before `position` is committed. Advisory: a source may
    /// use it to show progress, and must not forget anything that was not acknowledged.
    async fn acknowledge(&mut self, position: &SourcePosition) -> Result<(), SourceError> {
        let _ = position;
        Ok(())
    }
}

/// Where to begin, with all the source asked to be remembered up to there.
#[derive(Clone, Debug, Default)]
pub struct SourceStart {
    /// The position of an earlier poll; `None` is the beginning.
    pub position: Option<SourcePosition>,
    /// What earlier polls returned as [`Poll::entries`], oldest first, perhaps several joined into
    /// one by [`Source::merge_entries`].
    pub entries: Vec<Bytes>,
}

/// A place in a source: small, and stored in every manifest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SourcePosition {
    /// The next offset of every partition that is being read. Bounded by how many are open, never
    /// by how many were ever read.
    pub partitions: BTreeMap<PartitionId, Offset>,
    /// The source's own few words, opaque to everybody else.
    #[serde(default)]
    pub cursor: serde_json::Value,
}

/// How much one poll may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PollLimits {
    /// Most rows; at least 1. A poll may exceed it by less than one batch.
    pub rows_max: u64,
    /// Most bytes of decoded rows; at least 1. A poll may exceed it by less than one batch.
    pub bytes_max: u64,
}

/// Consecutive rows of one partition.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// The partition.
    pub partition: PartitionId,
    /// The offsets read, malformed rows included; half-open.
    pub offsets: Range<Offset>,
    /// The well-formed rows in offset order, in the schema of the source.
    pub batch: RecordBatch,
    /// How many of the offsets held rows that could not be read and were skipped.
    pub malformed: u64,
    /// When the rows reached the broker or the store, in microseconds since the Unix epoch: caps
    /// how far their event times can push the watermark.
    pub arrived_us: Option<i64>,
}

/// What one poll found.
#[derive(Clone, Debug, Default)]
pub struct Poll {
    /// Partitions that became active with this poll, before any row of it is judged: each starts
    /// with the watermark the source has reached by then.
    pub started: Vec<PartitionId>,
    /// The rows; chunks of one partition in offset order, partitions in the source's own order.
    pub chunks: Vec<Chunk>,
    /// Partitions read to their end for good: they no longer hold the watermark back.
    pub finished: Vec<PartitionId>,
    /// Partitions from which fetches that succeeded found nothing for the source's idle timeout.
    pub idle: Vec<PartitionId>,
    /// Whether partitions that are known but not yet active keep the watermark where it is.
    pub is_held: bool,
    /// Whether everything the source held at this poll has been read.
    pub is_at_end: bool,
    /// What must be remembered for ever with this epoch, such as the files of a new listing.
    pub entries: Option<Bytes>,
    /// Where the reader stands after these chunks.
    pub position: SourcePosition,
}
