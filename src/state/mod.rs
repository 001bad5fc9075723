//! Skeleton.
mod dedup;
mod error;
mod memory;
pub use dedup::DedupMemory;
pub use error::StateError;
pub use memory::{EncodedState, EpochChanges, Judged, OperatorMemory};
