//! A map from hashes to small values that can be larger than memory.
//!
//! ```text
//!   hot    KeyTable, in memory          newest
//!   cold   run 3, run 2, run 1          older, on disk behind filters
//! ```
//!
//! The newest tier that knows a hash is right about it; removing a hash that is in a run writes
//! "gone" above it. `spill` makes the hot tier a run; when there are four, they become one.

use super::run::{KeyRun, KeyValue};
use super::{Entry, KeyError, KeyTable};
use std::path::Path;

/// Runs that are kept beside each other.
const RUNS_MAX: usize = 4;

type Entries<'a, V> = Box<dyn Iterator<Item = Result<(u128, V), KeyError>> + 'a>;

/// Entries in memory and, once it was spilled, on disk.
///
/// After an error of a changing method it may hold less than it should: drop it.
#[derive(Debug)]
pub struct TieredTable<V> {
    hot: KeyTable<V>,
    /// Oldest first.
    cold: Vec<KeyRun>,
    used: usize,
    phase: f64,
}

impl<V: KeyValue> TieredTable<V> {
    /// An empty table, all in memory. Tables whose `phase`, from 0 to 1, is not the same grow at
    /// different times.
    #[must_use]
    pub const fn new(phase: f64) -> Self {
        Self { hot: KeyTable::dense(phase), cold: Vec::new(), used: 0, phase }
    }

