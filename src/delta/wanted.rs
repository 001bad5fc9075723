//! What a write asks of each key, before the table is looked at.
//!
//! ```text
//!   rows as they came -> operations read, sequences ordered -> one row of each key
//! ```

use super::DeltaError;
use super::fold::{ColumnFold, FoldFailure, Groups, Rows, fold};
use super::rules::{Fold, MergeMode, Operation, OperationColumn};
use super::sequence::{Whole, is_exact, prefixes};
use super::stage::{RowShape, SEQUENCE_PREFIX, show};
use crate::types::{DELETE_COLUMN, POSITION_COLUMN};
use arrow::array::cast::AsArray;
use arrow::array::types::UInt64Type;
use arrow::array::{Array, ArrayRef, BooleanArray, UInt32Array};
use arrow::compute::{cast, concat_batches, filter_record_batch, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use std::sync::Arc;

/// What is asked of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Fold the row into the one that is there, as the table's rules say.
    Upsert,
    /// The row takes the place of the one that is there, whole.
    Replace,
    /// The row leaves.
    Delete,
}

/// Whether a rollup asks for rows to leave.
pub(super) fn has_deletes(batch: &RecordBatch) -> bool {
    deletes(batch).is_some_and(|deletes| deletes.true_count() > 0)
}

fn deletes(batch: &RecordBatch) -> Option<&BooleanArray> {
    batch.column_by_name(DELETE_COLUMN)?.as_boolean_opt()
}

/// What a write asks of each key; every key is there once.
#[derive(Debug)]
pub(super) struct Wanted {
    /// In the columns of a file, none of which must be filled yet: a delete has a key only.
    pub(super) rows: RecordBatch,
    pub(super) hashes: Vec<u128>,
    pub(super) kinds: Vec<Kind>,
    /// The first bytes of each sequence; empty in a table without.
    pub(super) prefixes: Vec<u64>,
    /// Whether sequences are to be believed, and not the order of arrival: not in a statement that
    /// names the rows it changes.
    pub(super) is_ordered: bool,
}

/// Rows as they came.
struct Arrived {
    rows: RecordBatch,
    kinds: Vec<Kind>,
    positions: Vec<u64>,
}

impl RowShape {
    /// The file's columns, all of which may be NULL.
    pub(super) fn open_schema(&self) -> SchemaRef {
        let fields = self.file.fields().iter().map(|own| own.as_ref().clone().with_nullable(true));
        Arc::new(Schema::new(fields.collect::<Vec<Field>>()))
    }

    /// Reads the rows of an epoch: the columns of the input, and a position.
    pub(super) fn want(&self, batches: &[RecordBatch]) -> Result<Option<Wanted>, DeltaError> {
        let Some(Arrived { rows, kinds, positions }) = self.arrived(batches)? else {
            return Ok(None);
        };
        let hashes = self.hashes(&rows)?;
        self.refuse_null_keys(&rows)?;
        let (prefixes, ranks) = self.sequences(&rows)?;
        let rank = |row: u32| ranks.get(row as usize).copied().unwrap_or_default();
        let mut order: Vec<u32> = (0..rows.num_rows() as u32).collect();
        order.sort_unstable_by_key(|row| {
            let at = *row as usize;
            (hashes[at], rank(*row), positions[at])
        });
        let same_key = |one: &u32, two: &u32| hashes[*one as usize] == hashes[*two as usize];
        let mut wanted = Wanted {
            rows: RecordBatch::new_empty(rows.schema()),
            hashes: Vec::new(),
            kinds: Vec::new(),
            prefixes: Vec::new(),
            is_ordered: !prefixes.is_empty(),
        };
        let mut groups = Groups::default();
        let mut chosen = Vec::new();
        for key in order.chunk_by(same_key) {
            let (kind, counted) = self.judge(key, &kinds);
            let row = counted[counted.len() - 1];
            wanted.hashes.push(hashes[row as usize]);
            wanted.kinds.push(kind);
            if let Some(prefix) = prefixes.get(row as usize) {
                wanted.prefixes.push(*prefix);
            }
            chosen.push(row);
            groups.push(counted.iter().copied());
        }
        wanted.rows = if self.rules.reads_current() {
            self.fold(&rows, &groups, Rows::Fresh)?
        } else {
            take_record_batch(&rows, &UInt32Array::from(chosen))?
        };
        Ok(Some(wanted))
    }

