//! Where the rows of files went that were written anew.

use super::slot::Place;
use std::collections::HashMap;

/// Ordinals between the first and the last file for which their numbers are an array.
const SPAN_MAX: u32 = 1 << 16;

/// New places of rows, by their old ones. New files are numbered from 0 on.
#[derive(Debug)]
pub(super) struct Forward {
    numbers: Numbers,
    /// By old file, and row of it; `None` for a row that was masked.
    rows: Vec<Vec<Option<Place>>>,
    moved: usize,
}

/// The numbers of old files, by ordinal.
#[derive(Debug)]
enum Numbers {
    Near { least: u32, numbers: Vec<Option<u32>> },
    Far(HashMap<u32, u32>),
}

impl Forward {
    /// From the old places of rows, by new file and row.
    pub(super) fn new(origins: &[Vec<Place>]) -> Self {
        let mut lengths: HashMap<u32, u32> = HashMap::new();
        for run in origins.iter().flat_map(|places| places.chunk_by(|one, two| one.0 == two.0)) {
            let length = run.iter().map(|(_, row)| row + 1).max().unwrap_or_default();
            let own = lengths.entry(run[0].0).or_default();
            *own = length.max(*own);
        }
        let mut rows = Vec::with_capacity(lengths.len());
        let mut numbers = HashMap::with_capacity(lengths.len());
        for (ordinal, length) in lengths {
            numbers.insert(ordinal, rows.len() as u32);
            rows.push(vec![None; length as usize]);
        }
        let numbers = Numbers::new(numbers);
        let mut own = Self { numbers, rows, moved: 0 };
        for (file, places) in (0..).zip(origins) {
            for (row, (ordinal, old)) in (0..).zip(places) {
                if let Some(number) = own.numbers.get(*ordinal) {
                    own.rows[number][*old as usize] = Some((file, row));
                    own.moved += 1;
                }
            }
        }
        own
    }

    /// Where a row is now, if it was written anew.
    #[inline]
    pub(super) fn get(&self, (ordinal, row): Place) -> Option<Place> {
        let number = self.numbers.get(ordinal)?;
        self.rows[number].get(row as usize).copied().flatten()
    }

    /// How many rows were written anew.
    pub(super) const fn len(&self) -> usize {
        self.moved
    }
}

impl Numbers {
    fn new(all: HashMap<u32, u32>) -> Self {
        let (least, most) = (all.keys().min().copied(), all.keys().max().copied());
        let (least, most) = (least.unwrap_or_default(), most.unwrap_or_default());
        if most - least >= SPAN_MAX {
            return Self::Far(all);
        }
        Self::Near { least, numbers: (least..=most).map(|own| all.get(&own).copied()).collect() }
    }

    #[inline]
    fn get(&self, ordinal: u32) -> Option<usize> {
        let number = match self {
            Self::Near { least, numbers } => {
                numbers.get(ordinal.wrapping_sub(*least) as usize).copied().flatten()
            }
            Self::Far(numbers) => numbers.get(&ordinal).copied(),
        };
        number.map(|number| number as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_found_from_where_it_was_and_no_other() {
        for far in [3, 70_000] {
            let origins = [vec![(7, 2), (far, 0), (7, 0)], vec![(far, 9), (7, 1)]];
            let forward = Forward::new(&origins);
            for (file, places) in (0..).zip(&origins) {
                for (row, place) in (0..).zip(places) {
                    assert_eq!(forward.get(*place), Some((file, row)));
                }
            }
            assert_eq!(forward.len(), 5);
            for other in [(7, 3), (far, 1), (far, 10), (4, 0), (0, 0), (u32::MAX, u32::MAX)] {
                assert_eq!(forward.get(other), None);
            }
        }
        let none = Forward::new(&[]);
        assert_eq!((none.len(), none.get((0, 0))), (0, None));
    }
}
