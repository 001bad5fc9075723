//! Skeleton.
mod dedup;
pub use dedup::{DedupExpressions, DedupMemories, plan_bounded_dedup, plan_epoch_dedup};
