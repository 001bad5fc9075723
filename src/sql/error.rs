//! Why a text is no statement; every message says where.

use crate::types::ErrorKind;
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::tokenizer::Location;

/// Why a text is no statement.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SqlError {
    /// The text cannot be cut into tokens: an unfinished string or comment.
    #[error("{message}")]
    Token {
        /// What sqlparser says, with its place.
        message: String,
    },
    /// A DEDUP BY clause is written wrongly.
    #[error("DEDUP BY at line {line}, column {column}: {reason}")]
    Clause {
        /// Line of the word DEDUP, from 1.
        line: u64,
        /// Column of the word DEDUP in characters, from 1.
        column: u64,
        /// What is wrong, and what to write.
        reason: String,
    },
    /// A WATERMARK clause is written wrongly.
    #[error("WATERMARK at line {line}, column {column}: {reason}")]
    Watermark {
        /// Line of the word WATERMARK, from 1.
        line: u64,
        /// Column of the word WATERMARK in characters, from 1.
        column: u64,
        /// What is wrong, and what to write.
        reason: String,
    },
    /// A command such as OPTIMIZE is written wrongly.
    #[error("line {line}, column {column}: write {usage}")]
    Upkeep {
        /// Line of its first word, from 1.
        line: u64,
        /// Column of its first word in characters, from 1.
        column: u64,
        /// How it is written.
        usage: String,
    },
    /// An option of the clause that is part of the language but not built yet.
    #[error("DEDUP BY at line {line}, column {column}: {option} is not supported yet")]
    NotYet {
        /// Line of the word DEDUP, from 1.
        line: u64,
        /// Column of the word DEDUP in characters, from 1.
        column: u64,
        /// The option as it is written.
        option: &'static str,
    },
    /// DataFusion's parser refuses the statement.
    #[error("{0}")]
    Statement(#[source] Box<DataFusionError>),
}

impl SqlError {
    /// What the caller can do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::NotYet { .. } => ErrorKind::Unsupported,
            _ => ErrorKind::Invalid,
        }
    }

    pub(super) fn watermark(at: Location, reason: impl Into<String>) -> Self {
        Self::Watermark { line: at.line, column: at.column, reason: reason.into() }
    }

    pub(super) fn clause(at: Location, reason: impl Into<String>) -> Self {
        Self::Clause { line: at.line, column: at.column, reason: reason.into() }
    }
}

impl From<SqlError> for DataFusionError {
    fn from(error: SqlError) -> Self {
        Self::External(Box::new(error))
    }
}
