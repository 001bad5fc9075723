//! Tombstones of all rows at once, for statements that put others in their place.

use super::DeltaError;
use super::data::read_file;
use super::index::KeyIndex;
use super::memory::{TOMBSTONES_MAX, tombstone_schema, tombstones};
use super::table::{DeltaTable, Writer};
use super::wanted::sequence_columns;
use arrow::array::UInt32Array;
use arrow::compute::{concat_batches, take};
use arrow::record_batch::RecordBatch;

impl DeltaTable {
    /// The tombstones of the rows whose keys are not in `new`, for as many files as they need; none in a table that has no tombstones. Reads keys and sequences, a file at a time.
    pub(super) async fn bury_all(
        &self,
        writer: &Writer,
        new: &KeyIndex,
    ) -> Result<Vec<RecordBatch>, DeltaError> {
        if !self.shape.rules.has_tombstones() {
            return Ok(Vec::new());
        }
        let (fields, keys) = (self.shape.sequence_fields(), self.shape.key_schema()?);
        let (mut full, mut open, mut count) = (Vec::new(), Vec::new(), 0);
        for file in writer.files.iter() {
            for (batch, rows) in read_file(&self.location, file, &keys).await? {
                let hashes = self.shape.hashes(&batch)?;
                let owed = writer.owed.get(&file.ordinal);
                let mut gone = Vec::new();
                for (at, (hash, row)) in (0..).zip(hashes.iter().zip(&rows)) {
                    let is_outdone = owed.is_some_and(|owed| owed.contains(u64::from(*row)));
                    if !is_outdone && new.get(*hash)?.is_none() {
                        gone.push(at);
                    }
                }
                let buried: Vec<u128> = gone.iter().map(|at| hashes[*at as usize]).collect();
                let gone = UInt32Array::from(gone);
                let sequences = sequence_columns(&batch, &fields)?;
                let sequences = sequences.iter().map(|column| take(column, &gone, None));
                let sequences = sequences.collect::<Result<Vec<_>, _>>()?;
                count += buried.len();
                open.push(tombstones(&self.shape, &buried, sequences)?);
                if count >= TOMBSTONES_MAX {
                    full.push(concat_batches(&tombstone_schema(&self.shape), &open)?);
                    (open, count) = (Vec::new(), 0);
                }
            }
        }
        if count > 0 {
            full.push(concat_batches(&tombstone_schema(&self.shape), &open)?);
        }
        Ok(full)
    }
}
