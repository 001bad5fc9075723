//! From the rows of a statement to what is asked of each key.
//!
//! ```text
//!   column             holds
//!   __onefold_kind     0 set this row, 1 delete it, 2 add it: its key must be new
//!   those of a file    the row as it will be
//!   __onefold_old_*    the key as it was, where the statement can change it, and the sequence
//! ```

use super::node::Verb;
use crate::delta::DeltaError;
use crate::delta::apply::StagedRows;
use crate::delta::index::KeyIndex;
use crate::delta::sequence::prefixes;
use crate::delta::stage::{RowShape, key_columns, show};
use crate::delta::wanted::{Kind, Wanted, sequence_columns};
use arrow::array::cast::AsArray;
use arrow::array::types::Int8Type;
use arrow::array::{Array, ArrayRef, UInt32Array};
use arrow::compute::{cast, concat_batches, interleave_record_batch, take_record_batch};
use arrow::record_batch::RecordBatch;
use std::collections::HashMap;
use std::sync::Arc;

pub(super) const KIND: &str = "__onefold_kind";
pub(super) const OLD_PREFIX: &str = "__onefold_old_";

pub(super) const SET: i8 = 0;
pub(super) const DELETE: i8 = 1;
pub(super) const ADD: i8 = 2;

/// What becomes of one key.
#[derive(Clone, Copy, Default)]
struct Fate {
    /// The row that says so, and whether it is a delete.
    leaves: Option<(u32, bool)>,
    comes: Option<u32>,
    must_be_new: bool,
}

impl RowShape {
    /// What the rows of a statement ask of each key, and how many rows it changes.
    pub(super) fn statement_rows(
        &self,
        verb: Verb,
        batches: &[RecordBatch],
        index: Option<&KeyIndex>,
    ) -> Result<(StagedRows, u64), DeltaError> {
        let Some(first) = batches.first() else {
            let is_whole = matches!(verb, Verb::Overwrite | Verb::Truncate);
            let none = if is_whole { StagedRows::Whole(None) } else { StagedRows::Keys(None) };
            return Ok((none, 0));
        };
        let all = concat_batches(&first.schema(), batches)?;
        let rows = self.file_part(&all, "")?;
        let (wanted, count) = match verb {
            Verb::Truncate => return Ok((StagedRows::Whole(None), 0)),
            Verb::Replace | Verb::Overwrite => {
                let wanted = self.last_of_each(&rows)?;
                let count = wanted.hashes.len() as u64;
                (wanted, count)
            }
            Verb::Update | Verb::Delete | Verb::Merge => self.fates(&all, &rows, index)?,
        };
        let wanted = Some(wanted).filter(|wanted| !wanted.hashes.is_empty());
        let staged = if verb == Verb::Overwrite {
            StagedRows::Whole(wanted)
        } else {
            StagedRows::Keys(wanted)
        };
        Ok((staged, count))
    }

    /// The columns of a file; those that are there with `prefix` too, as they are there.
    fn file_part(&self, all: &RecordBatch, prefix: &str) -> Result<RecordBatch, DeltaError> {
        let schema = self.open_schema();
        let columns = schema.fields().iter().map(|field| {
            let prefixed = all.column_by_name(&format!("{prefix}{}", field.name()));
            let column = match prefixed {
                Some(column) => column,
                None => all.column(all.schema().index_of(field.name())?),
            };
            let column = if column.data_type() == field.data_type() {
                Arc::clone(column)
            } else {
                cast(column, field.data_type())?
            };
            self.partitioning.normal(field.name(), column)
        });
        let columns = columns.collect::<Result<Vec<ArrayRef>, DeltaError>>()?;
        Ok(RecordBatch::try_new(schema, columns)?)
    }

    fn last_of_each(&self, rows: &RecordBatch) -> Result<Wanted, DeltaError> {
        self.refuse_null_keys(rows)?;
        let hashes = self.hashes(rows)?;
        let mut last: HashMap<u128, u32> = HashMap::with_capacity(hashes.len());
        for (hash, row) in hashes.iter().zip(0..) {
            last.insert(*hash, row);
        }
        let mut kept: Vec<u32> = last.into_values().collect();
        kept.sort_unstable();
        let keyed = kept.iter().map(|row| (hashes[*row as usize], *row, Kind::Replace));
        self.wanted((rows, rows), &keyed.collect::<Vec<_>>())
    }

