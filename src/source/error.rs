//! What can go wrong while reading a source.
use crate::types::{ErrorKind, Offset, PartitionId};

/// Why rows could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
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
    /// The source did not answer.
    #[error("source did not answer")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl SourceError {
    /// What the caller can do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Gap { .. } => ErrorKind::Data,
            Self::Unavailable(_) => ErrorKind::Unavailable,
        }
    }
}
