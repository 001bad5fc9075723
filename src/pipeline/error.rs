//! Why a pipeline stopped.

use crate::commit::CommitError;
use crate::source::SourceError;
use crate::state::StateError;
use crate::types::{ErrorKind, Incarnation, PipelineId};
use datafusion::error::DataFusionError;

/// Why a pipeline stopped. Open it again to go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// A source could not be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The query failed.
    #[error(transparent)]
    Query(#[from] DataFusionError),
    /// What operators remember could not be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The epoch could not be committed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// Another process owns the pipeline now.
    #[error("pipeline {pipeline} is fenced: incarnation {by} owns it now")]
    Fenced {
        /// The pipeline.
        pipeline: PipelineId,
        /// Its owner.
        by: Incarnation,
    },
    /// The table remembers another pipeline under this name.
    #[error(
        "pipeline {pipeline} of this table was made with another {what}:\n  stored: {stored}\n  now:    {now}\nto keep \
         both, give the new one a name with SET onefold.pipeline = '...'; or write into a new table"
    )]
    Changed {
        /// The pipeline.
        pipeline: PipelineId,
        /// `query`, `source events` and so on.
        what: String,
        /// What the manifest says.
        stored: String,
        /// What the session says.
        now: String,
    },
    /// An object that the manifest names is missing or another.
    #[error(
        "{path}, which the pipeline's state needs, {reason}; restore it, or write into a new table"
    )]
    Damaged {
        /// The object, relative to the table's root.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An object that the pipeline's state needs is not there.
    #[error(
        "{path}, which the pipeline's state needs, is missing; restore it, or write into a new table"
    )]
    Missing {
        /// The object, relative to the table's root.
        path: String,
    },
    /// The counts of an epoch do not add up.
    #[error(
        "{partition} of {source_name}: {read} rows were read and {more} more came out: this is a bug, nothing was committed"
    )]
    Unbalanced {
        /// The source.
        source_name: String,
        /// The partition.
        partition: String,
        /// Rows read.
        read: u64,
        /// Rows beyond that.
        more: u64,
    },
    /// The store did not answer.
    #[error("cannot reach {path}")]
    Store {
        /// The object, relative to the table's root.
        path: String,
        /// Why.
        #[source]
        cause: object_store::Error,
    },
    /// The pipeline stopped with an error before.
    #[error("the pipeline stopped with an error before: open it again")]
    Stopped,
}

impl PipelineError {
    /// What the caller can do about it; `None` if DataFusion's error must tell.
    #[must_use]
    pub fn kind(&self) -> Option<ErrorKind> {
        Some(match self {
            Self::Query(_) => return None,
            Self::Source(error) => error.kind(),
            Self::State(error) => error.kind(),
            Self::Commit(error) => error.kind(),
            Self::Fenced { .. } => ErrorKind::Fenced,
            Self::Changed { .. } | Self::Stopped => ErrorKind::Invalid,
            Self::Damaged { .. } | Self::Missing { .. } => ErrorKind::Data,
            Self::Unbalanced { .. } => ErrorKind::Internal,
            Self::Store { .. } => ErrorKind::Unavailable,
        })
    }
}

impl From<PipelineError> for DataFusionError {
    fn from(error: PipelineError) -> Self {
        match error {
            PipelineError::Query(error) => error,
            other => Self::External(Box::new(other)),
        }
    }
}
