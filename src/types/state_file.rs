//! The descriptor of an immutable object that a manifest names.

use serde::{Deserialize, Serialize};

/// An immutable object below the table's `_onefold/` folder, with what proves it is whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateFile {
    /// Path relative to the table's root, with `/` between folders.
    pub path: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// SHA-256 of the content, in lower-case hexadecimal.
    pub sha256: String,
    /// Number of entries inside.
    pub entries: u64,
    /// Earliest event time inside in microseconds, where entries have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_min_us: Option<i64>,
    /// Latest event time inside in microseconds, where entries have one: the file can be dropped
    /// once the watermark has passed it by the interval and the allowed lateness.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_max_us: Option<i64>,
}
