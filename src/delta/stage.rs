//! Rows to data files that nobody sees yet.

use super::DeltaError;
use super::checks::Checks;
use super::data::{FILE_ROWS_MAX, FileRows, begin_file, write_each};
use super::encoding::encode;
use super::partition::{Partitioning, Values};
use super::rules::TableRules;
use super::upload::Upload;
use crate::key::{Entry, KeyHasher, KeyTable};
use crate::store::Location;
use crate::types::POSITION_COLUMN;
use arrow::array::cast::AsArray;
use arrow::array::types::UInt64Type;
use arrow::array::{Array, ArrayRef, BooleanArray};
use arrow::compute::{cast, concat_batches, filter_record_batch};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use bytes::Bytes;
use datafusion::common::runtime::SpawnedTask;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// Begins the names of columns that files hold and tables do not show: sequences.
pub(super) const SEQUENCE_PREFIX: &str = "__onefold_sequence_";
/// Threads at most that one commit computes with.
const THREADS_MAX: usize = 8;
/// Rows that are worth more than one thread.
const SIDE_BY_SIDE_MIN: usize = 50_000;
/// Rows worth a file, and a core, of their own.
const FILE_ROWS_MIN: usize = 250_000;

/// Rows in a file that nobody sees yet.
#[derive(Debug)]
pub(super) struct StagedFile {
    pub(super) path: String,
    pub(super) size_bytes: u64,
    pub(super) modified_ms: i64,
    pub(super) partition: Values,
    /// Without the columns that partition the table.
    pub(super) rows: RecordBatch,
    /// The key of each row, hashed.
    pub(super) hashes: Vec<u128>,
    pub(super) upload: Upload,
}

/// What a table must know of its rows to write them.
#[derive(Clone, Debug)]
pub(super) struct RowShape {
    pub(super) table: String,
    /// What INSERT takes.
    pub(super) input: SchemaRef,
    /// What the table shows: the input without the columns that are not stored.
    pub(super) schema: SchemaRef,
    /// What its files hold, and their partitions say: the schema, and the sequences that it does
    /// not show.
    pub(super) file: SchemaRef,
    pub(super) primary_key: Vec<String>,
    pub(super) hasher: KeyHasher,
    pub(super) rules: Arc<TableRules>,
    pub(super) checks: Arc<Checks>,
    pub(super) partitioning: Partitioning,
}

/// Rows with their keys and positions.
struct Keyed {
    rows: RecordBatch,
    hashes: Vec<u128>,
    positions: Vec<u64>,
}

impl RowShape {
    /// The shape of a table that takes the columns of `input`, and has no CHECK.
    pub(super) fn new(
        table: String,
        input: SchemaRef,
        primary_key: Vec<String>,
        hasher: KeyHasher,
        rules: TableRules,
    ) -> Self {
        let is_stored = |field: &&Arc<Field>| !rules.unstored.contains(field.name());
        let stored: Vec<_> = input.fields().iter().filter(is_stored).cloned().collect();
        let hidden = rules.sequence_by.iter().filter(|name| rules.unstored.contains(name));
        let hidden = hidden.filter_map(|name| {
            let field = input.field_with_name(name).ok()?.clone();
            Some(Arc::new(field.with_name(format!("{SEQUENCE_PREFIX}{name}")).with_nullable(false)))
        });
        let held: Vec<_> = stored.iter().cloned().chain(hidden).collect();
        Self {
            table,
            input,
            schema: Arc::new(Schema::new(stored)),
            file: Arc::new(Schema::new(held)),
            primary_key,
            hasher,
            rules: Arc::new(rules),
            checks: Arc::default(),
            partitioning: Partitioning::default(),
        }
    }

    /// The same, in partitions.
    pub(super) fn with_partitioning(self, partitioning: Partitioning) -> Self {
        Self { partitioning, ..self }
    }

