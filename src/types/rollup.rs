//! What a rollup is told besides its groups and aggregates.

use super::Emit;

/// How long a rollup waits for rows, and when it hands out what it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RollupOptions {
    /// When rows are handed out.
    pub emit: Emit,
    /// How long in microseconds after its end a window still takes rows.
    pub lateness_us: i64,
    /// How far in microseconds the watermark that reaches the rollup lies behind that of the
    /// sources.
    pub delay_us: i64,
    /// Whether `sum` and `avg` of floats are exact, so that the order of rows does not matter.
    pub exact_float_sums: bool,
    /// Whether rows have a sign, so that a group may lose all that it had.
    pub takes_back: bool,
    /// What makes sessions of rows, where they are grouped by such.
    pub session: Option<SessionOptions>,
}

/// Rows of one group are in one session if each comes less than a gap after the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionOptions {
    /// The column of the group that holds the start of the session.
    pub column: usize,
    /// The gap in microseconds.
    pub gap_us: i64,
}

impl SessionOptions {
    /// From when on no row that is not late can come into a session whose last row was at `last`: a
    /// gap behind its end, since a row is late once the end of a session of its own has passed.
    #[must_use]
    pub const fn settled(self, last: i64) -> i64 {
        last.saturating_add(self.gap_us).saturating_add(self.gap_us)
    }
}
