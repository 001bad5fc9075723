//! `PackedTable`: groups whose columns fit into three words, found by their values.
//!
//! The hash by which a group is remembered is made to be trusted, and takes several times as long as
//! finding a row's group here, where values are compared. So it is made once for each group.

use arrow::array::{Array, ArrayRef};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::compute::cast;
use arrow::datatypes::DataType;

/// Columns that a packed group has at most.
const COLUMNS_MAX: usize = 3;
const SLOTS_MIN: usize = 1 << 10;
/// An odd number without a pattern, by which words are spread.
const SPREAD: u128 = 0x9E37_79B9_7F4A_7C15;

/// The values of a group: a word for each column, and which of them are NULL.
pub(super) type Packed = ([u64; COLUMNS_MAX], u32);

/// Numbers of groups.
#[derive(Debug)]
pub(super) struct PackedTable {
    /// A power of two of them.
    slots: Vec<Slot>,
    used: usize,
    seed: u64,
}

#[derive(Clone, Copy, Debug, Default)]
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

    /// An empty table with room for `groups`; who does not know `seed` cannot choose values that
    /// meet.
    pub(super) fn new(groups: usize, seed: u64) -> Self {
        let slots = (groups * 2).next_power_of_two().max(SLOTS_MIN);
        Self { slots: vec![Slot::default(); slots], used: 0, seed }
    }

    /// The number of a group; it is `next` if the group is new.
    #[inline]
    pub(super) fn find_or_insert(&mut self, group: Packed, next: u32) -> u32 {
        let at = self.search(group);
        let slot = &mut self.slots[at];
        if slot.mark > 0 {
            return slot.id;
        }
        *slot = Slot { words: group.0, mark: group.1 + 1, id: next };
        self.used += 1;
        if self.used * 2 > self.slots.len() {
            self.grow();
        }
        next
    }

    /// The number of a group that is there.
    #[inline]
    pub(super) fn get(&self, group: Packed) -> Option<u32> {
        let slot = &self.slots[self.search(group)];
        (slot.mark > 0).then_some(slot.id)
    }

    /// Reads where a search begins, so that it is in the cache.
    #[inline]
    pub(super) fn touch(&self, group: Packed) -> u32 {
        self.slots[self.home(group)].mark
    }

    /// Bytes allocated.
    pub(super) const fn allocated_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>()
    }

    /// Where a group is, or the free slot where it belongs.
    #[inline]
    fn search(&self, group: Packed) -> usize {
        let mut at = self.home(group);
        loop {
            let slot = &self.slots[at];
            let is_same = slot.words == group.0 && slot.mark == group.1 + 1;
            if slot.mark == 0 || is_same {
                return at;
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }

    #[inline]
    fn home(&self, (words, nulls): Packed) -> usize {
        let folded = |word: u64| {
            let wide = u128::from(word) * SPREAD;
            (wide >> 64) as u64 ^ wide as u64
        };
        let mut spread = self.seed ^ u64::from(nulls);
        for word in words {
            spread = folded(spread ^ word).rotate_left(29);
        }
        spread as usize & (self.slots.len() - 1)
    }

    #[cold]
    fn grow(&mut self) {
        let doubled = vec![Slot::default(); self.slots.len() * 2];
        let old = std::mem::replace(&mut self.slots, doubled);
        for slot in old.into_iter().filter(|slot| slot.mark > 0) {
            let at = self.search((slot.words, slot.mark - 1));
            self.slots[at] = slot;
        }
    }
}

/// The columns of groups as words.
pub(super) struct Words(Vec<(ScalarBuffer<u64>, Option<NullBuffer>)>);

impl Words {
    /// Of columns of types that [`PackedTable::takes`].
    pub(super) fn try_new(columns: &[ArrayRef]) -> Result<Self, arrow::error::ArrowError> {
        let words = columns.iter().map(|column| {
            let wide = match column.data_type() {
                DataType::Timestamp(..) | DataType::Int64 | DataType::UInt64 => {
                    let data = column.to_data();
                    ScalarBuffer::new(data.buffers()[0].clone(), data.offset(), data.len())
                }
                DataType::Date32 => return Self::widened(&cast(column, &DataType::Int32)?),
                _ => return Self::widened(column),
            };
            Ok((wide, column.nulls().cloned()))
        });
        Ok(Self(words.collect::<Result<_, _>>()?))
    }

    fn widened(
        column: &ArrayRef,
    ) -> Result<(ScalarBuffer<u64>, Option<NullBuffer>), arrow::error::ArrowError> {
        let wide = cast(column, &DataType::Int64)?;
        let wide = wide.to_data();
        let words = ScalarBuffer::new(wide.buffers()[0].clone(), wide.offset(), wide.len());
        Ok((words, column.nulls().cloned()))
    }

    /// The group of a row.
    #[inline]
    pub(super) fn at(&self, row: usize) -> Packed {
        let (mut group, mut null) = ([0; COLUMNS_MAX], 0);
        for (column, (words, nulls)) in self.0.iter().enumerate() {
            if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                null |= 1 << column;
            } else {
                group[column] = words[row];
            }
        }
        (group, null)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Date32Array, Int8Array, TimestampMicrosecondArray, UInt64Array};
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::sync::Arc;

    proptest! {
        #[test]
        fn groups_are_numbered_by_their_values(
            rows in proptest::collection::vec((0..4_u64, 0..900_u64, 0..3_u32), 0..4_000),
            seed in any::<u64>(),
        ) {
            let mut table = PackedTable::new(0, seed);
            let mut model = HashMap::new();
            for (one, two, nulls) in rows {
                let group = ([one, two, 0], nulls);
                prop_assert_eq!(table.get(group), model.get(&group).copied());
                let next = model.len() as u32;
                let expected = *model.entry(group).or_insert(next);
                prop_assert_eq!(table.find_or_insert(group, next), expected);
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
