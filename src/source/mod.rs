//! Skeleton.
mod error;
mod table;
mod traits;
pub use error::SourceError;
pub use table::{EpochSlot, SourceTable, SourceTableOptions, WatermarkSpec, merge_entries};
pub use traits::{Chunk, Poll, PollLimits, Source, SourcePosition, SourceReader, SourceStart};
