//! DEDUP of a plain bounded query.
//!
//! ```text
//!   input -> DedupPrepareExec -> [repartition by hash] -> [sort] -> DedupExec -> rows of input
//!            + key hash (2 x u64)                         key hash, time,
//!            + time (us), NULL-key flag                   all columns
//! ```
//!
//! # Meaning
//!
//! The rows of one key are taken by (time, all columns). The first is an anchor; a row less than
//! the interval after the last anchor is a duplicate; one exactly the interval after it is new,
//! and the next anchor. Duplicates do not move the window. Rows whose time is NULL cannot be
//! decided and follow LATE. A key with a NULL in it is never a duplicate, unless NULLS NOT
//! DISTINCT.
//!
//! Rows of equal key and time are ordered by all their columns, so the answer does not depend on
//! the number of partitions, the size of batches, or the order of the input.
//!
//! # Memory
//!
//! Equal keys are neighbours after the sort, so DEDUP itself holds one anchor time. The sort is
//! DataFusion's: accounted to the session's memory pool, spilling when that is full.
//!
//! # Not here
//!
//! The dedup of pipelines, which remembers anchors from epoch to epoch.

mod error;
mod exec;
mod prepare;
mod stream;
#[cfg(test)]
mod tests;
mod time;

pub use error::DedupError;
pub use exec::{DedupExec, plan_bounded_dedup};
pub use prepare::DedupExpressions;
