//! Table compaction: small and heavily masked files become one, in a commit of its own.

use super::DeltaError;
use super::data::{read_file, write_files};
use super::files::LiveFile;
use super::log::Change;
use super::stage::{join, key_columns};
use super::table::{DeltaTable, Writer};
use arrow::compute::{SortColumn, concat_batches, lexsort_to_indices, take_record_batch};
use arrow::record_batch::RecordBatch;
use datafusion::common::runtime::SpawnedTask;
use std::sync::Arc;

/// Rows that one compaction rewrites at most.
const ROWS_MAX: u64 = 2_000_000;

impl DeltaTable {
    /// Compacts if it is worth its while. What fails here is only logged: the table is right
    /// without it, and the next commit tries again.
    pub(super) async fn maintain(&self, writer: &mut Writer) {
        let chosen = self.choose(writer);
        if chosen.is_empty() {
            return;
        }
        if let Err(error) = self.compact(writer, chosen).await {
            tracing::warn!(table = self.name(), %error, "table compaction failed");
            writer.is_unknown = true;
        }
    }

    /// The files to rewrite, smallest first; empty if it is not worth a commit.
    fn choose(&self, writer: &Writer) -> Vec<Arc<LiveFile>> {
        if self.settings.compact_rows_min == 0 {
            return Vec::new();
        }
        let is_worn = |file: &Arc<LiveFile>| {
            file.live_rows() < self.settings.compact_rows_min || file.masked_rows() * 2 >= file.rows
        };
        let mut chosen: Vec<_> =
            writer.files.iter().filter(|file| is_worn(file)).cloned().collect();
        if (chosen.len() as u64) < self.settings.compact_files_min.max(2) {
            return Vec::new();
        }
        chosen.sort_by_key(|file| file.live_rows());
        let mut total = 0;
        let fits = chosen.iter().take_while(|file| {
            total += file.live_rows();
            total <= ROWS_MAX
        });
        let fits = fits.count().max(2);
        chosen.truncate(fits);
        chosen
    }

    async fn compact(
        &self,
        writer: &mut Writer,
        chosen: Vec<Arc<LiveFile>>,
    ) -> Result<(), DeltaError> {
        let schema = &self.shape.file;
        let mut batches = Vec::new();
        for file in &chosen {
            let rows = read_file(&self.location, file, schema).await?;
            batches.extend(rows.into_iter().map(|(batch, _)| batch));
        }
        let rows = concat_batches(schema, &batches)?;
        drop(batches);
        let keys = self.primary_key().to_vec();
        let sorted = join(SpawnedTask::spawn_blocking(move || sort_by(&rows, &keys)));
        let rows = sorted.await?;
        let now_ms = self.clock.now_us() / 1_000;
        let hashes = self.shape.hashes(&rows)?;
        let adds = write_files(&self.location, &rows, &hashes, now_ms).await?;
        let files = chosen.len();
        let first = writer.files.next_ordinal();
        let change = Change {
            is_compaction: true,
            adds: adds.clone(),
            removes: chosen,
            ..Change::default()
        };
        if !self.send(writer, Arc::new(change)).await? {
            tracing::debug!(table = self.name(), "table compaction lost a race, and gave up");
            return Ok(());
        }
        if let Some(index) = &mut writer.index {
            for (number, file) in adds.iter().enumerate() {
                for (row, hash) in file.hashes.iter().enumerate() {
                    index.relocate(*hash, (first + number as u32, row as u32));
                }
            }
        }
        tracing::info!(table = self.name(), files, rows = rows.num_rows(), "table compacted");
        Ok(())
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
