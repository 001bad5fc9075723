//! Versions that name files again which were gone before: restores, by whichever engine.
//!
//! ```text
//!   version   files    what a vacuum between must know
//!   10        a b
//!   20        c        a and b are gone
//!   30        a b      RESTORE: they are back, though older than all that is kept
//!   31        c        no longer at the head, and still named by version 30
//! ```
//!
//! Every commit is read once; how far they were read is kept in a file, which may be lost.

use super::DeltaError;
use super::actions::Actions;
use super::log::table_id;
use super::table::DeltaTable;
use delta_kernel::snapshot::SnapshotRef;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use serde::{Deserialize, Serialize};

/// Where the vacuum notes how far it read.
pub(super) const NOTE: &str = "_onefold/returned.json";
/// Requests side by side.
const READS: usize = 32;
/// A file that is this much older than the commit that adds it was there before: writers abandon
/// older uploads.
const OLD_MS: i64 = 12 * 3_600_000;

/// Begins the name of this program in `commitInfo`: but for a restore, it adds new files only.
const OWN_ENGINE: &str = "onefold/";

/// What was found in the commits up to a version.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Note {
    /// The table it is about: another may have been at this place.
    table: String,
    up_to: u64,
    versions: Vec<u64>,
}

impl DeltaTable {
    /// The versions after `oldest`, up to `head`, that name files again.
    ///
    /// # Errors
    ///
    /// A commit that cannot be read.
    pub(super) async fn returned(
        &self,
        oldest: u64,
        head: &SnapshotRef,
    ) -> Result<Vec<u64>, DeltaError> {
        let (table, newest) = (table_id(head), head.version());
        let mut note = self.note().await?;
        if note.table != table || note.up_to > newest {
            note = Note { table, ..Note::default() };
        }
        let reads = (note.up_to.max(oldest) + 1..=newest).map(|version| async move {
            let actions = self.log.actions(version).await?;
            let lost = || DeltaError::Damaged {
                reason: format!("the commit of version {version} is not in the log"),
            };
            let actions = actions.ok_or_else(lost)?;
            Ok::<_, DeltaError>(brings_back(&actions).then_some(version))
        });
        let found: Vec<Option<u64>> =
            futures::stream::iter(reads).buffered(READS).try_collect().await?;
        note.versions.extend(found.into_iter().flatten());
        note.versions.retain(|version| *version > oldest);
        note.up_to = newest;
        let bytes = serde_json::to_vec(&note).map_err(|error| DeltaError::Damaged {
            reason: format!("{NOTE} cannot be written: {error}"),
        })?;
        self.location.store.put(&self.location.path(NOTE), bytes.into()).await?;
        Ok(note.versions)
    }