    /// The columns of a file that order its rows, by name; none if rows count as they arrive.
    pub(super) fn sequence_fields(&self) -> Vec<Field> {
        let names = self.rules.sequence_by.iter();
        let fields = names.filter_map(|name| {
            let hidden = format!("{SEQUENCE_PREFIX}{name}");
            self.file.field_with_name(name).or_else(|_| self.file.field_with_name(&hidden)).ok()
        });
        fields.cloned().collect()
    }

    /// The columns of a file that tell whose row it is, and which of two counts.
    pub(super) fn key_schema(&self) -> Result<SchemaRef, DeltaError> {
        let mut fields = Vec::new();
        for name in &self.primary_key {
            fields.push(self.file.field_with_name(name)?.clone());
        }
        let is_new = |field: &Field| !self.primary_key.contains(field.name());
        fields.extend(self.sequence_fields().into_iter().filter(is_new));
        Ok(Arc::new(Schema::new(fields)))
    }

    /// Chooses the last row of each key and writes the rest to new files.
    pub(super) async fn stage(
        &self,
        location: &Location,
        partitions: Vec<Vec<RecordBatch>>,
        now_ms: i64,
    ) -> Result<Vec<Arc<StagedFile>>, DeltaError> {
        let shape = self.clone();
        let rows: usize = partitions.iter().flatten().map(RecordBatch::num_rows).sum();
        if rows < SIDE_BY_SIDE_MIN {
            let files = SpawnedTask::spawn_blocking(move || shape.files_of_few(&partitions));
            let begin = |(rows, bytes)| begin_file(location, rows, bytes, now_ms);
            return Ok(join(files).await?.into_iter().map(begin).collect());
        }
        let mut tasks = Vec::with_capacity(partitions.len());
        for batches in partitions {
            let shape = self.clone();
            tasks.push(SpawnedTask::spawn_blocking(move || shape.keyed(&batches)));
        }
        let mut keyed = Vec::with_capacity(tasks.len());
        for task in tasks {
            keyed.extend(join(task).await?);
        }
        let kept = self.checked(last_of_each_key(keyed).await?).await?;
        let files = join(SpawnedTask::spawn_blocking(move || shape.files(kept))).await?;
        write_each(location, files, now_ms).await
    }

    /// The files of so few rows that handing them to several threads would take longer, encoded.
    fn files_of_few(
        &self,
        partitions: &[Vec<RecordBatch>],
    ) -> Result<Vec<(FileRows, Bytes)>, DeltaError> {
        let all: Vec<RecordBatch> = partitions.iter().flatten().cloned().collect();
        let keyed: Vec<Keyed> = self.keyed(&all)?.into_iter().collect();
        let mut lost = vec![Vec::new(); keyed.len()];
        for (part, row) in losers(&keyed, 0, 1) {
            lost[part as usize].push(row);
        }
        let kept = without(keyed, lost)?;
        for own in &kept {
            self.refuse_violations(&own.rows)?;
        }
        let encoded = |rows: FileRows| encode(&rows.rows).map(|bytes| (rows, bytes));
        self.files(kept)?.into_iter().map(encoded).collect()
    }

    /// The files that the rows are worth, each of one partition.
    fn files(&self, kept: Vec<Keyed>) -> Result<Vec<FileRows>, DeltaError> {
        let mut partitions: BTreeMap<Values, Vec<FileRows>> = BTreeMap::new();
        for own in kept.into_iter().filter(|own| own.rows.num_rows() > 0) {
            for part in self.partitioning.cut(own.rows, own.hashes)? {
                partitions.entry(part.partition.clone()).or_default().push(part);
            }
            self.partitioning.refuse_many(partitions.len())?;
        }
        let mut files = Vec::with_capacity(partitions.len());
        for (_, parts) in partitions {
            files.extend(group(parts)?);
        }
        Ok(files)
    }

