//! The live files of a table, as this process knows them.

use super::actions::{Add, Descriptor};
use super::partition::Values;
use super::{DeltaError, vectors};
use crate::store::Location;
use arrow::array::BooleanBufferBuilder;
use datafusion::parquet::arrow::arrow_reader::RowSelection;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use roaring::RoaringTreemap;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

/// A data file with the vector that masks it.
#[derive(Debug)]
pub(super) struct LiveFile {
    /// This process's own number of the file; new ones are higher.
    pub(super) ordinal: u32,
    /// As the log writes it, relative to the table's root.
    pub(super) path: String,
    pub(super) size_bytes: i64,
    pub(super) modified_ms: i64,
    /// The statistics as the log writes them.
    pub(super) stats: String,
    /// Values of the partition columns, as text.
    pub(super) partition: Values,
    /// Rows in the file, masked ones included.
    pub(super) rows: u64,
    pub(super) vector: Option<(Descriptor, Arc<RoaringTreemap>)>,
    selection: OnceLock<RowSelection>,
}

impl LiveFile {
    /// The same file under another number.
    fn numbered(&self, ordinal: u32) -> Self {
        Self {
            ordinal,
            path: self.path.clone(),
            size_bytes: self.size_bytes,
            modified_ms: self.modified_ms,
            stats: self.stats.clone(),
            partition: self.partition.clone(),
            rows: self.rows,
            vector: self.vector.clone(),
            selection: OnceLock::new(),
        }
    }

    /// Rows that are not masked.
    pub(super) fn live_rows(&self) -> u64 {
        self.rows - self.masked_rows()
    }

    pub(super) fn masked_rows(&self) -> u64 {
        self.vector.as_ref().map_or(0, |(_, rows)| rows.len())
    }

    /// The object of a file that the log calls `path`: it writes paths as URLs are written.
    pub(super) fn object(location: &Location, path: &str) -> Path {
        match Path::from_url_path(path) {
            Ok(decoded) => location.below(&decoded),
            Err(_) => location.path(path),
        }
    }

    /// The rows to read; `None` is all.
    pub(super) fn selection(&self) -> Option<RowSelection> {
        let (_, masked) = self.vector.as_ref()?;
        let selection = self.selection.get_or_init(|| {
            let mut mask = BooleanBufferBuilder::new(self.rows as usize);
            mask.append_n(self.rows as usize, true);
            for row in masked.iter() {
                mask.set_bit(row as usize, false);
            }
            RowSelection::from_boolean_buffer(mask.finish())
        });
        Some(selection.clone())
    }
}

/// All live files, by ordinal.
#[derive(Clone, Debug, Default)]
pub(super) struct Files {
    live: BTreeMap<u32, Arc<LiveFile>>,
    by_path: HashMap<String, u32>,
    next: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stats {
    num_records: u64,
}

impl Files {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<LiveFile>> {
        self.live.values()
    }

    /// Whether both hold the same rows of the same files.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let vector =
            |file: &LiveFile| file.vector.as_ref().map(|(descriptor, _)| descriptor.clone());
        let is_same = |(one, two): (&Arc<LiveFile>, &Arc<LiveFile>)| {
            Arc::ptr_eq(one, two) || one.path == two.path && vector(one) == vector(two)
        };
        self.live.len() == other.live.len() && self.iter().zip(other.iter()).all(is_same)
    }

    pub(super) fn get(&self, ordinal: u32) -> Option<&Arc<LiveFile>> {
        self.live.get(&ordinal)
    }

    pub(super) fn by_path(&self, path: &str) -> Option<&Arc<LiveFile>> {
        self.by_path.get(path).and_then(|ordinal| self.live.get(ordinal))
    }

    /// Puts the files of `other` in, under the ordinals that `named` has for their paths; a path
    /// that it does not have gets one that nothing has.
    pub(super) fn take_over(&mut self, named: &Self, other: &Self) {
        self.next = named.next;
        for file in other.iter() {
            let ordinal = named.by_path(&file.path).map_or(self.next, |known| known.ordinal);
            self.next = self.next.max(ordinal + 1);
            self.by_path.insert(file.path.clone(), ordinal);
            self.live.insert(ordinal, Arc::new(file.numbered(ordinal)));
        }
    }

    /// The ordinal that the next new path gets.
    pub(super) const fn next_ordinal(&self) -> u32 {
        self.next
    }

    pub(super) fn live_rows(&self) -> u64 {
        self.iter().map(|file| file.live_rows()).sum()
    }

    pub(super) fn remove(&mut self, path: &str) -> Option<Arc<LiveFile>> {
        self.by_path.remove(path).and_then(|ordinal| self.live.remove(&ordinal))
    }

    /// Puts a file in; a path that was known keeps its ordinal.
    pub(super) fn put(
        &mut self,
        add: &Add,
        masked: Option<Arc<RoaringTreemap>>,
    ) -> Result<u32, DeltaError> {
        let damaged =
            |reason: &str| DeltaError::Damaged { reason: format!("{}: {reason}", add.path) };
        let stats = add.stats.clone().ok_or_else(|| damaged("the log has no statistics of it"))?;
        let counted: Stats = serde_json::from_str(&stats)
            .map_err(|_| damaged("the log does not say how many rows it has"))?;
        let vector = match (&add.deletion_vector, masked) {
            (Some(descriptor), Some(masked)) => Some((descriptor.clone(), masked)),
            (None, None) => None,
            _ => return Err(damaged("its deletion vector was not read")),
        };
        let ordinal = match self.by_path.get(&add.path) {
            Some(known) => *known,
            None => {
                self.next += 1;
                self.next - 1
            }
        };
        self.by_path.insert(add.path.clone(), ordinal);
        let file = LiveFile {
            ordinal,
            path: add.path.clone(),
            size_bytes: add.size,
            modified_ms: add.modification_time,
            stats,
            partition: add.partition_values.clone(),
            rows: counted.num_records,
            vector,
            selection: OnceLock::new(),
        };
        self.live.insert(ordinal, Arc::new(file));
        Ok(ordinal)
    }

    /// The files that `adds` name, with their vectors read.
    pub(super) async fn load(location: &Location, adds: Vec<Add>) -> Result<Self, DeltaError> {
        const READS: usize = 16;
        let descriptors: Vec<_> = adds.iter().map(|add| add.deletion_vector.clone()).collect();
        let reads = descriptors.into_iter().map(|descriptor| {
            let location = location.clone();
            async move {
                match descriptor {
                    Some(descriptor) => {
                        let rows = vectors::read(&location, &descriptor).await?;
                        Ok::<_, DeltaError>(Some(Arc::new(rows)))
                    }
                    None => Ok(None),
                }
            }
        });
        let masked: Vec<Option<Arc<RoaringTreemap>>> =
            futures::stream::iter(reads).buffered(READS).try_collect().await?;
        let mut files = Self::default();
        for (add, masked) in adds.iter().zip(masked) {
            files.put(add, masked)?;
        }
        Ok(files)
    }
}
