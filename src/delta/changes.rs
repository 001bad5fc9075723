//! What changed between two versions, netted per key.
//!
//! ```text
//!   rows live at `from` and not at `to`   ---+
//!                                            +--- by key ---> insert, update, delete
//!   rows live at `to` and not at `from`   ---+
//! ```
//!
//! Files that both versions hold with the same vector are not read. A row that was only moved, by
//! a table compaction, or written again as it was, is no change.

use super::DeltaError;
use super::data::read_rows;
use super::files::{Files, LiveFile};
use super::patch::missing;
use super::slot::Place;
use super::table::DeltaTable;
use arrow::array::{ArrayRef, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, SortField};
use roaring::RoaringTreemap;
use std::collections::HashMap;
use std::sync::Arc;

/// The column that says what a row of the change feed is.
pub const CHANGE_TYPE: &str = "_change_type";

/// Rows read at once.
const ROWS_AT_ONCE: usize = 1_000_000;

const INSERT: &str = "insert";
const DELETE: &str = "delete";
const BEFORE: &str = "update_preimage";
const AFTER: &str = "update_postimage";

impl DeltaTable {
    /// The columns of the change feed: those of the table, and [`CHANGE_TYPE`].
    #[must_use]
    pub fn changes_schema(&self) -> SchemaRef {
        let mut fields = self.shape.schema.fields().to_vec();
        fields.push(Arc::new(Field::new(CHANGE_TYPE, DataType::Utf8, false)));
        Arc::new(Schema::new(fields))
    }

    /// What the commits after version `from`, up to and with `to`, changed together: of each key
    /// at most one insert, one delete, or one update as the row before and the row after.
    ///
    /// Costs a read of the rows that differ, and memory for them.
    ///
    /// # Errors
    ///
    /// [`DeltaError::NotRetained`] for a version that is not kept.
    pub async fn changes(&self, from: u64, to: u64) -> Result<RecordBatch, DeltaError> {
        let (old, new) = (self.view_at(from).await?, self.view_at(to).await?);
        let gone = self.read_missing(&old.files, &new.files).await?;
        let come = self.read_missing(&new.files, &old.files).await?;
        let (old_hashes, new_hashes) = (self.shape.hashes(&gone)?, self.shape.hashes(&come)?);
        let fields = self.shape.schema.fields().iter();
        let converter =
            RowConverter::new(fields.map(|own| SortField::new(own.data_type().clone())).collect())?;
        let (old_rows, new_rows) = (
            converter.convert_columns(gone.columns())?,
            converter.convert_columns(come.columns())?,
        );
        let mut by_key: HashMap<u128, usize> =
            old_hashes.iter().enumerate().map(|(row, hash)| (*hash, row)).collect();
        let mut shown: Vec<((usize, usize), &str)> = Vec::new();
        for (row, hash) in new_hashes.iter().enumerate() {
            match by_key.remove(hash) {
                Some(old) if old_rows.row(old) == new_rows.row(row) => {}
                Some(old) => shown.extend([((0, old), BEFORE), ((1, row), AFTER)]),
                None => shown.push(((1, row), INSERT)),
            }
        }
        let mut left: Vec<usize> = by_key.into_values().collect();
        left.sort_unstable();
        shown.extend(left.into_iter().map(|row| ((0, row), DELETE)));
        let places: Vec<(usize, usize)> = shown.iter().map(|(place, _)| *place).collect();
        let rows = arrow::compute::interleave_record_batch(&[&gone, &come], &places)?;
        let kinds: ArrayRef =
            Arc::new(StringArray::from_iter_values(shown.iter().map(|(_, kind)| *kind)));
        let columns = rows.columns().iter().cloned().chain([kinds]).collect();
        Ok(RecordBatch::try_new(self.changes_schema(), columns)?)
    }

    /// The rows that are live in `here` and not in `there`.
    async fn read_missing(&self, here: &Files, there: &Files) -> Result<RecordBatch, DeltaError> {
        let parts = missing_parts(here, there);
        let places: Vec<Place> = parts.iter().flat_map(Part::places).collect();
        let schema = &self.shape.schema;
        let mut batches = Vec::new();
        for part in places.chunks(ROWS_AT_ONCE) {
            batches.push(read_rows(&self.location, here, part, schema).await?);
        }
        Ok(concat_batches(schema, &batches)?)
    }
}

/// Rows of one file.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) file: Arc<LiveFile>,
    /// Which; `None` is all that are live.
    pub(super) only: Option<RoaringTreemap>,
}

impl Part {
    /// How many.
    pub(super) fn rows(&self) -> u64 {
        self.only.as_ref().map_or_else(|| self.file.live_rows(), RoaringTreemap::len)
    }

    /// Their numbers within the file, ascending.
    pub(super) fn numbers(&self) -> Box<dyn Iterator<Item = u32> + Send + '_> {
        match (&self.only, self.file.vector.as_ref().map(|(_, rows)| rows)) {
            (Some(only), _) => Box::new(only.iter().map(|row| row as u32)),
            (None, Some(masked)) => {
                let live = (0..self.file.rows).filter(|row| !masked.contains(*row));
                Box::new(live.map(|row| row as u32))
            }
            (None, None) => Box::new(0..self.file.rows as u32),
        }
    }

    fn places(&self) -> impl Iterator<Item = Place> + '_ {
        self.numbers().map(|row| (self.file.ordinal, row))
    }
}

/// The rows that are live in `here` and not in `there`, files in the order of their paths.
pub(super) fn missing_parts(here: &Files, there: &Files) -> Vec<Part> {
    let parts = missing(here, there).into_iter().map(|(file, only)| Part { file, only });
    let mut parts: Vec<Part> = parts.filter(|part| part.rows() > 0).collect();
    parts.sort_by(|one, two| one.file.path.cmp(&two.file.path));
    parts
}
