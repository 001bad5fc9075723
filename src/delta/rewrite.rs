//! Table compaction: files become fewer and sorted by key, beside commits, in a commit of its own.
//!
//! ```text
//!   begin    the live rows of some files are read, sorted and written        no lock is held
//!   commit   rows that were masked meanwhile are masked in the new files     the writer's turn
//!            too, the index is moved there; if a file is gone, it gives up
//! ```

use super::DeltaError;
use super::data::{read_file, write_files};
use super::files::LiveFile;
use super::key_order::{in_order, key_order};
use super::log::Change;
use super::slot::Place;
use super::stage::{RowShape, StagedFile, join, key_columns, threads};
use super::table::{DeltaTable, Writer};
use crate::store::Location;
use arrow::compute::concat_batches;
use arrow::record_batch::RecordBatch;
use datafusion::common::runtime::SpawnedTask;
use futures::{FutureExt, StreamExt, TryStreamExt};
use roaring::RoaringTreemap;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Files read, and partitions rewritten, side by side.
const READS: usize = 8;
const REWRITES: usize = 8;

/// Rows masked since they were read, by file.
type Dead = HashMap<u32, RoaringTreemap>;

/// A compaction that goes on; dropping it gives it up.
#[derive(Debug)]
pub(super) struct Rewrite {
    task: SpawnedTask<Result<Rewritten, DeltaError>>,
    ended: Option<Result<Rewritten, DeltaError>>,
}

/// New files, and where their rows were.
#[derive(Debug)]
pub(super) struct Rewritten {
    inputs: Vec<Arc<LiveFile>>,
    adds: Vec<Arc<StagedFile>>,
    /// By file.
    origins: Vec<Vec<Place>>,
}

impl Rewrite {
    /// Whether `done` returns at once.
    pub(super) fn is_done(&mut self) -> bool {
        if self.ended.is_none() {
            let ended = (&mut self.task).now_or_never();
            self.ended = ended.map(|ended| match ended {
                Ok(ended) => ended,
                Err(error) => Err(DeltaError::Task(Box::new(error))),
            });
        }
        self.ended.is_some()
    }

    /// Waits for it.
    pub(super) async fn done(self) -> Result<Rewritten, DeltaError> {
        match self.ended {
            Some(ended) => ended,
            None => join(self.task).await,
        }
    }
}

impl DeltaTable {
    /// Begins to rewrite files, those of each partition together; nothing if there are none.
    pub(super) fn begin_rewrite(&self, chosen: Vec<Vec<Arc<LiveFile>>>) -> Option<Rewrite> {
        if chosen.is_empty() {
            return None;
        }
        let (location, shape) = (self.location.clone(), self.shape.clone());
        let now_ms = self.clock.now_us() / 1_000;
        let task = SpawnedTask::spawn(async move {
            let inputs = chosen.iter().flatten().cloned().collect();
            let rewrites =
                chosen.into_iter().map(|files| rewrite(&location, &shape, files, now_ms));
            let mut written =
                futures::stream::iter(rewrites.collect::<Vec<_>>()).buffered(REWRITES);
            let mut all = Rewritten { inputs, adds: Vec::new(), origins: Vec::new() };
            while let Some((adds, origins)) = written.try_next().await? {
                all.adds.extend(adds);
                all.origins.extend(origins);
            }
            Ok(all)
        });
        Some(Rewrite { task, ended: None })
    }

    /// Commits new files in the place of old ones; returns how many there are then, or `None` if it
    /// gave up: after a lost race, or because rows of the old files came back or are gone.
    pub(super) async fn commit_rewrite(
        &self,
        writer: &mut Writer,
        rewritten: Rewritten,
    ) -> Result<Option<u64>, DeltaError> {
        let Rewritten { inputs, adds, origins } = rewritten;
        if !self.mask_owed(writer).await? {
            return Ok(None);
        }
        let Some((removes, dead)) = changed_since(writer, &inputs) else {
            tracing::debug!(table = self.name(), "files changed: table compaction gave up");
            return Ok(None);
        };
        let marks = marks_in(&origins, &dead);
        let is_gone = |(file, rows): (usize, &RoaringTreemap)| {
            rows.len() == adds[file].rows.num_rows() as u64
        };
        if marks.iter().map(|(file, rows)| (*file, rows)).any(is_gone) {
            return Ok(None); // all of a new file: that is another compaction
        }
        let first = writer.files.next_ordinal();
        let (files, rows) = (inputs.len(), origins.iter().map(Vec::len).sum::<usize>());
        let mut change =
            Change { is_compaction: true, adds: adds.clone(), removes, ..Change::default() };
        let vectors = self.mask_adds(marks, &mut change)?;
        if !self.send(writer, change, &vectors).await? {
            tracing::debug!(table = self.name(), "table compaction lost a race, and gave up");
            return Ok(None);
        }
        let count = adds.len() as u64;
        writer.changed = writer.changed.saturating_add(rows as u64);
        if let Some(mut index) = writer.index.take() {
            let alive = rows as u64 - vectors.values().map(|rows| rows.len()).sum::<u64>();
            let moved = SpawnedTask::spawn_blocking(move || {
                let hashes: Vec<&[u128]> = adds.iter().map(|file| file.hashes.as_slice()).collect();
                let moved = index.relocate_files(&hashes, first, &origins, threads())?;
                if moved != alive {
                    let reason = format!("the key index has {moved} of {alive} rows that moved");
                    return Err(DeltaError::Damaged { reason });
                }
                Ok(index)
            });
            writer.index = Some(join(moved).await?);
        }
        tracing::info!(table = self.name(), files, rows, "table compacted");
        Ok(Some(count))
    }
}

