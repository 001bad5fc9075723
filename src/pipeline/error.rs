//! Why a pipeline stopped.
use crate::types::ErrorKind;

/// Why a pipeline stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// The plan of an epoch failed.
    #[error("the query of the pipeline failed")]
    Plan(#[source] datafusion::error::DataFusionError),
}

impl PipelineError {
    /// What the caller can do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::Internal
    }
}