    async fn checked(&self, kept: Vec<Keyed>) -> Result<Vec<Keyed>, DeltaError> {
        if self.checks.is_empty() {
            return Ok(kept);
        }
        let tasks: Vec<_> = kept
            .into_iter()
            .map(|own| {
                let shape = self.clone();
                SpawnedTask::spawn_blocking(move || {
                    shape.refuse_violations(&own.rows)?;
                    Ok(own)
                })
            })
            .collect();
        let mut checked = Vec::with_capacity(tasks.len());
        for task in tasks {
            checked.push(join(task).await?);
        }
        Ok(checked)
    }

    /// The hash of each row's key, of many rows.
    pub(super) fn hashes_of_many(&self, rows: &RecordBatch) -> Result<Vec<u128>, DeltaError> {
        let share = rows.num_rows().div_ceil(threads()).max(1);
        let starts = (0..rows.num_rows()).step_by(share);
        let parts = starts.map(|from| rows.slice(from, share.min(rows.num_rows() - from)));
        let hashed = side_by_side(parts, |part| self.hashes(&part));
        Ok(hashed.into_iter().collect::<Result<Vec<_>, _>>()?.concat())
    }

    /// The hash of each row's key.
    pub(super) fn hashes(&self, rows: &RecordBatch) -> Result<Vec<u128>, DeltaError> {
        let mut hashes = Vec::with_capacity(rows.num_rows());
        self.hasher.hash(&key_columns(rows, &self.primary_key)?, &mut hashes)?;
        Ok(hashes)
    }

    fn keyed(&self, batches: &[RecordBatch]) -> Result<Option<Keyed>, DeltaError> {
        let mut shaped = Vec::with_capacity(batches.len());
        let mut positions = Vec::new();
        for batch in batches.iter().filter(|batch| batch.num_rows() > 0) {
            let own = batch.column_by_name(POSITION_COLUMN).ok_or_else(|| DeltaError::Damaged {
                reason: "rows without a position".to_owned(),
            })?;
            positions.extend_from_slice(own.as_primitive::<UInt64Type>().values());
            shaped.push(self.shape(batch)?);
        }
        if shaped.is_empty() {
            return Ok(None);
        }
        let rows = concat_batches(&self.schema, &shaped)?;
        let hashes = self.hashes(&rows)?;
        Ok(Some(Keyed { rows, hashes, positions }))
    }

    /// The columns of the table, in its types.
    fn shape(&self, batch: &RecordBatch) -> Result<RecordBatch, DeltaError> {
        let mut columns = Vec::with_capacity(self.schema.fields().len());
        for (index, field) in self.schema.fields().iter().enumerate() {
            let column = batch.column(index);
            let column = if column.data_type() == field.data_type() {
                Arc::clone(column)
            } else {
                cast(column, field.data_type())?
            };
            let column = self.partitioning.normal(field.name(), column)?;
            if !field.is_nullable() && column.null_count() > 0 {
                let row = (0..column.len()).find(|row| column.is_null(*row)).unwrap_or_default();
                return Err(self.null_in(field.name(), batch, row));
            }
            columns.push(column);
        }
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }

    /// Refuses rows with a NULL where the table has none.
    pub(super) fn refuse_nulls(&self, rows: &RecordBatch) -> Result<(), DeltaError> {
        for (field, column) in self.file.fields().iter().zip(rows.columns()) {
            if !field.is_nullable()
                && let Some(row) = (0..column.len()).find(|row| column.is_null(*row))
            {
                return Err(self.null_in(field.name(), rows, row));
            }
        }
        Ok(())
    }

    pub(super) fn null_in(&self, column: &str, rows: &RecordBatch, row: usize) -> DeltaError {
        let (table, row) = (self.table.clone(), show(rows, row));
        let column = column.strip_prefix(SEQUENCE_PREFIX).unwrap_or(column).to_owned();
        if self.partitioning.has(&column) {
            let reason = format!(
                "column {column} is NULL in row {row}, and must not be; an empty text is NULL to \
                 Delta in a column that partitions a table"
            );
            return DeltaError::Partition { table, reason };
        }
        DeltaError::NullValue { table, column, row }
    }
}

