//! The `Ledger` port: where epochs become true.

use super::CommitError;
use crate::types::{Epoch, Incarnation, PipelineId};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use object_store::ObjectStore;
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

/// The ordered record of committed epochs together with the table they change.
///
/// # Contract
///
/// 1. Incarnations never go back: after `open` returned `i`, no commit of a lower one succeeds.
/// 2. One commit per pipeline and epoch; epochs of a pipeline are contiguous.
/// 3. `commit` answers [`Outcome::Committed`] only for an entry that is durable and ours.
/// 4. An error leaves it unknown whether the entry exists; `open` then tells.
#[async_trait]
pub trait Ledger: Debug + Send + Sync {
    /// Takes the pipeline over: commits a fence one above the last, and reads the pipeline's last
    /// epoch from the version of that fence.
    async fn open(&self, pipeline: &PipelineId) -> Result<Opened, CommitError>;

    /// Writes the rows of an epoch to unique names where nobody sees them yet.
    async fn stage(&self, rows: EpochRows) -> Result<Staged, CommitError>;

    /// Makes an epoch true, or says that a later incarnation owns the pipeline.
    ///
    /// # Cancellation
    ///
    /// Whether the entry exists is unknown, as after an error.
    async fn commit(&self, proposal: Proposal) -> Result<Outcome, CommitError>;

    /// The last manifest of every pipeline that writes into the table.
    async fn manifests(&self) -> Result<Vec<(PipelineId, ManifestRef)>, CommitError>;

    /// The last manifest of every pipeline, as of `version`.
    async fn manifests_at(
        &self,
        version: u64,
    ) -> Result<Vec<(PipelineId, ManifestRef)>, CommitError>;

    /// Every pipeline that has committed an epoch, with who owns it now.
    async fn heads(&self) -> Result<Vec<PipelineHead>, CommitError>;

    /// Brings the rows of an older version back as a new commit, which is a new epoch of every
    /// pipeline: its owner is fenced off, and whoever opens it next goes on from the manifest given.
    ///
    /// # Errors
    ///
    /// A version that is not kept; a pipeline that went on since [`Self::heads`] was asked.
    async fn restore(&self, restoration: Restoration) -> Result<u64, CommitError>;

    /// Waits for the upkeep that commits have begun beside themselves.
    async fn rest(&self) {}

    /// The store that holds manifests and state files, rooted at the table: paths are relative to
    /// the table's root. What a `put` returned for is durable.
    fn store(&self) -> Arc<dyn ObjectStore>;
}

/// What the fence found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The incarnation that now owns the pipeline.
    pub incarnation: Incarnation,
    /// The table version that holds the fence.
    pub version: u64,
    /// The manifest of the last committed epoch; `None` if there is none yet.
    pub manifest: Option<ManifestRef>,
}

/// A pipeline as the head of the log knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipelineHead {
    /// The pipeline.
    pub pipeline: PipelineId,
    /// Its owner: the highest fence.
    pub incarnation: Incarnation,
    /// The manifest of its last epoch.
    pub manifest: ManifestRef,
}

/// What a restore makes true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restoration {
    /// The version whose rows come back.
    pub version: u64,
    /// Every pipeline, as it will be: one incarnation and one epoch higher, with what it knew then.
    pub pipelines: Vec<PipelineHead>,
}

/// Names a manifest and proves its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestRef {
    /// The epoch it belongs to.
    pub epoch: Epoch,
    /// Path relative to the table's root.
    pub path: String,
    /// SHA-256 of its bytes, lower-case hexadecimal.
    pub sha256: String,
    /// Whether the table's rows are the groups of the pipeline: then nobody else writes them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub owns_rows: bool,
}

/// The output rows of one epoch.
///
/// Each batch has the columns of the table by name and type, in the table's order, and
/// [`POSITION_COLUMN`](crate::types::POSITION_COLUMN) last: of rows with the same primary key the
/// one with the highest position wins.
#[derive(Clone, Debug, Default)]
pub struct EpochRows {
    /// The rows, in any number of partitions; they are written in parallel.
    pub partitions: Vec<Vec<RecordBatch>>,
}

impl RowsChanged {
    /// Keys whose row changed.
    #[must_use]
    pub const fn keys(&self) -> u64 {
        self.rows_inserted + self.rows_updated + self.rows_deleted
    }
}

/// What a commit did to the rows of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowsChanged {
    /// Rows whose key was not in the table.
    pub rows_inserted: u64,
    /// Rows that replaced a row of the same key, or were folded into it.
    pub rows_updated: u64,
    /// Rows that left the table.
    pub rows_deleted: u64,
    /// Rows that lost against what was there: of an older sequence, or where the first row stays.
    pub rows_ignored: u64,
    /// Bytes of the data files that were written.
    pub bytes_written: u64,
}

/// Rows that are made durable or held, but not committed; what is inside belongs to the ledger that made it.
#[derive(Debug)]
pub struct Staged {
    /// Rows after the last of each key was chosen.
    pub rows: u64,
    /// The ledger's own.
    pub inner: Box<dyn Any + Send + Sync>,
}

/// One epoch, ready to become true.
#[derive(Debug)]
pub struct Proposal {
    /// Whose epoch it is.
    pub pipeline: PipelineId,
    /// The incarnation that computed it.
    pub incarnation: Incarnation,
    /// The epoch; one above the last committed one.
    pub epoch: Epoch,
    /// The manifest, already durable.
    pub manifest: ManifestRef,
    /// The rows, already durable.
    pub staged: Staged,
}

/// What became of a proposal.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is true, durable and ours.
    Committed {
        /// The table version that holds it.
        version: u64,
        /// What it did to the rows.
        changed: RowsChanged,
    },
    /// A later incarnation owns the pipeline; nothing was or will be committed by this one.
    Fenced {
        /// The owner.
        by: Incarnation,
    },
}
