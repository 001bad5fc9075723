//! What the operators of a pipeline remember between epochs, and the files it is saved in.
//!
//! ```text
//!   restore <- state files named by the manifest of the last epoch
//!   begin_epoch -> [plan runs] -> finish_epoch -> Unsaved -> EncodedState -> one more state file
//! ```
//!
//! # Not here
//!
//! No object store and no manifest: `pipeline` writes and reads the bytes.

mod content;
mod dedup;
mod error;
mod memory;
mod rollup;
mod sketch;

pub use content::{ContentWriter, StateContent};
pub use dedup::{Anchors, DEDUP_SHARDS, DedupMemory, DedupRow, DedupRows, Verdict};
pub use error::StateError;
pub use memory::{EncodedState, EpochChanges, Joined, Judged, OperatorMemory, Unsaved};
pub use rollup::{
    Aggregates, FIXED_COLUMNS, FloatSum, GROUP_COLUMNS, GroupRows, OPEN_END, Part, ROLLUP_SHARDS,
    RollupMemory, SESSIONS, TAKES_BACK, hash_array, hashes_of, is_bounded, saved_groups,
};
pub use sketch::{BitmapSketch, HllSketch, QuantileSketch, Sketch, SketchError, SketchKind};