    fn fates(
        &self,
        all: &RecordBatch,
        rows: &RecordBatch,
        index: Option<&KeyIndex>,
    ) -> Result<(Wanted, u64), DeltaError> {
        let new = self.hashes(rows)?;
        let old = self.old_hashes(all)?;
        let kinds = all.column(all.schema().index_of(KIND)?).as_primitive::<Int8Type>();
        let mut fates: HashMap<u128, Fate> = HashMap::with_capacity(rows.num_rows());
        for row in 0..rows.num_rows() {
            let (new, kind) = (new[row], kinds.value(row));
            let old = old.as_ref().map_or(new, |old| old[row]);
            if kind != ADD {
                let leaves = fates.entry(old).or_default();
                let is_delete = kind == DELETE;
                if leaves.leaves.is_some_and(|(_, other)| !(is_delete && other)) {
                    return Err(self.repeated("changed", rows, row));
                }
                leaves.leaves = Some((row as u32, is_delete));
            }
            if kind == DELETE {
                continue;
            }
            let comes = fates.entry(new).or_default();
            if comes.comes.replace(row as u32).is_some() {
                return Err(self.repeated("written", rows, row));
            }
            comes.must_be_new |= kind == ADD || old != new;
        }
        let mut keyed = Vec::with_capacity(fates.len());
        let mut count = 0;
        for (hash, fate) in fates {
            // A row whose key changes is counted where it comes.
            count += u64::from(fate.comes.is_some() || fate.leaves.is_some_and(|(_, gone)| gone));
            match (fate.leaves, fate.comes) {
                (leaves, Some(row)) => {
                    let is_there = || match index {
                        Some(index) => Ok(index.get(hash)?.is_some()),
                        None => Ok::<_, DeltaError>(false),
                    };
                    if fate.must_be_new && leaves.is_none() && is_there()? {
                        return Err(DeltaError::Exists {
                            table: self.table.clone(),
                            row: show(rows, row as usize),
                        });
                    }
                    keyed.push((hash, row, Kind::Replace));
                }
                (Some((row, _)), None) => keyed.push((hash, row, Kind::Delete)),
                (None, None) => {}
            }
        }
        keyed.sort_unstable_by_key(|(_, row, _)| *row);
        let written = keyed.iter().filter(|(.., kind)| *kind == Kind::Replace);
        let written: UInt32Array = written.map(|(_, row, _)| Some(*row)).collect();
        self.refuse_null_keys(&take_record_batch(rows, &written)?)?;
        let old = self.file_part(all, OLD_PREFIX)?;
        Ok((self.wanted((rows, &old), &keyed)?, count))
    }

    /// The hash of each row's key as it was, where the statement can change it.
    fn old_hashes(&self, all: &RecordBatch) -> Result<Option<Vec<u128>>, DeltaError> {
        let old = |name: &String| format!("{OLD_PREFIX}{name}");
        let first = self.primary_key.first().map(old).unwrap_or_default();
        if all.column_by_name(&first).is_none() {
            return Ok(None);
        }
        let names: Vec<String> = self.primary_key.iter().map(old).collect();
        let mut columns = key_columns(all, &names)?;
        for (column, name) in columns.iter_mut().zip(&self.primary_key) {
            *column = cast(column, self.file.field_with_name(name)?.data_type())?;
        }
        let mut hashes = Vec::with_capacity(all.num_rows());
        self.hasher.hash(&columns, &mut hashes)?;
        Ok(Some(hashes))
    }

    /// What is asked of each key: to be as in `rows`, or to leave as it was in `old`.
    fn wanted(
        &self,
        (rows, old): (&RecordBatch, &RecordBatch),
        keyed: &[(u128, u32, Kind)],
    ) -> Result<Wanted, DeltaError> {
        let place = |(_, row, kind): &(u128, u32, Kind)| {
            (usize::from(*kind == Kind::Delete), *row as usize)
        };
        let order: Vec<(usize, usize)> = keyed.iter().map(place).collect();
        let rows = interleave_record_batch(&[rows, old], &order)?;
        let fields = self.sequence_fields();
        let sequences = sequence_columns(&rows, &fields)?;
        for (field, column) in fields.iter().zip(&sequences) {
            if let Some(row) = (0..column.len()).find(|row| column.is_null(*row)) {
                return Err(self.null_in(field.name(), &rows, row));
            }
        }
        let prefixes = sequences.first().map(prefixes).transpose()?.unwrap_or_default();
        Ok(Wanted {
            rows,
            hashes: keyed.iter().map(|(hash, ..)| *hash).collect(),
            kinds: keyed.iter().map(|(.., kind)| *kind).collect(),
            prefixes,
            is_ordered: false,
        })
    }

    fn repeated(&self, what: &'static str, rows: &RecordBatch, row: usize) -> DeltaError {
        DeltaError::Repeated { table: self.table.clone(), what, row: show(rows, row) }
    }
}
