//! What can go wrong when a store is opened or probed.

use crate::types::ErrorKind;
use datafusion::error::DataFusionError;

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The text of a location cannot be read as a path or URL.
    #[error("location {location:?} is neither a path nor a URL: {reason}")]
    Location {
        /// The text.
        location: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No store is known for the scheme of the URL.
    #[error(
        "location {location:?}: no object store for scheme {scheme:?}; use a path, file, memory, \
         s3, gs, az or abfss, or register a store with the session"
    )]
    Scheme {
        /// The location.
        location: String,
        /// Its scheme.
        scheme: String,
    },
    /// The store cannot be built from its options and the environment.
    #[error("location {location:?} cannot be opened")]
    Open {
        /// The location.
        location: String,
        /// What the store says.
        #[source]
        source: object_store::Error,
    },
    /// The store overwrites although it was told to create only.
    #[error(
        "{location} ignores put-if-absent: two writers would overwrite each other's commits; use \
         a store that honours If-None-Match"
    )]
    NoPutIfAbsent {
        /// The location.
        location: String,
    },
    /// The store did not do what it was asked.
    #[error("{location}: the store failed")]
    Failed {
        /// The location.
        location: String,
        /// What the store says.
        #[source]
        source: object_store::Error,
    },
}

impl StoreError {
    /// What the caller can do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Location { .. } | Self::Scheme { .. } | Self::Open { .. } => ErrorKind::Invalid,
            Self::NoPutIfAbsent { .. } => ErrorKind::Unsupported,
            Self::Failed { .. } => ErrorKind::Unavailable,
        }
    }
}

impl From<StoreError> for DataFusionError {
    fn from(error: StoreError) -> Self {
        Self::External(Box::new(error))
    }
}
