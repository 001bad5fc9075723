//! DEDUP of a plain bounded query, and of one epoch of a pipeline.
//!
//! ```text
//!   plain   input -> DedupPrepareExec -> [repartition by hash] -> [sort] -> DedupExec
//!                    + key hash, time,                            key hash, then position,
//!                      position                                   or time and all columns
//!
//!   epoch   input, all partitions -> key hash, time, position -> 64 shards of anchors -> input
//!           (held: one epoch)        in parallel                 in parallel             less duplicates
//! ```
//!
//! # Meaning
//!
//! The rows of one key are taken by source position, or where the input has none by (time, all
//! columns). A row less than the interval from an anchor, before or after, is a duplicate; one
//! exactly the interval away is new, and an anchor. Duplicates do not move the window. Rows that
//! are late or whose time is NULL cannot be decided and follow LATE. A key with a NULL in it is
//! never a duplicate, unless NULLS NOT DISTINCT.
//!
//! The answer does not depend on the number of partitions, the size of batches, or the order in
//! which they arrive.
//!
//! # Memory
//!
//! Plain: equal keys are neighbours after the sort, so DEDUP itself holds the anchors of one key.
//! The sort is DataFusion's: accounted to the session's memory pool, spilling when that is full.
//! Epoch: the rows of the epoch, which the pipeline bounds, and the anchors, which `state` bounds.

mod epoch;
mod error;
mod exec;
mod facts;
mod prepare;
mod stream;
#[cfg(test)]
mod tests;

pub use epoch::{DedupEpochExec, DedupMemories, plan_epoch_dedup};
pub use error::DedupError;
pub use exec::{DedupExec, plan_bounded_dedup};
pub use facts::DedupExpressions;