    /// What the rows of one key, in order, ask for together, and which of them count.
    fn judge<'a>(&self, key: &'a [u32], kinds: &[Kind]) -> (Kind, &'a [u32]) {
        let last_delete = key.iter().rposition(|row| kinds[*row as usize] == Kind::Delete);
        match (self.rules.mode, last_delete) {
            (MergeMode::First, _) => (Kind::Upsert, &key[..1]),
            (_, Some(at)) if at + 1 == key.len() => (Kind::Delete, &key[at..]),
            (MergeMode::Last, _) => (Kind::Upsert, &key[key.len() - 1..]),
            (_, Some(at)) => (Kind::Replace, &key[at + 1..]),
            (_, None) => (Kind::Upsert, key),
        }
    }

    /// Folds the rows of each group by the table's rules.
    pub(super) fn fold(
        &self,
        rows: &RecordBatch,
        groups: &Groups,
        stage: Rows,
    ) -> Result<RecordBatch, DeltaError> {
        let folds = self.file.fields().iter().map(|field| {
            let own = if self.primary_key.contains(field.name()) {
                Fold::First
            } else {
                self.rules.fold(field.name())
            };
            let leader = match own {
                Fold::Group(group) => self.file.index_of(&self.rules.groups[group])?,
                _ => 0,
            };
            Ok(ColumnFold { fold: own, leader })
        });
        let folds = folds.collect::<Result<Vec<_>, DeltaError>>()?;
        fold(rows, groups, &folds, stage).map_err(|failure| match failure {
            FoldFailure::Arrow(error) => error.into(),
            FoldFailure::Overflow { column, row } => {
                DeltaError::Overflow { table: self.table.clone(), column, row: show(rows, row) }
            }
        })
    }

    fn arrived(&self, batches: &[RecordBatch]) -> Result<Option<Arrived>, DeltaError> {
        let schema = self.open_schema();
        let mut all = Arrived {
            rows: RecordBatch::new_empty(Arc::clone(&schema)),
            kinds: Vec::new(),
            positions: Vec::new(),
        };
        let mut shaped = Vec::with_capacity(batches.len());
        for batch in batches.iter().filter(|batch| batch.num_rows() > 0) {
            let (batch, kinds) = self.operations(batch)?;
            let positions = batch.column_by_name(POSITION_COLUMN).ok_or_else(|| {
                DeltaError::Damaged { reason: "rows without a position".to_owned() }
            })?;
            all.positions.extend_from_slice(positions.as_primitive::<UInt64Type>().values());
            all.kinds.extend(kinds);
            shaped.push(self.file_columns(&batch, &schema)?);
        }
        all.rows = concat_batches(&schema, &shaped)?;
        Ok((all.rows.num_rows() > 0).then_some(all))
    }

    /// The columns of a file, from those of the input.
    fn file_columns(
        &self,
        batch: &RecordBatch,
        schema: &SchemaRef,
    ) -> Result<RecordBatch, DeltaError> {
        let columns = schema.fields().iter().map(|field| {
            let name = field.name().strip_prefix(SEQUENCE_PREFIX).unwrap_or(field.name());
            let column = batch.column(self.input.index_of(name)?);
            let column = if column.data_type() == field.data_type() {
                Arc::clone(column)
            } else {
                cast(column, field.data_type())?
            };
            self.partitioning.normal(name, column)
        });
        let columns = columns.collect::<Result<Vec<ArrayRef>, DeltaError>>()?;
        Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
    }

    /// The rows that ask for something, and what each asks for.
    fn operations(&self, batch: &RecordBatch) -> Result<(RecordBatch, Vec<Kind>), DeltaError> {
        let Some(operation) = &self.rules.operation else {
            let kind = |row| match deletes(batch) {
                Some(deletes) if deletes.is_valid(row) && deletes.value(row) => Kind::Delete,
                _ => Kind::Upsert,
            };
            return Ok((batch.clone(), (0..batch.num_rows()).map(kind).collect()));
        };
        let column = batch.column(self.input.index_of(&operation.name)?);
        let texts = cast(column, &DataType::Utf8)?;
        let texts = texts.as_string::<i32>();
        let mut kinds = Vec::with_capacity(batch.num_rows());
        let mut keep = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            let value = texts.is_valid(row).then(|| texts.value(row));
            let meaning = value.and_then(|value| operation.meaning(value));
            let meaning =
                meaning.ok_or_else(|| self.unknown_operation(operation, value, batch, row))?;
            keep.push(meaning != Operation::Ignore);
            match meaning {
                Operation::Upsert => kinds.push(Kind::Upsert),
                Operation::Delete => kinds.push(Kind::Delete),
                Operation::Ignore => {}
            }
        }
        Ok((filter_record_batch(batch, &BooleanArray::from(keep))?, kinds))
    }

    fn unknown_operation(
        &self,
        operation: &OperationColumn,
        value: Option<&str>,
        batch: &RecordBatch,
        row: usize,
    ) -> DeltaError {
        DeltaError::Operation {
            table: self.table.clone(),
            column: operation.name.clone(),
            value: value.map_or_else(|| "NULL".to_owned(), |value| format!("'{value}'")),
            row: show(batch, row),
        }
    }

    /// The first bytes of each row's sequence, and its rank among these rows.
    fn sequences(&self, rows: &RecordBatch) -> Result<(Vec<u64>, Vec<u64>), DeltaError> {
        let fields = self.sequence_fields();
        let Some(first) = fields.first() else { return Ok((Vec::new(), Vec::new())) };
        let columns = sequence_columns(rows, &fields)?;
        for (field, column) in fields.iter().zip(&columns) {
            if let Some(row) = (0..column.len()).find(|row| column.is_null(*row)) {
                return Err(self.null_in(field.name(), rows, row));
            }
        }
        debug_assert_eq!(first.data_type(), columns[0].data_type());
        let prefixes = prefixes(&columns[0])?;
        let types: Vec<DataType> = fields.iter().map(|field| field.data_type().clone()).collect();
        let ranks = if is_exact(&types) {
            prefixes.clone()
        } else {
            Whole::try_new(&types)?.ranks(&columns)?
        };
        Ok((prefixes, ranks))
    }

    pub(super) fn refuse_null_keys(&self, rows: &RecordBatch) -> Result<(), DeltaError> {
        for name in &self.primary_key {
            let column = rows.column(rows.schema().index_of(name)?);
            if let Some(row) = (0..column.len()).find(|row| column.is_null(*row)) {
                return Err(self.null_in(name, rows, row));
            }
        }
        Ok(())
    }
}

/// The columns of `rows` that make a sequence.
pub(super) fn sequence_columns(
    rows: &RecordBatch,
    fields: &[Field],
) -> Result<Vec<ArrayRef>, DeltaError> {
    let column = |field: &Field| Ok(Arc::clone(rows.column(rows.schema().index_of(field.name())?)));
    fields.iter().map(column).collect()
}
