//! Where the windows of a group end.

use super::near::instants;
use crate::operator::time::to_micros;
use crate::state::OPEN_END;
use arrow::array::{Array, ArrayRef};
use chrono::{DateTime, Months};
use datafusion::common::Result;

/// Stands for the end of a window where there is none, for want of a time. It is before all others.
pub(super) const NO_END: i64 = i64::MIN;

/// How long a window is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WindowStep {
    /// So many microseconds.
    Micros(i64),
    /// So many calendar months.
    Months(u32),
}

impl WindowStep {
    /// The end of the window that starts at `start`, in microseconds.
    fn end(self, start: i64) -> i64 {
        match self {
            Self::Micros(length) => start.saturating_add(length),
            Self::Months(months) => DateTime::from_timestamp_micros(start)
                .and_then(|start| start.checked_add_months(Months::new(months)))
                .map_or(OPEN_END - 1, |end| end.timestamp_micros()),
        }
    }
}

/// A column of the group that holds the starts of windows on event time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WindowColumn {
    /// Which of the group's columns.
    pub column: usize,
    /// How long its windows are.
    pub step: WindowStep,
}

/// The end of the first window of each group to end: `OPEN_END` without a window, and [`NO_END`] where
/// a column that holds one is NULL.
pub(super) fn ends(
    groups: &[ArrayRef],
    windows: impl Iterator<Item = WindowColumn>,
    rows: usize,
) -> Result<Vec<i64>> {
    let mut ends = vec![OPEN_END; rows];
    for WindowColumn { column, step } in windows {
        let column = &groups[column];
        if let Some(all) = instants(column)
            && let [first, rest @ ..] = &*all
            && rest.iter().all(|own| own == first)
        {
            let end = step.end(to_micros(&column.slice(0, 1))?.value(0));
            for own in &mut ends {
                *own = (*own).min(end);
            }
            continue;
        }
        let starts = to_micros(column)?;
        let mut last: Option<(i64, i64)> = None;
        for (end, start) in ends.iter_mut().zip(starts.values()) {
            let own = match last {
                Some((same, own)) if same == *start => own,
                _ => step.end(*start),
            };
            last = Some((*start, own));
            *end = (*end).min(own);
        }
        if let Some(nulls) = starts.nulls() {
            let unknown = ends.iter_mut().zip(nulls).filter(|(_, is_known)| !is_known);
            unknown.for_each(|(end, _)| *end = NO_END);
        }
    }
    Ok(ends)
}