/// Of rows with the same key the one with the highest position stays.
async fn last_of_each_key(keyed: Vec<Keyed>) -> Result<Vec<Keyed>, DeltaError> {
    let threads = keyed.len().clamp(1, THREADS_MAX);
    let shared = Arc::new(keyed);
    let mut tasks = Vec::with_capacity(threads);
    for thread in 0..threads {
        let keyed = Arc::clone(&shared);
        tasks.push(SpawnedTask::spawn_blocking(move || Ok(losers(&keyed, thread, threads))));
    }
    let mut losers: Vec<Vec<u32>> = vec![Vec::new(); shared.len()];
    for task in tasks {
        for (part, row) in join(task).await? {
            losers[part as usize].push(row);
        }
    }
    let unshared = |_| DeltaError::Damaged { reason: "rows are still in use".to_owned() };
    without(Arc::try_unwrap(shared).map_err(unshared)?, losers)
}

/// The rows that did not lose; those that did are given by part.
fn without(mut keyed: Vec<Keyed>, losers: Vec<Vec<u32>>) -> Result<Vec<Keyed>, DeltaError> {
    for (own, losers) in keyed.iter_mut().zip(losers).filter(|(_, losers)| !losers.is_empty()) {
        let mut keep = vec![true; own.hashes.len()];
        for row in losers {
            keep[row as usize] = false;
        }
        let mut kept = keep.iter();
        own.hashes.retain(|_| kept.next().copied().unwrap_or(true));
        own.positions.clear();
        own.rows = filter_record_batch(&own.rows, &BooleanArray::from(keep))?;
    }
    Ok(keyed)
}

/// Which hashes may be there twice: all that are, and few others. Most keys of most commits are there
/// once, and a few bits for each tell so.
struct Repeats {
    bits: u32,
    seen: Vec<u64>,
    again: Vec<u64>,
}

impl Repeats {
    /// Of about `count` hashes, of which one in 16 may be taken for one that is there twice.
    fn new(count: usize, hashes: impl Iterator<Item = u128>) -> Self {
        let bits = (count * 16).next_power_of_two().max(64).trailing_zeros();
        let words = vec![0; 1 << (bits - 6)];
        let mut own = Self { bits, seen: words.clone(), again: words };
        for hash in hashes {
            let (word, bit) = own.place(hash);
            own.again[word] |= own.seen[word] & bit;
            own.seen[word] |= bit;
        }
        own
    }

    fn may_be(&self, hash: u128) -> bool {
        let (word, bit) = self.place(hash);
        self.again[word] & bit != 0
    }

    #[inline]
    fn place(&self, hash: u128) -> (usize, u64) {
        let at = (hash >> (u128::BITS - self.bits)) as usize;
        (at / 64, 1 << (at % 64))
    }
}

/// The rows that lose against another of their key, among the keys of one thread.
fn losers(keyed: &[Keyed], thread: usize, threads: usize) -> Vec<(u32, u32)> {
    let is_own = |hash: &u128| *hash as usize % threads == thread;
    let total: usize = keyed.iter().map(|own| own.hashes.len()).sum();
    let all = keyed.iter().flat_map(|own| &own.hashes).copied();
    let repeats = Repeats::new(total.div_ceil(threads), all.filter(is_own));
    let mut last: KeyTable<(u32, u32)> = KeyTable::new();
    let mut losers = Vec::new();
    for (part, own) in keyed.iter().enumerate() {
        for (row, hash) in own.hashes.iter().enumerate() {
            if !is_own(hash) || !repeats.may_be(*hash) {
                continue;
            }
            let here = (part as u32, row as u32);
            if let Entry::Found(best) = last.find_or_insert(*hash, here) {
                let there = *best;
                let other = keyed[there.0 as usize].positions[there.1 as usize];
                if own.positions[row] >= other {
                    *best = here;
                    losers.push(there);
                } else {
                    losers.push(here);
                }
            }
        }
    }
    losers
}

