//! `Front`: groups that differ in one dense column, found by its value.
//!
//! Ids that are counted up lie close together, and the windows beside them change seldom. So the number
//! of such a group is looked up in an array: no hash, nothing to compare, and a fifth of the memory that
//! must be near.

use super::packed::COLUMNS_MAX;

/// Values of the column that one window has at least, whatever is expected.
const VALUES_MIN: u64 = 1 << 16;
/// Values for each group that is expected, at most.
const SPARSE_MAX: u64 = 8;
/// Values for each row of the first batch, at most.
const ROWS_SHARE: u64 = 64;
/// Windows at most; the groups of others are hashed.
const WINDOWS_MAX: usize = 16;

/// Words of a group beside that of the dense column; 0 where there are fewer.
pub(super) type Others = [u64; COLUMNS_MAX - 1];

/// Which groups are in arrays, and their numbers.
///
/// Whether a group is here never changes: its value lies in the range, and its window had room when
/// its first row came.
#[derive(Debug)]
pub(super) struct Front {
    /// The dense column.
    pub(super) column: usize,
    first: u64,
    length: u64,
    windows_max: usize,
    windows: Vec<Window>,
    /// The window of the row before.
    latest: usize,
    /// A window without room, so that the rows behind its first one are not looked for.
    left_out: Option<Others>,
}

#[derive(Debug)]
struct Window {
    others: Others,
    /// By value: the number of the group, and one more; 0 is none.
    numbers: Vec<u32>,
}

impl Front {
    /// For values of `column` as those of a first batch, and not many more; `None` if they lie too far
    /// apart to be worth an array. So many groups are `expected`.
    pub(super) fn new(column: usize, values: &[u64], expected: usize) -> Option<Self> {
        let (mut least, mut most) = (i64::MAX, i64::MIN);
        for value in values {
            least = least.min(*value as i64);
            most = most.max(*value as i64);
        }
        let range = most.checked_sub(least)?.unsigned_abs();
        let (room, rows) = (range / 8 + 1, values.len() as u64);
        let length = range.checked_add(2 * room + 1)?;
        let dense = VALUES_MIN.max(SPARSE_MAX * expected as u64);
        if length > dense.min(ROWS_SHARE * rows) {
            return None;
        }
        let windows_max = usize::try_from(4 * dense / length).ok()?.min(WINDOWS_MAX);
        let first = (least as u64).wrapping_sub(room);
        let windows = Vec::with_capacity(windows_max);
        Some(Self { column, first, length, windows_max, windows, latest: 0, left_out: None })
    }

    /// The number of a group, and one more, if it is of the window of the row before; else 0.
    #[inline]
    pub(super) fn peek(&self, value: u64, others: Others) -> u32 {
        let at = value.wrapping_sub(self.first) as usize;
        let window = self.windows.get(self.latest).filter(|window| window.others == others);
        window.and_then(|window| window.numbers.get(at)).copied().unwrap_or_default()
    }

    /// The place of the number of a group, if it is here: 0 until it has one.
    #[inline]
    pub(super) fn place(&mut self, value: u64, others: Others) -> Option<&mut u32> {
        let at = value.wrapping_sub(self.first);
        if at >= self.length || self.left_out == Some(others) {
            return None;
        }
        if self.windows.get(self.latest).is_none_or(|window| window.others != others) {
            self.latest = self.find_or_add(others)?;
        }
        Some(&mut self.windows[self.latest].numbers[at as usize])
    }

    /// The number of a group, and one more, if it is here.
    pub(super) fn get(&self, value: u64, others: Others) -> Option<u32> {
        let at = value.wrapping_sub(self.first);
        let window = self.windows.iter().find(|window| window.others == others)?;
        window.numbers.get(at as usize).copied().filter(|number| *number > 0)
    }

    #[cold]
    fn find_or_add(&mut self, others: Others) -> Option<usize> {
        let known = self.windows.iter().position(|window| window.others == others);
        if known.is_some() {
            return known;
        }
        if self.windows.len() == self.windows_max {
            self.left_out = Some(others);
            return None;
        }
        self.windows.push(Window { others, numbers: vec![0; self.length as usize] });
        Some(self.windows.len() - 1)
    }

    /// Bytes allocated.
    pub(super) const fn allocated_bytes(&self) -> usize {
        self.windows.len() * self.length as usize * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_far_apart_have_no_front() {
        let dense: Vec<u64> = (0..1_000).map(|value| value * 50).collect();
        assert!(Front::new(0, &dense, 0).is_some());
        assert!(Front::new(0, &dense[..900], 0).is_some(), "up to 64 values for each row");
        let sparse: Vec<u64> = dense.iter().map(|value| value * 2).collect();
        assert!(Front::new(0, &sparse, 0).is_none(), "more values than an array has");
        let many: Vec<u64> = (0..10_000).map(|value| value * 50).collect();
        assert!(Front::new(0, &many, 0).is_none());
        assert!(Front::new(0, &many, 80_000).is_some(), "so many groups are worth it");
        assert!(Front::new(0, &[0, 1 << 63], 0).is_none(), "the range is more than a number has");
        assert!(Front::new(0, &[], 0).is_none());
    }

    #[test]
    fn a_window_without_room_never_gets_a_front() {
        let mut front = Front::new(0, &[0, 100], 0).unwrap();
        for window in 0..WINDOWS_MAX as u64 {
            *front.place(5, [window, 0]).unwrap() = 1;
        }
        for window in [99, 98, 99] {
            assert!(front.place(5, [window, 0]).is_none());
        }
        assert_eq!(front.place(5, [3, 0]), Some(&mut 1), "it has one");
        assert_eq!((front.get(5, [3, 0]), front.get(6, [3, 0])), (Some(1), None));
        assert_eq!((front.get(5, [99, 0]), front.get(1_000, [3, 0])), (None, None));
        assert!(front.place(1_000, [3, 0]).is_none() && front.place(u64::MAX, [3, 0]).is_some());
    }
}
