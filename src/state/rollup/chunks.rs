//! Rows of a chunk, in memory or on disk.

use super::spill::{BLOCK_ROWS, SpillFile, SpilledRows};
use crate::state::StateError;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use std::sync::Arc;

#[derive(Debug)]
pub(super) enum Rows {
    Held(RecordBatch),
    Spilled(SpilledRows),
}

/// Batches, and where rows are in those: batch and row.
pub(super) type Found = (Vec<RecordBatch>, Vec<(usize, usize)>);

impl Rows {
    pub(super) fn all(&self) -> Result<RecordBatch, StateError> {
        match self {
            Self::Held(rows) => Ok(rows.clone()),
            Self::Spilled(rows) => rows.all(),
        }
    }

    /// The rows of one of its blocks, of [`BLOCK_ROWS`] each; `None` behind the last.
    pub(super) fn block(&self, number: usize) -> Result<Option<RecordBatch>, StateError> {
        match self {
            Self::Held(rows) => {
                let from = number * BLOCK_ROWS;
                let count = BLOCK_ROWS.min(rows.num_rows().saturating_sub(from));
                Ok((count > 0).then(|| rows.slice(from, count)))
            }
            Self::Spilled(rows) => rows.block(number),
        }
    }

    /// Whether they are in memory.
    pub(super) const fn is_held(&self) -> bool {
        matches!(self, Self::Held(_))
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Held(rows) => rows.get_array_memory_size(),
            Self::Spilled(rows) => rows.allocated_bytes(),
        }
    }

    pub(super) fn schema(&self) -> SchemaRef {
        match self {
            Self::Held(rows) => rows.schema(),
            Self::Spilled(rows) => rows.schema(),
        }
    }

    /// Moves them to `file`, if they are in memory.
    pub(super) fn spill(&mut self, file: &Arc<SpillFile>) -> Result<(), StateError> {
        if let Self::Held(rows) = self {
            *self = Self::Spilled(SpilledRows::write(file, rows)?);
        }
        Ok(())
    }

    /// Moves the rows of chunks, but perhaps the newest, to `file`; returns the bytes of memory that
    /// all take then.
    pub(super) fn spill_all<'a>(
        chunks: impl DoubleEndedIterator<Item = &'a mut Self>,
        file: &Arc<SpillFile>,
        keeps_newest: bool,
    ) -> Result<usize, StateError> {
        let mut bytes = 0;
        for (age, rows) in chunks.rev().enumerate() {
            if age > 0 || !keeps_newest {
                rows.spill(file)?;
            }
            bytes += rows.bytes();
        }
        Ok(bytes)
    }

    /// Batches that hold the rows at `places`, each a chunk and a row, and where they are in those.
    pub(super) fn batches_at(chunks: &[&Self], places: &[(usize, usize)]) -> Result<Found> {
        let mut wanted: Vec<Vec<usize>> = vec![Vec::new(); chunks.len()];
        let mut found: Vec<(usize, usize)> = Vec::with_capacity(places.len());
        for (chunk, row) in places {
            match chunks[*chunk] {
                Self::Held(_) => found.push((*chunk, *row)),
                Self::Spilled(_) => {
                    found.push((*chunk, wanted[*chunk].len()));
                    wanted[*chunk].push(*row);
                }
            }
        }
        let Some(schema) = chunks.first().map(|rows| rows.schema()) else {
            return Ok((Vec::new(), found));
        };
        let empty = RecordBatch::new_empty(schema);
        let batches = chunks.iter().zip(&wanted).map(|(chunk, rows)| match chunk {
            Self::Held(rows) => Ok(rows.clone()),
            Self::Spilled(_) if rows.is_empty() => Ok(empty.clone()),
            Self::Spilled(own) => Ok(own.pick(rows)?),
        });
        Ok((batches.collect::<Result<_>>()?, found))
    }
}

/// The rows of one chunk as they come: in memory up to a share of it, then on disk.
#[derive(Debug)]
pub(super) struct Gathered {
    held: Vec<RecordBatch>,
    held_bytes: usize,
    share_bytes: usize,
    spilled: Option<SpilledRows>,
}

impl Gathered {
    pub(super) const fn new(share_bytes: usize) -> Self {
        Self { held: Vec::new(), held_bytes: 0, share_bytes, spilled: None }
    }

    /// Adds rows: each time but the last, whole blocks of [`SpilledRows`].
    pub(super) fn push(
        &mut self,
        rows: RecordBatch,
        file: impl FnOnce() -> Result<Arc<SpillFile>, StateError>,
    ) -> Result<(), StateError> {
        self.held_bytes += rows.get_array_memory_size();
        self.held.push(rows);
        if self.spilled.is_none() {
            if self.held_bytes <= self.share_bytes {
                return Ok(());
            }
            self.spilled = Some(SpilledRows::empty(&file()?, &self.held[0].schema()));
        }
        if let Some(spilled) = &mut self.spilled {
            for rows in self.held.drain(..) {
                spilled.append(&rows)?;
            }
        }
        Ok(())
    }

    /// All of them; `None` if none came.
    pub(super) fn finish(self) -> Result<Option<Rows>, StateError> {
        if let Some(spilled) = self.spilled {
            return Ok(Some(Rows::Spilled(spilled)));
        }
        let Some(first) = self.held.first() else { return Ok(None) };
        Ok(Some(Rows::Held(concat_batches(&first.schema(), &self.held)?)))
    }
}
