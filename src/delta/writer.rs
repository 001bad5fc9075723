//! Rows to data files, and back.

use super::DeltaError;
use super::files::LiveFile;
use crate::key::{Entry, KeyHasher, KeyTable};
use crate::store::{Location, ParquetObject};
use crate::types::POSITION_COLUMN;
use arrow::array::cast::AsArray;
use arrow::array::types::UInt64Type;
use arrow::array::{Array, ArrayRef, BooleanArray};
use arrow::compute::{cast, concat_batches, filter_record_batch};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use bytes::Bytes;
use datafusion::common::runtime::SpawnedTask;
use datafusion::parquet::arrow::async_reader::ParquetRecordBatchStreamBuilder;
use datafusion::parquet::arrow::{ArrowWriter, ProjectionMask};
use datafusion::parquet::basic::{Compression, ZstdLevel};
use datafusion::parquet::file::properties::WriterProperties;
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use std::sync::Arc;
use uuid::Uuid;

/// Rows of one data file at most.
pub(super) const FILE_ROWS_MAX: usize = 1_000_000;
/// Threads at most that one commit computes with.
const THREADS_MAX: usize = 8;
/// Rows worth a file, and a core, of their own.
const FILE_ROWS_MIN: usize = 250_000;

/// Rows in a file that nobody sees yet.
#[derive(Debug)]
pub(super) struct StagedFile {
    pub(super) path: String,
    pub(super) size_bytes: u64,
    pub(super) modified_ms: i64,
    pub(super) rows: RecordBatch,
    /// The key of each row, hashed.
    pub(super) hashes: Vec<u128>,
}

/// What a table must know of its rows to write them.
#[derive(Clone, Debug)]
pub(super) struct RowShape {
    pub(super) table: String,
    pub(super) schema: SchemaRef,
    pub(super) primary_key: Vec<String>,
    pub(super) hasher: KeyHasher,
}

/// Rows with their keys and positions.
struct Keyed {
    rows: RecordBatch,
    hashes: Vec<u128>,
    positions: Vec<u64>,
}

