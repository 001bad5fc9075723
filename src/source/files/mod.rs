//! Files on an object store: each file is a partition, its rows are the offsets.
//!
//! ```text
//!   listing 1   a.json b.json c.json      a generation: read in path order, one after the other
//!   listing 2   aa.json d.json            what is new when all of listing 1 was read
//! ```
//!
//! # Invariants
//!
//! 1. A file is named by path, size and e-tag or modification time, and recorded with the epoch
//!    that listed it: whatever later listings say, it is read once and whole.
//! 2. A file that is another than it was listed as, or that is gone before it was read to its end,
//!    is an error that names it. One that was read to its end may be deleted.
//! 3. While a known file is not read to its end the watermark stands still, unless
//!    `'file_order' 'event_time'` promises that path order is time order.

mod ahead;
mod entries;
mod format;
mod listing;
mod parquet;
mod reader;
mod records;
mod source;
#[cfg(test)]
mod tests;
mod text;

pub use format::{BadRows, CsvOptions, FileFormat, FileOrder, FilesOptions};
pub use source::{FilesSource, FoundFiles};
