//! What a DEDUP clause asks for, checked and in microseconds.

use super::format_duration_us;
use std::fmt;

/// How far apart in event time two rows of one key may be and still be duplicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Within {
    /// Less than this many microseconds apart, before or after; at least 1.
    Interval {
        /// The interval W in microseconds.
        width_us: u64,
    },
    /// At any distance: the first row of a key is the only one, for ever.
    Unbounded,
}

impl fmt::Display for Within {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interval { width_us } => f.write_str(&format_duration_us(*width_us)),
            Self::Unbounded => f.write_str("UNBOUNDED"),
        }
    }
}

/// What happens to a row that cannot be decided: it is late, or its time is NULL. Always counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LatePolicy {
    /// It is dropped.
    #[default]
    Drop,
    /// It is let through, undecided; it never becomes an anchor.
    Pass,
    /// The query or epoch fails and names the row.
    Error,
}

impl fmt::Display for LatePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Drop => "DROP",
            Self::Pass => "PASS",
            Self::Error => "ERROR",
        })
    }
}

/// Whether a key with a NULL in it can be a duplicate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NullKeys {
    /// Never: the row is passed and counted.
    #[default]
    Distinct,
    /// NULL equals NULL, as in GROUP BY.
    NotDistinct,
}

impl fmt::Display for NullKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Distinct => "DISTINCT",
            Self::NotDistinct => "NOT DISTINCT",
        })
    }
}

/// The options of one DEDUP clause apart from its expressions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DedupOptions {
    /// The interval W.
    pub within: Within,
    /// The allowed lateness L in microseconds. Default 0; at least 0.
    pub lateness_us: i64,
    /// What happens to undecidable rows.
    pub late: LatePolicy,
    /// Whether NULL keys are distinct.
    pub nulls: NullKeys,
}

impl DedupOptions {
    /// Options with the defaults of the language around `within`.
    #[must_use]
    pub fn new(within: Within) -> Self {
        Self { within, lateness_us: 0, late: LatePolicy::default(), nulls: NullKeys::default() }
    }
}
