//! The words every other room speaks: times, positions, names, limits, and the ports to the world.
//!
//! ```text
//!   EventTime < Watermark        when a row happened / the promise about rows still to come
//!   Epoch, Incarnation, Offset   one atomic step / who takes it / where a partition stands
//!   DedupOptions, RollupOptions, Settings   what the user asked for, checked and with units
//!   Clock, Entropy               the only ways to time and to chance
//! ```
//!
//! # Not here
//!
//! No Arrow compute, no async runtime, no I/O: this room imports nothing of ours.

mod clock;
mod columns;
mod dedup;
mod emit;
mod entropy;
mod error;
mod interval;
mod names;
mod rollup;
mod settings;
mod state_file;
mod time;
mod token;

pub use clock::{Clock, SystemClock};
pub use columns::{
    CHANGE_COLUMN, DELETE_COLUMN, POSITION_COLUMN, Position, TIME_COLUMN, WATERMARK_COLUMN,
    hidden_fields, is_hidden,
};
pub use dedup::{DedupOptions, LatePolicy, NullKeys, Within};
pub use emit::Emit;
pub use entropy::{Entropy, SystemEntropy};
pub use error::{ErrorKind, NameError};
pub use interval::{format_interval, with_intervals};
pub use names::{Epoch, Incarnation, Offset, PartitionId, PipelineId};
pub use rollup::{RollupOptions, SessionOptions};
pub use settings::Settings;
pub use state_file::StateFile;
pub use time::{EventTime, LateRows, Watermark, format_duration_us, parse_duration_us};
pub use token::UsedToken;
