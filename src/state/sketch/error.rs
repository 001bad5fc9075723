//! Why a sketch cannot be used.

use super::SketchKind;
use crate::types::ErrorKind;
use datafusion::error::DataFusionError;

/// Why a sketch cannot be read, merged or asked.
#[derive(Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SketchError {
    /// The bytes do not begin as a sketch does.
    #[error(
        "these {found_bytes} bytes are no {expected} sketch: give it what {expected}_state or {expected}_merge made"
    )]
    NotASketch {
        /// What was asked for.
        expected: SketchKind,
        /// How many bytes there are.
        found_bytes: usize,
    },
    /// A sketch of another kind.
    #[error(
        "this is a {found} sketch, and a {expected} sketch is needed: use the {found}_ functions, or another column"
    )]
    Kind {
        /// What was asked for.
        expected: SketchKind,
        /// What it is.
        found: SketchKind,
    },
    /// A kind or version that this release does not know.
    #[error(
        "sketch of kind {kind}, format version {version}: this release reads kinds 1 to 3 in version 1; read it with the release that wrote it"
    )]
    Unknown {
        /// The kind it names.
        kind: u8,
        /// The version it names.
        version: u8,
    },
    /// The bytes contradict themselves.
    #[error(
        "{kind} sketch is damaged: {reason}; make it again from its rows, or leave out the row that holds it"
    )]
    Corrupt {
        /// Which sketch.
        kind: SketchKind,
        /// What is wrong.
        reason: String,
    },
    /// A parameter outside its range.
    #[error("{name} must be a constant from {min} to {max}, and is {found}")]
    Parameter {
        /// The parameter.
        name: &'static str,
        /// The least it may be.
        min: u32,
        /// The most it may be.
        max: u32,
        /// What it is.
        found: String,
    },
    /// No rank.
    #[error("a quantile lies between 0 and 1, and is asked for at {q}")]
    Rank {
        /// The rank asked for.
        q: f64,
    },
    /// More values than a sketch can count.
    #[error("a quantile sketch counts up to 2^64 - 1 values, and would hold more: merge fewer")]
    Full,
}

impl SketchError {
    /// What the caller can do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::NotASketch { .. }
            | Self::Kind { .. }
            | Self::Parameter { .. }
            | Self::Rank { .. } => ErrorKind::Invalid,
            Self::Unknown { .. } => ErrorKind::Unsupported,
            Self::Corrupt { .. } => ErrorKind::Data,
            Self::Full => ErrorKind::Exhausted,
        }
    }
}

impl From<SketchError> for DataFusionError {
    fn from(error: SketchError) -> Self {
        Self::External(Box::new(error))
    }
}
