//! What a pipeline has done so far.

use crate::commit::LedgerRow;
use crate::types::{Epoch, LateRows, Watermark};

/// What a pipeline has done since it was opened; published after each committed epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PipelineStatus {
    /// The last committed epoch, also of earlier runs; 0 is none.
    pub epoch: Epoch,
    /// The table version that holds it, or the fence.
    pub version: u64,
    /// Epochs committed by this run.
    pub epochs: u64,
    /// Rows read.
    pub rows_in: u64,
    /// Rows that reached the table.
    pub rows_out: u64,
    /// Rows dropped as duplicates.
    pub rows_duplicate: u64,
    /// Rows dropped because they were late or had no time.
    pub rows_late: u64,
    /// Rows dropped by the rest of the query; below zero where a join multiplied rows.
    pub rows_filtered: i64,
    /// Rows that could not be read and were skipped.
    pub rows_malformed: u64,
    /// Rows whose primary key was new to the table.
    pub rows_inserted: u64,
    /// Rows that replaced one of the same primary key.
    pub rows_updated: u64,
    /// Rows that left the table.
    pub rows_deleted: u64,
    /// Rows that lost against what the table held: of an older sequence, or where the first stays.
    pub rows_ignored: u64,
    /// How late the late rows were that had a time.
    pub late: Option<LateRows>,
    /// The lowest watermark of the sources.
    pub watermark: Option<Watermark>,
    /// Bytes that operators hold in memory.
    pub state_bytes: u64,
    /// Keys that operators remember, in memory or on local disk.
    pub keys_held: u64,
    /// Bytes written as rows of the table.
    pub bytes_written: u64,
    /// Time the commits took together, in microseconds, without what was written ahead of them.
    pub commit_us: u64,
}

impl PipelineStatus {
    /// Adds the counts of an epoch's ledger.
    pub(super) fn add(&mut self, rows: &[LedgerRow]) {
        for row in rows {
            self.rows_in += row.rows_read;
            self.rows_out += row.rows_emitted;
            self.rows_duplicate += row.rows_duplicate;
            self.rows_late += row.rows_late;
            self.rows_filtered += row.rows_filtered;
            self.rows_malformed += row.rows_malformed;
        }
    }
}
