//! When a query with windows shows what it has found.

use std::fmt;

/// What EMIT at the end of a query asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Emit {
    /// Each epoch shows what it changed.
    #[default]
    Changes,
    /// Each window is shown once, when it is closed.
    Final,
}

impl fmt::Display for Emit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Changes => "CHANGES",
            Self::Final => "FINAL",
        })
    }
}
