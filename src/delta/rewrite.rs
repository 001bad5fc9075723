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
use super::forward::Forward;
use super::index::KeyIndex;
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
use std::borrow::Cow;
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

/// New files, and where the rows of the old ones went.
#[derive(Debug)]
pub(super) struct Rewritten {
    inputs: Vec<Arc<LiveFile>>,
    adds: Vec<Arc<StagedFile>>,
    forward: Forward,
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
    pub(super) fn begin_rewrite(
        &self,
        index: Option<&KeyIndex>,
        chosen: Vec<Vec<Arc<LiveFile>>>,
    ) -> Option<Rewrite> {
        if chosen.is_empty() {
            return None;
        }
        let rows: u64 = chosen.iter().flatten().map(|file| file.live_rows()).sum();
        // The columns of a partition are part of a key, and not of its files.
        let is_hashed = !self.shape.partitioning.is_empty()
            || index.is_some_and(|index| !index.is_small_beside(rows as usize));
        let (location, shape) = (self.location.clone(), self.shape.clone());
        let now_ms = self.clock.now_us() / 1_000;
        let task = SpawnedTask::spawn(async move {
            let inputs = chosen.iter().flatten().cloned().collect();
            let rewrites = chosen
                .into_iter()
                .map(|files| rewrite((&location, &shape), files, is_hashed, now_ms));
            let mut written =
                futures::stream::iter(rewrites.collect::<Vec<_>>()).buffered(REWRITES);
            let (mut all_adds, mut all_origins) = (Vec::new(), Vec::new());
            while let Some((adds, origins)) = written.try_next().await? {
                all_adds.extend(adds);
                all_origins.extend(origins);
            }
            drop(written);
            let forward = SpawnedTask::spawn_blocking(move || Ok(Forward::new(&all_origins)));
            Ok(Rewritten { inputs, adds: all_adds, forward: join(forward).await? })
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
        let Rewritten { inputs, adds, forward } = rewritten;
        if !self.mask_owed(writer).await? {
            return Ok(None);
        }
        let Some((removes, dead)) = changed_since(writer, &inputs) else {
            tracing::debug!(table = self.name(), "files changed: table compaction gave up");
            return Ok(None);
        };
        let marks = marks_in(&forward, &dead);
        let is_gone = |(file, rows): (usize, &RoaringTreemap)| {
            rows.len() == adds[file].rows.num_rows() as u64
        };
        if marks.iter().map(|(file, rows)| (*file, rows)).any(is_gone) {
            return Ok(None); // all of a new file: that is another compaction
        }
        let first = writer.files.next_ordinal();
        let (files, rows) = (inputs.len(), forward.len());
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
            let shape = self.shape.clone();
            let moved = SpawnedTask::spawn_blocking(move || {
                let moved = if index.is_small_beside(rows) {
                    index.relocate_all(&forward, first, threads())
                } else {
                    let hashes = adds.iter().map(|file| match file.hashes.len() {
                        0 => shape.hashes_of_many(&file.rows).map(Cow::Owned),
                        _ => Ok(Cow::Borrowed(file.hashes.as_slice())),
                    });
                    let hashes = hashes.collect::<Result<Vec<Cow<'_, [u128]>>, _>>()?;
                    let hashes: Vec<&[u128]> = hashes.iter().map(AsRef::as_ref).collect();
                    index.relocate_files(&hashes, first, &forward, threads())?
                };
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
    (location, shape): (&Location, &RowShape),
    files: Vec<Arc<LiveFile>>,
    is_hashed: bool,
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
        let hashes = if is_hashed { own.hashes_of_many(&rows)? } else { Vec::new() };
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
fn marks_in(forward: &Forward, dead: &Dead) -> BTreeMap<usize, RoaringTreemap> {
    let mut marks: BTreeMap<usize, RoaringTreemap> = BTreeMap::new();
    for (file, rows) in dead {
        for (file, row) in rows.iter().filter_map(|row| forward.get((*file, row as u32))) {
            marks.entry(file as usize).or_default().insert(u64::from(row));
        }
    }
    marks
}