/// Rows of one partition for as many files as are worth writing.
fn group(parts: Vec<FileRows>) -> Result<Vec<FileRows>, DeltaError> {
    let Some((partition, folder)) =
        parts.first().map(|part| (part.partition.clone(), part.folder.clone()))
    else {
        return Ok(Vec::new());
    };
    let total: usize = parts.iter().map(|part| part.rows.num_rows()).sum();
    let wanted = (total / FILE_ROWS_MIN).clamp(1, parts.len()).max(total.div_ceil(FILE_ROWS_MAX));
    let per_file = total.div_ceil(wanted);
    let mut groups: Vec<(Vec<RecordBatch>, Vec<u128>)> = vec![Default::default()];
    let mut space = per_file;
    for own in parts {
        let mut from = 0;
        while from < own.hashes.len() {
            if space == 0 {
                groups.push(Default::default());
                space = per_file;
            }
            let length = (own.hashes.len() - from).min(space);
            if let Some((rows, hashes)) = groups.last_mut() {
                rows.push(own.rows.slice(from, length));
                hashes.extend_from_slice(&own.hashes[from..from + length]);
            }
            from += length;
            space -= length;
        }
    }
    let joined = groups.into_iter().map(|(rows, hashes)| {
        let rows = match rows.as_slice() {
            [one] => one.clone(),
            many => concat_batches(&many[0].schema(), many)?,
        };
        Ok(FileRows { partition: partition.clone(), folder: folder.clone(), rows, hashes })
    });
    joined.collect()
}

/// The columns of the key, in its order.
pub(super) fn key_columns(
    rows: &RecordBatch,
    primary_key: &[String],
) -> Result<Vec<ArrayRef>, DeltaError> {
    let column = |name: &String| {
        rows.column_by_name(name).cloned().ok_or_else(|| DeltaError::Damaged {
            reason: format!("a file has no key column {name}"),
        })
    };
    primary_key.iter().map(column).collect()
}

/// Threads that are worth having, for work that only computes.
pub(super) fn threads() -> usize {
    static THREADS: OnceLock<usize> = OnceLock::new(); // finding out reads several files
    *THREADS.get_or_init(|| {
        std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX)
    })
}

/// Does `work` on each of `parts`, all of them side by side; a panic in it goes on.
pub(super) fn side_by_side<P: Send, T: Send>(
    parts: impl Iterator<Item = P>,
    work: impl Fn(P) -> T + Sync,
) -> Vec<T> {
    let work = &work;
    std::thread::scope(|scope| {
        let tasks: Vec<_> = parts.map(|part| scope.spawn(move || work(part))).collect();
        let joined = tasks.into_iter().map(|task| match task.join() {
            Ok(own) => own,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.collect()
    })
}

/// Waits for a task; a panic in it goes on.
pub(super) async fn join<T: Send + 'static>(
    task: SpawnedTask<Result<T, DeltaError>>,
) -> Result<T, DeltaError> {
    task.join_unwind().await.map_err(|error| DeltaError::Task(Box::new(error)))?
}

/// A row for people.
pub(super) fn show(batch: &RecordBatch, row: usize) -> String {
    let options = FormatOptions::default().with_null("NULL");
    let schema = batch.schema();
    let cells = schema.fields().iter().zip(batch.columns()).filter_map(|(field, column)| {
        if crate::types::is_hidden(field.name()) {
            return None;
        }
        let cell = ArrayFormatter::try_new(column, &options).ok()?;
        Some(format!("{}: {}", field.name(), cell.value(row)))
    });
    format!("{{{}}}", cells.collect::<Vec<_>>().join(", "))
}
