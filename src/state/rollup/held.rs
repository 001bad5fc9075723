//! One shard of what a rollup holds: groups, or sessions.

use super::chunks::Rows;
use super::sessions::SessionShard;
use super::shard::{Shard, hashes_of};
use super::spill::{SpillFile, SpillFiles};
use super::{Aggregates, GroupRows};
use crate::state::StateError;
use crate::types::RollupOptions;
use arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use std::path::Path;
use std::sync::Arc;

#[derive(Debug)]
pub(super) enum Held {
    Groups(Shard),
    Sessions(SessionShard),
}

impl Held {
    /// An empty one. Shards whose `phase`, from 0 to 1, is not the same grow at different times.
    pub(super) const fn new(options: RollupOptions, phase: f64) -> Self {
        match options.session {
            Some(session) => Self::Sessions(SessionShard::new(session)),
            None => Self::Groups(Shard::new(phase)),
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        match self {
            Self::Groups(own) => own.clear(),
            Self::Sessions(own) => own.clear(),
        }
    }

    pub(super) fn merge(
        &mut self,
        aggregates: &Aggregates,
        partials: &RecordBatch,
    ) -> Result<Vec<GroupRows>> {
        match self {
            Self::Groups(own) => Ok(vec![own.merge(aggregates, partials)?]),
            Self::Sessions(own) => own.merge(aggregates, partials),
        }
    }

    /// Notes what is in `rows`, which will be those of its only chunk from row `hashes.len()` on.
    pub(super) fn index(&mut self, rows: &RecordBatch, hashes: &mut Vec<u128>) {
        if let Self::Sessions(own) = self {
            own.index(rows, 0, hashes.len());
        }
        hashes.extend(hashes_of(rows));
    }

    /// Takes the rows of saved groups, which were all indexed, into an empty shard.
    pub(super) fn fill(&mut self, rows: Rows, hashes: Vec<u128>, next_end: i64) {
        match self {
            Self::Groups(own) => own.fill(rows, hashes, next_end),
            Self::Sessions(own) => own.add_chunk(rows, hashes.len()),
        }
    }

    /// Moves rows to `file`.
    pub(super) fn spill_rows(
        &mut self,
        file: &Arc<SpillFile>,
        keeps_newest: bool,
    ) -> Result<(), StateError> {
        match self {
            Self::Groups(own) => own.spill_rows(file, keeps_newest),
            Self::Sessions(own) => own.spill_rows(file, keeps_newest),
        }
    }

    /// Moves the index of the groups to files in `folder`; that of sessions stays.
    pub(super) fn spill_places(&mut self, folder: &Path) -> Result<(), StateError> {
        match self {
            Self::Groups(own) => own.spill_places(folder),
            Self::Sessions(_) => Ok(()),
        }
    }

    pub(super) fn closed(&self, aggregates: &Aggregates, last: i64) -> Result<Option<GroupRows>> {
        match self {
            Self::Groups(own) => own.closed(aggregates, last),
            Self::Sessions(own) => own.closed(aggregates, last),
        }
    }

    pub(super) fn finish(&mut self, last: i64, files: &SpillFiles) -> Result<Option<RecordBatch>> {
        match self {
            Self::Groups(own) => own.finish(last, files),
            Self::Sessions(own) => own.finish(last, files),
        }
    }

    pub(super) fn all(&self) -> Result<Option<RecordBatch>> {
        match self {
            Self::Groups(own) => own.all(),
            Self::Sessions(own) => own.all(),
        }
    }

    pub(super) fn groups(&self) -> usize {
        match self {
            Self::Groups(own) => own.groups(),
            Self::Sessions(own) => own.groups(),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Groups(own) => own.bytes(),
            Self::Sessions(own) => own.bytes(),
        }
    }
}
