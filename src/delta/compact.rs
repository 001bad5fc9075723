//! Upkeep of the writer after each commit: table compaction, the key index, checkpoints, vacuum.

use super::DeltaError;
use super::files::LiveFile;
use super::partition::present;
use super::rewrite::Rewrite;
use super::saved::Haste;
use super::table::{DeltaTable, Writer};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Rows that one compaction rewrites at most.
const ROWS_MAX: u64 = 2_000_000;
/// A file is worn when this share of its rows is masked: one in so many.
const MASKED_SHARE: u64 = 4;

/// Which files a table compaction rewrites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effort {
    /// When enough of them make it worth its while.
    Worthwhile,
    /// All that are small or masked.
    All,
}

/// Whether a compaction is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// It goes on while epochs are committed, and is committed after one of them.
    Beside,
    /// It is done when the statement is.
    Now,
}

impl DeltaTable {
    /// Does what the commits so far make worth its while. What fails here is only logged: the table
    /// is right without it, and the next commit tries again.
    pub(super) async fn maintain(&self, writer: &mut Writer, pace: Pace) {
        self.vacuum_in_time(writer);
        self.save_index(writer, Haste::BesideCommits).await;
        if writer.rewrite.is_none() {
            let chosen = self.choose(writer, Effort::Worthwhile);
            writer.rewrite = self.begin_rewrite(writer.index.as_ref(), chosen);
        }
        if pace == Pace::Now || writer.rewrite.as_mut().is_some_and(Rewrite::is_done) {
            self.end_rewrite(writer).await;
        }
        self.fit_index(writer).await;
    }

    /// Commits the table compaction that goes on, if there is one.
    pub(super) async fn end_rewrite(&self, writer: &mut Writer) {
        let Some(rewrite) = writer.rewrite.take() else { return };
        let failed = |error: DeltaError| {
            tracing::warn!(table = self.name(), %error, "table compaction failed");
        };
        match rewrite.done().await {
            Ok(rewritten) => {
                if let Err(error) = self.commit_rewrite(writer, rewritten).await {
                    failed(error);
                    writer.is_unknown = true;
                }
            }
            Err(error) => failed(error),
        }
    }

    /// Moves what is over the budget of the index to local disk.
    async fn fit_index(&self, writer: &mut Writer) {
        let Some(index) = writer.index.take() else { return };
        match index.fitted(self.settings.index_bytes_max).await {
            Ok(index) => writer.index = Some(index),
            Err(error) => {
                tracing::warn!(table = self.name(), %error, "the key index will be built anew");
            }
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
        self.prepare(&mut writer).await?;
        self.end_rewrite(&mut writer).await;
        let (mut removed, mut added) = (0, 0);
        loop {
            self.prepare(&mut writer).await?;
            let chosen = self.choose(&writer, Effort::All);
            let count = chosen.iter().map(Vec::len).sum::<usize>() as u64;
            let Some(rewrite) = self.begin_rewrite(writer.index.as_ref(), chosen) else {
                self.save_index(&mut writer, Haste::Now).await;
                return Ok((removed, added));
            };
            let rewritten = rewrite.done().await?;
            match self.commit_rewrite(&mut writer, rewritten).await? {
                Some(files) => {
                    removed += count;
                    added += files;
                }
                None => self.after_lost_race(&mut writer, false).await?,
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
        self.save_index(&mut writer, Haste::Now).await;
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
}
