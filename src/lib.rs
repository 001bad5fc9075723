//! Onefold: every event is folded in once.
#![doc = include_str!("../README.md")]

pub mod commit;
pub mod delta;
pub mod error;
pub mod key;
pub mod operator;
pub mod pipeline;
pub mod plan;
pub mod session;
pub mod source;
pub mod sql;
pub mod state;
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod types;

pub use arrow;
pub use datafusion;
pub use error::Error;
pub use object_store;
pub use types::ErrorKind;

/// What a program that embeds a session needs.
pub mod prelude {
    pub use crate::delta::WriteReport;
    pub use crate::error::Error;
    pub use crate::session::{OnefoldBuilderExt, OnefoldContextExt, PipelineHandle};
    pub use crate::types::{ErrorKind, Settings};
}
