//! Table compaction: small and heavily masked files become one, in a commit of its own.

use super::DeltaError;
use super::data::{read_file, write_files};
use super::files::LiveFile;
use super::log::Change;
use super::partition::present;
use super::stage::{StagedFile, join, key_columns};
use super::table::{DeltaTable, Writer};
use arrow::compute::{SortColumn, concat_batches, lexsort_to_indices, take_record_batch};
use arrow::record_batch::RecordBatch;
use datafusion::common::runtime::SpawnedTask;
use futures::{StreamExt, TryStreamExt};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Rows that one compaction rewrites at most.
const ROWS_MAX: u64 = 2_000_000;
/// Partitions rewritten side by side.
const REWRITES: usize = 8;
/// The share of keys that must have changed for the index to be saved, one in so many: beside
/// commits, and when there is time.
const BUSY_SHARE: usize = 1;
pub(super) const SAVED_SHARE: usize = 10;
/// A file is worn when this share of its rows is masked: one in so many.
const MASKED_SHARE: u64 = 2;

/// Which files a table compaction rewrites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effort {
    /// When enough of them make it worth its while.
    Worthwhile,
    /// All that are small or masked.
    All,
}

impl DeltaTable {
    /// Compacts if it is worth its while. What fails here is only logged: the table is right
    /// without it, and the next commit tries again.
    pub(super) async fn maintain(&self, writer: &mut Writer) {
        self.vacuum_in_time(writer);
        self.save_index(writer, BUSY_SHARE).await;
        let chosen = self.choose(writer, Effort::Worthwhile);
        if chosen.is_empty() {
            return;
        }
        if let Err(error) = self.compact(writer, chosen).await {
            tracing::warn!(table = self.name(), %error, "table compaction failed");
            writer.is_unknown = true;
        }
    }

    /// Rewrites all small and all masked files; returns how many files became how many.
    ///
    /// # Errors
    ///
    /// A store that does not answer; what was committed before stays.
    pub async fn optimize(&self) -> Result<(u64, u64), DeltaError> {
        let mut writer = self.writer.lock().await;
        self.catch_up(&mut writer).await?;
        let (mut removed, mut added) = (0, 0);
        loop {
            self.prepare(&mut writer).await?;
            let chosen = self.choose(&writer, Effort::All);
            if chosen.is_empty() {
                self.save_index(&mut writer, SAVED_SHARE).await;
                return Ok((removed, added));
            }
            let count = chosen.iter().map(Vec::len).sum::<usize>() as u64;
            match self.compact(&mut writer, chosen).await? {
                Some(files) => {
                    removed += count;
                    added += files;
                }
                None => self.after_lost_race(&mut writer).await?,
            }
        }
    }

    /// Writes a Delta checkpoint of the head; returns its version.
    ///
    /// # Errors
    ///
    /// A store that does not answer.
    pub async fn checkpoint(&self) -> Result<u64, DeltaError> {
        let mut writer = self.writer.lock().await;
        self.catch_up(&mut writer).await?;
        writer.snapshot = self.log.checkpoint(Arc::clone(&writer.snapshot)).await?;
        writer.actions = 0;
        self.save_index(&mut writer, SAVED_SHARE).await;
        Ok(writer.snapshot.version())
    }

    /// The files to rewrite, those of each partition together; none if it is not worth a commit.
    fn choose(&self, writer: &Writer, effort: Effort) -> Vec<Vec<Arc<LiveFile>>> {
        let mut partitions: BTreeMap<_, Vec<&Arc<LiveFile>>> = BTreeMap::new();
        for file in writer.files.iter() {
            partitions.entry(present(&file.partition)).or_default().push(file);
        }
        let mut partitions: Vec<_> = partitions.into_values().collect();
        partitions.sort_by_key(|files| std::cmp::Reverse(files.len()));
        let mut all: Vec<Vec<Arc<LiveFile>>> = Vec::new();
        let mut total = 0;
        for files in partitions {
            let chosen = self.choose_among(&files, effort);
            total += chosen.iter().map(|file| file.live_rows()).sum::<u64>();
            if !all.is_empty() && total > ROWS_MAX {
                break;
            }
            if !chosen.is_empty() {
                all.push(chosen);
            }
        }
        all
    }

