//! Rows of Parquet files.

use super::entries::Entry;
use super::text::{Decoded, null_rows};
use super::{BadRows, FilesOptions};
use crate::source::SourceError;
use crate::store::ParquetObject;
use crate::types::PartitionId;
use arrow::array::{Array, new_null_array};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::parquet::arrow::ProjectionMask;
use datafusion::parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use datafusion::parquet::arrow::async_reader::{
    ParquetRecordBatchStream, ParquetRecordBatchStreamBuilder,
};
use datafusion::parquet::errors::ParquetError;
use futures::StreamExt;
use object_store::ObjectStore;
use object_store::path::Path;
use std::fmt;
use std::sync::Arc;

const BATCH_ROWS: usize = 32_768;

/// A Parquet file being read.
pub(super) struct ParquetFile {
    id: PartitionId,
    schema: SchemaRef,
    bad_rows: BadRows,
    rows: ParquetRecordBatchStream<ParquetObject>,
    next_row: u64,
}

impl fmt::Debug for ParquetFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParquetFile").field("id", &self.id).finish_non_exhaustive()
    }
}

impl ParquetFile {
    /// Opens a file behind its first `skipped` rows.
    pub(super) async fn open(
        (store, path): (&Arc<dyn ObjectStore>, &Path),
        entry: &Entry,
        (schema, options): (&SchemaRef, &FilesOptions),
        skipped: u64,
    ) -> Result<Self, SourceError> {
        let id = PartitionId(entry.path.clone());
        let object = ParquetObject {
            store: Arc::clone(store),
            path: path.clone(),
            size_bytes: entry.size_bytes,
        };
        let failed = |error| failed(&id, error);
        let builder = builder(object, schema).await.map_err(failed)?;
        let names = schema.fields().iter().map(|field| field.name().as_str());
        let mask = ProjectionMask::columns(builder.parquet_schema(), names);
        let rows = builder
            .with_projection(mask)
            .with_batch_size(BATCH_ROWS)
            .with_offset(skipped as usize)
            .build()
            .map_err(failed)?;
        Ok(Self {
            id,
            schema: Arc::clone(schema),
            bad_rows: options.bad_rows,
            rows,
            next_row: skipped,
        })
    }

    /// The next rows; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Decoded>, SourceError> {
        let read = match self.rows.next().await {
            None => return Ok(None),
            Some(Err(error)) => return Err(failed(&self.id, error)),
            Some(Ok(read)) => read,
        };
        let taken = read.num_rows();
        let mut batch = self.shape(&read)?;
        let mut malformed = 0;
        while let Some((good, column)) = null_rows(&batch, &self.schema) {
            if self.bad_rows == BadRows::Error {
                let row = (0..good.len()).find(|row| !good.value(*row)).unwrap_or_default();
                let reason = format!("{column} is NULL, and must not be");
                let line = self.next_row + row as u64 + 1;
                return Err(SourceError::BadRow { partition: self.id.clone(), line, reason });
            }
            malformed += good.false_count() as u64;
            batch = filter_record_batch(&batch, &good).map_err(|error| self.invalid(&error))?;
        }
        self.next_row += taken as u64;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let columns = batch.columns().to_vec();
        let schema = Arc::clone(&self.schema);
        let batch = RecordBatch::try_new_with_options(schema, columns, &options)
            .map_err(|error| self.invalid(&error))?;
        Ok(Some(Decoded { batch, records: taken as u64, malformed }))
    }

    /// The declared columns, in their types; NULL where the file has none. Nullable for now.
    fn shape(&self, read: &RecordBatch) -> Result<RecordBatch, SourceError> {
        let mut columns = Vec::with_capacity(self.schema.fields().len());
        let mut fields = Vec::with_capacity(self.schema.fields().len());
        for field in self.schema.fields() {
            let column = match read.column_by_name(field.name()) {
                Some(column) if column.data_type() == field.data_type() => Arc::clone(column),
                Some(column) => {
                    cast(column, field.data_type()).map_err(|error| self.invalid(&error))?
                }
                None => new_null_array(field.data_type(), read.num_rows()),
            };
            columns.push(column);
            fields.push(field.as_ref().clone().with_nullable(true));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(read.num_rows()));
        RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
            .map_err(|error| self.invalid(&error))
    }

    fn invalid(&self, error: &dyn fmt::Display) -> SourceError {
        SourceError::Invalid { source_name: self.id.to_string(), reason: error.to_string() }
    }
}

/// Reads texts as views of the file's pages where that is how they are declared; else each would
/// be copied once more.
async fn builder(
    mut object: ParquetObject,
    declared: &SchemaRef,
) -> Result<ParquetRecordBatchStreamBuilder<ParquetObject>, ParquetError> {
    let found = ArrowReaderMetadata::load_async(&mut object, ArrowReaderOptions::new()).await?;
    let read_as = |field: &FieldRef| {
        let wanted = declared.field_with_name(field.name()).ok().map(Field::data_type);
        match (field.data_type(), wanted) {
            (DataType::Utf8 | DataType::LargeUtf8, Some(view @ DataType::Utf8View))
            | (DataType::Binary | DataType::LargeBinary, Some(view @ DataType::BinaryView)) => {
                Arc::new(field.as_ref().clone().with_data_type(view.clone()))
            }
            _ => Arc::clone(field),
        }
    };
    let fields: Fields = found.schema().fields().iter().map(read_as).collect();
    let found = if fields == *found.schema().fields() {
        found
    } else {
        let schema = Schema::new_with_metadata(fields, found.schema().metadata().clone());
        let options = ArrowReaderOptions::new().with_schema(Arc::new(schema));
        ArrowReaderMetadata::try_new(Arc::clone(found.metadata()), options)?
    };
    Ok(ParquetRecordBatchStreamBuilder::new_with_metadata(object, found))
}

fn failed(id: &PartitionId, error: ParquetError) -> SourceError {
    match error {
        ParquetError::External(cause) => {
            let is_gone = cause
                .downcast_ref::<object_store::Error>()
                .is_some_and(|error| matches!(error, object_store::Error::NotFound { .. }));
            if is_gone {
                return SourceError::Changed { path: id.to_string(), what: "was removed" };
            }
            SourceError::Unavailable { source_name: id.to_string(), cause }
        }
        other => SourceError::Invalid { source_name: id.to_string(), reason: other.to_string() },
    }
}
