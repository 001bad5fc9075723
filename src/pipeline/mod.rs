//! Skeleton.
mod error;
mod planner;
pub use error::PipelineError;
pub use planner::{EpochPlan, EpochPlanner};
