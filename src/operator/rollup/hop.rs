//! Windows that overlap, out of panes that do not: `hop(time, slide, size)`.
//!
//! ```text
//!   row --fold--> pane, one slide long --expand--> every window that holds the pane
//!
//!   |--p0--|--p1--|--p2--|--p3--|--p4--|     size = 3 slides
//!   [-------- w0 --------)
//!          [-------- w1 --------)            p2 is in w0, w1 and w2
//!                 [-------- w2 --------)
//! ```
//!
//! So a row costs one fold, in however many windows it is; what is expanded are states of groups.
//! A row may come too late for its first windows and not for the others, so rows of one pane are
//! folded apart by the first window that still takes them: a state's end is the end of that window.

use crate::operator::time::{in_units, to_micros};
use crate::state::FIXED_COLUMNS;
use arrow::array::cast::AsArray;
use arrow::array::types::Int64Type;
use arrow::array::{ArrayRef, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use std::sync::Arc;

/// A column of the group that holds the starts of windows that overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HopColumn {
    /// Which of the group's columns; in a row, it is the start of its pane.
    pub column: usize,
    /// Microseconds from the start of a window to that of the next.
    pub slide_us: i64,
    /// How long a window is in microseconds: several slides.
    pub size_us: i64,
}

impl HopColumn {
    /// In how many windows a row is.
    pub(super) const fn windows(self) -> i64 {
        self.size_us / self.slide_us
    }

    /// For each pane, the end of the first window that holds it and ends after `closed`.
    pub(super) fn first_ends(self, panes: &ArrayRef, closed: &[i64]) -> Result<Vec<i64>> {
        let panes = to_micros(panes)?;
        let rows = panes.iter().zip(closed);
        Ok(rows.map(|(pane, closed)| self.first_end(pane.unwrap_or_default(), *closed)).collect())
    }

    fn first_end(self, pane: i64, closed: i64) -> i64 {
        let first = pane.saturating_add(self.slide_us);
        if first > closed {
            return first;
        }
        let late = closed.saturating_sub(first) / self.slide_us + 1;
        first.saturating_add(late.saturating_mul(self.slide_us))
    }

    /// How many of its windows no longer take a row of `pane`, by the end of the first that does.
    const fn late(self, pane: i64, first_end: i64) -> i64 {
        first_end.saturating_sub(pane) / self.slide_us - 1
    }

    /// Changes the hashes of groups that not all windows of the pane take.
    pub(super) fn tell_apart(
        self,
        hashes: &mut [u128],
        panes: &ArrayRef,
        first_ends: &[i64],
    ) -> Result<()> {
        const APART: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
        let panes = to_micros(panes)?;
        for ((hash, pane), end) in hashes.iter_mut().zip(panes.iter()).zip(first_ends) {
            let late = self.late(pane.unwrap_or_default(), *end);
            *hash = hash.wrapping_add(u128::from(late.unsigned_abs()).wrapping_mul(APART));
        }
        Ok(())
    }

    /// How many windows take each pane; those that do are its last ones.
    pub(super) fn open(self, panes: &RecordBatch) -> Result<Vec<i64>> {
        let starts = to_micros(panes.column(FIXED_COLUMNS + self.column))?;
        let ends = panes.column(1).as_primitive::<Int64Type>().values();
        let open = |(start, end): (Option<i64>, &i64)| match start {
            Some(start) => self.windows() - self.late(start, *end),
            None => 1, // without a time it is in one group, as in a query without windows
        };
        Ok(starts.iter().zip(ends).map(open).collect())
    }

    /// The starts of the windows that began `back` slides before each of `panes`.
    pub(super) fn starts(self, panes: &ArrayRef, back: i64) -> Result<ArrayRef> {
        if back == 0 {
            return Ok(Arc::clone(panes));
        }
        let time = panes.data_type();
        let back = in_units(self.slide_us.saturating_mul(back), time).unwrap_or(i64::MAX);
        let starts: Int64Array =
            cast(panes, &DataType::Int64)?.as_primitive::<Int64Type>().try_unary(|pane| {
                let start = pane.checked_sub(back);
                start.ok_or_else(|| {
                    let reason = format!("the window {back} units before the time {pane} has none");
                    ArrowError::ComputeError(reason)
                })
            })?;
        Ok(cast(&starts, time)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOP: HopColumn = HopColumn { column: 0, slide_us: 10, size_us: 30 };

    #[test]
    fn the_first_window_that_takes_a_row_is_the_first_that_ends_later() {
        // The windows of pane 100 end at 110, 120 and 130.
        for (closed, first) in [(i64::MIN, 110), (109, 110), (110, 120), (119, 120), (120, 130)] {
            assert_eq!(HOP.first_end(100, closed), first, "{closed}");
        }
        assert_eq!([110, 120, 130].map(|end| HOP.late(100, end)), [0, 1, 2]);
        assert_eq!(HOP.first_end(-100, -91), -90);
        assert_eq!(HOP.first_end(-100, -90), -80);
    }
}
