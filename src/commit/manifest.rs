//! The manifest: everything an epoch made true besides the rows themselves.

use super::ManifestRef;
use crate::types::{Epoch, Incarnation, Offset, PartitionId, PipelineId, StateFile};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;

/// The format this crate writes; it reads this and every older one.
pub const MANIFEST_FORMAT: u32 = 1;

/// Offsets, memory and proof of one epoch. Written once, named by its own hash, never changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Format version, see [`MANIFEST_FORMAT`].
    pub format: u32,
    /// The pipeline.
    pub pipeline: PipelineId,
    /// The incarnation that wrote it.
    pub incarnation: Incarnation,
    /// The epoch.
    pub epoch: Epoch,
    /// The manifest of the epoch before; `None` for the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<ManifestRef>,
    /// Wall-clock time of writing, microseconds since the Unix epoch.
    pub written_at_us: i64,
    /// What the pipeline computes, as text; another text is another pipeline.
    pub plan: String,
    /// Where each source stands, by its name in the plan.
    pub sources: BTreeMap<String, SourceManifest>,
    /// What each operator remembers, by its place in the plan, such as `dedup-0`.
    pub operators: BTreeMap<String, OperatorManifest>,
    /// The conservation ledger of this epoch: one row per source partition that was read.
    pub ledger: Vec<LedgerRow>,
    /// Rows handed to the table before the last of each key was chosen.
    pub rows_emitted: u64,
}

/// Where one source stands after an epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceManifest {
    /// What identifies the data, see `Source::fingerprint`.
    pub fingerprint: String,
    /// The position, in the words of the `source` room.
    pub position: serde_json::Value,
    /// The watermarks and activations of its partitions, in the words of the `source` room.
    pub clock: serde_json::Value,
    /// What the source remembers for ever, such as the files it has listed, oldest first.
    pub entries: Vec<StateFile>,
}

/// What one operator remembers after an epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorManifest {
    /// The kind and the parameters that its files depend on.
    pub fingerprint: String,
    /// The key of its 128-bit hash, 32 hexadecimal digits, random per pipeline.
    pub hash_key: String,
    /// Its files; together they are its memory.
    pub files: Vec<StateFile>,
}

/// What became of the rows read from one source partition in one epoch.
///
/// `rows_read = rows_emitted + rows_duplicate + rows_late + rows_filtered + rows_malformed`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerRow {
    /// Name of the source in the plan.
    pub source: String,
    /// The partition.
    pub partition: PartitionId,
    /// The offsets read, half-open.
    pub offsets: Range<Offset>,
    /// Rows read: the length of `offsets`.
    pub rows_read: u64,
    /// Rows that reached the table.
    pub rows_emitted: u64,
    /// Rows dropped as duplicates.
    pub rows_duplicate: u64,
    /// Rows dropped because they could not be decided.
    pub rows_late: u64,
    /// Rows dropped by the rest of the query; below zero where a join multiplied rows.
    pub rows_filtered: i64,
    /// Rows that could not be read and were skipped.
    pub rows_malformed: u64,
    /// Sum modulo 2^128 of the hashes of the keys DEDUP let through, 32 hexadecimal digits; the
    /// order of rows does not change it.
    pub digest: String,
}
