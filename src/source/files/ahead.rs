//! `Ahead`: decodes one file in a task of its own, a few batches ahead of who takes them.

use super::FileFormat;
use super::entries::Entry;
use super::parquet::ParquetFile;
use super::source::FilesSource;
use super::text::{Decoded, TextFile};
use crate::source::SourceError;
use datafusion::common::runtime::SpawnedTask;
use object_store::ObjectStoreExt;
use tokio::sync::mpsc;

/// Batches that wait at most.
const BATCHES_MAX: usize = 4;

/// A file being decoded; dropping it stops the task.
#[derive(Debug)]
pub(super) struct Ahead {
    /// `None` says that the file has ended: a task that died sends nothing more.
    batches: mpsc::Receiver<Result<Option<Decoded>, SourceError>>,
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
        let (source, path) = (source.clone(), entry.path.clone());
        let entry = entry.clone();
        let task = SpawnedTask::spawn(async move {
            let mut file = match OpenFile::open(&source, &entry, skipped).await {
                Ok(file) => file,
                Err(error) => return drop(sender.send(Err(error)).await),
            };
            loop {
                let next = file.next().await;
                let is_last = !matches!(next, Ok(Some(_)));
                if sender.send(next).await.is_err() || is_last {
                    return;
                }
            }
        });
        Self { batches, path, _task: task }
    }

    /// The next rows; `None` at the end of the file.
    pub(super) async fn next(&mut self) -> Result<Option<Decoded>, SourceError> {
        match self.batches.recv().await {
            Some(next) => next,
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
