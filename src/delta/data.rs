//! Data files: written once under fresh names, and read by rows.

use super::DeltaError;
use super::encoding::encode;
use super::files::{Files, LiveFile};
use super::partition::{Partitioning, Values, column_of};
use super::slot::Place;
use super::stage::{SEQUENCE_PREFIX, StagedFile, join};
use super::upload::Upload;
use crate::store::{Location, ParquetObject, unread};
use arrow::array::{Array, new_null_array};
use arrow::compute::{cast, concat_batches, interleave_record_batch};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use datafusion::common::runtime::SpawnedTask;
use datafusion::parquet::arrow::ProjectionMask;
use datafusion::parquet::arrow::arrow_reader::RowSelection;
use datafusion::parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectStore, ObjectStoreExt};
use std::collections::BTreeMap;
use std::io::Cursor;
use std::sync::Arc;
use uuid::Uuid;

/// Rows of one data file at most.
pub(super) const FILE_ROWS_MAX: usize = 1_000_000;
/// Files read, and written, side by side.
const READS: usize = 8;
const WRITES: usize = 16;
/// Files up to this size are read with one request: their footer, and each column, would be others.
const WHOLE_BYTES_MAX: u64 = 256 << 10;
const BATCH_ROWS: usize = 65_536;

/// Rows of one partition, and where their file goes.
#[derive(Clone, Debug)]
pub(super) struct FileRows {
    pub(super) partition: Values,
    /// As the log writes it, with a slash behind it; or nothing.
    pub(super) folder: String,
    /// In the columns that a file holds.
    pub(super) rows: RecordBatch,
    /// The key of each row, hashed.
    pub(super) hashes: Vec<u128>,
}

/// Begins to write one data file under a fresh name.
async fn write_file(
    location: &Location,
    rows: FileRows,
    now_ms: i64,
) -> Result<Arc<StagedFile>, DeltaError> {
    let encoded = rows.rows.clone();
    let bytes = join(SpawnedTask::spawn_blocking(move || encode(&encoded))).await?;
    Ok(begin_file(location, rows, bytes, now_ms))
}

/// Begins to write `bytes`, which are the encoded `rows`, under a fresh name.
pub(super) fn begin_file(
    location: &Location,
    rows: FileRows,
    bytes: Bytes,
    now_ms: i64,
) -> Arc<StagedFile> {
    let FileRows { partition, folder, rows, hashes } = rows;
    let path = format!("{folder}part-{}.parquet", Uuid::new_v4());
    let size_bytes = bytes.len() as u64;
    let (store, object) = (Arc::clone(&location.store), LiveFile::object(location, &path));
    let upload = Upload::begin(async move {
        store.put_opts(&object, bytes.into(), unread()).await?;
        Ok(())
    });
    Arc::new(StagedFile { path, size_bytes, modified_ms: now_ms, partition, rows, hashes, upload })
}

/// Writes each of `files`, in their order; several side by side.
pub(super) async fn write_each(
    location: &Location,
    files: Vec<FileRows>,
    now_ms: i64,
) -> Result<Vec<Arc<StagedFile>>, DeltaError> {
    let writes = files.into_iter().map(|rows| write_file(location, rows, now_ms));
    let writes = futures::stream::iter(writes.collect::<Vec<_>>()).buffered(WRITES);
    writes.try_collect().await
}

/// Writes `rows` to as many files as they need; in a table without partitions their hashes may be
/// missing.
pub(super) async fn write_files(
    location: &Location,
    partitioning: &Partitioning,
    rows: &RecordBatch,
    hashes: &[u128],
    now_ms: i64,
) -> Result<Vec<Arc<StagedFile>>, DeltaError> {
    let mut files = Vec::new();
    for part in partitioning.cut(rows.clone(), hashes.to_vec())? {
        let mut rest = part;
        while rest.rows.num_rows() > FILE_ROWS_MAX {
            let left = rest.rows.num_rows() - FILE_ROWS_MAX;
            files.push(FileRows {
                partition: rest.partition.clone(),
                folder: rest.folder.clone(),
                hashes: rest.hashes.drain(..FILE_ROWS_MAX.min(rest.hashes.len())).collect(),
                rows: rest.rows.slice(0, FILE_ROWS_MAX),
            });
            rest.rows = rest.rows.slice(FILE_ROWS_MAX, left);
        }
        files.extend(Some(rest).filter(|rest| rest.rows.num_rows() > 0));
    }
    write_each(location, files, now_ms).await
}

/// The live rows of a file, in the columns of `schema`, and the number of each within the file.
pub(super) async fn read_file(
    location: &Location,
    file: &LiveFile,
    schema: &SchemaRef,
) -> Result<Vec<(RecordBatch, Vec<u32>)>, DeltaError> {
    let batches = read(location, file, schema, file.selection()).await?;
    let masked = file.vector.as_ref().map(|(_, masked)| masked);
    let mut live = (0..file.rows).filter(|row| !masked.is_some_and(|masked| masked.contains(*row)));
    let numbered = batches.into_iter().map(|batch| {
        let rows = live.by_ref().take(batch.num_rows()).map(|row| row as u32).collect();
        (batch, rows)
    });
    Ok(numbered.collect())
}

