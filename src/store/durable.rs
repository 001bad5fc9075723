//! The local file system with fsync: `object_store` 0.13 leaves new files to the page cache.
//!
//! Caches are the exception: what is noticed and rebuilt when it is torn needs no fsync.

use super::buffers::{Buffers, LARGE_BYTES};
use super::staging::Staging;
use super::unsynced::Unsynced;
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::common::runtime::SpawnedTask;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
    Result, UploadPart,
};
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

const STORE: &str = "DurableLocal";

/// Marks a write of an object that nobody reads before another object names it.
#[derive(Clone, Copy, Debug)]
struct Unread;

/// Options of a write under a fresh name that nobody reads before another object names it: then a
/// local file need not appear all at once, and a small one only gets to disk with the next object
/// that the same store writes otherwise, before that has its name. Other stores do not care.
#[must_use]
pub fn unread() -> PutOptions {
    let mut options = PutOptions::default();
    options.extensions.insert(Unread);
    options
}

/// The local file system; what a write returned for is on disk, names included, unless it is a
/// cache, or a small object that was written [`unread`] and that no other can name yet.
#[derive(Debug, Default)]
pub struct DurableLocal {
    inner: LocalFileSystem,
    unsynced: Arc<Unsynced>,
    buffers: Arc<Buffers>,
}

impl DurableLocal {
    /// The file system of this machine, addressed by absolute paths.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The file that is the object `location`.
    pub(super) fn path_of(&self, location: &Path) -> Result<PathBuf> {
        self.inner.path_to_filesystem(location)
    }

    async fn sync(&self, location: &Path) -> Result<()> {
        let path = self.path_of(location)?;
        blocking(move || sync_file_and_folder(&path).map_err(generic)).await
    }
}

