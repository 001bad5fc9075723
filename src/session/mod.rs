//! What users hold: a DataFusion session that knows our SQL.
//!
//! Not here: anything that could be done by a room below.

mod context;

pub use context::OnefoldContextExt;
