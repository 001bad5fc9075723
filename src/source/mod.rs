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
mod create;
mod error;
mod files;
mod generator;
mod memory;
mod scan;
mod slot;
mod table;
#[cfg(test)]
mod tests;
mod traits;

pub use clock::{SourceClock, WatermarkSpec, stamped_schema};
pub use create::{SourceDefinition, create_source};
pub use error::SourceError;
pub use files::{
    BadRows, CsvOptions, FileFormat, FileOrder, FilesOptions, FilesSource, FoundFiles,
};
pub use generator::{GeneratorOptions, GeneratorSource};
pub use memory::MemorySource;
pub use scan::SourceScanExec;
pub use slot::EpochSlot;
pub use table::{ChangeFeed, SourceTable, SourceTableOptions};
pub use traits::{Chunk, Poll, PollLimits, Source, SourcePosition, SourceReader, SourceStart};
