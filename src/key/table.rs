//! A map from 128-bit hashes to small values, in hash order.
//!
//! ```text
//!   home(h) = high 64 bits of h, scaled to the capacity
//!
//!   slots   . . 12 13 . 27 31 32 . . 58 .      every entry at or right of its home,
//!               ^home(13)=home(12)             all entries ascending
//! ```
//!
//! Linear probing that keeps entries sorted: a search for an absent hash stops at the first larger
//! entry, growing and compacting are one sequential pass, any capacity is possible (so memory
//! grows by 1.25 and not by 2), and iteration yields a sorted run.
//!
//! At most 3 of 4 slots are used, so an 8-byte value costs 32 to 40 bytes per entry; a dense table
//! with more than 27,000 entries uses at most 5 of 6 and grows by less at a time, so that it costs 29
//! to 32. Until then it grows by half, which moves an entry 2 times and not 11, and costs 32 to 48.
//!
//! # Sources
//!
//! Amble and Knuth, "Ordered hash tables", The Computer Journal 17(2), 1974.

/// A map from hash to `V`. Hashes must be uniform in their high 64 bits.
///
/// The hash 0 is stored as 1: two keys in 2^128 that nobody can find.
#[derive(Clone, Debug)]
pub struct KeyTable<V> {
    slots: Vec<Slot<V>>,
    homes: usize,
    used: usize,
    density: Density,
}

/// How full a table gets, and by how much it grows.
#[derive(Clone, Copy, Debug)]
enum Density {
    /// Faster to write.
    Plain,
    /// Smaller. Tables of different phases, from 0 to 1, do not grow at the same time.
    Dense { phase: f64 },
}

impl Density {
    /// Homes that `used` entries need.
    fn homes_for(self, used: usize) -> usize {
        let plain = (used * 4).div_ceil(3);
        match self {
            Self::Dense { .. } if plain > YOUNG_HOMES => (used * 6).div_ceil(5).max(YOUNG_HOMES),
            _ => plain.max(HOMES_MIN),
        }
    }

    fn is_full(self, used: usize, homes: usize) -> bool {
        match self {
            Self::Dense { .. } if homes > YOUNG_HOMES => used * 6 > homes * 5,
            _ => used * 4 > homes * 3,
        }
    }

    fn grown(self, homes: usize) -> usize {
        match self {
            Self::Plain => (homes + homes / 4).max(HOMES_MIN),
            Self::Dense { phase } if homes == 0 => HOMES_MIN + (phase * 16.0) as usize,
            Self::Dense { .. } if homes <= YOUNG_HOMES => homes + homes / 2,
            Self::Dense { .. } => (homes + homes / 11).max(homes + 2),
        }
    }

    /// Room for more than is needed, by the table's own phase.
    fn roomy(self, homes: usize) -> usize {
        match self {
            Self::Plain => homes,
            Self::Dense { phase } if homes <= YOUNG_HOMES => {
                homes + (homes as f64 * phase / 2.0) as usize
            }
            Self::Dense { phase } => homes + (homes as f64 * phase / 11.0) as usize,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Slot<V> {
    high: u64,
    low: u64,
    value: V,
}

/// Slots behind the last home, for entries pushed right; more are added if they are full.
const SLACK: usize = 64;
/// Slots that are moved together when the table grows.
const GROUP_SLOTS: usize = 256;
const HOMES_MIN: usize = 16;
/// Homes up to which a dense table saves time and not memory.
const YOUNG_HOMES: usize = 1 << 15;

/// What a search or insertion found.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry<'a, V> {
    /// The hash was there, with this value.
    Found(&'a mut V),
    /// The hash was not there; it now is, with the value given.
    Added,
}

impl<V: Copy + Default> Default for KeyTable<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V: Copy + Default> KeyTable<V> {
    /// An empty table, which allocates nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { slots: Vec::new(), homes: 0, used: 0, density: Density::Plain }
    }

    /// An empty table that takes less memory, at some more time per new entry. Tables whose `phase`,
    /// from 0 to 1, is not the same grow at different times.
    #[must_use]
    pub const fn dense(phase: f64) -> Self {
        Self { slots: Vec::new(), homes: 0, used: 0, density: Density::Dense { phase } }
    }

    /// Fills an empty table with `count` entries in ascending order of their hashes, in one pass.
    pub fn fill_sorted(&mut self, count: usize, entries: impl Iterator<Item = (u128, V)>) {
        self.homes = self.density.roomy(self.density.homes_for(count));
        self.slots = vec![Slot::default(); self.homes + SLACK];
        self.used = 0;
        let mut free = 0;
        for (hash, value) in entries {
            let (high, low) = split(hash);
            let target = self.home(high).max(free);
            let slot = Slot { high, low, value };
            match self.slots.get_mut(target) {
                Some(place) => *place = slot,
                None => self.slots.push(slot),
            }
            free = target + 1;
            self.used += 1;
        }
    }

    /// Entries held.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.used
    }

    /// Whether no entry is held.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Bytes allocated.
    #[must_use]
    pub const fn allocated_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot<V>>()
    }

