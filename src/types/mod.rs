//! The words every other room speaks: times, what a clause asks for, and the port to chance.
//!
//! ```text
//!   EventTime < Watermark        when a row happened / the promise about rows still to come
//!   DedupOptions                 what the user asked for, checked and with units
//!   Entropy                      the only way to chance
//! ```
//!
//! # Not here
//!
//! No Arrow compute, no async runtime, no I/O: this room imports nothing of ours.

mod dedup;
mod entropy;
mod error;
mod time;

pub use dedup::{DedupOptions, LatePolicy, NullKeys, Within};
pub use entropy::{Entropy, SystemEntropy};
pub use error::ErrorKind;
pub use time::{EventTime, Watermark, format_duration_us};