    async fn note(&self) -> Result<Note, DeltaError> {
        match self.location.store.get(&self.location.path(NOTE)).await {
            Ok(found) => Ok(serde_json::from_slice(&found.bytes().await?).unwrap_or_default()),
            Err(object_store::Error::NotFound { .. }) => Ok(Note::default()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether a commit may name files that the version before it did not, and that are not new.
fn brings_back(actions: &Actions) -> bool {
    let replaced: Vec<&str> = actions.removes.iter().map(|own| own.path.as_str()).collect();
    let is_own = actions.engine.as_deref().is_some_and(|own| own.starts_with(OWN_ENGINE));
    let is_old = |at_ms: i64, modified_ms: i64| at_ms.saturating_sub(modified_ms) > OLD_MS;
    actions.operation.as_deref() == Some("RESTORE")
        || !is_own
            && actions.adds.iter().any(|add| {
                !replaced.contains(&add.path.as_str())
                    && actions.at_ms.is_some_and(|at_ms| is_old(at_ms, add.modification_time))
            })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::EpochRows;
    use crate::delta::tests::{batch, definition, open, settings};
    use crate::delta::{DeltaSettings, foreign};
    use crate::store::Location;
    use crate::testing::{AgedStore, SimulatedClock};
    use crate::types::{Clock, Entropy, SystemEntropy};
    use object_store::memory::InMemory;
    use std::sync::Arc;
    use std::time::Duration;

    /// The picture above, with every version kept from 3 on; the file of versions 1 and 4 is old.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn files_that_another_engine_brought_back_are_kept_as_long_as_that_version() {
        for (operation, is_dated_anew) in [("RESTORE", true), ("ROLLBACK", false)] {
            let clock = SimulatedClock::default();
            let aged = Arc::new(AgedStore::new(Arc::new(InMemory::new()), clock.clone()));
            let location = Location::from_store("memory:///t", aged).unwrap();
            write(&location, &clock, 1).await;
            clock.advance(Duration::from_hours(30));
            write(&location, &clock, 2).await; // takes the place of all rows
            clock.advance(Duration::from_hours(1));
            write(&location, &clock, 3).await;
            opened(&location, &clock).await.checkpoint().await.unwrap();
            clock.advance(Duration::from_hours(10));
            let modified_ms = is_dated_anew.then_some(4_102_444_800_000);
            foreign::restore(&location, 1, operation, modified_ms).await;
            clock.advance(Duration::from_hours(1));
            write(&location, &clock, 5).await;
            clock.advance(Duration::from_hours(50));
            for _ in 0..2 {
                let table = opened(&location, &clock).await;
                let report = table.vacuum(Duration::from_hours(55)).await.unwrap();
                assert_eq!(report.oldest_version, 3, "{operation}");
                for (version, rows) in [(3, 0), (4, 20), (5, 20)] {
                    let changes = table.changes(3, version).await.unwrap();
                    assert_eq!(changes.num_rows(), rows, "{operation}: 3 to {version}");
                }
            }
            clock.advance(Duration::from_hours(100));
            write(&location, &clock, 6).await;
            let table = opened(&location, &clock).await;
            table.checkpoint().await.unwrap();
            clock.advance(Duration::from_hours(100));
            write(&location, &clock, 7).await;
            let report = opened(&location, &clock).await.vacuum(Duration::from_hours(24)).await;
            let report = report.unwrap();
            assert!(report.oldest_version == 6 && report.objects >= 3, "{operation}: {report:?}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn commits_are_read_once_and_a_note_of_another_table_is_not_believed() {
        let location = Location::from_store("memory:///t", Arc::new(InMemory::new())).unwrap();
        let table = open(&location, settings()).await.unwrap();
        foreign::append(&location, &[(1, 1)]).await;
        foreign::restore(&location, 0, "RESTORE", None).await;
        table.refresh().await.unwrap();
        let head = async || Arc::clone(&table.writer.lock().await.snapshot);
        // Commits of these tests are dated far ahead, so that the append seems to be of an old file.
        assert_eq!(table.returned(0, &head().await).await.unwrap(), [1, 2]);
        let note = table.note().await.unwrap();
        assert_eq!((note.up_to, note.versions.as_slice()), (2, [1, 2].as_slice()));
        let path = location.path(NOTE);
        let store = &location.store;
        let noted = |table: &str, up_to: u64| {
            format!("{{\"table\":\"{table}\",\"up_to\":{up_to},\"versions\":[1]}}")
        };
        for damaged in ["{".to_owned(), noted("another", 2), noted(&note.table, 9)] {
            store.put(&path, damaged.clone().into()).await.unwrap();
            assert_eq!(table.returned(0, &head().await).await.unwrap(), [1, 2], "{damaged}");
        }
        store.put(&path, noted(&note.table, 2).into()).await.unwrap();
        assert_eq!(table.returned(0, &head().await).await.unwrap(), [1], "as it was noted");
        assert_eq!(table.returned(1, &head().await).await.unwrap(), [0; 0], "not kept any more");
    }

    async fn opened(location: &Location, clock: &SimulatedClock) -> Arc<DeltaTable> {
        let quiet = DeltaSettings { retention: Duration::ZERO, compact_rows_min: 0, ..settings() };
        let ports: (Arc<dyn Entropy>, Arc<dyn Clock>) =
            (Arc::new(SystemEntropy), Arc::new(clock.clone()));
        let table =
            DeltaTable::create_or_open("t", location.clone(), Some(definition()), quiet, ports);
        table.await.unwrap()
    }

    /// Ten rows of the same keys.
    async fn write(location: &Location, clock: &SimulatedClock, value: i64) {
        let table = opened(location, clock).await;
        let rows: Vec<(i64, i64)> = (0..10).map(|key| (key, value)).collect();
        let rows = EpochRows { partitions: vec![vec![batch(0, &rows)]] };
        let staged = table.stage_rows(rows).await.unwrap();
        table.write(&staged, None).await.unwrap();
    }
}