/// The rows at `places`, which are all different, in their order and in the columns of `schema`.
pub(super) async fn read_rows(
    location: &Location,
    files: &Files,
    places: &[Place],
    schema: &SchemaRef,
) -> Result<RecordBatch, DeltaError> {
    if places.is_empty() {
        return Ok(RecordBatch::new_empty(Arc::clone(schema)));
    }
    let mut wanted: BTreeMap<u32, Vec<(u32, usize)>> = BTreeMap::new();
    for (index, (file, row)) in places.iter().enumerate() {
        wanted.entry(*file).or_default().push((*row, index));
    }
    let reads = wanted.into_iter().map(|(ordinal, mut rows)| async move {
        let file = files.get(ordinal).ok_or_else(|| DeltaError::Damaged {
            reason: format!("the key index names file {ordinal}, which is not there"),
        })?;
        rows.sort_unstable();
        let ranges = rows.iter().map(|(row, _)| *row as usize..*row as usize + 1);
        let selection = RowSelection::from_consecutive_ranges(ranges, file.rows as usize);
        let batches = read(location, file, schema, Some(selection)).await?;
        Ok::<_, DeltaError>((batches, rows))
    });
    let read: Vec<_> = futures::stream::iter(reads).buffered(READS).try_collect().await?;
    let mut batches = Vec::new();
    let mut found = vec![(0, 0); places.len()];
    for (own, rows) in read {
        let mut indices = rows.iter().map(|(_, index)| *index);
        for batch in own {
            for row in 0..batch.num_rows() {
                if let Some(index) = indices.next() {
                    found[index] = (batches.len(), row);
                }
            }
            batches.push(batch);
        }
        if indices.next().is_some() {
            let reason = "a data file has fewer rows than the log says".to_owned();
            return Err(DeltaError::Damaged { reason });
        }
    }
    let all: Vec<&RecordBatch> = batches.iter().collect();
    Ok(interleave_record_batch(&all, &found)?)
}

/// The rows `rows` of one file, ascending, in the columns of `schema`.
pub(super) async fn read_some(
    location: &Location,
    file: &LiveFile,
    rows: &[u32],
    schema: &SchemaRef,
) -> Result<RecordBatch, DeltaError> {
    let ranges = rows.iter().map(|row| *row as usize..*row as usize + 1);
    let selection = RowSelection::from_consecutive_ranges(ranges, file.rows as usize);
    let batches = read(location, file, schema, Some(selection)).await?;
    Ok(concat_batches(schema, &batches)?)
}

async fn read(
    location: &Location,
    file: &LiveFile,
    schema: &SchemaRef,
    selection: Option<RowSelection>,
) -> Result<Vec<RecordBatch>, DeltaError> {
    let (store, path) = (Arc::clone(&location.store), LiveFile::object(location, &file.path));
    let size_bytes = file.size_bytes.unsigned_abs();
    let reader: Box<dyn AsyncFileReader> = if size_bytes <= WHOLE_BYTES_MAX {
        Box::new(Cursor::new(store.get(&path).await?.bytes().await?))
    } else {
        Box::new(ParquetObject { store, path, size_bytes })
    };
    let mut builder = ParquetRecordBatchStreamBuilder::new(reader).await?;
    let names = schema.fields().iter().map(|field| field.name().as_str());
    let names = names.filter(|name| !file.partition.contains_key(*name));
    let mask = ProjectionMask::columns(builder.parquet_schema(), names);
    builder = builder.with_projection(mask);
    if let Some(selection) = selection {
        builder = builder.with_row_selection(selection);
    }
    let batches: Vec<RecordBatch> =
        builder.with_batch_size(BATCH_ROWS).build()?.try_collect().await?;
    batches.iter().map(|batch| shape(batch, file, schema)).collect()
}

/// The columns of `schema`, in its types, those of its partition too; what the file does not have
/// is NULL.
fn shape(
    batch: &RecordBatch,
    file: &LiveFile,
    schema: &SchemaRef,
) -> Result<RecordBatch, DeltaError> {
    let mut columns = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        let column = match batch.column_by_name(field.name()) {
            _ if file.partition.contains_key(field.name()) => {
                column_of(&file.partition, field, batch.num_rows())?
            }
            Some(column) if column.data_type() == field.data_type() => Arc::clone(column),
            Some(column) => cast(column, field.data_type())?,
            None if field.is_nullable() => new_null_array(field.data_type(), batch.num_rows()),
            None => {
                let (path, name) = (&file.path, field.name());
                let reason = if name.starts_with(SEQUENCE_PREFIX) {
                    format!(
                        "{path} was rewritten by another engine, which lost the sequences of its \
                         rows; restore the version before, or store the columns of 'sequence_by'"
                    )
                } else {
                    format!("{path} has no column {name}")
                };
                return Err(DeltaError::Damaged { reason });
            }
        };
        columns.push(column);
    }
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}
