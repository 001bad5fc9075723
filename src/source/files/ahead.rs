//! `Ahead`: decodes one file in a task of its own, ahead of who takes its rows.
//!
//! Each file may be ahead by [`BYTES_MAX`], so that no file that waits for its turn takes the room
//! of the one whose turn it is.

use super::FileFormat;
use super::entries::Entry;
use super::parquet::ParquetFile;
use super::source::FilesSource;
use super::text::{Decoded, TextFile};
use crate::source::SourceError;
use datafusion::common::runtime::SpawnedTask;
use object_store::ObjectStoreExt;
use std::sync::{Arc, LazyLock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Bytes of decoded rows of one file that wait at most.
const BYTES_MAX: usize = 32 << 20;
/// Batches of one file that wait at most.
const BATCHES_MAX: usize = 256;
/// Files that are decoded at the same time, at most.
const FILES_MAX: usize = 8;

/// Files worth decoding at the same time: one more than there are cores, as the one whose turn it
/// is may wait for its store.
pub(super) static FILES_AHEAD: LazyLock<usize> = LazyLock::new(|| {
    std::thread::available_parallelism().map_or(2, |cores| (cores.get() + 1).min(FILES_MAX))
});

/// Rows of a file, or its end, and the room they take up until they are taken.
type Waiting = (Result<Option<Decoded>, SourceError>, Option<OwnedSemaphorePermit>);

/// A file being decoded; dropping it stops the task.
#[derive(Debug)]
pub(super) struct Ahead {
    /// `None` says that the file has ended: a task that died sends nothing more.
    batches: mpsc::Receiver<Waiting>,
    path: String,
    _task: SpawnedTask<()>,
}

#[derive(Debug)]
enum OpenFile {
    Text(Box<TextFile>),
    Parquet(Box<ParquetFile>),
}

impl Ahead {
    /// Begins to decode `entry` behind its first `skipped` rows.
    pub(super) fn start(source: &FilesSource, entry: &Entry, skipped: u64) -> Self {
        let (sender, batches) = mpsc::channel(BATCHES_MAX);
        let free = Arc::new(Semaphore::new(BYTES_MAX));
        let (source, path) = (source.clone(), entry.path.clone());
        let entry = entry.clone();
        let task = SpawnedTask::spawn(async move {
            let mut file = match OpenFile::open(&source, &entry, skipped).await {
                Ok(file) => file,
                Err(error) => return drop(sender.send((Err(error), None)).await),
            };
            loop {
                let next = file.next().await;
                let is_last = !matches!(next, Ok(Some(_)));
                let bytes = match &next {
                    Ok(Some(decoded)) => decoded.batch.get_array_memory_size().min(BYTES_MAX),
                    _ => 0,
                };
                let taken = Arc::clone(&free).acquire_many_owned(bytes as u32).await.ok();
                if sender.send((next, taken)).await.is_err() || is_last {
                    return;
                }
                tokio::task::yield_now().await; // decoding knows no pause of its own
            }
        });
        Self { batches, path, _task: task }
    }

    /// The next rows; `None` at the end of the file.
    pub(super) async fn next(&mut self) -> Result<Option<Decoded>, SourceError> {
        match self.batches.recv().await {
            Some((next, _)) => next,
            None => Err(SourceError::Unavailable {
                source_name: self.path.clone(),
                cause: "the task that reads it has stopped".into(),
            }),
        }
    }
}

impl OpenFile {
    /// Opens a file if it still is what was listed.
    async fn open(source: &FilesSource, entry: &Entry, skipped: u64) -> Result<Self, SourceError> {
        let FilesSource { listing, schema, options, .. } = source;
        let path = listing.path(entry);
        let store = &listing.folder.store;
        let changed = |what| SourceError::Changed { path: entry.path.clone(), what };
        match store.head(&path).await {
            Ok(found) => {
                let is_same = listing.entry(&found).is_some_and(|found| found.is_same(entry));
                if !is_same {
                    return Err(changed("was changed"));
                }
            }
            Err(object_store::Error::NotFound { .. }) => return Err(changed("was removed")),
            Err(error) => {
                return Err(SourceError::Unavailable {
                    source_name: entry.path.clone(),
                    cause: Box::new(error),
                });
            }
        }
        let (place, how) = ((store, &path), (schema, options));
        Ok(match options.format {
            FileFormat::Parquet => {
                Self::Parquet(Box::new(ParquetFile::open(place, entry, how, skipped).await?))
            }
            FileFormat::Json | FileFormat::Csv(_) => {
                Self::Text(Box::new(TextFile::open(place, entry, how, skipped).await?))
            }
        })
    }

    async fn next(&mut self) -> Result<Option<Decoded>, SourceError> {
        match self {
            Self::Text(file) => file.next().await,
            Self::Parquet(file) => file.next().await,
        }
    }
}
