//! Batch writes by a program: rows in memory, one commit, a token.

use super::DeltaError;
use super::apply::Written;
use super::table::DeltaTable;
use crate::commit::EpochRows;
use crate::types::{POSITION_COLUMN, Position};
use arrow::array::{ArrayRef, UInt64Array, new_null_array};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use std::sync::Arc;

/// What a batch write did.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteReport {
    /// The table version that holds the rows.
    pub version: u64,
    /// Whether a write under the same token had been made before; this one then did nothing.
    pub is_repeated: bool,
    /// Rows whose key was not in the table.
    pub rows_inserted: u64,
    /// Rows that replaced one of the same key, or were folded into it.
    pub rows_updated: u64,
    /// Rows that left the table.
    pub rows_deleted: u64,
    /// Rows that lost against what was there, by the table's rules.
    pub rows_ignored: u64,
}

impl DeltaTable {
    /// Writes `batches` in one commit, unless a write under `token` did before.
    ///
    /// # Errors
    ///
    /// A column that the table does not have, or a row that breaks its rules.
    pub async fn write_once(
        &self,
        batches: Vec<RecordBatch>,
        token: &str,
    ) -> Result<WriteReport, DeltaError> {
        self.refuse_view("a batch write")?;
        let mut rows = Vec::with_capacity(batches.len());
        let mut next = Position::new(0, 0).0;
        for batch in batches {
            let batch = self.by_name(&batch, next)?;
            next += batch.num_rows() as u64;
            rows.push(batch);
        }
        let before = self.version();
        let staged = self.stage_rows(EpochRows { partitions: vec![rows] }).await?;
        let Written { version, changed, is_repeated } = self.write(&staged, Some(token)).await?;
        debug_assert!(is_repeated || version > before);
        Ok(WriteReport {
            version,
            is_repeated,
            rows_inserted: changed.rows_inserted,
            rows_updated: changed.rows_updated,
            rows_deleted: changed.rows_deleted,
            rows_ignored: changed.rows_ignored,
        })
    }

    /// The columns that INSERT takes, and a position.
    fn by_name(&self, batch: &RecordBatch, first: u64) -> Result<RecordBatch, DeltaError> {
        let taken = &self.shape.input;
        let schema = batch.schema();
        if let Some(field) =
            schema.fields().iter().find(|field| taken.field_with_name(field.name()).is_err())
        {
            let reason = format!("it has no column {}", field.name());
            return Err(DeltaError::Definition { table: self.name().to_owned(), reason });
        }
        let count = batch.num_rows();
        let mut fields: Vec<Field> = Vec::new();
        let mut columns: Vec<ArrayRef> = Vec::new();
        for field in taken.fields() {
            let column = batch.column_by_name(field.name()).cloned();
            let column = column.unwrap_or_else(|| new_null_array(field.data_type(), count));
            fields.push(Field::new(field.name(), column.data_type().clone(), true));
            columns.push(column);
        }
        fields.push(Field::new(POSITION_COLUMN, DataType::UInt64, false));
        columns.push(Arc::new(UInt64Array::from_iter_values(first..first + count as u64)));
        Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
    }
}
