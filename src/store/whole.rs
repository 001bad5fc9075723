//! Objects that are whole or not there: written once, and read only if their hash is the one known.

use bytes::Bytes;
use futures::TryStreamExt;
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

/// As [`read_whole`], piece by piece: what `piece` was told is right only if this returns no error.
///
/// # Errors
///
/// As [`read_whole`], and what `piece` returns.
pub async fn read_pieces<E: From<WholeError>>(
    store: &dyn ObjectStore,
    path: &str,
    sha256: &str,
    mut piece: impl FnMut(&[u8]) -> Result<(), E> + Send,
) -> Result<(), E> {
    let found = match store.get(&Path::from(path)).await {
        Err(object_store::Error::NotFound { .. }) => return Err(WholeError::Missing.into()),
        other => other.map_err(WholeError::from)?,
    };
    let (mut pieces, mut sum) = (found.into_stream(), Sha256Sum::default());
    while let Some(bytes) = pieces.try_next().await.map_err(WholeError::from)? {
        sum.add(&bytes);
        piece(&bytes)?;
    }
    if sum.to_hex() == sha256 { Ok(()) } else { Err(WholeError::Changed.into()) }
}

/// The SHA-256 of `bytes`, in lower-case hexadecimal.
#[must_use]
pub fn sha256_of(bytes: &[u8]) -> String {
    let mut sum = Sha256Sum::default();
    sum.add(bytes);
    sum.to_hex()
}

/// The SHA-256 of bytes that come in pieces.
#[derive(Debug, Default)]
pub struct Sha256Sum(Sha256);

impl Sha256Sum {
    /// Adds the next bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The sum of all of them, in lower-case hexadecimal.
    #[must_use]
    pub fn to_hex(self) -> String {
        use std::fmt::Write;
        self.0.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}
