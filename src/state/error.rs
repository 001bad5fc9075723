//! What can go wrong with remembered state.

use crate::key::KeyError;
use crate::types::ErrorKind;
use arrow::error::ArrowError;
use datafusion::error::DataFusionError;

/// Why an operator's memory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// A state file does not hold what its format says.
    #[error("state file is corrupt: {reason}")]
    Corrupt {
        /// What is wrong.
        reason: String,
    },
    /// Groups could not be put together or saved.
    #[error("rollup states: {0}")]
    Groups(#[source] Box<DataFusionError>),
    /// What was moved out of memory cannot be written or read.
    #[error("groups cannot be kept in {folder}: {source}")]
    Disk {
        /// The folder for temporary files.
        folder: String,
        /// Why.
        source: std::io::Error,
    },
    /// The index of the groups failed on disk.
    #[error("index of the groups: {0}")]
    Index(#[from] KeyError),
    /// The memory is full.
    #[error(
        "{operator} remembers {held_bytes} bytes, and its limit is {limit_bytes} bytes: raise onefold.state_bytes_max, or shorten WITHIN or the windows"
    )]
    Full {
        /// The operator.
        operator: String,
        /// Bytes held.
        held_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
}

impl StateError {
    /// The folder for temporary files failed.
    #[must_use]
    pub fn disk(source: std::io::Error) -> Self {
        Self::Disk { folder: std::env::temp_dir().display().to_string(), source }
    }

    /// What the caller can do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Corrupt { .. } => ErrorKind::Data,
            Self::Groups(_) => ErrorKind::Internal,
            Self::Disk { .. } => ErrorKind::Unavailable,
            Self::Index(error) => error.kind(),
            Self::Full { .. } => ErrorKind::Exhausted,
        }
    }
}

impl From<StateError> for DataFusionError {
    fn from(error: StateError) -> Self {
        Self::External(Box::new(error))
    }
}

impl From<DataFusionError> for StateError {
    fn from(error: DataFusionError) -> Self {
        Self::Groups(Box::new(error))
    }
}

impl From<ArrowError> for StateError {
    fn from(error: ArrowError) -> Self {
        DataFusionError::from(error).into()
    }
}
