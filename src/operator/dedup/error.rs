//! Why rows cannot be deduplicated.

use crate::types::ErrorKind;
use arrow::datatypes::DataType;
use datafusion::error::DataFusionError;

/// Why rows cannot be deduplicated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DedupError {
    /// The time expression has a type that is no point in time.
    #[error("DEDUP needs a timestamp or date as its time, and got {data_type}")]
    TimeType {
        /// The refused type.
        data_type: DataType,
    },
    /// A time does not fit into microseconds since 1970.
    #[error("time {value} of type {data_type} does not fit into 64 bits of microseconds")]
    TimeRange {
        /// The value in the unit of its type.
        value: i64,
        /// The type.
        data_type: DataType,
    },
    /// A row cannot be decided, and the clause says LATE ERROR.
    #[error(
        "row {row} is {reason}, so DEDUP cannot decide it: write LATE DROP or LATE PASS, or allow more lateness"
    )]
    Undecidable {
        /// The row.
        row: String,
        /// `late` or `without a time`.
        reason: &'static str,
    },
    /// The pipeline that the operator belongs to is not there.
    #[error("operator {operator} of a pipeline was planned outside of it")]
    NoMemory {
        /// The operator's name.
        operator: String,
    },
}

impl DedupError {
    /// What the caller can do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::TimeType { .. } => ErrorKind::Invalid,
            Self::TimeRange { .. } | Self::Undecidable { .. } => ErrorKind::Data,
            Self::NoMemory { .. } => ErrorKind::Internal,
        }
    }
}

impl From<DedupError> for DataFusionError {
    fn from(error: DedupError) -> Self {
        Self::External(Box::new(error))
    }
}
