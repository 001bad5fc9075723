//! `PackedTable`: groups whose columns fit into three words, found by their values.
//!
//! The hash by which a group is remembered is made to be trusted, and takes several times as long as
//! finding a row's group here, where values are compared. So it is made once for each group.

use super::front::{Front, Others};
use arrow::array::{Array, ArrayRef};
use arrow::buffer::ScalarBuffer;
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

/// Columns that a packed group has at most.
pub(super) const COLUMNS_MAX: usize = 3;
const SLOTS_MIN: usize = 1 << 10;
/// An odd number without a pattern, by which words are spread.
const SPREAD: u128 = 0x9E37_79B9_7F4A_7C15;

/// Rows whose groups are looked for together, so that their cache misses overlap.
pub(super) const BLOCK_ROWS: usize = 64;

/// Numbers of groups, in the order in which they came.
///
/// ```text
///   slots   tag | number    tag | number    ...     8 bytes each, of which at most half are used
///   words   the values of group 0, of group 1, ...
/// ```
///
/// Keys that come often came early, so that their values lie near each other. Groups of a column whose
/// values lie close together are found by those: [`Front`].
#[derive(Debug)]
pub(super) struct PackedTable {
    front: Lookup,
    /// A power of two of them.
    slots: Vec<Slot>,
    /// Of each group, one after the other.
    words: Vec<u64>,
    /// Which words of each group are NULL; none of those behind its end.
    nulls: Vec<u32>,
    groups: usize,
    /// How many of them are in slots.
    hashed: usize,
    seed: u64,
}

/// What is known of a column whose values may lie close together.
#[derive(Debug)]
enum Lookup {
    /// There is none, or its values do not.
    None,
    /// No rows came yet; so many groups are expected.
    Unknown {
        column: usize,
        expected: usize,
    },
    Front(Front),
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// By which groups are spread, and most others told apart.
    tag: u32,
    /// The number of the group, and one more; 0 is a free slot.
    number: u32,
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
    /// choose values that meet. Those of `dense`, if it is given, may lie close together, and those of
    /// other columns change seldom.
    pub(super) fn new(groups: usize, columns: usize, dense: Option<usize>, seed: u64) -> Self {
        let (front, hashed) = match dense {
            Some(column) => (Lookup::Unknown { column, expected: groups }, 0),
            None => (Lookup::None, groups),
        };
        let words = Vec::with_capacity(groups * columns);
        Self {
            front,
            slots: slots_for(hashed),
            words,
            nulls: Vec::new(),
            groups: 0,
            hashed: 0,
            seed,
        }
    }

    /// Adds the number of each row's group to `ids`, and a row of each group that is new to `fresh`, in
    /// the order of their numbers, which go on from those there are.
    pub(super) fn number(&mut self, words: &Words, ids: &mut Vec<usize>, fresh: &mut Vec<u32>) {
        match words.columns.as_slice() {
            [one] => self.number_by([one], words, (ids, fresh)),
            [one, two] => self.number_by([one, two], words, (ids, fresh)),
            [one, two, three] => self.number_by([one, two, three], words, (ids, fresh)),
            _ => debug_assert!(false, "no group has so many columns"),
        }
    }

    fn number_by<const N: usize>(
        &mut self,
        columns: [&ScalarBuffer<u64>; N],
        words: &Words,
        (ids, fresh): (&mut Vec<usize>, &mut Vec<u32>),
    ) {
        let columns: [&[u64]; N] = columns.map(AsRef::as_ref);
        let (count, before) = (columns[0].len(), ids.len());
        if let Lookup::Unknown { column, expected } = self.front {
            self.front = match Front::new(column, columns[column], expected) {
                Some(front) => Lookup::Front(front),
                None => {
                    self.slots = slots_for(expected);
                    Lookup::None
                }
            };
        }
        let (mut block, mut numbers) = ([0; BLOCK_ROWS], [0; BLOCK_ROWS]);
        for from in (0..count).step_by(BLOCK_ROWS) {
            let rows = from as u32..count.min(from + BLOCK_ROWS) as u32;
            let mut hashed = 0;
            match &mut self.front {
                Lookup::Front(front) => {
                    let group = |row: u32| columns.map(|column| column[row as usize]);
                    // First all that can be read without waiting for what was read before.
                    for (row, number) in rows.clone().zip(&mut numbers) {
                        let (value, others) = apart(group(row), front.column);
                        *number = front.peek(value, others);
                    }
                    for (row, number) in rows.zip(&numbers) {
                        let nulls = words.null(row as usize);
                        if *number > 0 && nulls == 0 {
                            ids.push(*number as usize - 1);
                            continue;
                        }
                        let group = group(row);
                        let (value, others) = apart(group, front.column);
                        let place = if nulls == 0 { front.place(value, others) } else { None };
                        let Some(number) = place else {
                            block[hashed] = row;
                            ids.push(0);
                            hashed += 1;
                            continue;
                        };
                        if *number == 0 {
                            self.words.extend_from_slice(&group);
                            self.groups += 1;
                            *number = self.groups as u32;
                            fresh.push(row);
                        }
                        ids.push(*number as usize - 1);
                    }
                }
                _ => {
                    for row in rows {
                        block[hashed] = row;
                        ids.push(0);
                        hashed += 1;
                    }
                }
            }
            self.number_hashed(columns, words, &block[..hashed], (&mut ids[before..], fresh));
        }
    }

