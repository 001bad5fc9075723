//! What a write asks for, against what is there: which rows are written, masked, or lose.
//!
//! ```text
//!   case   row of the key          asked for               outcome
//!   A      none, no tombstone      Upsert, Replace         written
//!   B      there                   Upsert                  folded by the rules, and written
//!   C      there                   Replace                 written, the old one masked
//!   D      there                   Delete                  masked; tombstone where rows have sequences
//!   E      none                    Delete                  tombstone where rows have sequences
//!   F      there, or tombstone,    any, with an older      ignored, and counted
//!          or forgotten            sequence
//!   G      there                   Upsert, keep first      ignored, and counted
//! ```
//!
//! Of equal sequences the row that came later wins; in a table that keeps the first, the earlier.

use super::DeltaError;
use super::data::read_rows;
use super::files::Files;
use super::fold::{Groups, Rows};
use super::index::KeyIndex;
use super::memory::{Memory, tombstones};
use super::rules::MergeMode;
use super::sequence::{Whole, is_exact};
use super::slot::{Place, Slot};
use super::stage::RowShape;
use super::wanted::{Kind, Wanted, sequence_columns};
use crate::store::Location;
use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::{concat_batches, take, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use std::cmp::Ordering;
use std::sync::Arc;

/// A row, and the place of what it is compared with: in a file, or among the tombstones.
type Tied = (usize, (u32, u32));

/// What will be written and masked.
#[derive(Debug)]
pub(super) struct Resolved {
    /// In the columns of a file, those of a partition next to each other.
    pub(super) rows: RecordBatch,
    pub(super) hashes: Vec<u128>,
    /// First bytes of the sequences; 0 in a table without.
    pub(super) prefixes: Vec<u64>,
    pub(super) removed: Vec<u128>,
    pub(super) tombstones: Option<RecordBatch>,
    pub(super) rows_ignored: u64,
}

/// What is there.
pub(super) struct Current<'a> {
    pub(super) location: &'a Location,
    pub(super) files: &'a Files,
    pub(super) index: &'a KeyIndex,
    pub(super) memory: &'a Memory,
}

impl RowShape {
    /// Decides each key of `wanted`.
    pub(super) async fn resolve(
        &self,
        current: &Current<'_>,
        wanted: &Wanted,
    ) -> Result<Resolved, DeltaError> {
        let slots = wanted.hashes.iter().map(|hash| current.index.get(*hash));
        let slots = slots.collect::<Result<Vec<Option<Slot>>, _>>()?;
        let wins = self.winners(current, wanted, &slots).await?;
        let (mut whole, mut merged, mut removed, mut buried) = (vec![], vec![], vec![], vec![]);
        let mut rows_ignored = 0;
        for (row, wins) in wins.into_iter().enumerate() {
            let at = row as u32;
            match (wanted.kinds[row], slots[row]) {
                _ if !wins => rows_ignored += 1, // F, G
                (Kind::Delete, slot) => {
                    if slot.is_some() {
                        removed.push(wanted.hashes[row]); // D
                    }
                    buried.push(at); // E
                }
                (Kind::Upsert, Some(slot)) if self.rules.reads_current() => {
                    merged.push((at, slot.place)); // B
                }
                _ => whole.push(at), // A, C
            }
        }
        let tombstones = self.bury(wanted, &buried)?;
        let (rows, order) = self.merge(current, wanted, whole, merged).await?;
        self.refuse_nulls(&rows)?;
        self.refuse_violations(&rows)?;
        let (rows, order) = self.partitioning.gather(rows, order)?;
        let rows = RecordBatch::try_new(Arc::clone(&self.file), rows.columns().to_vec())?;
        let prefix = |row: &u32| wanted.prefixes.get(*row as usize).copied().unwrap_or_default();
        Ok(Resolved {
            rows,
            hashes: order.iter().map(|row| wanted.hashes[*row as usize]).collect(),
            prefixes: order.iter().map(prefix).collect(),
            removed,
            tombstones,
            rows_ignored,
        })
    }

