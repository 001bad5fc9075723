//! What users hold: a DataFusion session that knows our SQL, and the pipelines it made.
//!
//! Not here: anything that could be done by a room below.

mod config;
mod context;
mod handle;
mod history;
mod plan;
mod registry;
mod tables;

pub use context::{OnefoldBuilderExt, OnefoldContextExt};
pub use handle::PipelineHandle;
pub use registry::Ports;