    /// Sets the numbers of the groups of some rows, the last of which is not behind the last of `ids`.
    fn number_hashed<const N: usize>(
        &mut self,
        columns: [&[u64]; N],
        words: &Words,
        rows: &[u32],
        (ids, fresh): (&mut [usize], &mut Vec<u32>),
    ) {
        let (mut tags, mut touched) = ([0; BLOCK_ROWS], 0);
        let mask = self.slots.len() - 1;
        let group = |row: u32| columns.map(|column| column[row as usize]);
        for (row, tag) in rows.iter().zip(&mut tags) {
            *tag = self.tag(group(*row), words.null(*row as usize));
            touched ^= u64::from(self.slots[*tag as usize & mask].number);
        }
        for tag in &tags[..rows.len()] {
            let number = self.slots[*tag as usize & mask].number.saturating_sub(1);
            touched ^= self.words.get(number as usize * N).copied().unwrap_or_default();
        }
        for (row, tag) in rows.iter().zip(tags) {
            let (group, nulls) = (group(*row), words.null(*row as usize));
            let at = self.search(tag, group, nulls);
            let number = self.slots[at].number.checked_sub(1);
            ids[*row as usize] = number.map_or(self.groups, |number| number as usize);
            if number.is_none() {
                fresh.push(*row);
                self.add(at, tag, group, nulls);
            }
        }
        std::hint::black_box(touched);
    }

    /// The number of the group of a row, if it is there.
    #[inline]
    pub(super) fn get(&self, words: &Words, row: usize) -> Option<u32> {
        match words.columns.as_slice() {
            [one] => self.find([one[row]], words.null(row)),
            [one, two] => self.find([one[row], two[row]], words.null(row)),
            [one, two, three] => self.find([one[row], two[row], three[row]], words.null(row)),
            _ => None,
        }
    }

    #[inline]
    fn find<const N: usize>(&self, group: [u64; N], nulls: u32) -> Option<u32> {
        if let (Lookup::Front(front), 0) = (&self.front, nulls) {
            let (value, others) = apart(group, front.column);
            if let Some(number) = front.get(value, others) {
                return Some(number - 1);
            }
        }
        let at = self.search(self.tag(group, nulls), group, nulls);
        self.slots[at].number.checked_sub(1)
    }

    /// Bytes allocated.
    pub(super) const fn allocated_bytes(&self) -> usize {
        let front = match &self.front {
            Lookup::Front(front) => front.allocated_bytes(),
            _ => 0,
        };
        front
            + self.slots.capacity() * size_of::<Slot>()
            + self.words.capacity() * size_of::<u64>()
            + self.nulls.capacity() * size_of::<u32>()
    }

