//! Writes the chunks of a shard anew, without what is outdated: chunk by chunk and block by block.
//!
//! ```text
//!   chunk 0  | a . . b |  chunk 1  | c . |  chunk 2  | . d e |      --->      | a b c d e |
//! ```
//!
//! Memory: some blocks, and 4 bytes for each row of the old chunks. What is written anew takes no more
//! memory than the old chunks did, the rest is on disk; an old chunk goes once it was read.

use super::OPEN_END;
use super::chunks::{Gathered, Rows};
use super::shard::next_end;
use super::spill::{BLOCK_ROWS, SpillFiles};
use crate::state::StateError;
use arrow::array::BooleanArray;
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::record_batch::RecordBatch;

/// Rows that are written together: whole blocks.
const WRITE_ROWS: usize = 16 * BLOCK_ROWS;

/// What stands for a row that is not kept.
const OUTDATED: u32 = u32::MAX;

/// Which rows of chunks are kept, and their numbers in the new one.
#[derive(Debug)]
pub(super) struct Kept(Vec<Vec<u32>>);

impl Kept {
    /// None of chunks with so many rows.
    pub(super) fn none(lengths: impl Iterator<Item = usize>) -> Self {
        Self(lengths.map(|rows| vec![OUTDATED; rows]).collect())
    }

    /// Keeps a row.
    pub(super) fn keep(&mut self, (chunk, row): (usize, usize)) {
        self.0[chunk][row] = 0;
    }

    /// Gives the rows that are kept their numbers.
    pub(super) fn number(&mut self) {
        let kept = self.0.iter_mut().flatten().filter(|own| **own != OUTDATED);
        kept.zip(0..).for_each(|(own, number)| *own = number);
    }

    /// The number of a row that is kept.
    pub(super) fn of(&self, (chunk, row): (usize, usize)) -> u32 {
        self.0[chunk][row]
    }

    /// The rows that are kept, as those of one chunk, and the earliest end of them; `None` if there
    /// are none.
    pub(super) fn rewrite(
        &self,
        chunks: Vec<Rows>,
        files: &SpillFiles,
    ) -> Result<Option<(Rows, i64)>, StateError> {
        let held = chunks.iter().filter(|rows| rows.is_held());
        let mut gathered = Gathered::new(held.map(Rows::bytes).sum());
        let (mut pending, mut rows, mut ends): (Vec<RecordBatch>, _, _) = (Vec::new(), 0, OPEN_END);
        for (chunk, numbers) in chunks.into_iter().zip(&self.0) {
            let (mut block, mut from) = (0, 0);
            while let Some(read) = chunk.block(block)? {
                let numbers = &numbers[from..from + read.num_rows()];
                let keep: BooleanArray = numbers.iter().map(|own| Some(*own != OUTDATED)).collect();
                let kept = filter_record_batch(&read, &keep)?;
                ends = ends.min(next_end(&kept));
                rows += kept.num_rows();
                (block, from) = (block + 1, from + read.num_rows());
                pending.push(kept);
                if rows >= WRITE_ROWS {
                    let all = concat_batches(&read.schema(), &pending)?;
                    let whole = rows / BLOCK_ROWS * BLOCK_ROWS;
                    gathered.push(all.slice(0, whole), || files.current())?;
                    rows -= whole;
                    pending = vec![all.slice(whole, rows)];
                }
            }
        }
        if rows > 0 {
            let all = concat_batches(&pending[0].schema(), &pending)?;
            gathered.push(all, || files.current())?;
        }
        Ok(gathered.finish()?.map(|rows| (rows, ends)))
    }
}
