//! Onefold: every event is folded in once.

pub mod commit;
pub mod delta;
pub mod key;
pub mod operator;
pub mod pipeline;
pub mod plan;
pub mod source;
pub mod sql;
pub mod state;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
pub mod types;
