//! What every error of this crate can answer: what now?

/// The answer to "what now?". A new kind is added only when callers would act differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Fix the SQL, the settings or the arguments, then ask again.
    Invalid,
    /// Not built yet, or not possible in this place: write it another way.
    Unsupported,
    /// Stored data contradicts itself or the promise of a source: stop, and look at it.
    Data,
    /// A service did not answer: wait, and ask again unchanged.
    Unavailable,
    /// Another incarnation owns the pipeline: stop this one for good.
    Fenced,
    /// A limit from the settings was reached: raise it, or feed less.
    Exhausted,
    /// A bug in this crate: please report it.
    Internal,
}

/// A name that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// A pipeline's name is a folder and part of a transaction id.
    #[error("pipeline name {name:?} is not 1 to 64 of a-z A-Z 0-9 _ -")]
    Pipeline {
        /// The name.
        name: String,
    },
}

impl NameError {
    /// What the caller can do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}
