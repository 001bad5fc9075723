//! Rows of NDJSON and CSV files.

use super::entries::Entry;
use super::records::{Block, Cutter};
use super::{BadRows, FileFormat, FilesOptions};
use crate::source::SourceError;
use crate::types::PartitionId;
use arrow::array::BooleanArray;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::error::DataFusionError;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use std::fmt;
use std::sync::Arc;

/// Records in one batch at most.
const BATCH_RECORDS: usize = 8_192;

/// What came of some records.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) batch: RecordBatch,
    /// Records taken, malformed ones included.
    pub(super) records: u64,
    pub(super) malformed: u64,
}

/// A text file being read.
pub(super) struct TextFile {
    id: PartitionId,
    schema: SchemaRef,
    options: FilesOptions,
    bytes: BoxStream<'static, Result<Bytes, DataFusionError>>,
    cutter: Cutter,
    is_ended: bool,
}

impl fmt::Debug for TextFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TextFile").field("id", &self.id).finish_non_exhaustive()
    }
}

impl TextFile {
    /// Opens a file behind its first `skipped` records.
    pub(super) async fn open(
        (store, path): (&Arc<dyn ObjectStore>, &Path),
        entry: &Entry,
        (schema, options): (&SchemaRef, &FilesOptions),
        skipped: u64,
    ) -> Result<Self, SourceError> {
        let id = PartitionId(entry.path.clone());
        let unavailable = |cause: Box<dyn std::error::Error + Send + Sync>| {
            SourceError::Unavailable { source_name: id.to_string(), cause }
        };
        let found = match store.get(path).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => {
                return Err(SourceError::Changed { path: entry.path.clone(), what: "was removed" });
            }
            Err(error) => return Err(unavailable(Box::new(error))),
        };
        let compression = compression(options, &entry.path);
        let raw =
            found.into_stream().map_err(|error| DataFusionError::ObjectStore(Box::new(error)));
        let bytes = compression
            .convert_stream(raw.boxed())
            .map_err(|error| unavailable(Box::new(error)))?;
        let csv = match &options.format {
            FileFormat::Csv(csv) => Some(csv.clone()),
            _ => None,
        };
        let header = u64::from(csv.as_ref().is_some_and(|csv| csv.has_header));
        Ok(Self {
            id,
            schema: Arc::clone(schema),
            options: options.clone(),
            bytes,
            cutter: Cutter::new(csv, skipped + header),
            is_ended: false,
        })
    }

    /// The next rows; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Decoded>, SourceError> {
        while self.cutter.records() < BATCH_RECORDS && !self.is_ended {
            match self.bytes.next().await {
                Some(Ok(bytes)) => self.cutter.push(&bytes),
                Some(Err(error)) => {
                    let source_name = self.id.to_string();
                    return Err(SourceError::Unavailable { source_name, cause: Box::new(error) });
                }
                None => {
                    self.cutter.end();
                    self.is_ended = true;
                }
            }
        }
        let block = self.cutter.take(BATCH_RECORDS);
        if block.ends.is_empty() {
            return Ok(None);
        }
        self.decode(&block).map(Some)
    }

    fn decode(&self, block: &Block) -> Result<Decoded, SourceError> {
        let records = block.ends.len();
        if let Ok(batch) = self.rows(&block.bytes, records)
            && batch.num_rows() == records
        {
            return Ok(Decoded { batch, records: records as u64, malformed: 0 });
        }
        let mut good = Vec::with_capacity(records);
        let mut malformed = 0;
        for index in 0..records {
            let reason = match self.rows(block.record(index), 1) {
                Ok(row) if row.num_rows() == 1 => {
                    good.push(row);
                    continue;
                }
                Ok(rows) => format!("it holds {} rows, and not one", rows.num_rows()),
                Err(error) => error.to_string(),
            };
            if self.options.bad_rows == BadRows::Error {
                let (partition, line) = (self.id.clone(), block.lines[index]);
                return Err(SourceError::BadRow { partition, line, reason });
            }
            malformed += 1;
        }
        let batch = concat_batches(&self.schema, &good).map_err(|error| SourceError::Invalid {
            source_name: self.id.to_string(),
            reason: error.to_string(),
        })?;
        Ok(Decoded { batch, records: records as u64, malformed })
    }

    fn rows(&self, bytes: &[u8], records: usize) -> Result<RecordBatch, ArrowError> {
        let schema = Arc::clone(&self.schema);
        match &self.options.format {
            FileFormat::Csv(csv) => {
                let mut builder = arrow::csv::ReaderBuilder::new(schema)
                    .with_header(false)
                    .with_delimiter(csv.delimiter)
                    .with_quote(csv.quote)
                    .with_batch_size(records + 1);
                if let Some(escape) = csv.escape {
                    builder = builder.with_escape(escape);
                }
                let mut decoder = builder.build_decoder();
                let mut rest = bytes;
                while !rest.is_empty() {
                    let read = decoder.decode(rest)?;
                    if read == 0 {
                        break;
                    }
                    rest = &rest[read..];
                }
                decoder.decode(&[])?;
                let batch = decoder.flush()?;
                Ok(batch.unwrap_or_else(|| RecordBatch::new_empty(Arc::clone(&self.schema))))
            }
            _ => {
                let mut decoder = arrow::json::ReaderBuilder::new(schema)
                    .with_batch_size(records + 1)
                    .build_decoder()?;
                let mut rest = bytes;
                while !rest.is_empty() {
                    let read = decoder.decode(rest)?;
                    if read == 0 {
                        break;
                    }
                    rest = &rest[read..];
                }
                let batch = decoder.flush()?;
                Ok(batch.unwrap_or_else(|| RecordBatch::new_empty(Arc::clone(&self.schema))))
            }
        }
    }
}

/// The compression that the options or the file's name say.
pub(super) fn compression(options: &FilesOptions, path: &str) -> FileCompressionType {
    let said = match &options.compression {
        Some(said) => said.to_ascii_lowercase(),
        None => {
            path.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase()).unwrap_or_default()
        }
    };
    match said.as_str() {
        "gz" | "gzip" => FileCompressionType::GZIP,
        "zst" | "zstd" => FileCompressionType::ZSTD,
        _ => FileCompressionType::UNCOMPRESSED,
    }
}

/// Which rows have a NULL where none may be.
pub(super) fn null_rows(batch: &RecordBatch, schema: &SchemaRef) -> Option<(BooleanArray, String)> {
    use arrow::array::Array;
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        if !field.is_nullable() && column.null_count() > 0 {
            let good = (0..column.len()).map(|row| Some(column.is_valid(row))).collect();
            return Some((good, field.name().clone()));
        }
    }
    None
}
