//! Local files that are written under a name which no listing shows, and then get their own.

use super::durable::{create_folders, sync_folder};
use super::{DurableLocal, Location};
use bytes::Bytes;
use datafusion::common::runtime::SpawnedTask;
use object_store::path::Path;
use object_store::{PutMode, PutOptions, PutPayload};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A file that has no name of its own yet. Dropping it removes it; one that a crash leaves behind
/// is never listed and never read.
#[derive(Debug)]
pub(super) struct Staging {
    path: PathBuf,
    keeps: bool,
    /// `None` once it has its name.
    staged: Option<PathBuf>,
}

impl Staging {
    /// Writes what `path` will hold, and fsyncs it if it `keeps`.
    pub(super) fn write(path: &FilePath, payload: &PutPayload, keeps: bool) -> io::Result<Self> {
        let (mut file, staged) = create(path)?;
        let staging = Self { path: path.to_owned(), keeps, staged: Some(staged) };
        payload.iter().try_for_each(|part| file.write_all(part))?;
        if keeps {
            file.sync_all()?;
        }
        Ok(staging)
    }

    /// Gives the file its name, which another may have already unless it `replaces`.
    pub(super) fn name(mut self, replaces: bool) -> io::Result<()> {
        if let Some(staged) = &self.staged {
            if replaces {
                std::fs::rename(staged, &self.path)?;
            } else {
                std::fs::hard_link(staged, &self.path)?;
                drop(std::fs::remove_file(staged));
            }
            self.staged = None;
        }
        if self.keeps { sync_folder(&self.path) } else { Ok(()) }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Some(staged) = self.staged.take() {
            drop(std::fs::remove_file(staged));
        }
    }
}

/// Creates `path#1`, `path#2`, ...: names that `LocalFileSystem` leaves out of its listings.
fn create(path: &FilePath) -> io::Result<(File, PathBuf)> {
    let mut number = 1_u64;
    loop {
        let mut name = path.as_os_str().to_owned();
        name.push(format!("#{number}"));
        let staged = PathBuf::from(name);
        match OpenOptions::new().write(true).create_new(true).open(&staged) {
            Ok(file) => return Ok((file, staged)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
            Err(error) if error.kind() == ErrorKind::NotFound => create_folders(path)?,
            Err(error) => return Err(error),
        }
    }
}

/// Marks a write whose bytes are on disk already.
#[derive(Clone, Debug)]
pub(super) struct Ahead(Arc<Mutex<Option<(Bytes, Staging)>>>);

impl Ahead {
    /// What was written ahead, if it is what `path` is to hold, and was not taken before.
    pub(super) fn take(&self, path: &FilePath, payload: &PutPayload) -> Option<Staging> {
        let mut ahead = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = |(bytes, staging): &mut (Bytes, Staging)| {
            staging.path == path && matches!(payload.as_ref(), [own] if own == bytes)
        };
        Some(ahead.take_if(is_same)?.1)
    }
}

/// Options of a write of `bytes` to `path`, if there is nothing, that may not be seen yet. On a local
/// disk the bytes are written and fsynced now, so that the write only has to name them; other
/// stores do not care. Where this fails, the write will say so.
///
/// # Cancellation
///
/// Nothing is left behind, and neither when the options are dropped.
pub async fn write_ahead(location: &Location, path: &Path, bytes: &Bytes) -> PutOptions {
    let mut options = PutOptions::from(PutMode::Create);
    if location.url.scheme() != "file" {
        return options;
    }
    let Ok(path) = DurableLocal::new().path_of(path) else { return options };
    let bytes = bytes.clone();
    let written = SpawnedTask::spawn_blocking(move || {
        let has_folder = path.parent().is_some_and(FilePath::is_dir);
        let payload = PutPayload::from(bytes.clone());
        let staging = has_folder.then(|| Staging::write(&path, &payload, true).ok());
        Some((bytes, staging??))
    });
    if let Ok(Some(ahead)) = written.join().await {
        options.extensions.insert(Ahead(Arc::new(Mutex::new(Some(ahead)))));
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::{Error, ObjectStore, ObjectStoreExt};
    use std::collections::BTreeSet;

    fn names(folder: &FilePath) -> BTreeSet<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn all<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
        names.map(str::to_owned).into()
    }

    fn folder() -> (tempfile::TempDir, Location) {
        let folder = tempfile::tempdir().unwrap();
        let url = url::Url::from_directory_path(folder.path()).unwrap();
        let location = Location::from_store(url.as_str(), Arc::new(DurableLocal::new())).unwrap();
        (folder, location)
    }

    #[tokio::test]
    async fn what_was_written_ahead_is_seen_when_it_is_put_and_gone_when_it_is_not() {
        let (folder, location) = folder();
        let (path, bytes) = (location.path("x"), Bytes::from_static(b"one"));
        let options = write_ahead(&location, &path, &bytes).await;
        assert_eq!(names(folder.path()), all(["x#1"]));
        assert!(location.store.get(&path).await.is_err());
        let inode = File::open(folder.path().join("x#1")).unwrap().metadata().unwrap();
        location.store.put_opts(&path, bytes.clone().into(), options.clone()).await.unwrap();
        assert_eq!(names(folder.path()), all(["x"]));
        assert_eq!(location.store.get(&path).await.unwrap().bytes().await.unwrap(), bytes);
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let named = std::fs::metadata(folder.path().join("x")).unwrap();
            assert_eq!(named.ino(), inode.ino(), "it was not written again");
        }
        let again = location.store.put_opts(&path, bytes.clone().into(), options).await;
        assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");
        drop(write_ahead(&location, &location.path("y"), &bytes).await);
        assert_eq!(names(folder.path()), all(["x"]));
    }

    #[tokio::test]
    async fn other_bytes_and_other_paths_are_written_as_always() {
        let (folder, location) = folder();
        let (path, bytes) = (location.path("x"), Bytes::from_static(b"one"));
        let options = write_ahead(&location, &path, &bytes).await;
        let put = async |path: &Path, bytes: &'static str| {
            location.store.put_opts(path, bytes.into(), options.clone()).await.unwrap();
            location.store.get(path).await.unwrap().bytes().await.unwrap()
        };
        assert_eq!(put(&location.path("y"), "one").await, "one");
        assert_eq!(put(&path, "two").await, "two");
        assert_eq!(names(folder.path()), all(["x", "x#1", "y"]));
        drop(options);
        assert_eq!(names(folder.path()), all(["x", "y"]));
    }

    #[tokio::test]
    async fn nothing_is_written_ahead_on_another_store_or_into_a_folder_that_is_not_there() {
        let (folder, location) = folder();
        let bytes = Bytes::from_static(b"one");
        let path = location.path("sub/x");
        let options = write_ahead(&location, &path, &bytes).await;
        assert!(names(folder.path()).is_empty());
        location.store.put_opts(&path, bytes.clone().into(), options).await.unwrap();
        assert_eq!(names(&folder.path().join("sub")), all(["x"]));
        let memory = Arc::new(object_store::memory::InMemory::new());
        let location = Location::from_store("memory:///t", memory).unwrap();
        let options = write_ahead(&location, &location.path("x"), &bytes).await;
        assert!(options.extensions.is_empty() && options.mode == PutMode::Create);
    }
}
