//! Objects that are whole or not there: written once, and read only if their hash is the one known.

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use sha2::{Digest, Sha256};

/// Why an object cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WholeError {
    /// It is not there.
    #[error("is missing")]
    Missing,
    /// It is another than was written.
    #[error("is not what was written: its SHA-256 is another")]
    Changed,
    /// The store did not answer.
    #[error("the store did not answer")]
    Store(#[from] object_store::Error),
}

/// Reads the object at `path`, whose content has the SHA-256 `sha256`.
pub async fn read_whole(
    store: &dyn ObjectStore,
    path: &str,
    sha256: &str,
) -> Result<Bytes, WholeError> {
    let found = match store.get(&Path::from(path)).await {
        Err(object_store::Error::NotFound { .. }) => return Err(WholeError::Missing),
        other => other?,
    };
    let bytes = found.bytes().await?;
    if sha256_of(&bytes) == sha256 { Ok(bytes) } else { Err(WholeError::Changed) }
}

/// The SHA-256 of `bytes`, in lower-case hexadecimal.
#[must_use]
pub fn sha256_of(bytes: &[u8]) -> String {
    use std::fmt::Write;
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
