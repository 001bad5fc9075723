//! `FilesSource`: a folder of files as a source.

use super::entries::{Entry, decode, encode};
use super::listing::Listing;
use super::reader::{Cursor, FilesReader};
use super::{FileFormat, FileOrder, FilesOptions};
use crate::source::{Source, SourceError, SourcePosition, SourceReader, SourceStart};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::execution::runtime_env::RuntimeEnv;
use object_store::ObjectMeta;
use std::collections::HashMap;
use std::sync::Arc;

/// Files below a folder, each one a partition.
#[derive(Clone, Debug)]
pub struct FilesSource {
    pub(super) listing: Listing,
    pub(super) schema: SchemaRef,
    pub(super) options: FilesOptions,
    /// A part of the files, for a plain query that reads in parallel.
    pub(super) part: Option<Arc<Vec<Entry>>>,
}

/// The files that a location means, before their schema is known.
#[derive(Clone, Debug)]
pub struct FoundFiles {
    listing: Listing,
    options: FilesOptions,
}

impl FilesSource {
    /// The files that `location` means: a folder, a file, or a pattern, on any object store;
    /// `store_options` configure the store, as deltalake and datafusion-cli name them.
    ///
    /// # Errors
    ///
    /// A location that is no path and no URL, or a store that cannot be built.
    pub fn find(
        location: &str,
        options: FilesOptions,
        store_options: &HashMap<String, String>,
        runtime: &RuntimeEnv,
    ) -> Result<FoundFiles, SourceError> {
        let listing = Listing::open(location, &options.format, store_options, runtime)?;
        Ok(FoundFiles { listing, options })
    }
}

impl FoundFiles {
    /// The first `count` files in path order, with their store: to infer a schema from.
    pub async fn first(
        &self,
        count: usize,
    ) -> Result<(Arc<dyn object_store::ObjectStore>, Vec<ObjectMeta>), SourceError> {
        use object_store::ObjectStoreExt;
        let store = &self.listing.folder.store;
        let mut found = Vec::new();
        for entry in self.listing.list().await?.iter().take(count) {
            let head = store.head(&self.listing.path(entry)).await;
            found.push(head.map_err(|error| SourceError::Unavailable {
                source_name: entry.path.clone(),
                cause: Box::new(error),
            })?);
        }
        Ok((Arc::clone(store), found))
    }

    /// The compression of a file, by the options or by its name.
    #[must_use]
    pub fn compression(&self, path: &str) -> FileCompressionType {
        super::text::compression(&self.options, path)
    }

    /// The source of these files, with rows of `schema`.
    #[must_use]
    pub fn with_schema(self, schema: SchemaRef) -> FilesSource {
        FilesSource { listing: self.listing, schema, options: self.options, part: None }
    }
}

#[async_trait]
impl Source for FilesSource {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn fingerprint(&self) -> String {
        let FilesOptions { format, compression, bad_rows, .. } = &self.options;
        let format = match format {
            FileFormat::Json => "json".to_owned(),
            FileFormat::Parquet => "parquet".to_owned(),
            FileFormat::Csv(csv) => format!("{csv:?}"),
        };
        let columns = self.schema.fields().iter();
        let columns: Vec<String> =
            columns.map(|field| format!("{} {}", field.name(), field.data_type())).collect();
        format!(
            "files {} format={format} compression={compression:?} bad_rows={bad_rows:?} columns={}",
            self.listing.folder.url,
            columns.join(", ")
        )
    }

    async fn open(&self, start: SourceStart) -> Result<Box<dyn SourceReader>, SourceError> {
        Ok(Box::new(FilesReader::open(self.clone(), start)?))
    }

    async fn position_at(&self, arrived_us: i64) -> Result<SourceStart, SourceError> {
        let mut old = self.listing.list().await?;
        old.retain(|entry| entry.modified_us < arrived_us);
        for entry in &mut old {
            entry.generation = 1;
        }
        let cursor = Cursor { generation: 1, next: old.len() as u64 };
        let cursor = serde_json::to_value(cursor).unwrap_or_default();
        let position = SourcePosition { partitions: std::collections::BTreeMap::new(), cursor };
        Ok(SourceStart { position: Some(position), entries: vec![encode(&old)] })
    }

    async fn split(&self, count: usize) -> Result<Option<Vec<Arc<dyn Source>>>, SourceError> {
        let files = self.listing.list().await?;
        if files.len() < 2 || count < 2 {
            return Ok(None);
        }
        let mut parts: Vec<(u64, Vec<Entry>)> = vec![(0, Vec::new()); count.min(files.len())];
        for file in files {
            if let Some(part) = parts.iter_mut().min_by_key(|(bytes, _)| *bytes) {
                part.0 += file.size_bytes.max(1);
                part.1.push(file);
            }
        }
        let sources = parts.into_iter().map(|(_, files)| {
            Arc::new(Self { part: Some(Arc::new(files)), ..self.clone() }) as Arc<dyn Source>
        });
        Ok(Some(sources.collect()))
    }

    fn merge_entries(&self, entries: &[Bytes]) -> Result<Bytes, SourceError> {
        let mut all = Vec::new();
        for bytes in entries {
            all.extend(self.decode(bytes)?);
        }
        Ok(encode(&all))
    }

    fn drained_delay_us(&self) -> Option<i64> {
        Some(match self.options.order {
            FileOrder::Any | FileOrder::EventTime => self.options.file_delay_us,
        })
    }
}

impl FilesSource {
    pub(super) fn decode(&self, bytes: &Bytes) -> Result<Vec<Entry>, SourceError> {
        decode(bytes).map_err(|reason| SourceError::Position {
            source_name: self.listing.folder.url.to_string(),
            reason: format!("the list of files: {reason}"),
        })
    }
}
