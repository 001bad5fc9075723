//! Event time and watermarks: microseconds since the Unix epoch, UTC.

use arrow::compute::kernels::cast_utils::parse_interval_month_day_nano;
use serde::{Deserialize, Serialize};
use std::fmt;

/// When a row happened, as its producer tells it: microseconds since the Unix epoch, UTC.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct EventTime(pub i64);

impl EventTime {
    /// The time `duration_us` microseconds earlier; stops at the earliest time instead of wrapping.
    #[must_use]
    pub const fn minus_us(self, duration_us: i64) -> Self {
        Self(self.0.saturating_sub(duration_us))
    }

    /// The time `duration_us` microseconds later; stops at the latest time instead of wrapping.
    #[must_use]
    pub const fn plus_us(self, duration_us: i64) -> Self {
        Self(self.0.saturating_add(duration_us))
    }

    /// The distance to `other` in microseconds, without a sign.
    #[must_use]
    pub const fn distance_us(self, other: Self) -> u64 {
        self.0.abs_diff(other.0)
    }
}

impl fmt::Display for EventTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match chrono::DateTime::from_timestamp_micros(self.0) {
            Some(at) => write!(f, "{}", at.format("%Y-%m-%dT%H:%M:%S%.fZ")),
            None => write!(f, "{} us", self.0),
        }
    }
}

/// A promise about event time: every row still to come happened at or after it, or is late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Watermark(pub EventTime);

impl Watermark {
    /// Whether a row of time `at` breaks the promise by more than `lateness_us`.
    #[must_use]
    pub fn is_late(self, at: EventTime, lateness_us: i64) -> bool {
        at < self.0.minus_us(lateness_us)
    }
}

/// How late the rows were that came too late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LateRows {
    /// Event time of the oldest.
    pub oldest: EventTime,
    /// How far in microseconds the watermark had at most passed one of them, or the end of its
    /// window, when it came: a lateness of more than that would have kept them all.
    pub behind_us: u64,
}

impl LateRows {
    /// These rows and `others`.
    #[must_use]
    pub fn and(self, others: Option<Self>) -> Self {
        let others = others.unwrap_or(self);
        let behind_us = self.behind_us.max(others.behind_us);
        Self { oldest: self.oldest.min(others.oldest), behind_us }
    }
}

impl fmt::Display for Watermark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A duration as people write it: `1 hour`, `30 seconds`, `1 hour 30 minutes`, `250 us`.
#[must_use]
pub fn format_duration_us(duration_us: u64) -> String {
    const UNITS: [(u64, &str); 6] = [
        (86_400_000_000, "day"),
        (3_600_000_000, "hour"),
        (60_000_000, "minute"),
        (1_000_000, "second"),
        (1_000, "ms"),
        (1, "us"),
    ];
    let mut rest = duration_us;
    let mut parts = Vec::new();
    for (size, name) in UNITS {
        let count = rest / size;
        rest %= size;
        if count > 0 {
            let plural = if count > 1 && size >= 1_000_000 { "s" } else { "" };
            parts.push(format!("{count} {name}{plural}"));
        }
    }
    if parts.is_empty() { "0 seconds".to_owned() } else { parts.join(" ") }
}

/// Reads a fixed duration such as `30 seconds`, in microseconds.
///
/// # Errors
///
/// The reason, for people: no interval, months or years, or a negative one.
pub fn parse_duration_us(text: &str) -> Result<i64, String> {
    let text = text.trim();
    let read = parse_interval_month_day_nano(text)
        .map_err(|_| format!("'{text}' is no interval; write '30 seconds'"))?;
    if read.months != 0 {
        return Err("months and years have no fixed length; write days".to_owned());
    }
    let us = i64::from(read.days) * 86_400_000_000 + read.nanoseconds / 1_000;
    if us < 0 {
        return Err(format!("'{text}' is negative"));
    }
    Ok(us)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_at_the_watermark_is_not_late_and_one_before_it_is() {
        let watermark = Watermark(EventTime(100));
        assert!(!watermark.is_late(EventTime(100), 0));
        assert!(watermark.is_late(EventTime(99), 0));
        assert!(!watermark.is_late(EventTime(90), 10));
        assert!(watermark.is_late(EventTime(89), 10));
    }

    #[test]
    fn durations_read_as_people_write_them() {
        assert_eq!(format_duration_us(0), "0 seconds");
        assert_eq!(format_duration_us(3_600_000_000), "1 hour");
        assert_eq!(format_duration_us(5_400_000_000), "1 hour 30 minutes");
        assert_eq!(format_duration_us(1_250_000), "1 second 250 ms");
        assert_eq!(format_duration_us(2 * 86_400_000_000), "2 days");
    }

    #[test]
    fn event_times_read_as_timestamps() {
        assert_eq!(EventTime(0).to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(EventTime(1_500_000).to_string(), "1970-01-01T00:00:01.500Z");
    }
}
