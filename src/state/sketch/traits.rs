//! What all sketches can do.

use super::{SketchError, SketchKind};
use std::fmt::Debug;

/// A summary of values that can be merged and stored.
pub trait Sketch: Debug + Clone + PartialEq + Send + Sync + 'static {
    /// Which sketch this is.
    const KIND: SketchKind;

    /// Whether no value went in.
    fn is_empty(&self) -> bool;

    /// Folds in what went into `other`.
    ///
    /// # Errors
    ///
    /// [`SketchError::Full`] if there are more values than can be counted; `self` is unchanged.
    fn merge(&mut self, other: &Self) -> Result<(), SketchError>;

    /// The stable binary form, the same for the same values however they came.
    fn to_bytes(&self) -> Vec<u8>;

    /// Reads the binary form.
    ///
    /// # Errors
    ///
    /// The bytes are no sketch, one of another kind or of a newer version, or damaged.
    fn from_bytes(bytes: &[u8]) -> Result<Self, SketchError>;

    /// Bytes of memory behind the struct itself; never less than there are, up to the slack of
    /// the allocator.
    fn heap_bytes(&self) -> usize;
}
