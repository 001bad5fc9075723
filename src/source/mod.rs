//! Where rows come from: partitions that can be read again from any offset.
//!
//! ```text
//!   Source --open(start)--> SourceReader --poll--> Poll { chunks, started, finished, entries, position }
//!                                                    |
//!                                    SourceClock --stamp--> rows with position and watermark
//! ```
//!
//! # Invariants
//!
//! 1. A row's offset, and what its partition promised before it, never depend on how it was polled.
//! 2. Rows that are gone are an error, never skipped.

mod clock;
mod error;
mod table;
mod traits;

pub use clock::{SourceClock, WatermarkSpec, stamped_schema};
pub use error::SourceError;
pub use table::{EpochSlot, SourceTable, SourceTableOptions};
pub use traits::{Chunk, Poll, PollLimits, Source, SourcePosition, SourceReader, SourceStart};