    /// The files of one partition to rewrite, smallest first; none if they are not worth it.
    ///
    /// Of small files those are taken that are together not much smaller than the next larger one,
    /// so that a row is rewritten about as often as its file doubles.
    fn choose_among(&self, files: &[&Arc<LiveFile>], effort: Effort) -> Vec<Arc<LiveFile>> {
        if self.settings.compact_rows_min == 0 && effort == Effort::Worthwhile {
            return Vec::new();
        }
        let is_small = |file: &LiveFile| file.live_rows() < self.settings.compact_rows_min;
        let is_worn = |file: &LiveFile| match effort {
            Effort::Worthwhile => file.masked_rows() * MASKED_SHARE >= file.rows,
            Effort::All => file.masked_rows() > 0,
        };
        let is_chosen = |file: &&&Arc<LiveFile>| is_small(file) || is_worn(file);
        let mut chosen: Vec<Arc<LiveFile>> =
            files.iter().filter(is_chosen).map(|file| Arc::clone(file)).collect();
        chosen.sort_by_key(|file| file.live_rows());
        let mut total = 0;
        let fits = chosen.iter().take_while(|file| {
            let is_near = file.live_rows() <= total.max(1) * 2 || is_worn(file);
            let takes = effort == Effort::All || total == 0 || is_near;
            total += file.live_rows();
            takes && total <= ROWS_MAX
        });
        let fits = fits.count();
        let has_worn = chosen.first().is_some_and(|file| is_worn(file));
        chosen.truncate(fits.max(1));
        let least = match effort {
            Effort::Worthwhile => self.settings.compact_files_min.max(2),
            Effort::All if has_worn || chosen.iter().any(|file| is_worn(file)) => 1,
            Effort::All => 2,
        };
        if (chosen.len() as u64) < least { Vec::new() } else { chosen }
    }

    /// Rewrites the files of each partition, sorted by key; returns how many there are then, or
    /// `None` after a lost race.
    async fn compact(
        &self,
        writer: &mut Writer,
        chosen: Vec<Vec<Arc<LiveFile>>>,
    ) -> Result<Option<u64>, DeltaError> {
        let rewrites = chosen.clone().into_iter().map(|files| self.rewrite(files));
        let written: Vec<Vec<Arc<StagedFile>>> =
            futures::stream::iter(rewrites).buffered(REWRITES).try_collect().await?;
        let adds: Vec<Arc<StagedFile>> = written.into_iter().flatten().collect();
        let chosen: Vec<Arc<LiveFile>> = chosen.into_iter().flatten().collect();
        let files = chosen.len();
        let rows: usize = adds.iter().map(|file| file.rows.num_rows()).sum();
        let first = writer.files.next_ordinal();
        let change = Change {
            is_compaction: true,
            adds: adds.clone(),
            removes: chosen,
            ..Change::default()
        };
        if !self.send(writer, Arc::new(change)).await? {
            tracing::debug!(table = self.name(), "table compaction lost a race, and gave up");
            return Ok(None);
        }
        writer.changed = writer.changed.saturating_add(rows as u64);
        if let Some(index) = &mut writer.index {
            for (number, file) in adds.iter().enumerate() {
                for (row, hash) in file.hashes.iter().enumerate() {
                    index.relocate(*hash, (first + number as u32, row as u32));
                }
            }
        }
        tracing::info!(table = self.name(), files, rows, "table compacted");
        Ok(Some(adds.len() as u64))
    }

    /// The rows of files of one partition in new files, sorted by key.
    async fn rewrite(&self, files: Vec<Arc<LiveFile>>) -> Result<Vec<Arc<StagedFile>>, DeltaError> {
        let schema = &self.shape.file;
        let mut batches = Vec::new();
        for file in files {
            let rows = read_file(&self.location, &file, schema).await?;
            batches.extend(rows.into_iter().map(|(batch, _)| batch));
        }
        let rows = concat_batches(schema, &batches)?;
        drop(batches);
        let keys = self.primary_key().to_vec();
        let sorted = join(SpawnedTask::spawn_blocking(move || sort_by(&rows, &keys)));
        let rows = sorted.await?;
        let now_ms = self.clock.now_us() / 1_000;
        let (partitioning, hashes) = (&self.shape.partitioning, self.shape.hashes(&rows)?);
        write_files(&self.location, partitioning, &rows, &hashes, now_ms).await
    }
}

fn sort_by(rows: &RecordBatch, keys: &[String]) -> Result<RecordBatch, DeltaError> {
    let mut columns = Vec::with_capacity(keys.len());
    for values in key_columns(rows, keys)? {
        columns.push(SortColumn { values, options: None });
    }
    let order = lexsort_to_indices(&columns, None)?;
    Ok(take_record_batch(rows, &order)?)
}
