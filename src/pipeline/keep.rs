//! Objects named by a manifest: written to unique names, and read back only if they are whole.

use super::PipelineError;
use super::join::blocking;
use crate::commit::{MANIFEST_FORMAT, Manifest, ManifestRef};
use crate::state::{ContentWriter, EncodedState, StateContent, StateError};
use crate::store::{Sha256Sum, WholeError, read_pieces, read_whole, sha256_of, unread};
use crate::types::StateFile;
use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use std::io::{Read, Write};

/// Bytes of a state file that stay in memory; what is more waits on local disk.
const HELD_MAX: usize = 256 << 10;
/// Bytes of a state file on local disk that are written together.
const PART_BYTES: usize = 8 << 20;

/// Reads the manifest that `named` names.
pub(super) async fn read_manifest(
    store: &dyn ObjectStore,
    named: &ManifestRef,
) -> Result<Manifest, PipelineError> {
    let bytes = read(store, &named.path, &named.sha256).await?;
    let damaged = |reason: String| PipelineError::Damaged { path: named.path.clone(), reason };
    let manifest: Manifest = serde_json::from_slice(&bytes)
        .map_err(|error| damaged(format!("is no manifest: {error}")))?;
    if manifest.format > MANIFEST_FORMAT {
        let reason = format!("has format {}, newer than this program", manifest.format);
        return Err(damaged(reason));
    }
    if manifest.epoch != named.epoch {
        return Err(damaged(format!("is of epoch {}, not {}", manifest.epoch, named.epoch)));
    }
    Ok(manifest)
}

/// Writes `manifest` under the name of its own hash.
pub(super) async fn write_manifest(
    store: &dyn ObjectStore,
    manifest: &Manifest,
    owns_rows: bool,
) -> Result<ManifestRef, PipelineError> {
    let Manifest { pipeline, incarnation, epoch, .. } = manifest;
    let bytes = serde_json::to_vec(manifest).map_err(|error| PipelineError::Damaged {
        path: format!("the manifest of epoch {epoch}"),
        reason: format!("cannot be written: {error}"),
    })?;
    let sha256 = sha256_of(&bytes);
    let path = format!("_onefold/{pipeline}/{incarnation}/{epoch}-{sha256}.json");
    write(store, &path, bytes.into()).await?;
    Ok(ManifestRef { epoch: *epoch, path, sha256, owns_rows })
}

/// Reads a state file.
pub(super) async fn read_state(
    store: &dyn ObjectStore,
    file: &StateFile,
) -> Result<Bytes, PipelineError> {
    read(store, &file.path, &file.sha256).await
}

/// Brings a state file here: to memory if it is small, else to local disk.
pub(super) async fn fetch_state(
    store: &dyn ObjectStore,
    file: &StateFile,
) -> Result<StateContent, PipelineError> {
    let mut writer = ContentWriter::new(HELD_MAX);
    let piece = |bytes: &[u8]| writer.write_all(bytes).map_err(Fetched::Disk);
    let read = read_pieces(store, &file.path, &file.sha256, piece).await;
    read.map_err(|error| match error {
        Fetched::Unread(error) => unreadable(file.path.clone(), error),
        Fetched::Disk(error) => StateError::disk(error).into(),
    })?;
    Ok(writer.finish()?)
}

/// Brings state files here.
pub(super) async fn fetch_all(
    store: &dyn ObjectStore,
    files: &[StateFile],
) -> Result<Vec<StateContent>, PipelineError> {
    let mut contents = Vec::with_capacity(files.len());
    for file in files {
        contents.push(fetch_state(store, file).await?);
    }
    Ok(contents)
}

/// Why a state file did not come here.
enum Fetched {
    Unread(WholeError),
    Disk(std::io::Error),
}

impl From<WholeError> for Fetched {
    fn from(error: WholeError) -> Self {
        Self::Unread(error)
    }
}

/// Writes a state file under `path`, which nobody used before.
pub(super) async fn write_state(
    store: &dyn ObjectStore,
    path: String,
    state: EncodedState,
) -> Result<StateFile, PipelineError> {
    let sha256 = match state.content.held() {
        Some(bytes) => {
            let (written, sum) = futures::join!(write(store, &path, bytes.clone()), sum_of(bytes));
            written?;
            sum?
        }
        None => write_parts(store, &path, &state.content).await?,
    };
    Ok(StateFile {
        size_bytes: state.content.bytes(),
        sha256,
        entries: state.entries,
        time_min_us: state.time_min.map(|at| at.0),
        time_max_us: state.time_max.map(|at| at.0),
        path,
    })
}

