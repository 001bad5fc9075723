//! Why an epoch could not be committed.

use crate::types::{Epoch, ErrorKind};

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why an epoch could not be committed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// The epoch does not follow the last committed one.
    #[error("epoch {proposed} does not follow: the ledger expects {expected}")]
    Gap {
        /// What the ledger expects.
        expected: Epoch,
        /// What was proposed.
        proposed: Epoch,
    },
    /// Rows break a rule of the table: a NULL in the primary key, a wrong type.
    #[error("row refused: {reason}")]
    Refused {
        /// Which rule, and which row.
        reason: String,
    },
    /// The table has a rule that cannot be kept.
    #[error("{reason}")]
    Unsupported {
        /// Which rule, and what to do.
        reason: String,
    },
    /// A version that is not there, or not any more.
    #[error("{reason}")]
    NotKept {
        /// Which version, and which there are.
        reason: String,
    },
    /// Another writer changed the table in a way that cannot be retried safely.
    #[error("version {version} was committed by another writer: {reason}")]
    Conflict {
        /// The version of the other writer.
        version: u64,
        /// Why we stop.
        reason: String,
    },
    /// What the log or a manifest says contradicts itself, or what it names is missing.
    #[error("the table is damaged: {reason}")]
    Damaged {
        /// What is wrong and where.
        reason: String,
    },
    /// The store overwrites although it was told to create only.
    #[error(
        "{location} ignores put-if-absent: two writers would overwrite each other's commits; use a store that honours If-None-Match"
    )]
    NoPutIfAbsent {
        /// The store's location.
        location: String,
    },
    /// The store did not answer; whether the entry exists is unknown.
    #[error("the store did not answer")]
    Unavailable(#[source] Cause),
    /// A bug in this crate.
    #[error("internal error: {0}")]
    Internal(#[source] Cause),
}

impl CommitError {
    /// What the caller can do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused { .. } | Self::NotKept { .. } => ErrorKind::Invalid,
            Self::Gap { .. } | Self::Conflict { .. } | Self::Damaged { .. } => ErrorKind::Data,
            Self::NoPutIfAbsent { .. } | Self::Unsupported { .. } => ErrorKind::Unsupported,
            Self::Unavailable(_) => ErrorKind::Unavailable,
            Self::Internal(_) => ErrorKind::Internal,
        }
    }
}