impl fmt::Display for DurableLocal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{STORE}({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for DurableLocal {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        if matches!(options.mode, PutMode::Update(_)) || !options.attributes.is_empty() {
            return self.inner.put_opts(location, payload, options).await; // says why it cannot
        }
        let path = self.path_of(location)?;
        let unsynced = Arc::clone(&self.unsynced);
        if options.extensions.get::<Unread>().is_some() {
            blocking(move || write_in_place(&path, &payload, &unsynced)).await?;
            return Ok(PutResult { e_tag: None, version: None });
        }
        let replaces = options.mode == PutMode::Overwrite;
        let unsynced = Some(unsynced).filter(|_| !is_rebuilt(location));
        let write = move || {
            // A reader sees the whole file or none.
            let staging = Staging::write(&path, &payload).map_err(generic)?;
            staging.name(replaces, unsynced.as_deref()).map_err(|error| taken(&path, error))
        };
        blocking(write).await?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.inner.put_multipart_opts(location, options).await?;
        let path = self.path_of(location)?;
        Ok(Box::new(DurableUpload { inner, path }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        if ranges.iter().any(|range| range.end.saturating_sub(range.start) >= LARGE_BYTES) {
            let (path, all) = (self.path_of(location)?, ranges.to_vec());
            let buffers = Arc::clone(&self.buffers);
            let read = move || {
                let file = File::open(path)?;
                all.iter().map(|range| buffers.read(&file, range)).collect::<io::Result<Vec<_>>>()
            };
            if let Ok(read) = blocking(move || read().map_err(generic)).await {
                return Ok(read);
            }
        }
        self.inner.get_ranges(location, ranges).await // says why it cannot
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await?;
        self.sync(to).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await?;
        self.sync(to).await
    }
}

#[derive(Debug)]
struct DurableUpload {
    inner: Box<dyn MultipartUpload>,
    path: PathBuf,
}

#[async_trait]
impl MultipartUpload for DurableUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let done = self.inner.complete().await?;
        let path = self.path.clone();
        blocking(move || sync_file_and_folder(&path).map_err(generic)).await?;
        Ok(done)
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

/// Writes to the file's own name, where a crash can leave half of it.
fn write_in_place(path: &FilePath, payload: &PutPayload, unsynced: &Unsynced) -> Result<()> {
    let create = || match File::create(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            create_folders(path)?;
            File::create(path)
        }
        created => created,
    };
    let write = || {
        let mut file = create()?;
        payload.iter().try_for_each(|part| file.write_all(part))?;
        let Err(file) = unsynced.take(file, path, payload.content_length()) else { return Ok(()) };
        file.sync_all()?;
        sync_folder_of(path)
    };
    write().map_err(generic)
}

/// Whether a file is a cache, whose readers notice that it is torn or missing and do without:
/// version checksums and saved key indexes. They need not survive a power cut.
fn is_rebuilt(location: &Path) -> bool {
    location.extension() == Some("crc") || location.as_ref().contains("/_onefold/table.index/")
}

/// What kept a file from getting its name; perhaps another has it.
fn taken(path: &FilePath, error: io::Error) -> Error {
    match error.kind() {
        ErrorKind::AlreadyExists => {
            Error::AlreadyExists { path: path.display().to_string(), source: Box::new(error) }
        }
        _ => generic(error),
    }
}

/// Creates the folders above `path`, and fsyncs each folder that got a new entry.
pub(super) fn create_folders(path: &FilePath) -> io::Result<()> {
    let missing: Vec<PathBuf> = path
        .ancestors()
        .skip(1)
        .take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists())
        .map(FilePath::to_path_buf)
        .collect();
    for folder in missing.iter().rev() {
        match std::fs::create_dir(folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => sync_folder_of(folder)?,
        }
    }
    Ok(())
}

fn sync_file_and_folder(path: &FilePath) -> io::Result<()> {
    File::open(path)?.sync_all()?;
    sync_folder_of(path)
}

pub(super) fn sync_folder_of(path: &FilePath) -> io::Result<()> {
    path.parent().map_or(Ok(()), sync_folder)
}

pub(super) fn sync_folder(folder: &FilePath) -> io::Result<()> {
    // Elsewhere a folder cannot be opened as a file.
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

fn generic(error: io::Error) -> Error {
    Error::Generic { store: STORE, source: Box::new(error) }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    SpawnedTask::spawn_blocking(work)
        .join()
        .await
        .map_err(|error| Error::Generic { store: STORE, source: Box::new(error) })?
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::ObjectStoreExt;

    #[tokio::test]
    async fn a_file_is_created_once_and_replaced_only_when_asked() {
        let folder = tempfile::tempdir().unwrap();
        let store = DurableLocal::new();
        let path = Path::from_absolute_path(folder.path()).unwrap().join("a").join("b.json");
        let create = || PutOptions::from(PutMode::Create);
        store.put_opts(&path, "one".into(), create()).await.unwrap();
        let second = store.put_opts(&path, "two".into(), create()).await;
        assert!(matches!(second, Err(Error::AlreadyExists { .. })), "{second:?}");
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "one");
        store.put(&path, "three".into()).await.unwrap();
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "three");
        let names = std::fs::read_dir(folder.path().join("a")).unwrap().count();
        assert_eq!(names, 1, "no staging file stays behind");
    }

    #[tokio::test]
    async fn an_object_that_nobody_reads_yet_is_written_under_its_own_name() {
        let folder = tempfile::tempdir().unwrap();
        let store = DurableLocal::new();
        let path = Path::from_absolute_path(folder.path()).unwrap().join("a").join("b.bin");
        store.put_opts(&path, "one, long".into(), unread()).await.unwrap();
        store.put_opts(&path, "two".into(), unread()).await.unwrap();
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "two");
        let names = std::fs::read_dir(folder.path().join("a")).unwrap().count();
        assert_eq!(names, 1);
    }

    #[tokio::test]
    async fn what_nobody_reads_yet_waits_for_the_object_that_can_name_it_and_not_for_a_cache() {
        let folder = tempfile::tempdir().unwrap();
        let store = DurableLocal::new();
        let path = |name: &str| Path::from_absolute_path(folder.path()).unwrap().join(name);
        let put = async |name, options| {
            store.put_opts(&path(name), "x".into(), options).await.unwrap();
            store.unsynced.count()
        };
        assert_eq!(put("one", unread()).await, 1);
        assert_eq!(put("two", unread()).await, 2);
        assert_eq!(put("3.crc", PutMode::Create.into()).await, 2);
        assert_eq!(put("3.json", PutMode::Create.into()).await, 0);
        assert_eq!(put("four", unread()).await, 1);
        assert_eq!(put("_last_checkpoint", PutMode::Overwrite.into()).await, 0);
    }

    #[tokio::test]
    async fn a_staging_file_left_by_a_crash_is_neither_read_nor_in_the_way() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("x#1"), "half").unwrap();
        let store = DurableLocal::new();
        let path = Path::from_absolute_path(folder.path()).unwrap().join("x");
        store.put(&path, "whole".into()).await.unwrap();
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "whole");
    }
}
