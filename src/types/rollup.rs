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
}