    /// Bytes the table will have allocated after `more` new entries, none of them growing it by
    /// more than one step beyond need.
    #[must_use]
    pub fn bytes_after(&self, more: usize) -> usize {
        let needed = self.density.homes_for(self.used + more);
        if needed <= self.homes {
            return self.allocated_bytes();
        }
        (self.density.roomy(needed).max(self.density.grown(self.homes)) + SLACK)
            * size_of::<Slot<V>>()
    }

    /// Makes room for `more` new entries, so that none of them makes the table grow.
    pub fn reserve(&mut self, more: usize) {
        let needed = self.density.homes_for(self.used + more);
        if needed > self.homes {
            self.grow(self.density.roomy(needed));
        }
    }

    /// The value of `hash`.
    #[must_use]
    pub fn get(&self, hash: u128) -> Option<&V> {
        let key = split(hash);
        let index = self.search(key);
        self.slots.get(index).filter(|slot| slot.key() == key).map(|slot| &slot.value)
    }

    /// The value of `hash`, to be changed.
    #[must_use]
    pub fn get_mut(&mut self, hash: u128) -> Option<&mut V> {
        let key = split(hash);
        let index = self.search(key);
        self.slots.get_mut(index).filter(|slot| slot.key() == key).map(|slot| &mut slot.value)
    }

    /// Reads the slots where a search for `hash` begins, so that they are in the cache; calling this
    /// for some hashes, one right after the other, before searching them lets their cache misses
    /// overlap.
    #[must_use]
    #[inline]
    pub fn touch(&self, hash: u128) -> u64 {
        let home = self.home(split(hash).0);
        let high = |index: usize| self.slots.get(index).map_or(0, |slot| slot.high);
        high(home) ^ high(home + 4)
    }