    /// Whether each row beats what is there.
    async fn winners(
        &self,
        current: &Current<'_>,
        wanted: &Wanted,
        slots: &[Option<Slot>],
    ) -> Result<Vec<bool>, DeltaError> {
        let keeps_first = self.rules.mode == MergeMode::First;
        if !wanted.is_ordered {
            let loses = |(kind, slot): (&Kind, &Option<Slot>)| {
                keeps_first && *kind == Kind::Upsert && slot.is_some()
            };
            return Ok(wanted.kinds.iter().zip(slots).map(|pair| !loses(pair)).collect());
        }
        let types: Vec<DataType> =
            self.sequence_fields().iter().map(|field| field.data_type().clone()).collect();
        let is_exact = is_exact(&types);
        let mut wins = Vec::with_capacity(slots.len());
        let (mut live, mut dead) = (Vec::new(), Vec::new());
        for (row, (own, slot)) in wanted.prefixes.iter().zip(slots).enumerate() {
            let tombstone = current.memory.tombstone(wanted.hashes[row]);
            let order = match (slot, tombstone) {
                (Some(slot), _) => {
                    let order = own.cmp(&slot.sequence);
                    if order == Ordering::Equal && !is_exact {
                        live.push((row, slot.place));
                    }
                    order
                }
                (None, Some(place)) => {
                    dead.push((row, place)); // compared whole
                    Ordering::Equal
                }
                (None, None) if current.memory.forgotten().is_some_and(|past| *own <= past) => {
                    Ordering::Less
                }
                (None, None) => {
                    wins.push(true);
                    continue;
                }
            };
            wins.push(if keeps_first { order.is_lt() } else { order.is_ge() });
        }
        self.compare_whole(current, wanted, (&types, &live, &dead), &mut wins).await?;
        Ok(wins)
    }

    /// Decides rows by their whole sequences, against rows of files and against tombstones.
    async fn compare_whole(
        &self,
        current: &Current<'_>,
        wanted: &Wanted,
        (types, live, dead): (&[DataType], &[Tied], &[Tied]),
        wins: &mut [bool],
    ) -> Result<(), DeltaError> {
        if live.is_empty() && dead.is_empty() {
            return Ok(());
        }
        let fields = self.sequence_fields();
        let schema = Arc::new(Schema::new(fields.clone()));
        let places: Vec<Place> = live.iter().map(|(_, place)| *place).collect();
        let stored = read_rows(current.location, current.files, &places, &schema).await?;
        let places: Vec<_> = dead.iter().map(|(_, place)| *place).collect();
        let buried = current.memory.sequences(self, &places)?;
        let whole = Whole::try_new(types)?;
        let rows: Vec<usize> = live.iter().chain(dead).map(|(row, _)| *row).collect();
        let own = whole.rows(&chosen(&wanted.rows, &fields, &rows)?)?;
        let stored = whole.rows(&sequence_columns(&stored, &fields)?)?;
        let buried = whole.rows(&sequence_columns(&buried, &fields)?)?;
        let keeps_first = self.rules.mode == MergeMode::First;
        let there = stored.iter().chain(buried.iter());
        for ((row, own), there) in rows.into_iter().zip(own.iter()).zip(there) {
            let order = own.cmp(&there);
            wins[row] = if keeps_first { order.is_lt() } else { order.is_ge() };
        }
        Ok(())
    }

    fn bury(&self, wanted: &Wanted, rows: &[u32]) -> Result<Option<RecordBatch>, DeltaError> {
        if rows.is_empty() || !self.rules.has_tombstones() {
            return Ok(None);
        }
        let hashes: Vec<u128> = rows.iter().map(|row| wanted.hashes[*row as usize]).collect();
        let rows: Vec<usize> = rows.iter().map(|row| *row as usize).collect();
        let sequences = chosen(&wanted.rows, &self.sequence_fields(), &rows)?;
        tombstones(self, &hashes, sequences).map(Some)
    }

    /// The rows to write, and which row of `wanted` each is.
    async fn merge(
        &self,
        current: &Current<'_>,
        wanted: &Wanted,
        whole: Vec<u32>,
        merged: Vec<(u32, Place)>,
    ) -> Result<(RecordBatch, Vec<u32>), DeltaError> {
        let mut order = whole;
        let written = take_record_batch(&wanted.rows, &UInt32Array::from(order.clone()))?;
        if merged.is_empty() {
            return Ok((written, order));
        }
        let places: Vec<Place> = merged.iter().map(|(_, place)| *place).collect();
        let schema = self.open_schema();
        let old = read_rows(current.location, current.files, &places, &schema).await?;
        let rows: Vec<u32> = merged.iter().map(|(row, _)| *row).collect();
        let new = take_record_batch(&wanted.rows, &UInt32Array::from(rows.clone()))?;
        let count = rows.len() as u32;
        let mut groups = Groups::default();
        for row in 0..count {
            groups.push([row, row + count]);
        }
        let both = concat_batches(&schema, [&old, &new])?;
        let folded = self.fold(&both, &groups, Rows::Folded)?;
        order.extend(rows);
        Ok((concat_batches(&schema, [&written, &folded])?, order))
    }
}

fn chosen(
    rows: &RecordBatch,
    fields: &[Field],
    indices: &[usize],
) -> Result<Vec<ArrayRef>, DeltaError> {
    let indices: UInt32Array = indices.iter().map(|row| Some(*row as u32)).collect();
    let columns = sequence_columns(rows, fields)?;
    columns.iter().map(|column| Ok(take(column, &indices, None)?)).collect()
}
