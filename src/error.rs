//! The public error: one type over the errors of all rooms.

use crate::commit::CommitError;
use crate::delta::DeltaError;
use crate::key::KeyError;
use crate::operator::DedupError;
use crate::pipeline::PipelineError;
use crate::plan::PlanError;
use crate::source::SourceError;
use crate::sql::SqlError;
use crate::state::{SketchError, StateError};
use crate::store::StoreError;
use crate::types::ErrorKind;
use datafusion::error::DataFusionError;
use std::error::Error as StdError;
use std::fmt;

/// What went wrong. The message is for people and may change; [`Error::kind`] is for programs.
#[derive(Debug)]
pub struct Error {
    inner: DataFusionError,
}

impl Error {
    /// What the caller can do about it, also when the error has travelled through DataFusion.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        let mut next: Option<&(dyn StdError + 'static)> = Some(&self.inner);
        while let Some(error) = next {
            if let Some(kind) = own_kind(error) {
                return kind;
            }
            next = error.source();
        }
        foreign_kind(self.inner.find_root())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut next: Option<&(dyn StdError + 'static)> = Some(&self.inner);
        while let Some(error) = next {
            if own_kind(error).is_some() {
                return with_causes(error, f); // without the words that DataFusion wraps around it
            }
            next = error.source();
        }
        self.inner.fmt(f)
    }
}

/// An error and what caused it, each once.
fn with_causes(error: &(dyn StdError + 'static), f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut said = error.to_string();
    f.write_str(&said)?;
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !said.contains(&text) {
            write!(f, ": {text}")?;
            said = text;
        }
        next = cause.source();
    }
    Ok(())
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source()
    }
}

impl From<DataFusionError> for Error {
    fn from(inner: DataFusionError) -> Self {
        Self { inner }
    }
}

impl From<SqlError> for Error {
    fn from(error: SqlError) -> Self {
        Self { inner: error.into() }
    }
}

impl From<PlanError> for Error {
    fn from(error: PlanError) -> Self {
        Self { inner: error.into() }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self { inner: error.into() }
    }
}

impl From<SourceError> for Error {
    fn from(error: SourceError) -> Self {
        Self { inner: error.into() }
    }
}

impl From<DeltaError> for Error {
    fn from(error: DeltaError) -> Self {
        Self { inner: error.into() }
    }
}

impl From<PipelineError> for Error {
    fn from(error: PipelineError) -> Self {
        Self { inner: error.into() }
    }
}

fn own_kind(error: &(dyn StdError + 'static)) -> Option<ErrorKind> {
    if let Some(error) = error.downcast_ref::<SqlError>() {
        return Some(error.kind());
    }
    if let Some(error) = error.downcast_ref::<PlanError>() {
        return Some(error.kind());
    }
    if let Some(error) = error.downcast_ref::<DedupError>() {
        return Some(error.kind());
    }
    if let Some(error) = error.downcast_ref::<KeyError>() {
        return Some(error.kind());
    }
    if let Some(error) = error.downcast_ref::<SourceError>() {
        return Some(error.kind());
    }
    if let Some(error) = error.downcast_ref::<PipelineError>() {
        return error.kind();
    }
    if let Some(error) = error.downcast_ref::<CommitError>() {
        return Some(error.kind());
    }
    if let Some(error) = error.downcast_ref::<DeltaError>() {
        return Some(error.kind());
    }
    if let Some(error) = error.downcast_ref::<StateError>() {
        return Some(error.kind());
    }
    if let Some(error) = error.downcast_ref::<SketchError>() {
        return Some(error.kind());
    }
    error.downcast_ref::<StoreError>().map(StoreError::kind)
}

fn foreign_kind(error: &DataFusionError) -> ErrorKind {
    match error {
        DataFusionError::SQL(..)
        | DataFusionError::Plan(_)
        | DataFusionError::SchemaError(..)
        | DataFusionError::Configuration(_) => ErrorKind::Invalid,
        DataFusionError::NotImplemented(_) => ErrorKind::Unsupported,
        DataFusionError::ResourcesExhausted(_) => ErrorKind::Exhausted,
        DataFusionError::ObjectStore(_) | DataFusionError::IoError(_) => ErrorKind::Unavailable,
        DataFusionError::ArrowError(..)
        | DataFusionError::ParquetError(_)
        | DataFusionError::Execution(_) => ErrorKind::Data,
        _ => ErrorKind::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_survives_the_trip_through_datafusion() {
        let own = DataFusionError::from(PlanError::Unbounded);
        let wrapped = own.context("planning").context("running");
        let error = Error::from(wrapped);
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().starts_with("DEDUP BY over an unbounded table"), "{error}");
    }

    #[test]
    fn errors_of_datafusion_have_kinds_too() {
        let kind = |error| Error::from(error).kind();
        assert_eq!(kind(DataFusionError::Plan(String::new())), ErrorKind::Invalid);
        let full = DataFusionError::ResourcesExhausted(String::new());
        assert_eq!(kind(full.context("sorting")), ErrorKind::Exhausted);
    }
}
