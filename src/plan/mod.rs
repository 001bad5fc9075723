//! What DEDUP means to a planner: its logical node, what may be pushed below it, and how it runs.
//!
//! ```text
//!   carrier --DedupRelationPlanner--> DedupNode --optimizer--> DedupNode --query planner--> exec
//!             names resolved,                     key predicates
//!             options checked                     below, nothing else
//! ```
//!
//! # Invariants
//!
//! 1. A predicate goes below DEDUP only if it cannot tell two copies of a key apart: it reads
//!    bare key columns only, of types whose equal values are identical.
//! 2. A volatile predicate never goes below DEDUP, and neither does a limit.
//!
//! Over the changes of a table (`changes`, `signed`) rows that went are deleted, or taken back.
//!
//! # Not here
//!
//! Grammar (that is `sql`), rows (that is `operator`).

mod aggregates;
mod changes;
mod emit;
mod error;
mod expressions;
mod hop;
mod keys;
mod lower_windows;
mod micros;
mod node;
mod nulls;
mod pipeline;
mod planner;
mod positions;
mod relation;
mod rollup;
mod session;
mod signed;
mod target;
#[cfg(test)]
mod tests;
mod trace;
mod tumble;
mod volatile;
mod windows;
mod written;

pub use emit::{EmitNode, take_emit};
pub use error::PlanError;
pub use hop::hop_function;
pub use keys::{QueryKey, key_of};
pub use lower_windows::LowerWindows;
pub use node::DedupNode;
pub use pipeline::{
    OperatorKind, PipelineOperator, PipelinePlan, PipelineSource, plan_pipeline, streams,
};
pub use planner::{DedupExtensionPlanner, OnefoldQueryPlanner};
pub use positions::ExposePositions;
pub use relation::DedupRelationPlanner;
pub use rollup::RollupNode;
pub use session::session_function;
pub use target::refuse_keys;
pub use tumble::{LowerTumble, tumble_functions};
pub use volatile::KeepVolatileAboveDedup;
