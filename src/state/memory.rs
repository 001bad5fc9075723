//! The `OperatorMemory` port: what an operator of a pipeline remembers from epoch to epoch.

use super::{StateContent, StateError};
use crate::types::{EventTime, LateRows, StateFile, Watermark};
use std::collections::BTreeMap;
use std::fmt::{self, Debug, Formatter};

/// The memory of one operator: changed by the plan of an epoch, saved by the pipeline.
///
/// ```text
///   restore -> ( begin_epoch -> [the plan runs] -> finish_epoch )*
/// ```
///
/// After an error, or when an epoch was begun and not finished, the memory is in no known state:
/// drop it and restore another.
pub trait OperatorMemory: Debug + Send + Sync {
    /// The kind and every parameter its files depend on; files of another one are refused.
    fn fingerprint(&self) -> String;

    /// Loads the memory from its files, replacing what it held. `hash_key` is the key of the
    /// 128-bit key hash, random per pipeline; what `watermark` has expired is not loaded. Each file
    /// goes once it was read.
    fn restore(
        &self,
        hash_key: [u8; 16],
        files: Vec<StateContent>,
        watermark: Option<Watermark>,
    ) -> Result<(), StateError>;

    /// Starts the counts of an epoch that reaches `watermark`.
    fn begin_epoch(&self, watermark: Option<Watermark>);

    /// Ends an epoch: returns what it added and how rows were judged, then forgets all that
    /// `watermark`, the lowest of its sources, allows to be forgotten.
    fn finish_epoch(&self, watermark: Option<Watermark>) -> Result<EpochChanges, StateError>;

    /// Whether nothing in `file` can matter any more once the watermark is `watermark`.
    fn is_expired(&self, file: &StateFile, watermark: Watermark) -> bool;

    /// Joins files into one with the same meaning, dropping what `watermark` has expired; `None`
    /// if nothing is left. It may do so while the memory is changed.
    fn merge(
        &self,
        files: Vec<StateContent>,
        which: Joined,
        watermark: Option<Watermark>,
    ) -> Result<Option<EncodedState>, StateError>;

    /// Bytes of memory held now.
    fn state_bytes(&self) -> u64;

    /// Keys held now.
    fn keys_held(&self) -> u64;

    /// Whether it never forgets anything.
    fn is_unbounded(&self) -> bool;
}

/// Which of the files of a memory are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// All there are.
    All,
    /// Not all: others may hold older and newer entries.
    Some,
}

/// What one epoch did to an operator's memory.
#[derive(Debug, Default)]
pub struct EpochChanges {
    /// The entries added, to be saved with the epoch; `None` if there are none.
    pub added: Option<Unsaved>,
    /// How rows were judged, by the partition ordinal in their position.
    pub judged: BTreeMap<u64, Judged>,
    /// Rows folded into groups, by the partition ordinal in their position; `None` where rows go on
    /// as they are.
    pub folded: Option<BTreeMap<u64, u64>>,
    /// Entries that files must hold from now on, where an entry can take the place of another.
    pub entries_live: Option<u64>,
}

#[cfg(test)]
impl EpochChanges {
    /// The file of the entries added.
    pub(crate) fn file(self) -> Option<EncodedState> {
        self.added.and_then(|own| own.encode().unwrap())
    }
}

/// Entries that are not encoded yet: the next epoch need not wait for that.
pub struct Unsaved(Box<dyn FnOnce() -> Result<Option<EncodedState>, StateError> + Send>);

impl Unsaved {
    /// Entries that `encode` makes a file of, or nothing if there are none.
    pub fn new(
        encode: impl FnOnce() -> Result<Option<EncodedState>, StateError> + Send + 'static,
    ) -> Self {
        Self(Box::new(encode))
    }

    /// The file; takes as long as compressing it does.
    ///
    /// # Errors
    ///
    /// A local disk that is full.
    pub fn encode(self) -> Result<Option<EncodedState>, StateError> {
        (self.0)()
    }
}

impl From<EncodedState> for Unsaved {
    fn from(encoded: EncodedState) -> Self {
        Self::new(|| Ok(Some(encoded)))
    }
}

impl Debug for Unsaved {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unsaved").finish_non_exhaustive()
    }
}

/// A state file to be written.
#[derive(Debug)]
pub struct EncodedState {
    /// What is in it.
    pub content: StateContent,
    /// Entries inside.
    pub entries: u64,
    /// Earliest event time inside.
    pub time_min: Option<EventTime>,
    /// Latest event time inside.
    pub time_max: Option<EventTime>,
}

/// How the rows of one source partition were judged in one epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// Rows let through as the first of their key, remembered as anchors.
    pub rows_accepted: u64,
    /// Rows dropped as duplicates.
    pub rows_duplicate: u64,
    /// Undecidable rows that were dropped.
    pub rows_late: u64,
    /// Undecidable rows that were let through (LATE PASS).
    pub rows_late_passed: u64,
    /// Rows let through because their key has a NULL in it (NULLS DISTINCT).
    pub rows_null_key: u64,
    /// How late the dropped rows were that had a time.
    pub late: Option<LateRows>,
    /// Sum modulo 2^128 of the key hashes of the accepted rows.
    pub digest: u128,
}

impl Judged {
    /// Adds the counts of `other`.
    pub fn add(&mut self, other: &Self) {
        self.rows_accepted += other.rows_accepted;
        self.rows_duplicate += other.rows_duplicate;
        self.rows_late += other.rows_late;
        self.rows_late_passed += other.rows_late_passed;
        self.rows_null_key += other.rows_null_key;
        self.late = self.late.map(|own| own.and(other.late)).or(other.late);
        self.digest = self.digest.wrapping_add(other.digest);
    }
}