impl RowShape {
    /// Chooses the last row of each key and writes the rest to new files.
    pub(super) async fn stage(
        &self,
        location: &Location,
        partitions: Vec<Vec<RecordBatch>>,
        now_ms: i64,
    ) -> Result<Vec<StagedFile>, DeltaError> {
        let mut tasks = Vec::with_capacity(partitions.len());
        for batches in partitions {
            let shape = self.clone();
            tasks.push(SpawnedTask::spawn_blocking(move || shape.keyed(&batches)));
        }
        let mut keyed = Vec::with_capacity(tasks.len());
        for task in tasks {
            keyed.extend(join(task).await?);
        }
        let kept = last_of_each_key(keyed).await?;
        let total: usize = kept.iter().map(|keyed| keyed.rows.num_rows()).sum();
        if total == 0 {
            return Ok(Vec::new());
        }
        let groups = group(kept, total, &self.schema)?;
        let mut tasks = Vec::with_capacity(groups.len());
        for (rows, hashes) in groups {
            let location = location.clone();
            tasks.push(SpawnedTask::spawn(async move {
                write_file(&location, rows, hashes, now_ms).await
            }));
        }
        let mut staged = Vec::with_capacity(tasks.len());
        for task in tasks {
            staged.push(join(task).await?);
        }
        Ok(staged)
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
            if !field.is_nullable() && column.null_count() > 0 {
                let row = (0..column.len()).find(|row| column.is_null(*row)).unwrap_or_default();
                return Err(DeltaError::NullValue {
                    table: self.table.clone(),
                    column: field.name().clone(),
                    row: show(batch, row),
                });
            }
            columns.push(column);
        }
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
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
    let mut keyed = Arc::try_unwrap(shared).map_err(unshared)?;
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

/// The rows that lose against another of their key, among the keys of one thread.
fn losers(keyed: &[Keyed], thread: usize, threads: usize) -> Vec<(u32, u32)> {
    let total: usize = keyed.iter().map(|own| own.hashes.len()).sum();
    let mut last: KeyTable<(u32, u32)> = KeyTable::new();
    last.reserve(total / threads + total / 16);
    let mut losers = Vec::new();
    for (part, own) in keyed.iter().enumerate() {
        for (row, hash) in own.hashes.iter().enumerate() {
            if *hash as usize % threads != thread {
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

/// Rows for as many files as are worth writing.
fn group(
    keyed: Vec<Keyed>,
    total: usize,
    schema: &SchemaRef,
) -> Result<Vec<(RecordBatch, Vec<u128>)>, DeltaError> {
    let wanted =
        (total / FILE_ROWS_MIN).clamp(1, keyed.len().max(1)).max(total.div_ceil(FILE_ROWS_MAX));
    let per_file = total.div_ceil(wanted);
    let mut groups: Vec<(Vec<RecordBatch>, Vec<u128>)> = vec![Default::default()];
    let mut space = per_file;
    for own in keyed {
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
    let joined = groups.into_iter().map(|(rows, hashes)| match rows.as_slice() {
        [one] => Ok((one.clone(), hashes)),
        many => Ok((concat_batches(schema, many)?, hashes)),
    });
    joined.collect()
}

/// Writes one data file under a fresh name.
pub(super) async fn write_file(
    location: &Location,
    rows: RecordBatch,
    hashes: Vec<u128>,
    now_ms: i64,
) -> Result<StagedFile, DeltaError> {
    let encoded = rows.clone();
    let bytes = join(SpawnedTask::spawn_blocking(move || encode(&encoded))).await?;
    let path = format!("part-{}.parquet", Uuid::new_v4());
    let size_bytes = bytes.len() as u64;
    location.store.put(&location.path(&path), bytes.into()).await?;
    Ok(StagedFile { path, size_bytes, modified_ms: now_ms, rows, hashes })
}

fn encode(rows: &RecordBatch) -> Result<Bytes, DeltaError> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_dictionary_page_size_limit(128 << 10)
        .build();
    let mut bytes = Vec::with_capacity(rows.get_array_memory_size() / 4);
    let mut writer = ArrowWriter::try_new(&mut bytes, rows.schema(), Some(properties))?;
    writer.write(rows)?;
    writer.close()?;
    Ok(bytes.into())
}

/// The live rows of a file and the number of each within the file; `columns` are read, or all.
pub(super) async fn read_file(
    location: &Location,
    file: &LiveFile,
    schema: &SchemaRef,
    columns: Option<&[String]>,
) -> Result<Vec<(RecordBatch, Vec<u32>)>, DeltaError> {
    let reader = ParquetObject {
        store: Arc::clone(&location.store),
        path: location.path(&file.path),
        size_bytes: file.size_bytes.unsigned_abs(),
    };
    let mut builder = ParquetRecordBatchStreamBuilder::new(reader).await?;
    if let Some(columns) = columns {
        let names = columns.iter().map(String::as_str);
        let mask = ProjectionMask::columns(builder.parquet_schema(), names);
        builder = builder.with_projection(mask);
    }
    if let Some(selection) = file.selection() {
        builder = builder.with_row_selection(selection);
    }
    let batches: Vec<RecordBatch> = builder.with_batch_size(65_536).build()?.try_collect().await?;
    let masked = file.vector.as_ref().map(|(_, masked)| masked);
    let mut live = (0..file.rows).filter(|row| !masked.is_some_and(|masked| masked.contains(*row)));
    let mut read = Vec::with_capacity(batches.len());
    for batch in batches {
        let rows = live.by_ref().take(batch.num_rows()).map(|row| row as u32).collect();
        let fields = schema
            .fields()
            .iter()
            .filter(|field| batch.schema().column_with_name(field.name()).is_some());
        let mut arrays = Vec::new();
        let mut kept = Vec::new();
        for field in fields {
            if let Some(column) = batch.column_by_name(field.name()) {
                arrays.push(cast(column, field.data_type())?);
                kept.push(Arc::clone(field));
            }
        }
        let shaped = Arc::new(arrow::datatypes::Schema::new(kept));
        read.push((RecordBatch::try_new(shaped, arrays)?, rows));
    }
    Ok(read)
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
    std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX)
}

/// Waits for a task; a panic in it goes on.
pub(super) async fn join<T: Send + 'static>(
    task: SpawnedTask<Result<T, DeltaError>>,
) -> Result<T, DeltaError> {
    task.join_unwind().await.map_err(|error| DeltaError::Task(Box::new(error)))?
}

fn show(batch: &RecordBatch, row: usize) -> String {
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
