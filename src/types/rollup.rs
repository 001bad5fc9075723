//! What a rollup is told besides its groups and aggregates.

use std::fmt;

/// When a rollup hands out the row of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Emit {
    /// In each epoch that changes it.
    #[default]
    Changes,
    /// Once, when its window is closed.
    Final,
}

impl fmt::Display for Emit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Changes => "changes",
            Self::Final => "final",
        })
    }
}

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
}
