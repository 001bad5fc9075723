//! For tests of this crate and of programs that embed it (feature `testing`).
//!
//! ```text
//!   SimulatedClock       time passes only when somebody sleeps
//!   AgedStore            any store, whose objects are as old as a clock says
//!   FaultyStore          any store, with one call that fails, or fails after it was applied
//!   source_conformance   what every Source must do, whatever it reads
//! ```

mod aged;
mod clock;
mod source;
mod store;

pub use aged::AgedStore;
pub use clock::SimulatedClock;
pub use source::source_conformance;
pub use store::{Fault, FaultyStore};
