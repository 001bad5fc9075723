//! GROUP BY of one epoch of a pipeline.
//!
//! ```text
//!   LocalRollupExec    rows -> states of the finest groups -> states of the coarser ones
//!                      (bounded: once it is full of keys that do not come back, it freezes; what is
//!                      in it goes on being folded, and other rows pass through)
//!   ShardExchangeExec  the states of each shard of the groups' hashes are brought together
//!   GlobalRollupExec   states of this epoch + remembered states -> states, and one row for each
//!                      group that changed (EMIT CHANGES) or was closed (EMIT FINAL)
//! ```
//!
//! # Meaning
//!
//! A row belongs to the windows its group columns name. It is too late once the watermark that its
//! partition had promised before it has passed the end of the first of them and the allowed
//! lateness; then it is counted and dropped, and so is a row without a time. That never depends on
//! how the input is cut into epochs or partitions. In windows that overlap it is counted as late once
//! the last of its own is closed, and only left out of those that are until then. A coarser group (ROLLUP, CUBE, GROUPING SETS)
//! folds the states of a finer one, never the rows again.
//!
//! # Not here
//!
//! What is remembered from epoch to epoch, and how states merge: that is `state`.

mod cascade;
mod exchange;
mod expand;
mod extreme;
mod float_sum;
mod fold;
mod front;
mod global;
mod hop;
mod local;
mod near;
mod packed;
mod quick;
mod session;
mod shape;
mod sum;
#[cfg(test)]
mod tests;
mod window;

pub use exchange::ShardExchangeExec;
pub use extreme::float_extreme;
pub use float_sum::exact_float;
pub use global::GlobalRollupExec;
pub use hop::HopColumn;
pub use local::LocalRollupExec;
pub use shape::{GroupingSet, RollupExpressions, RollupMemories, plan_epoch_rollup};
pub use sum::{exact_sum, has_exact_sum, signed_sum};
pub use window::{WindowColumn, WindowStep};
