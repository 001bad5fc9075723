//! What a rollup remembers: the states of the aggregates of each group that can still change.
//!
//! ```text
//!   row of a chunk, of a state file, and of what a local fold hands on:
//!     hash(group) 16 bytes | end of its window | the group's columns | the states of its aggregates
//!
//!   hash --low bits--> one of 64 shards --> (chunk, row)
//! ```
//!
//! # Meaning
//!
//! Merging is commutative and associative, so the states do not depend on how rows were cut into
//! epochs or partitions; float sums agree up to rounding, or exactly if they are told to. A group is
//! closed once its window's end and the allowed lateness have been passed by the watermark: every row
//! that could still change it is late by the rollup's own rule. Then it leaves memory and files. So
//! does a group whose rows were all taken back, files only when all are joined; see [`gone`].
//!
//! # Memory
//!
//! Chunks are immutable: an epoch writes the groups it changes into a new one, and a shard whose
//! chunks are mostly outdated rows is written anew. So a group takes its columns and states once to
//! twice, and 29 to 32 bytes. Beyond its limit the memory moves rows to files on local disk, and
//! then the index too, except that of sessions; groups that were changed lately stay longest. A block
//! of such a file is read when one of its groups changes.
//!
//! Files are loaded, and joined, without being held: their rows are sorted on local disk where they are
//! more than a part of the limit, and then only the newest row of each open group is taken, block by
//! block. Beside the limit that takes a batch of a file, and a block of each.

mod aggregates;
mod chunks;
mod float_sum;
mod format;
mod gone;
mod held;
mod memory;
mod rewrite;
mod runs;
mod sessions;
mod shard;
mod spill;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_files;
#[cfg(test)]
mod tests_gone;
#[cfg(test)]
mod tests_rewrite;
#[cfg(test)]
mod tests_sessions;

pub use aggregates::{Aggregates, Part, is_bounded};
pub use float_sum::FloatSum;
pub use gone::TAKES_BACK;
pub use memory::saved_groups;
pub use memory::{ROLLUP_SHARDS, RollupMemory};
pub use sessions::SESSIONS;
pub use shard::{FIXED_COLUMNS, GROUP_COLUMNS, GroupRows, OPEN_END, hash_array, hashes_of};
