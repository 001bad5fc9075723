//! What can go wrong while reading a source.

use crate::types::{ErrorKind, Offset, PartitionId};
use datafusion::error::DataFusionError;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why rows could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// An option or a column of the source is wrong.
    #[error("{source_name}: {reason}")]
    Invalid {
        /// The table or location.
        source_name: String,
        /// What is wrong, and what to write instead.
        reason: String,
    },
    /// A row cannot be read.
    #[error(
        "{partition}: line {line} cannot be read: {reason}; correct it, or set 'on_bad_row' to 'skip'"
    )]
    BadRow {
        /// The file or partition.
        partition: PartitionId,
        /// Line of a file from 1, or offset + 1.
        line: u64,
        /// Why.
        reason: String,
    },
    /// A file was changed or removed after some of it was read.
    #[error("{path} {what} after it was read: files of a source must never change")]
    Changed {
        /// The file.
        path: String,
        /// `was removed` or `was changed`.
        what: &'static str,
    },
    /// Rows between two offsets are gone.
    #[error(
        "{partition}: rows from offset {expected} are gone; the oldest still held is {available}"
    )]
    Gap {
        /// The partition.
        partition: PartitionId,
        /// The next offset to read.
        expected: Offset,
        /// The oldest offset still held.
        available: Offset,
    },
    /// A version of a table from which a pipeline goes on is gone.
    #[error(
        "{source_name}: what changed after version {version} cannot be told any more, for that \
         version is not kept: {reason}; to read the table from its beginning, write into a new \
         table; onefold.retention_hours says how long versions are kept"
    )]
    VersionGone {
        /// The table.
        source_name: String,
        /// The version.
        version: u64,
        /// What is gone.
        reason: String,
    },
    /// The table behind the source cannot be read.
    #[error("{source_name} cannot be read")]
    Table {
        /// The table.
        source_name: String,
        /// What the caller can do about it.
        kind: ErrorKind,
        /// Why.
        #[source]
        cause: Cause,
    },
    /// What the manifest says about the source is not what this source wrote.
    #[error("{source_name}: the stored position cannot be used: {reason}")]
    Position {
        /// The table or location.
        source_name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The source did not answer.
    #[error("{source_name} did not answer")]
    Unavailable {
        /// The table or location.
        source_name: String,
        /// Why.
        #[source]
        cause: Cause,
    },
}

impl SourceError {
    /// What the caller can do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid { .. } => ErrorKind::Invalid,
            Self::BadRow { .. }
            | Self::Changed { .. }
            | Self::Gap { .. }
            | Self::VersionGone { .. }
            | Self::Position { .. } => ErrorKind::Data,
            Self::Table { kind, .. } => *kind,
            Self::Unavailable { .. } => ErrorKind::Unavailable,
        }
    }
}

impl From<SourceError> for DataFusionError {
    fn from(error: SourceError) -> Self {
        Self::External(Box::new(error))
    }
}