    /// Finds `hash`, or adds it with `value`. Costs one search; adding moves about ten neighbours.
    #[inline]
    pub fn find_or_insert(&mut self, hash: u128, value: V) -> Entry<'_, V> {
        let key = split(hash);
        let mut index = self.search(key);
        if self.slots.get(index).is_some_and(|slot| slot.key() == key) {
            return Entry::Found(&mut self.slots[index].value);
        }
        if self.density.is_full(self.used + 1, self.homes) {
            self.grow(self.density.grown(self.homes));
            index = self.search(key);
        }
        self.insert_at(index, Slot { high: key.0, low: key.1, value });
        self.used += 1;
        Entry::Added
    }

    /// Sets the value of `hash`, and returns the one it had.
    pub fn insert(&mut self, hash: u128, value: V) -> Option<V> {
        match self.find_or_insert(hash, value) {
            Entry::Found(old) => Some(std::mem::replace(old, value)),
            Entry::Added => None,
        }
    }

    /// Removes `hash`, and returns the value it had.
    pub fn remove(&mut self, hash: u128) -> Option<V> {
        let key = split(hash);
        let index = self.search(key);
        let removed = self.slots.get(index).filter(|slot| slot.key() == key)?.value;
        let mut last = index;
        while let Some(next) = self.slots.get(last + 1)
            && next.is_used()
            && self.home(next.high) <= last
        {
            last += 1;
        }
        self.slots.copy_within(index + 1..=last, index);
        self.slots[last] = Slot::default();
        self.used -= 1;
        Some(removed)
    }

    /// Keeps the entries for which `keep` answers true, in one pass; gives memory back when less
    /// than two fifths of it are still needed.
    pub fn retain(&mut self, mut keep: impl FnMut(u128, &mut V) -> bool) {
        let mut free = 0;
        let mut used = 0;
        for index in 0..self.slots.len() {
            let mut slot = self.slots[index];
            if !slot.is_used() {
                continue;
            }
            self.slots[index] = Slot::default();
            if keep(slot.hash(), &mut slot.value) {
                // Never right of where it was: what stood before it can only have moved left.
                let target = self.home(slot.high).max(free);
                self.slots[target] = slot;
                free = target + 1;
                used += 1;
            }
        }
        self.used = used;
        if used == 0 {
            *self = Self { density: self.density, ..Self::new() };
        } else if self.density.homes_for(used) * 2 < self.homes {
            self.shrink(self.density.homes_for(used));
        }
    }

    /// The entries in ascending order of their hashes.
    pub fn iter(&self) -> impl Iterator<Item = (u128, V)> + '_ {
        self.slots.iter().filter(|slot| slot.is_used()).map(|slot| (slot.hash(), slot.value))
    }

    /// The values, to be changed.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> + '_ {
        self.slots.iter_mut().filter(|slot| slot.is_used()).map(|slot| &mut slot.value)
    }

    #[inline]
    fn home(&self, high: u64) -> usize {
        ((u128::from(high) * self.homes as u128) >> 64) as usize
    }

    /// Index of `key`, or of the slot before which it belongs; the length if that is the end.
    #[inline]
    fn search(&self, key: (u64, u64)) -> usize {
        let mut index = self.home(key.0);
        while let Some(slot) = self.slots.get(index)
            && slot.is_used()
            && slot.key() < key
        {
            index += 1;
        }
        index
    }

    /// Puts `slot` at `index`, and each of its right neighbours one further, up to a free slot.
    #[inline]
    fn insert_at(&mut self, index: usize, slot: Slot<V>) {
        let mut carried = slot;
        for place in &mut self.slots[index..] {
            std::mem::swap(place, &mut carried);
            if !carried.is_used() {
                return;
            }
        }
        self.slots.push(carried);
    }

    /// Spreads the entries over more homes, in place and from right to left.
    ///
    /// Entries are moved in groups that begin behind a free slot. There the first entry is at its
    /// home, and will be: what stood at least two slots before it moves right by less.
    fn grow(&mut self, homes: usize) {
        let mut group: Vec<Slot<V>> = Vec::with_capacity(GROUP_SLOTS * 2);
        let mut end = self.slots.len();
        self.slots.reserve_exact((homes + SLACK).saturating_sub(end));
        self.slots.resize(end.max(homes + SLACK), Slot::default());
        self.homes = homes;
        while end > 0 {
            let mut start = end.saturating_sub(GROUP_SLOTS);
            while start > 0 && self.slots[start - 1].is_used() {
                start -= 1;
            }
            group.resize(group.len().max(end - start), Slot::default());
            let mut length = 0;
            for slot in &self.slots[start..end] {
                group[length] = *slot; // without a branch: which slots are free cannot be foretold
                length += usize::from(slot.is_used());
            }
            self.slots[start..end].fill(Slot::default());
            let mut free = start;
            for slot in &group[..length] {
                let target = self.home(slot.high).max(free);
                free = target + 1;
                match self.slots.get_mut(target) {
                    Some(place) => *place = *slot,
                    None => self.slots.push(*slot),
                }
            }
            end = start;
        }
    }

    /// Takes the entries nearer to each other, in place, on fewer homes.
    fn shrink(&mut self, homes: usize) {
        self.homes = homes;
        let mut free = 0;
        for index in 0..self.slots.len() {
            let slot = std::mem::take(&mut self.slots[index]);
            if slot.is_used() {
                let target = self.home(slot.high).max(free);
                self.slots[target] = slot;
                free = target + 1;
            }
        }
        self.slots.truncate(free.max(homes + SLACK));
        self.slots.shrink_to_fit();
    }
}

impl<V: Default> Default for Slot<V> {
    fn default() -> Self {
        Self { high: 0, low: 0, value: V::default() }
    }
}

impl<V> Slot<V> {
    #[inline]
    const fn is_used(&self) -> bool {
        self.high | self.low != 0
    }

    #[inline]
    const fn key(&self) -> (u64, u64) {
        (self.high, self.low)
    }

    const fn hash(&self) -> u128 {
        (self.high as u128) << 64 | self.low as u128
    }
}