/// The rows of files of one partition in new files, sorted by key, and where they were.
async fn rewrite(
    location: &Location,
    shape: &RowShape,
    files: Vec<Arc<LiveFile>>,
    now_ms: i64,
) -> Result<(Vec<Arc<StagedFile>>, Vec<Vec<Place>>), DeltaError> {
    let reads = files.iter().map(|file| read_file(location, file, &shape.file));
    let mut reads = futures::stream::iter(reads.collect::<Vec<_>>()).buffered(READS);
    let (mut batches, mut places) = (Vec::new(), Vec::new());
    let mut ordinals = files.iter().map(|file| file.ordinal);
    while let (Some(read), Some(ordinal)) = (reads.try_next().await?, ordinals.next()) {
        for (batch, rows) in read {
            places.extend(rows.into_iter().map(|row| (ordinal, row)));
            batches.push(batch);
        }
    }
    drop(reads);
    let own = shape.clone();
    let sorted = SpawnedTask::spawn_blocking(move || {
        let rows = concat_batches(&own.file, &batches)?;
        drop(batches);
        let (rows, places) = sort_by(&rows, &own.primary_key, places)?;
        let hashes = own.hashes_of_many(&rows)?;
        Ok((rows, places, hashes))
    });
    let (rows, places, hashes) = join(sorted).await?;
    let adds = write_files(location, &shape.partitioning, &rows, &hashes, now_ms).await?;
    let mut places = places.into_iter();
    let own = |file: &Arc<StagedFile>| places.by_ref().take(file.rows.num_rows()).collect();
    let origins = adds.iter().map(own).collect();
    Ok((adds, origins))
}

/// The rows in the order of their keys.
fn sort_by(
    rows: &RecordBatch,
    keys: &[String],
    places: Vec<Place>,
) -> Result<(RecordBatch, Vec<Place>), DeltaError> {
    let order = key_order(&key_columns(rows, keys)?)?;
    if order.values().is_sorted() {
        return Ok((rows.clone(), places));
    }
    let sorted = order.values().iter().map(|row| places[*row as usize]).collect();
    Ok((in_order(rows, &order)?, sorted))
}

/// The files as they are now, and the rows masked since they were read; `None` if one is gone, or
/// has rows that were not read.
fn changed_since(writer: &Writer, inputs: &[Arc<LiveFile>]) -> Option<(Vec<Arc<LiveFile>>, Dead)> {
    let masked = |file: &LiveFile| file.vector.as_ref().map(|(_, rows)| Arc::clone(rows));
    let (mut files, mut dead) = (Vec::with_capacity(inputs.len()), Dead::new());
    for input in inputs {
        let file = writer.files.by_path(&input.path)?;
        if file.ordinal != input.ordinal {
            return None;
        }
        let then = masked(input).unwrap_or_default();
        let now = masked(file).unwrap_or_default();
        if !Arc::ptr_eq(&then, &now) {
            if !then.is_subset(&now) {
                return None;
            }
            dead.insert(file.ordinal, now.as_ref() - then.as_ref());
        }
        files.push(Arc::clone(file));
    }
    Some((files, dead))
}

/// The rows of the new files that are dead, by file.
fn marks_in(origins: &[Vec<Place>], dead: &Dead) -> BTreeMap<usize, RoaringTreemap> {
    let mut marks = BTreeMap::new();
    if dead.is_empty() {
        return marks;
    }
    let mut dead_rows: HashMap<u32, Vec<bool>> = HashMap::with_capacity(dead.len());
    for (file, rows) in dead {
        let mut own = vec![false; rows.max().map_or(0, |last| last as usize + 1)];
        rows.iter().for_each(|row| own[row as usize] = true);
        dead_rows.insert(*file, own);
    }
    let is_dead = |(file, row): &Place| {
        dead_rows.get(file).is_some_and(|rows| rows.get(*row as usize) == Some(&true))
    };
    for (file, places) in origins.iter().enumerate() {
        let rows = (0..).zip(places).filter(|(_, place)| is_dead(place)).map(|(row, _)| row);
        let rows: RoaringTreemap = rows.collect();
        if !rows.is_empty() {
            marks.insert(file, rows);
        }
    }
    marks
}