    /// Fills an empty table with `count` entries in ascending order of their hashes.
    pub fn fill_sorted(&mut self, count: usize, entries: impl Iterator<Item = (u128, V)>) {
        self.hot.fill_sorted(count, entries);
        self.used = self.hot.len();
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

    /// Whether some entries are on disk.
    #[must_use]
    pub const fn has_cold(&self) -> bool {
        !self.cold.is_empty()
    }

    /// Bytes of memory that the entries in memory take.
    #[must_use]
    pub const fn hot_bytes(&self) -> usize {
        self.hot.allocated_bytes()
    }

    /// Bytes of memory allocated.
    #[must_use]
    pub fn allocated_bytes(&self) -> usize {
        self.hot_bytes() + self.cold.iter().map(KeyRun::allocated_bytes).sum::<usize>()
    }

    /// Makes room for `more` new entries, so that none of them makes the table grow.
    pub fn reserve(&mut self, more: usize) {
        self.hot.reserve(more);
    }

    /// Tells `entry` each value in memory, to be changed.
    pub fn for_each_hot_mut(&mut self, entry: impl FnMut(&mut V)) {
        self.hot.values_mut().for_each(entry);
    }

    /// As [`KeyTable::touch`].
    #[must_use]
    #[inline]
    pub fn touch(&self, hash: u128) -> u64 {
        self.hot.touch(hash)
    }

    /// The value of `hash`.
    ///
    /// # Errors
    ///
    /// A run that cannot be read, as all errors of this type.
    #[inline]
    pub fn get(&self, hash: u128) -> Result<Option<V>, KeyError> {
        match self.hot.get(hash) {
            Some(value) => Ok(Some(*value).filter(|value| !value.is_gone())),
            None if self.cold.is_empty() => Ok(None),
            None => self.get_cold(hash),
        }
    }

    /// Sets the value of `hash`, and returns the one it had.
    ///
    /// # Errors
    ///
    /// A run that cannot be read.
    #[inline]
    pub fn insert(&mut self, hash: u128, value: V) -> Result<Option<V>, KeyError> {
        self.insert_unless(hash, value, |_| false)
    }

    /// As [`Self::insert`], but leaves a value that `stays`.
    ///
    /// # Errors
    ///
    /// A run that cannot be read.
    #[inline]
    pub fn insert_unless(
        &mut self,
        hash: u128,
        value: V,
        stays: impl Fn(&V) -> bool,
    ) -> Result<Option<V>, KeyError> {
        let old = match self.hot.find_or_insert(hash, value) {
            Entry::Found(place) => {
                let old = Some(*place).filter(|old| !old.is_gone());
                if !old.as_ref().is_some_and(stays) {
                    *place = value;
                }
                old
            }
            Entry::Added if self.cold.is_empty() => None,
            Entry::Added => {
                let old = self.get_cold(hash)?;
                if let Some(old) = old.filter(stays) {
                    self.hot.insert(hash, old);
                }
                old
            }
        };
        self.used += usize::from(old.is_none());
        Ok(old)
    }

    /// Removes `hash`, and returns the value it had.
    ///
    /// # Errors
    ///
    /// A run that cannot be read.
    pub fn remove(&mut self, hash: u128) -> Result<Option<V>, KeyError> {
        let old = if self.cold.is_empty() {
            self.hot.remove(hash)
        } else {
            let old = self.get(hash)?;
            if old.is_some() {
                self.hot.insert(hash, V::GONE);
            }
            old
        };
        self.used -= usize::from(old.is_some());
        Ok(old)
    }

    /// Changes the value of `hash`, if it is there.
    ///
    /// # Errors
    ///
    /// A run that cannot be read.
    pub fn update(&mut self, hash: u128, change: impl FnOnce(&mut V)) -> Result<(), KeyError> {
        if let Some(value) = self.hot.get_mut(hash) {
            if !value.is_gone() {
                change(value);
            }
        } else if !self.cold.is_empty()
            && let Some(mut value) = self.get_cold(hash)?
        {
            change(&mut value);
            self.hot.insert(hash, value);
        }
        Ok(())
    }

    /// Takes those of `hashes` that are on disk to memory, reading each page once; what is asked of
    /// them next costs no reads.
    ///
    /// # Errors
    ///
    /// A run that cannot be read.
    pub fn warm(&mut self, hashes: impl Iterator<Item = u128>) -> Result<(), KeyError> {
        if self.cold.is_empty() {
            return Ok(());
        }
        let mut wanted: Vec<u128> = hashes.filter(|hash| self.hot.get(*hash).is_none()).collect();
        wanted.sort_unstable();
        wanted.dedup();
        for run in self.cold.iter().rev() {
            let mut found = Vec::new();
            run.get_all(&wanted, |hash, value: V| found.push((hash, value)))?;
            let mut known = found.iter().map(|(hash, _)| *hash).peekable();
            wanted.retain(|hash| known.next_if_eq(hash).is_none());
            for (hash, value) in found {
                self.hot.insert(hash, value);
            }
        }
        Ok(())
    }

    /// All entries, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Result<(u128, V), KeyError>> + '_ {
        let mut tiers: Vec<Entries<'_, V>> = vec![Box::new(self.hot.iter().map(Ok))];
        tiers.extend(self.cold.iter().rev().map(|run| Box::new(run.iter()) as Entries<'_, V>));
        merge(tiers).filter(|entry| !matches!(entry, Ok((_, value)) if value.is_gone()))
    }

    /// Tells `entry` all entries, ascending.
    ///
    /// # Errors
    ///
    /// A run that cannot be read.
    pub fn for_each(&self, mut entry: impl FnMut(u128, V)) -> Result<(), KeyError> {
        if self.cold.is_empty() {
            // There is nothing to merge, which takes several times as long.
            let held = self.hot.iter().filter(|(_, value)| !value.is_gone());
            held.for_each(|(hash, value)| entry(hash, value));
            return Ok(());
        }
        for found in self.iter() {
            let (hash, value) = found?;
            entry(hash, value);
        }
        Ok(())
    }

    /// The same entries with other values: in memory, if all of these are, else on disk, in `folder`.
    ///
    /// # Errors
    ///
    /// A disk that is full, a run that cannot be read.
    pub fn map(&self, folder: &Path, change: impl Fn(V) -> V) -> Result<Self, KeyError> {
        let mut mapped = Self::new(self.phase);
        if self.cold.is_empty() {
            let held = self.hot.iter().filter(|(_, value)| !value.is_gone());
            mapped.fill_sorted(self.used, held.map(|(hash, value)| (hash, change(value))));
        } else {
            let entries = self.iter().map(|own| own.map(|(hash, value)| (hash, change(value))));
            mapped.cold.push(KeyRun::write(folder, self.used, entries)?);
            mapped.used = self.used;
        }
        Ok(mapped)
    }

    /// Moves what is in memory to disk, into `folder`.
    ///
    /// # Errors
    ///
    /// A disk that is full, a run that cannot be read.
    pub fn spill(&mut self, folder: &Path) -> Result<(), KeyError> {
        if self.hot.is_empty() {
            // Only memory is given back.
        } else if self.cold.len() + 1 < RUNS_MAX {
            let run = KeyRun::write(folder, self.hot.len(), self.hot.iter().map(Ok))?;
            self.cold.push(run);
        } else {
            let run = KeyRun::write(folder, self.used, self.iter())?;
            debug_assert_eq!(run.len(), self.used, "each entry once");
            self.cold = vec![run];
        }
        self.hot = KeyTable::dense(self.phase);
        Ok(())
    }

    #[cold]
    fn get_cold(&self, hash: u128) -> Result<Option<V>, KeyError> {
        for run in self.cold.iter().rev() {
            if let Some(value) = run.get::<V>(hash)? {
                return Ok(Some(value).filter(|value| !value.is_gone()));
            }
        }
        Ok(None)
    }
}

/// Merges tiers, newest first, of which each is ascending; of one hash the newest entry stays.
fn merge<V: KeyValue>(
    tiers: Vec<Entries<'_, V>>,
) -> impl Iterator<Item = Result<(u128, V), KeyError>> + '_ {
    let mut tiers: Vec<_> = tiers.into_iter().map(Iterator::peekable).collect();
    std::iter::from_fn(move || {
        if let [only] = tiers.as_mut_slice() {
            return only.next();
        }
        let mut least: Option<(usize, u128)> = None;
        for (number, tier) in tiers.iter_mut().enumerate() {
            match tier.peek() {
                Some(Ok((hash, _))) if least.is_none_or(|(_, other)| *hash < other) => {
                    least = Some((number, *hash));
                }
                Some(Err(_)) => return tier.next(),
                _ => {}
            }
        }
        let (newest, hash) = least?;
        for tier in &mut tiers[newest + 1..] {
            let is_same = |entry: &Result<(u128, V), KeyError>| matches!(entry, Ok((other, _)) if *other == hash);
            tier.next_if(is_same);
        }
        tiers[newest].next()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    impl KeyValue for u64 {
        const BYTES: usize = 8;
        const GONE: Self = Self::MAX;

        fn is_gone(&self) -> bool {
            *self == Self::GONE
        }

        fn write(&self, bytes: &mut Vec<u8>) {
            bytes.extend_from_slice(&self.to_le_bytes());
        }

        fn read(bytes: &[u8]) -> Self {
            let mut own = [0; 8];
            own.copy_from_slice(bytes);
            Self::from_le_bytes(own)
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u128, u64),
        InsertUnlessOdd(u128, u64),
        Remove(u128),
        Update(u128),
        Warm(Vec<u128>),
        Spill,
    }

    fn hashes() -> impl Strategy<Value = u128> {
        prop_oneof![1..600_u128, (1..600_u128).prop_map(|low| u128::MAX - low)]
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            40 => (hashes(), 0..1_000_u64).prop_map(|(hash, value)| Step::Insert(hash, value)),
            20 => (hashes(), 0..1_000_u64)
                .prop_map(|(hash, value)| Step::InsertUnlessOdd(hash, value)),
            12 => hashes().prop_map(Step::Remove),
            8 => hashes().prop_map(Step::Update),
            4 => proptest::collection::vec(hashes(), 0..200).prop_map(Step::Warm),
            1 => Just(Step::Spill),
        ];
        proptest::collection::vec(step, 1..1_500)
    }

    proptest! {
        #[test]
        fn it_is_a_map_whatever_is_on_disk(steps in steps()) {
            let folder = tempfile::tempdir().unwrap();
            let mut table = TieredTable::new(0.5);
            let mut model = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Insert(hash, value) => {
                        prop_assert_eq!(table.insert(hash, value).unwrap(), model.insert(hash, value));
                    }
                    Step::InsertUnlessOdd(hash, value) => {
                        let old = model.get(&hash).copied();
                        let found = table.insert_unless(hash, value, |own| own % 2 == 1).unwrap();
                        prop_assert_eq!(found, old);
                        model.insert(hash, old.filter(|own| own % 2 == 1).unwrap_or(value));
                    }
                    Step::Remove(hash) => {
                        prop_assert_eq!(table.remove(hash).unwrap(), model.remove(&hash));
                    }
                    Step::Update(hash) => {
                        table.update(hash, |value| *value += 1).unwrap();
                        model.entry(hash).and_modify(|value| *value += 1);
                    }
                    Step::Warm(hashes) => table.warm(hashes.into_iter()).unwrap(),
                    Step::Spill => table.spill(folder.path()).unwrap(),
                }
                prop_assert_eq!(table.len(), model.len());
            }
            let all: Vec<_> = table.iter().collect::<Result<_, _>>().unwrap();
            prop_assert!(all.into_iter().eq(model.iter().map(|(hash, value)| (*hash, *value))));
            for hash in (1..601).chain(u128::MAX - 601..=u128::MAX) {
                prop_assert_eq!(table.get(hash).unwrap(), model.get(&hash).copied());
            }
        }
    }

