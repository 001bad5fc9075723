//! The table as it was: by version, or by time.

use super::DeltaError;
use super::files::Files;
use super::table::{DeltaTable, TableView};
use futures::TryStreamExt;
use object_store::ObjectStore;
use std::sync::Arc;

/// A point in a table's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TableTime {
    /// A version.
    Version(u64),
    /// The newest version committed at or before this time, microseconds since the Unix epoch.
    AtUs(i64),
}

/// Versions that the log still tells of.
#[derive(Debug, Default)]
pub(super) struct LogFiles {
    /// Versions with their own commit, ascending.
    pub(super) commits: Vec<u64>,
    /// Versions with a whole checkpoint, ascending.
    pub(super) checkpoints: Vec<u64>,
    /// Bytes of the log.
    pub(super) bytes: u64,
}

impl LogFiles {
    /// The oldest version that can still be read.
    pub(super) fn oldest(&self) -> u64 {
        let first = self.commits.first().copied().unwrap_or_default();
        if first == 0 {
            return 0;
        }
        let reaches = |version: &u64| *version + 1 >= first;
        self.checkpoints.iter().copied().find(reaches).unwrap_or(first)
    }
}

impl DeltaTable {
    /// The version that was the newest at `time`.
    ///
    /// # Errors
    ///
    /// [`DeltaError::NotRetained`] for a time before the oldest version that is kept.
    pub async fn version_at(&self, time: TableTime) -> Result<u64, DeltaError> {
        // Without the writer: a statement that is being run may hold it, and ask for the past.
        let log = self.log_files().await?;
        let head = log.commits.last().copied().unwrap_or_default().max(self.version());
        let oldest = log.oldest();
        let lost = |asked: String| DeltaError::NotRetained {
            table: self.name().to_owned(),
            asked,
            oldest,
            newest: head,
        };
        match time {
            TableTime::Version(version) if version < oldest || version > head => {
                Err(lost(format!("version {version}")))
            }
            TableTime::Version(version) => Ok(version),
            TableTime::AtUs(at_us) => {
                // Times of commits ascend with their versions.
                let (mut low, mut high) = (0, log.commits.len());
                while low < high {
                    let middle = low.midpoint(high);
                    let actions = self.log.actions(log.commits[middle]).await?;
                    let found = actions.and_then(|actions| actions.at_ms).unwrap_or(i64::MAX);
                    if found.saturating_mul(1_000) <= at_us {
                        low = middle + 1;
                    } else {
                        high = middle;
                    }
                }
                let time = || crate::types::EventTime(at_us).to_string();
                let found = low.checked_sub(1).map(|index| log.commits[index]);
                found.filter(|version| *version >= oldest).ok_or_else(|| lost(time()))
            }
        }
    }

    /// The files of the table at `version`.
    pub(super) async fn view_at(&self, version: u64) -> Result<Arc<TableView>, DeltaError> {
        let newest = self.view();
        if newest.version == version {
            return Ok(newest);
        }
        let version = self.version_at(TableTime::Version(version)).await?;
        let snapshot = self.log.at(version).await?;
        let files = Files::load(&self.location, self.log.files(snapshot).await?).await?;
        Ok(Arc::new(TableView { version, files }))
    }

    /// What the folder of the log holds.
    pub(super) async fn log_files(&self) -> Result<LogFiles, DeltaError> {
        let mut found = LogFiles::default();
        let mut listed = self.location.store.list(Some(&self.location.path("_delta_log")));
        while let Some(object) = listed.try_next().await? {
            found.bytes += object.size;
            let Some(name) = object.location.filename() else { continue };
            let Some((number, kind)) = name.split_once('.') else { continue };
            let Ok(version) = number.parse::<u64>() else { continue };
            match kind {
                "json" => found.commits.push(version),
                "checkpoint.parquet" => found.checkpoints.push(version),
                _ => {}
            }
        }
        found.commits.sort_unstable();
        found.checkpoints.sort_unstable();
        Ok(found)
    }
}