    /// Where a group is, or the free slot where it belongs.
    #[inline]
    fn search<const N: usize>(&self, tag: u32, group: [u64; N], nulls: u32) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = tag as usize & mask;
        loop {
            let slot = self.slots[at];
            let Some(number) = slot.number.checked_sub(1) else { return at };
            if slot.tag == tag && self.is(number as usize, group, nulls) {
                return at;
            }
            at = (at + 1) & mask;
        }
    }

    /// Whether a group has these values.
    #[inline]
    fn is<const N: usize>(&self, number: usize, group: [u64; N], nulls: u32) -> bool {
        self.words[number * N..][..N] == group
            && self.nulls.get(number).copied().unwrap_or_default() == nulls
    }

    fn add<const N: usize>(&mut self, at: usize, tag: u32, group: [u64; N], nulls: u32) {
        self.words.extend_from_slice(&group);
        if nulls > 0 {
            self.nulls.resize(self.groups, 0);
            self.nulls.push(nulls);
        }
        self.groups += 1;
        self.hashed += 1;
        self.slots[at] = Slot { tag, number: self.groups as u32 };
        if self.hashed * 2 > self.slots.len() {
            self.grow();
        }
    }

    /// Spreads the words of a group.
    #[inline]
    fn tag<const N: usize>(&self, group: [u64; N], nulls: u32) -> u32 {
        let folded = |word: u64| {
            let wide = u128::from(word) * SPREAD;
            (wide >> 64) as u64 ^ wide as u64
        };
        let spread = group.into_iter().fold(self.seed ^ u64::from(nulls), |spread, word| {
            folded(spread ^ word).rotate_left(29)
        });
        spread as u32
    }

    #[cold]
    fn grow(&mut self) {
        let mut slots = vec![Slot::default(); self.slots.len() * 2];
        let mask = slots.len() - 1;
        for slot in self.slots.iter().filter(|slot| slot.number > 0) {
            let mut at = slot.tag as usize & mask;
            while slots[at].number > 0 {
                at = (at + 1) & mask;
            }
            slots[at] = *slot;
        }
        self.slots = slots;
    }
}

/// Room for so many groups.
fn slots_for(groups: usize) -> Vec<Slot> {
    vec![Slot::default(); (groups * 2).next_power_of_two().max(SLOTS_MIN)]
}

/// The word of one column of a group, and those of the others.
#[inline]
fn apart<const N: usize>(group: [u64; N], column: usize) -> (u64, Others) {
    let mut others = Others::default();
    let all = group.iter().enumerate().filter(|(number, _)| *number != column);
    for (own, (_, word)) in others.iter_mut().zip(all) {
        *own = *word;
    }
    (group[column], others)
}

/// The columns of groups as words.
pub(super) struct Words {
    columns: Vec<ScalarBuffer<u64>>,
    /// By row: which columns are NULL, if any is; those words are 0.
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
            dense in 0..4_usize,
            stretch in prop::sample::select(vec![1, 7, 1 << 40]),
            seed in any::<u64>(),
        ) {
            let dense = Some(dense).filter(|column| *column < columns);
            let value = |(one, two, nulls): &(i64, i64, u32), column: usize| {
                let own = [*one, *two - 450, one + two][column];
                (nulls >> column & 1 == 0).then_some(own * stretch)
            };
            let mut table = PackedTable::new(0, columns, dense, seed);
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
                table.number(&words, &mut ids, &mut fresh);
                prop_assert_eq!(ids.len(), batch.len());
                for row in fresh {
                    let (row, next) = (row as usize, model.len() as u32);
                    prop_assert_eq!(model.insert(group(&batch[row]), next), None);
                }
                let numbers = batch.iter().map(|own| model.get(&group(own)).copied());
                let ids = ids.into_iter().map(|id| Some(id as u32));
                prop_assert!(ids.eq(numbers));
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
        let groups = [0, 1, 2].map(|row| at(&words, row));
        let expected = [(vec![0, 5, 1], 0), (vec![0, 6, 2], 1), (vec![u64::MAX, 7, 0], 4)];
        assert_eq!(groups, expected);
        let sliced: Vec<ArrayRef> = columns.iter().map(|column| column.slice(1, 2)).collect();
        let sliced = Words::try_new(&sliced).unwrap();
        assert_eq!([at(&sliced, 0), at(&sliced, 1)], groups[1..]);
        let large: ArrayRef = Arc::new(UInt64Array::from(vec![u64::MAX]));
        assert_eq!(at(&Words::try_new(&[large]).unwrap(), 0), (vec![u64::MAX], 0));
        let types: Vec<DataType> = columns.iter().map(|own| own.data_type().clone()).collect();
        assert!(PackedTable::takes(&types) && !PackedTable::takes(&[DataType::Float64]));
        assert!(!PackedTable::takes(&[]) && !PackedTable::takes(&[DataType::Utf8]));
    }

    /// The group of a row.
    fn at(words: &Words, row: usize) -> (Vec<u64>, u32) {
        (words.columns.iter().map(|column| column[row]).collect(), words.null(row))
    }
}
