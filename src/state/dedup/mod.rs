//! What DEDUP remembers: the anchors that can still make a row a duplicate.
//!
//! ```text
//!   key hash (128 bits) --low bits--> one of 64 shards --> anchor time, or a set of them
//! ```
//!
//! # Meaning
//!
//! A row that is not late is a duplicate iff an anchor of its key is less than the interval away,
//! before or after. An anchor at `T` is forgotten once `T + W + L <= watermark`: no row that can
//! still be decided is closer. The answer never depends on when forgetting happens.
//!
//! # Memory
//!
//! 32 to 40 bytes per key with one live anchor, which is nearly every key. When the limit is
//! reached the pipeline stops; nothing is forgotten silently.
//!
//! # Not here
//!
//! No Arrow and no async: rows come as (hash, time, position).

mod anchors;
mod format;
mod memory;

pub use anchors::{Anchors, Verdict};
pub use memory::{DEDUP_SHARDS, DedupMemory, DedupRow, DedupRows};
