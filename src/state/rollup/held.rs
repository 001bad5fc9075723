//! One shard of what a rollup holds: groups, or sessions.

use super::sessions::SessionShard;
use super::shard::Shard;
use super::{Aggregates, GroupRows};
use crate::types::RollupOptions;
use arrow::record_batch::RecordBatch;
use datafusion::common::Result;

#[derive(Debug)]
pub(super) enum Held {
    Groups(Shard),
    Sessions(SessionShard),
}

impl Held {
    pub(super) fn new(options: RollupOptions) -> Self {
        match options.session {
            Some(session) => Self::Sessions(SessionShard::new(session)),
            None => Self::Groups(Shard::default()),
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

    pub(super) fn push(&mut self, rows: RecordBatch) {
        match self {
            Self::Groups(own) => own.push(rows),
            Self::Sessions(own) => own.push(rows),
        }
    }

    pub(super) fn closed(&self, aggregates: &Aggregates, last: i64) -> Result<Option<GroupRows>> {
        match self {
            Self::Groups(own) => own.closed(aggregates, last),
            Self::Sessions(own) => own.closed(aggregates, last),
        }
    }

    pub(super) fn finish(&mut self, last: i64) -> Result<Option<RecordBatch>> {
        match self {
            Self::Groups(own) => own.finish(last),
            Self::Sessions(own) => own.finish(last),
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