/// The SHA-256 of `bytes`; of many it is not made on the async worker.
async fn sum_of(bytes: &Bytes) -> Result<String, PipelineError> {
    if bytes.len() <= HELD_MAX {
        return Ok(sha256_of(bytes));
    }
    let bytes = bytes.clone();
    blocking(move || Ok(sha256_of(&bytes))).await
}

/// Writes what is on local disk, part by part; returns its SHA-256.
async fn write_parts(
    store: &dyn ObjectStore,
    path: &str,
    content: &StateContent,
) -> Result<String, PipelineError> {
    let failed = |cause| PipelineError::Store { path: path.to_owned(), cause };
    let mut upload = store.put_multipart(&Path::from(path)).await.map_err(failed)?;
    let sent = async {
        let (mut reader, mut sum) = (content.reader()?, Sha256Sum::default());
        loop {
            let mut part = Vec::with_capacity(PART_BYTES);
            let read = reader.by_ref().take(PART_BYTES as u64).read_to_end(&mut part);
            read.map_err(StateError::disk)?;
            if part.is_empty() {
                break;
            }
            sum.add(&part);
            upload.put_part(part.into()).await.map_err(failed)?;
        }
        upload.complete().await.map_err(failed)?;
        Ok(sum.to_hex())
    };
    let sent = sent.await;
    if sent.is_err() {
        drop(upload.abort().await); // else stores keep the parts, and their price
    }
    sent
}

async fn read(store: &dyn ObjectStore, path: &str, sha256: &str) -> Result<Bytes, PipelineError> {
    let read = read_whole(store, path, sha256).await;
    read.map_err(|error| unreadable(path.to_owned(), error))
}

fn unreadable(path: String, error: WholeError) -> PipelineError {
    match error {
        WholeError::Store(cause) => PipelineError::Store { path, cause },
        WholeError::Missing => PipelineError::Missing { path },
        error => PipelineError::Damaged { path, reason: error.to_string() },
    }
}

async fn write(store: &dyn ObjectStore, path: &str, bytes: Bytes) -> Result<(), PipelineError> {
    let put = store.put_opts(&Path::from(path), bytes.into(), unread()).await;
    put.map(|_| ()).map_err(|cause| PipelineError::Store { path: path.to_owned(), cause })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::DurableLocal;
    use object_store::memory::InMemory;

    #[tokio::test]
    async fn a_file_that_is_missing_or_was_changed_is_never_taken_for_empty() {
        let store = InMemory::new();
        let state = EncodedState {
            content: Bytes::from_static(b"anchors").into(),
            entries: 1,
            time_min: None,
            time_max: None,
        };
        let file = write_state(&store, "_onefold/a".to_owned(), state).await.unwrap();
        assert_eq!(read_state(&store, &file).await.unwrap(), "anchors");
        store.put(&Path::from("_onefold/a"), "anchorz".into()).await.unwrap();
        let error = read_state(&store, &file).await.unwrap_err();
        assert!(matches!(error, PipelineError::Damaged { .. }), "{error}");
        store.delete(&Path::from("_onefold/a")).await.unwrap();
        let error = read_state(&store, &file).await.unwrap_err();
        assert!(error.to_string().contains("is missing"), "{error}");
    }
    #[tokio::test]
    async fn a_large_file_is_written_and_read_in_parts_and_no_damage_is_missed() {
        let folder = tempfile::tempdir().unwrap();
        let root = Path::from_absolute_path(folder.path()).unwrap();
        let stores: [(&dyn ObjectStore, String); 2] =
            [(&InMemory::new(), "a".to_owned()), (&DurableLocal::new(), format!("{root}/a"))];
        let bytes: Vec<u8> = (0..9 << 20).map(|at: u32| (at % 251) as u8).collect();
        for (store, path) in stores {
            let mut writer = ContentWriter::new(1_000);
            writer.write_all(&bytes).unwrap();
            let content = writer.finish().unwrap();
            assert!(content.held().is_none());
            let state = EncodedState { content, entries: 1, time_min: None, time_max: None };
            let file = write_state(store, path.clone(), state).await.unwrap();
            assert_eq!((file.size_bytes, &file.sha256), (9 << 20, &sha256_of(&bytes)));
            let read = fetch_state(store, &file).await.unwrap();
            assert!(read.held().is_none(), "it waits on local disk");
            assert!(read.to_bytes().unwrap() == bytes);
            let mut damaged = bytes.clone();
            damaged[9_000_000] ^= 1;
            store.put(&Path::from(path.as_str()), damaged.into()).await.unwrap();
            let error = fetch_state(store, &file).await.unwrap_err();
            assert!(matches!(error, PipelineError::Damaged { .. }), "{error}");
            store.delete(&Path::from(path)).await.unwrap();
            let error = fetch_state(store, &file).await.unwrap_err();
            assert!(matches!(error, PipelineError::Missing { .. }), "{error}");
        }
    }
}
