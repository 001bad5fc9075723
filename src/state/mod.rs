//! Skeleton.
mod error;
mod memory;
mod dedup;
pub use dedup::DedupMemory;
pub use error::StateError;
pub use memory::{EncodedState, EpochChanges, Judged, OperatorMemory};
