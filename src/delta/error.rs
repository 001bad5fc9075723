//! What can go wrong with an upsert table.

use crate::commit::CommitError;
use crate::key::KeyError;
use crate::store::StoreError;
use crate::types::ErrorKind;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use datafusion::parquet::errors::ParquetError;
use delta_kernel::KernelError;

/// Why an upsert table cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeltaError {
    /// The definition of the table is wrong.
    #[error("table {table}: {reason}")]
    Definition {
        /// The table.
        table: String,
        /// What is wrong, and what to write instead.
        reason: String,
    },
    /// The table exists, and is another.
    #[error("table {table} exists at {location} and is another: {differences}")]
    Mismatch {
        /// The table.
        table: String,
        /// Where it is.
        location: String,
        /// Each difference.
        differences: String,
    },
    /// There is no table.
    #[error(
        "no Delta table at {location}: to create it, write CREATE EXTERNAL TABLE with columns and a PRIMARY KEY, without UNBOUNDED"
    )]
    Missing {
        /// Where it was looked for.
        location: String,
    },
    /// Not possible yet.
    #[error("{what} on an upsert table is not supported yet")]
    Unsupported {
        /// The statement.
        what: String,
    },
    /// A row breaks a rule of the table.
    #[error("table {table}: column {column} is NULL in row {row}, and must not be")]
    NullValue {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// The row.
        row: String,
    },
    /// A value is none of its column's type.
    #[error(
        "table {table}: column {column} is {data_type}, and cannot hold {value} of row {row} of VALUES"
    )]
    Unfit {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// The value.
        value: String,
        /// Which row has it, from 1.
        row: usize,
        /// The type of the column.
        data_type: DataType,
    },
    /// A row does not meet a CHECK.
    #[error(
        "table {table}: the row of key {key} has {values}, and constraint {constraint} is CHECK ({condition})"
    )]
    Violation {
        /// The table.
        table: String,
        /// The name of the condition.
        constraint: String,
        /// The condition.
        condition: String,
        /// The key of the row.
        key: String,
        /// The columns that the condition looks at.
        values: String,
    },
    /// A CHECK gives no answer for a row.
    #[error(
        "table {table}: constraint {constraint} CHECK ({condition}) cannot be computed for a row: {}", source.strip_backtrace()
    )]
    Unchecked {
        /// The table.
        table: String,
        /// The name of the condition.
        constraint: String,
        /// The condition.
        condition: String,
        /// Why.
        source: Box<DataFusionError>,
    },
    /// Another engine declared conditions that this one cannot keep.
    #[error(
        "table {table}: another engine set {what}, and delta_kernel cannot write to such a table; drop it and the table feature checkConstraints there, then write ALTER TABLE {table} ADD CONSTRAINT here"
    )]
    ForeignChecks {
        /// The table.
        table: String,
        /// What was set.
        what: String,
    },
    /// A sum left the range of its type.
    #[error("table {table}: the sum in column {column} leaves the range of its type at row {row}")]
    Overflow {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// The row that was added.
        row: String,
    },
    /// A row cannot be put into a partition.
    #[error("table {table}: {reason}")]
    Partition {
        /// The table.
        table: String,
        /// What is wrong, and what to do about it.
        reason: String,
    },
    /// A statement writes one key twice, or changes one row twice.
    #[error(
        "table {table}: row {row} is {what} more than once by one statement; let it name each key once"
    )]
    Repeated {
        /// The table.
        table: String,
        /// Written or changed.
        what: &'static str,
        /// The row.
        row: String,
    },
    /// A statement gives a row the key of another.
    #[error(
        "table {table}: there is a row with the key of {row} already; to replace it write REPLACE INTO, or delete it first"
    )]
    Exists {
        /// The table.
        table: String,
        /// The row.
        row: String,
    },
    /// Another writer changed rows while a statement ran.
    #[error(
        "another writer changed rows while the statement ran, {runs} times in a row and last in version {version}: nothing is written, run it again"
    )]
    Changed {
        /// The version of the other writer.
        version: u64,
        /// How often the statement was run.
        runs: u32,
    },
    /// A row asks for something that no option explains.
    #[error(
        "table {table}: {column} is {value} in row {row}; name that value in op_insert, op_update, op_delete or op_ignore"
    )]
    Operation {
        /// The table.
        table: String,
        /// The operation column.
        column: String,
        /// Its value.
        value: String,
        /// The row.
        row: String,
    },
    /// A version, or a time, of which nothing is kept.
    #[error("table {table}: {asked} is not kept; there are versions {oldest} to {newest}")]
    NotRetained {
        /// The table.
        table: String,
        /// What was asked for.
        asked: String,
        /// The oldest version.
        oldest: u64,
        /// The newest version.
        newest: u64,
    },
    /// A commit of this process could not be made.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The log or a file contradicts itself.
    #[error("the table is damaged: {reason}")]
    Damaged {
        /// What is wrong and where.
        reason: String,
    },
    /// The location cannot be opened.
    #[error(transparent)]
    Location(#[from] StoreError),
    /// A key column cannot be a key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The store did not answer.
    #[error("the table's store did not answer")]
    Store(#[from] object_store::Error),
    /// The Delta library refused.
    #[error("the Delta log cannot be used")]
    Log(#[from] KernelError),
    /// Arrow refused.
    #[error("rows cannot be converted")]
    Arrow(#[from] ArrowError),
    /// A data file cannot be written or read.
    #[error("a data file cannot be used")]
    Parquet(#[from] ParquetError),
    /// A task of this crate failed.
    #[error("a task failed")]
    Task(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl DeltaError {
    /// What the caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Definition { .. } | Self::Mismatch { .. } | Self::Missing { .. } => {
                ErrorKind::Invalid
            }
            Self::NullValue { .. }
            | Self::Unfit { .. }
            | Self::Violation { .. }
            | Self::Unchecked { .. }
            | Self::NotRetained { .. }
            | Self::Overflow { .. }
            | Self::Operation { .. }
            | Self::Partition { .. }
            | Self::Repeated { .. }
            | Self::Exists { .. } => ErrorKind::Invalid,
            Self::Unsupported { .. } | Self::ForeignChecks { .. } => ErrorKind::Unsupported,
            Self::Commit(error) => error.kind(),
            Self::Location(error) => error.kind(),
            Self::Key(error) => error.kind(),
            Self::Store(_) | Self::Changed { .. } => ErrorKind::Unavailable,
            Self::Damaged { .. } | Self::Log(_) | Self::Parquet(_) => ErrorKind::Data,
            Self::Arrow(_) | Self::Task(_) => ErrorKind::Internal,
        }
    }
}

impl From<DeltaError> for CommitError {
    fn from(error: DeltaError) -> Self {
        match error {
            DeltaError::Commit(error) => error,
            DeltaError::NullValue { .. }
            | DeltaError::Violation { .. }
            | DeltaError::Unchecked { .. }
            | DeltaError::Overflow { .. }
            | DeltaError::Partition { .. }
            | DeltaError::Operation { .. } => Self::Refused { reason: error.to_string() },
            DeltaError::ForeignChecks { .. } => Self::Unsupported { reason: error.to_string() },
            DeltaError::NotRetained { .. } => Self::NotKept { reason: error.to_string() },
            DeltaError::Damaged { reason } => Self::Damaged { reason },
            DeltaError::Location(StoreError::NoPutIfAbsent { location }) => {
                Self::NoPutIfAbsent { location }
            }
            DeltaError::Store(_) => Self::Unavailable(Box::new(error)),
            other => Self::Internal(Box::new(other)),
        }
    }
}

impl From<DeltaError> for DataFusionError {
    fn from(error: DeltaError) -> Self {
        Self::External(Box::new(error))
    }
}
