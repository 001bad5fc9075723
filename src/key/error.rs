//! Why a key cannot be hashed.

use crate::types::ErrorKind;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use datafusion::error::DataFusionError;

/// Why a key cannot be hashed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The type has no canonical equality.
    #[error("a key cannot have type {data_type}: use its fields or elements, or cast it")]
    Type {
        /// The refused type.
        data_type: DataType,
    },
    /// A column does not have the type the hasher was made for.
    #[error("key column {index} has type {found}, but the key was planned with {expected}")]
    Mismatch {
        /// Index of the column within the key.
        index: usize,
        /// The planned type.
        expected: DataType,
        /// The type that came.
        found: DataType,
    },
    /// Keys that left memory cannot be written or read.
    #[error("keys cannot be kept on local disk, in {folder}")]
    Disk {
        /// Where they are.
        folder: String,
        /// What the disk said.
        source: std::io::Error,
    },
    /// Arrow could not unpack a column.
    #[error("key column cannot be read")]
    Arrow(#[from] ArrowError),
}

impl KeyError {
    /// What the caller can do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Type { .. } => ErrorKind::Invalid,
            Self::Disk { .. } => ErrorKind::Unavailable,
            Self::Mismatch { .. } | Self::Arrow(_) => ErrorKind::Internal,
        }
    }
}

impl From<KeyError> for DataFusionError {
    fn from(error: KeyError) -> Self {
        Self::External(Box::new(error))
    }
}
