//! What others committed between two commits of a pipeline, which is judged whenever it was found.
//!
//! ```text
//!   by a lost race              judged at once
//!   by a look at the table,     noted, and judged before the pipeline's next commit:
//!   or as nobody looked long    it would go on at that head, and lose no race
//! ```

use super::DeltaError;
use super::ledger::GROUPS;
use super::table::{DeltaTable, Writer};
use crate::commit::CommitError;
use crate::types::PipelineId;
use std::collections::HashMap;
use std::ops::Range;

/// Stretches of versions noted apart; more are taken together.
const STRETCHES_MAX: usize = 64;

/// Versions that were not committed here.
#[derive(Debug, Default)]
pub(super) struct Others {
    /// In their order; one may hold commits of ours.
    stretches: Vec<Range<u64>>,
    /// By pipeline: the version up to which all was judged.
    judged: HashMap<PipelineId, u64>,
}

impl Others {
    /// Notes versions that came after all others.
    pub(super) fn note(&mut self, versions: Range<u64>) {
        match self.stretches.last_mut() {
            _ if versions.is_empty() => return,
            Some(last) if last.end == versions.start => last.end = versions.end,
            _ => self.stretches.push(versions),
        }
        if self.stretches.len() > STRETCHES_MAX {
            let first = self.stretches.remove(0);
            self.stretches[0].start = first.start;
        }
    }

    /// Says that `pipeline` can go on at `version`.
    pub(super) fn judge(&mut self, pipeline: &PipelineId, version: u64) {
        self.judged.insert(pipeline.clone(), version);
    }

    /// What `pipeline` has not judged.
    fn unjudged(&self, pipeline: &PipelineId) -> impl Iterator<Item = u64> + use<> {
        let from = self.judged.get(pipeline).map_or(u64::MAX, |version| version + 1);
        let of = move |own: &Range<u64>| own.start.max(from)..own.end;
        let new = self.stretches.iter().rev().take_while(|own| own.end > from).map(of);
        new.collect::<Vec<_>>().into_iter().rev().flatten()
    }
}

impl DeltaTable {
    /// Refuses to go on with `pipeline` where others restored the table or, if its rows are groups,
    /// changed rows.
    pub(super) async fn refuse_others(
        &self,
        writer: &mut Writer,
        pipeline: &PipelineId,
        owns_rows: bool,
    ) -> Result<(), DeltaError> {
        for version in writer.others.unjudged(pipeline) {
            let reason = match self.log.actions(version).await? {
                None => "its commit can no longer be read",
                Some(own) if own.txn(&pipeline.to_string()).is_some() => continue,
                Some(own) if own.operation.as_deref() == Some("RESTORE") => {
                    "it restored an older version"
                }
                Some(own) if owns_rows && own.changes_rows => GROUPS,
                Some(_) => continue,
            };
            return Err(CommitError::Conflict { version, reason: reason.to_owned() }.into());
        }
        writer.others.judge(pipeline, writer.snapshot.version());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unjudged(others: &Others, pipeline: &PipelineId) -> Vec<u64> {
        others.unjudged(pipeline).collect()
    }

    #[test]
    fn each_pipeline_judges_what_came_since_it_did() {
        let [p, q] = ["p", "q"].map(|name| PipelineId::try_new(name).unwrap());
        let mut others = Others::default();
        others.note(3..5);
        assert_eq!(unjudged(&others, &p), [0; 0], "it was not opened here");
        others.judge(&p, 3);
        assert_eq!(unjudged(&others, &p), [4]);
        others.note(5..6);
        others.note(8..10);
        others.judge(&q, 8);
        assert_eq!((unjudged(&others, &p), unjudged(&others, &q)), (vec![4, 5, 8, 9], vec![9]));
        others.judge(&p, 9);
        assert_eq!(unjudged(&others, &p), [0; 0]);
        for version in (12..1_000).step_by(2) {
            others.note(version..version + 1);
        }
        assert_eq!(others.stretches.len(), STRETCHES_MAX);
        assert!((12..1_000).step_by(2).all(|version| unjudged(&others, &p).contains(&version)));
    }
}