    #[test]
    fn what_is_cold_takes_little_memory_and_one_page_for_a_question() {
        let folder = tempfile::tempdir().unwrap();
        let mut table = TieredTable::new(0.0);
        let spread = |key: u128| key.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
        for part in 0..6 {
            for key in part * 10_000..(part + 1) * 10_000 {
                table.insert(spread(key), key as u64).unwrap();
            }
            table.spill(folder.path()).unwrap();
            assert_eq!(table.hot_bytes(), 0);
            assert!(table.cold.len() < RUNS_MAX);
        }
        assert!(table.allocated_bytes() < 60_000 * 16 / 10, "{}", table.allocated_bytes());
        assert_eq!(table.get(spread(31_234)).unwrap(), Some(31_234));
        assert_eq!(table.get(spread(60_000)).unwrap(), None);
        assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none(), "nothing is left");
    }

    #[test]
    fn a_page_that_changed_on_disk_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let mut table = TieredTable::new(0.0);
        for key in 1..1_000_u64 {
            table.insert(u128::from(key) << 64, key).unwrap();
        }
        table.spill(folder.path()).unwrap();
        {
            let mut file = table.cold[0].file.lock().unwrap();
            file.seek(SeekFrom::Start(300)).unwrap();
            file.write_all(b"x").unwrap();
        }
        assert!(table.get(1 << 64).is_err());
        assert_eq!(table.get(999 << 64).unwrap(), Some(999), "of another page");
        assert!(table.iter().any(|entry| entry.is_err()));
    }

    use std::io::{Seek, SeekFrom, Write};
}
