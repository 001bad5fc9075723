//! `PackedTable`: groups whose columns fit into three words, found by their values.
//!
//! The hash by which a group is remembered is made to be trusted, and takes several times as long as
//! finding a row's group here, where values are compared. So it is made once for each group.

use arrow::array::{Array, ArrayRef};
use arrow::buffer::ScalarBuffer;
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

/// Columns that a packed group has at most.
const COLUMNS_MAX: usize = 3;
const SLOTS_MIN: usize = 1 << 10;
/// An odd number without a pattern, by which words are spread.
const SPREAD: u128 = 0x9E37_79B9_7F4A_7C15;

/// Rows whose groups are looked for together, so that their cache misses overlap.
pub(super) const BLOCK_ROWS: usize = 64;

/// The values of a group: a word for each column, and which of them are NULL; those words are 0.
pub(super) type Packed = ([u64; COLUMNS_MAX], u32);

/// Numbers of groups.
#[derive(Debug)]
pub(super) struct PackedTable {
    /// A power of two of them.
    slots: Vec<Slot>,
    used: usize,
    seed: u64,
    /// Of each group.
    columns: usize,
}

/// One of two in a line of the cache.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(32))]
struct Slot {
    words: [u64; COLUMNS_MAX],
    /// Which are NULL, and one more; 0 is a free slot.
    mark: u32,
    id: u32,
}

impl PackedTable {
    /// Whether groups with columns of these types can be packed, so that equal ones are alike.
    pub(super) fn takes(types: &[DataType]) -> bool {
        let takes = |own: &DataType| {
            own.is_integer() || matches!(own, DataType::Timestamp(..) | DataType::Date32)
        };
        !types.is_empty() && types.len() <= COLUMNS_MAX && types.iter().all(takes)
    }

    /// An empty table with room for `groups` of so many columns; who does not know `seed` cannot
    /// choose values that meet.
    pub(super) fn new(groups: usize, columns: usize, seed: u64) -> Self {
        let slots = (groups * 2).next_power_of_two().max(SLOTS_MIN);
        Self { slots: vec![Slot::default(); slots], used: 0, seed, columns }
    }

    /// Adds the number of each row's group to `ids`, and the rows whose group is new to `fresh`;
    /// new groups are numbered from `next` on.
    pub(super) fn number(
        &mut self,
        words: &Words,
        next: u32,
        ids: &mut Vec<usize>,
        fresh: &mut Vec<u32>,
    ) {
        match words.columns.as_slice() {
            [one] => self.number_by([one], words, next, (ids, fresh)),
            [one, two] => self.number_by([one, two], words, next, (ids, fresh)),
            [one, two, three] => self.number_by([one, two, three], words, next, (ids, fresh)),
            _ => debug_assert!(false, "no group has so many columns"),
        }
    }

    fn number_by<const N: usize>(
        &mut self,
        columns: [&ScalarBuffer<u64>; N],
        words: &Words,
        mut next: u32,
        (ids, fresh): (&mut Vec<usize>, &mut Vec<u32>),
    ) {
        let columns: [&[u64]; N] = columns.map(AsRef::as_ref);
        let count = columns[0].len();
        let (mut spreads, mut touched) = ([0; BLOCK_ROWS], 0);
        for from in (0..count).step_by(BLOCK_ROWS) {
            let block = from..count.min(from + BLOCK_ROWS);
            let slots = self.slots.len();
            for (row, own) in block.clone().zip(&mut spreads) {
                let group = columns.iter().map(|column| column[row]);
                *own = self.spread(group, words.null(row));
                touched ^= self.slots[*own as usize & (slots - 1)].mark;
            }
            for (row, spread) in block.zip(spreads) {
                let mark = words.null(row) + 1;
                let is_same = |slot: &Slot| {
                    slot.mark == mark
                        && columns.iter().zip(slot.words).all(|(own, word)| own[row] == word)
                };
                let at = self.search(spread, is_same);
                let slot = &mut self.slots[at];
                if slot.mark > 0 {
                    ids.push(slot.id as usize);
                    continue;
                }
                *slot = Slot { words: words.at(row).0, mark, id: next };
                ids.push(next as usize);
                fresh.push(row as u32);
                next += 1;
                self.used += 1;
                if self.used * 2 > self.slots.len() {
                    self.grow();
                }
            }
        }
        std::hint::black_box(touched);
    }

    /// The number of the group of a row, if it is there.
    #[inline]
    pub(super) fn get(&self, words: &Words, row: usize) -> Option<u32> {
        let (group, nulls) = words.at(row);
        let spread = self.spread(group.into_iter().take(self.columns), nulls);
        let is_same = |slot: &Slot| slot.words == group && slot.mark == nulls + 1;
        let slot = &self.slots[self.search(spread, is_same)];
        (slot.mark > 0).then_some(slot.id)
    }

    /// Bytes allocated.
    pub(super) const fn allocated_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>()
    }

    /// Where a group is, or the free slot where it belongs.
    #[inline]
    fn search(&self, spread: u64, is_same: impl Fn(&Slot) -> bool) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = spread as usize & mask;
        loop {
            let slot = &self.slots[at];
            if is_same(slot) || slot.mark == 0 {
                return at;
            }
            at = (at + 1) & mask;
        }
    }

    /// Spreads the words of a group, without those of columns that it does not have.
    #[inline]
    fn spread(&self, words: impl Iterator<Item = u64>, nulls: u32) -> u64 {
        let folded = |word: u64| {
            let wide = u128::from(word) * SPREAD;
            (wide >> 64) as u64 ^ wide as u64
        };
        words.fold(self.seed ^ u64::from(nulls), |spread, word| {
            folded(spread ^ word).rotate_left(29)
        })
    }

    #[cold]
    fn grow(&mut self) {
        let doubled = vec![Slot::default(); self.slots.len() * 2];
        let old = std::mem::replace(&mut self.slots, doubled);
        for slot in old.into_iter().filter(|slot| slot.mark > 0) {
            let spread = self.spread(slot.words.into_iter().take(self.columns), slot.mark - 1);
            let at = self.search(spread, |_| false);
            self.slots[at] = slot;
        }
    }
}

