//! What users hold: a DataFusion session that knows our SQL, and the pipelines it made.
//!
//! Not here: anything that could be done by a room below.

mod alter;
mod answers;
mod checks;
mod config;
mod context;
mod feed;
mod functions;
mod handle;
mod history;
mod plan;
mod registry;
mod sketches;
mod state;
mod statement;
mod tables;
mod update;
mod upkeep;
mod views;

pub use context::{OnefoldBuilderExt, OnefoldContextExt};
pub use handle::PipelineHandle;
pub use registry::Ports;
