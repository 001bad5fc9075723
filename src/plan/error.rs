//! Why a DEDUP clause cannot be planned.

use crate::types::ErrorKind;
use datafusion::error::DataFusionError;

/// Why a DEDUP clause cannot be planned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// A part of the clause does not make sense for this input.
    #[error("DEDUP BY at line {line}, column {column}: {reason}")]
    Clause {
        /// Line of the word DEDUP, from 1.
        line: u64,
        /// Column of the word DEDUP in characters, from 1.
        column: u64,
        /// What is wrong, and what to write.
        reason: String,
    },
    /// The input never ends.
    #[error(
        "DEDUP BY over an unbounded table needs a pipeline, which is not supported yet: declare \
         the table without UNBOUNDED"
    )]
    Unbounded,
    /// A pipeline cannot keep this incrementally and exactly.
    #[error("{what} cannot run as a pipeline: {instead}")]
    NotIncremental {
        /// What it is.
        what: String,
        /// What to write instead.
        instead: String,
    },
    /// A materialized view cannot be made, or not this one.
    #[error("materialized view {name}: {reason}")]
    View {
        /// The view.
        name: String,
        /// What is wrong, and what to write instead.
        reason: String,
    },
    /// A window stands where none can be.
    #[error("{reason}")]
    Window {
        /// What is wrong, and what to write.
        reason: String,
    },
    /// No pipeline is called so.
    #[error(
        "there is no pipeline {name}: an INSERT INTO {name} that reads an unbounded table makes one"
    )]
    NoPipeline {
        /// The name.
        name: String,
    },
    /// No upsert table is called so.
    #[error("there is no upsert table {name}")]
    NoTable {
        /// The name.
        name: String,
    },
    /// Several pipelines are called so.
    #[error("several pipelines are called {name}, or write into it: ask for the name of one")]
    ManyPipelines {
        /// The name.
        name: String,
    },
    /// The session has a query planner of its own.
    #[error("the session already has the query planner {planner}; install onefold before it")]
    ForeignPlanner {
        /// The planner as it names itself.
        planner: String,
    },
}

impl PlanError {
    /// What the caller can do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Clause { .. }
            | Self::View { .. }
            | Self::Window { .. }
            | Self::NoPipeline { .. }
            | Self::NoTable { .. }
            | Self::ManyPipelines { .. } => ErrorKind::Invalid,
            Self::Unbounded | Self::NotIncremental { .. } | Self::ForeignPlanner { .. } => {
                ErrorKind::Unsupported
            }
        }
    }

    pub(super) fn incremental(what: &str, instead: &str) -> Self {
        Self::NotIncremental { what: what.to_owned(), instead: instead.to_owned() }
    }

    pub(super) fn window(reason: impl Into<String>) -> Self {
        Self::Window { reason: reason.into() }
    }

    pub(super) fn clause((line, column): (u64, u64), reason: impl Into<String>) -> Self {
        Self::Clause { line, column, reason: reason.into() }
    }
}

impl From<PlanError> for DataFusionError {
    fn from(error: PlanError) -> Self {
        Self::External(Box::new(error))
    }
}