/// The columns of groups as words.
pub(super) struct Words {
    columns: Vec<ScalarBuffer<u64>>,
    /// By row: which columns are NULL, if any is.
    nulls: Option<Vec<u32>>,
}

impl Words {
    /// Of columns of types that [`PackedTable::takes`].
    pub(super) fn try_new(columns: &[ArrayRef]) -> Result<Self, ArrowError> {
        let mut own = Self { columns: Vec::with_capacity(columns.len()), nulls: None };
        for (number, column) in columns.iter().enumerate() {
            let mut words = match column.data_type() {
                DataType::Timestamp(..) | DataType::Int64 | DataType::UInt64 => words_of(column),
                DataType::Date32 => {
                    words_of(&cast(&cast(column, &DataType::Int32)?, &DataType::Int64)?)
                }
                _ => words_of(&cast(column, &DataType::Int64)?),
            };
            if let Some(nulls) = column.nulls().filter(|nulls| nulls.null_count() > 0) {
                let known = nulls.iter().zip(&words);
                words = known.map(|(is_known, word)| if is_known { *word } else { 0 }).collect();
                let all = own.nulls.get_or_insert_with(|| vec![0; column.len()]);
                for (row, is_known) in nulls.iter().enumerate() {
                    all[row] |= u32::from(!is_known) << number;
                }
            }
            own.columns.push(words);
        }
        Ok(own)
    }

    /// Which columns of a row are NULL.
    #[inline]
    fn null(&self, row: usize) -> u32 {
        self.nulls.as_ref().map_or(0, |nulls| nulls[row])
    }

    /// The group of a row.
    #[inline]
    fn at(&self, row: usize) -> Packed {
        let mut group = [0; COLUMNS_MAX];
        for (word, column) in group.iter_mut().zip(&self.columns) {
            *word = column[row];
        }
        (group, self.null(row))
    }
}

/// The values of a column of 64 bits.
fn words_of(column: &ArrayRef) -> ScalarBuffer<u64> {
    let data = column.to_data();
    ScalarBuffer::new(data.buffers()[0].clone(), data.offset(), data.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{
        Date32Array, Int8Array, Int64Array, TimestampMicrosecondArray, UInt64Array,
    };
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::sync::Arc;

    proptest! {
        #[test]
        fn groups_are_numbered_by_their_values(
            rows in proptest::collection::vec((0..4_i64, 0..900_i64, 0..3_u32), 0..4_000),
            columns in 1..=3_usize,
            batch_rows in 1..2_000_usize,
            seed in any::<u64>(),
        ) {
            let value = |(one, two, nulls): &(i64, i64, u32), column: usize| {
                (nulls >> column & 1 == 0).then_some([*one, *two, one + two][column])
            };
            let mut table = PackedTable::new(0, columns, seed);
            let mut model = HashMap::new();
            for batch in rows.chunks(batch_rows) {
                let arrays = (0..columns).map(|column| {
                    let values = batch.iter().map(|row| value(row, column));
                    Arc::new(values.collect::<Int64Array>()) as _
                });
                let words = Words::try_new(&arrays.collect::<Vec<ArrayRef>>()).unwrap();
                let group = |row| (0..columns).map(|own| value(row, own)).collect::<Vec<_>>();
                for (row, own) in batch.iter().enumerate() {
                    prop_assert_eq!(table.get(&words, row), model.get(&group(own)).copied());
                }
                let (mut ids, mut fresh) = (Vec::new(), Vec::new());
                table.number(&words, model.len() as u32, &mut ids, &mut fresh);
                let (mut expected, mut new) = (Vec::new(), Vec::new());
                for (row, own) in (0..).zip(batch) {
                    let next = model.len() as u32;
                    let id = *model.entry(group(own)).or_insert(next);
                    expected.push(id as usize);
                    new.extend((id == next).then_some(row));
                }
                prop_assert_eq!((ids, fresh), (expected, new));
            }
        }
    }

    #[test]
    fn values_are_words_and_nulls_are_apart_from_zeros() {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int8Array::from(vec![Some(0), None, Some(-1)])),
            Arc::new(TimestampMicrosecondArray::from(vec![5, 6, 7])),
            Arc::new(Date32Array::from(vec![Some(1), Some(2), None])),
        ];
        let words = Words::try_new(&columns).unwrap();
        let groups = [0, 1, 2].map(|row| words.at(row));
        assert_eq!(groups, [([0, 5, 1], 0), ([0, 6, 2], 1), ([u64::MAX, 7, 0], 4)]);
        let sliced: Vec<ArrayRef> = columns.iter().map(|column| column.slice(1, 2)).collect();
        let sliced = Words::try_new(&sliced).unwrap();
        assert_eq!([sliced.at(0), sliced.at(1)], groups[1..]);
        let large: ArrayRef = Arc::new(UInt64Array::from(vec![u64::MAX]));
        assert_eq!(Words::try_new(&[large]).unwrap().at(0), ([u64::MAX, 0, 0], 0));
        let types: Vec<DataType> = columns.iter().map(|own| own.data_type().clone()).collect();
        assert!(PackedTable::takes(&types) && !PackedTable::takes(&[DataType::Float64]));
        assert!(!PackedTable::takes(&[]) && !PackedTable::takes(&[DataType::Utf8]));
    }
}
