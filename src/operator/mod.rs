//! Physical operators, one folder each.
//!
//! Not here: what may be planned where (that is `plan`), and what is remembered between epochs
//! (that is `state`).

mod dedup;
mod rollup;
mod sketch;
mod time;

pub use dedup::{
    DedupEpochExec, DedupError, DedupExec, DedupExpressions, DedupMemories, plan_bounded_dedup,
    plan_epoch_dedup,
};
pub use rollup::{
    GlobalRollupExec, GroupingSet, HopColumn, LocalRollupExec, RollupExpressions, RollupMemories,
    ShardExchangeExec, WindowColumn, WindowStep, exact_float, exact_sum, float_extreme,
    has_exact_sum, plan_epoch_rollup, signed_sum,
};
pub use sketch::{sketch_aggregates, sketch_functions};
pub use time::in_units;
