//! Objects named by a manifest: written to unique names, and read back only if they are whole.

use super::PipelineError;
use crate::commit::{MANIFEST_FORMAT, Manifest, ManifestRef};
use crate::state::EncodedState;
use crate::store::{WholeError, read_whole, sha256_of, unread};
use crate::types::StateFile;
use bytes::Bytes;
use object_store::ObjectStore;
use object_store::path::Path;

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

/// Writes a state file under `path`, which nobody used before.
pub(super) async fn write_state(
    store: &dyn ObjectStore,
    path: String,
    state: EncodedState,
) -> Result<StateFile, PipelineError> {
    let file = StateFile {
        size_bytes: state.bytes.len() as u64,
        sha256: sha256_of(&state.bytes),
        entries: state.entries,
        time_min_us: state.time_min.map(|at| at.0),
        time_max_us: state.time_max.map(|at| at.0),
        path,
    };
    write(store, &file.path, state.bytes).await?;
    Ok(file)
}

async fn read(store: &dyn ObjectStore, path: &str, sha256: &str) -> Result<Bytes, PipelineError> {
    let path = path.to_owned();
    read_whole(store, &path, sha256).await.map_err(|error| match error {
        WholeError::Store(cause) => PipelineError::Store { path, cause },
        WholeError::Missing => PipelineError::Missing { path },
        error => PipelineError::Damaged { path, reason: error.to_string() },
    })
}

async fn write(store: &dyn ObjectStore, path: &str, bytes: Bytes) -> Result<(), PipelineError> {
    let put = store.put_opts(&Path::from(path), bytes.into(), unread()).await;
    put.map(|_| ()).map_err(|cause| PipelineError::Store { path: path.to_owned(), cause })
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    #[tokio::test]
    async fn a_file_that_is_missing_or_was_changed_is_never_taken_for_empty() {
        let store = InMemory::new();
        let state = EncodedState {
            bytes: Bytes::from_static(b"anchors"),
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
}