#[inline]
fn split(hash: u128) -> (u64, u64) {
    let hash = hash.max(1);
    ((hash >> 64) as u64, hash as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u128, i64),
        Find(u128, i64),
        Remove(u128),
        RetainBelow(i64),
    }

    /// Hashes that crowd at both ends and in the middle, so that runs and the slack are used.
    fn hashes() -> impl Strategy<Value = u128> {
        prop_oneof![
            0..40_u128,
            any::<u128>(),
            (0..200_u128).prop_map(|low| u128::MAX - low),
            (0..60_u128).prop_map(|low| (1 << 127) + (low << 62)),
        ]
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (hashes(), any::<i64>()).prop_map(|(hash, value)| Step::Insert(hash, value)),
            3 => (hashes(), any::<i64>()).prop_map(|(hash, value)| Step::Find(hash, value)),
            2 => hashes().prop_map(Step::Remove),
            1 => any::<i64>().prop_map(Step::RetainBelow),
        ];
        proptest::collection::vec(step, 1..400)
    }

    proptest! {
        #[test]
        fn it_is_a_map_in_hash_order(steps in steps(), phase in proptest::option::of(0.0..1.0)) {
            let mut table = phase.map_or_else(KeyTable::new, KeyTable::dense);
            let mut model = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Insert(hash, value) => {
                        prop_assert_eq!(table.insert(hash, value), model.insert(hash.max(1), value));
                    }
                    Step::Find(hash, value) => {
                        let known = model.contains_key(&hash.max(1));
                        let found = table.find_or_insert(hash, value) != Entry::Added;
                        prop_assert_eq!(found, known);
                        model.entry(hash.max(1)).or_insert(value);
                    }
                    Step::Remove(hash) => {
                        prop_assert_eq!(table.remove(hash), model.remove(&hash.max(1)));
                    }
                    Step::RetainBelow(limit) => {
                        table.retain(|_, value| *value < limit);
                        model.retain(|_, value| *value < limit);
                    }
                }
                prop_assert_eq!(table.len(), model.len());
            }
            for (hash, value) in &model {
                prop_assert_eq!(table.get(*hash), Some(value));
            }
            let mut copy = KeyTable::dense(phase.unwrap_or_default());
            copy.fill_sorted(table.len(), table.iter());
            prop_assert!(copy.iter().eq(table.iter()));
            for (hash, value) in &model {
                prop_assert_eq!(copy.get(*hash), Some(value));
            }
            prop_assert!(table.iter().eq(model.into_iter()));
        }
    }

    #[test]
    fn growing_and_shrinking_keep_every_entry_however_they_crowd() {
        for crowd in [1, 3, 40, 1_000, 5_000] {
            let mut table = KeyTable::new();
            let mut model = BTreeMap::new();
            for number in 0..30_000_u64 {
                // Crowds of hashes right of each other, at random places.
                let place = (number / crowd).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                let hash = u128::from(place.wrapping_add(number % crowd * 7)) << 64 | 1;
                assert_eq!(table.insert(hash, number), model.insert(hash, number));
            }
            assert!(table.iter().eq(model.iter().map(|(hash, number)| (*hash, *number))));
            assert!(model.iter().all(|(hash, number)| table.get(*hash) == Some(number)));
            table.retain(|_, number| *number % 9 == 0);
            model.retain(|_, number| *number % 9 == 0);
            assert!(table.iter().eq(model.iter().map(|(hash, number)| (*hash, *number))));
            assert!(model.iter().all(|(hash, number)| table.get(*hash) == Some(number)));
        }
    }

    #[test]
    fn an_entry_costs_at_most_forty_bytes_at_any_size() {
        let mut table = KeyTable::new();
        let mut state = 1_u128;
        for number in 1..200_000_usize {
            state = state.wrapping_mul(0x2360_ED05_1FC6_5DA4_4385_DF64_9FCC_F645).wrapping_add(1);
            table.insert(state ^ state >> 64, 0_i64);
            if number > 10_000 && number % 1_000 == 0 {
                let bytes = table.allocated_bytes() / table.len();
                assert!(bytes <= 40, "{bytes} bytes per entry at {number}");
            }
        }
        let full = table.allocated_bytes();
        table.retain(|hash, _| hash % 10 == 0);
        assert!(table.allocated_bytes() < full / 5, "memory is given back");
    }

    #[test]
    fn a_dense_entry_costs_at_most_34_bytes_once_there_are_many_and_tables_grow_at_different_times()
    {
        let mut tables: Vec<_> = (0..16_u8).map(|n| KeyTable::dense(f64::from(n) / 16.0)).collect();
        let mut state = 1_u128;
        let (mut grown_last, mut most) = (vec![0; 16], 0);
        for number in 1..90_000_usize {
            state = state.wrapping_mul(0x2360_ED05_1FC6_5DA4_4385_DF64_9FCC_F645).wrapping_add(1);
            for (table, last) in tables.iter_mut().zip(&mut grown_last) {
                let before = table.allocated_bytes();
                table.insert(state ^ state >> 64, 0_i64);
                if table.allocated_bytes() != before {
                    *last = number;
                }
                if number > 20_000 {
                    let bytes = table.allocated_bytes() / table.len();
                    let most = if number > 35_000 { 34 } else { 48 };
                    assert!(bytes <= most, "{bytes} bytes per entry at {number}");
                }
            }
            if number > 20_000 {
                most = most.max(grown_last.iter().filter(|last| **last + 300 > number).count());
            }
        }
        assert!(most <= 8, "{most} of 16 tables grew within 300 entries of 20,000");
    }

    #[test]
    fn the_bytes_foretold_are_enough() {
        let mut table = KeyTable::new();
        for number in 0..5_000_u64 {
            let foretold = table.bytes_after(1);
            table.insert(u128::from(number.wrapping_mul(0x9E37_79B9_7F4A_7C15)) << 64 | 1, 0_i64);
            assert!(table.allocated_bytes() <= foretold, "{number}");
        }
    }
}
