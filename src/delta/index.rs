//! The key index: where the live row of each primary key is.

use super::files::{Files, LiveFile};
use super::forward::Forward;
use super::patch::Owed;
use super::slot::{Place, Placed, Slot};
use super::stage::{RowShape, join, key_columns, side_by_side};
use super::wanted::sequence_columns;
use super::{DeltaError, data, sequence};
use crate::key::{KeyError, TieredTable};
use crate::store::Location;
use arrow::record_batch::RecordBatch;
use datafusion::common::runtime::SpawnedTask;
use roaring::RoaringTreemap;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

pub(super) const SHARDS: usize = 64;
/// An epoch of fewer rows is done by one thread: starting others would take as long.
const ROWS_MIN: usize = 50_000;
/// Rows that are set in less than a millisecond.
const QUICK_ROWS: usize = 2_000;
/// Rows whose searches overlap their cache misses.
const BLOCK_ROWS: usize = 32;
/// Keys for each row that moves up to which all keys are gone through.
const ALL_SHARE: usize = 4;
/// Files whose keys are read side by side.
const READS: usize = 4;

/// What was replaced, by key; of one key the newest last.
#[derive(Debug, Default)]
pub(super) struct Undo {
    places: Vec<(u128, Option<Place>)>,
    pub(super) slots: Vec<(u128, Option<Slot>)>,
}

/// What the rows of new files did to the index.
#[derive(Debug, Default)]
pub(super) struct Upserted {
    /// The rows they replace, by file.
    pub(super) marks: BTreeMap<u32, RoaringTreemap>,
    pub(super) rows_inserted: u64,
    pub(super) rows_updated: u64,
    pub(super) undo: Undo,
}

impl Upserted {
    fn add(&mut self, other: Self) {
        for (file, rows) in other.marks {
            *self.marks.entry(file).or_default() |= rows;
        }
        self.rows_inserted += other.rows_inserted;
        self.rows_updated += other.rows_updated;
        self.undo.places.extend(other.undo.places);
    }
}

/// Key hash to place. Built from the table when it is first written, kept right by each commit.
///
/// After an error of a method that changes it, it must be dropped.
#[derive(Debug)]
pub(super) enum KeyIndex {
    Plain(Vec<TieredTable<Place>>),
    /// Of a table whose rows have sequences.
    Ordered(Vec<TieredTable<Slot>>),
}

/// The same for both kinds.
macro_rules! each {
    ($index:expr, $shards:ident => $work:expr) => {
        match $index {
            KeyIndex::Plain($shards) => $work,
            KeyIndex::Ordered($shards) => $work,
        }
    };
}

/// Shards that grow one after the other, not all at once.
fn shards<V: Placed>() -> Vec<TieredTable<V>> {
    (0..SHARDS).map(|shard| TieredTable::new(shard as f64 / SHARDS as f64)).collect()
}

const fn shard_of(hash: u128) -> usize {
    hash as usize % SHARDS
}

impl KeyIndex {
    pub(super) fn new(is_ordered: bool) -> Self {
        if is_ordered { Self::Ordered(shards()) } else { Self::Plain(shards()) }
    }

    pub(super) const fn is_ordered(&self) -> bool {
        matches!(self, Self::Ordered(_))
    }

    /// Where the row of `hash` is.
    pub(super) fn get(&self, hash: u128) -> Result<Option<Slot>, KeyError> {
        each!(self, shards => Ok(shards[shard_of(hash)].get(hash)?.map(Placed::slot)))
    }

    /// Sets where the row of `hash` is; returns where it was.
    pub(super) fn set(&mut self, hash: u128, slot: Slot) -> Result<Option<Slot>, KeyError> {
        each!(self, shards => {
            let old = shards[shard_of(hash)].insert(hash, Placed::of(slot))?;
            Ok(old.map(Placed::slot))
        })
    }

    /// Forgets `hash`; returns where its row was.
    pub(super) fn remove(&mut self, hash: u128) -> Result<Option<Slot>, KeyError> {
        each!(self, shards => Ok(shards[shard_of(hash)].remove(hash)?.map(Placed::slot)))
    }

    /// Takes those of `hashes` that are on disk to memory, so that asking for them is cheap.
    pub(super) fn warm(&mut self, hashes: &[u128]) -> Result<(), KeyError> {
        if !self.has_cold() {
            return Ok(());
        }
        each!(self, shards => {
            for (number, shard) in shards.iter_mut().enumerate() {
                let own = hashes.iter().copied().filter(|hash| shard_of(*hash) == number);
                shard.warm(own)?;
            }
        });
        Ok(())
    }

    /// Whether some of it is on disk.
    pub(super) fn has_cold(&self) -> bool {
        each!(self, shards => shards.iter().any(TieredTable::has_cold))
    }

    /// Moves entries to local disk until what is in memory takes at most `bytes_max`.
    pub(super) fn fit(&mut self, bytes_max: usize) -> Result<(), KeyError> {
        while self.allocated_bytes() > bytes_max {
            let folder = std::env::temp_dir();
            each!(self, shards => {
                let hottest = shards.iter_mut().max_by_key(|shard| shard.hot_bytes());
                let Some(hottest) = hottest.filter(|shard| shard.hot_bytes() > 0) else { break };
                hottest.spill(&folder)?;
            });
        }
        Ok(())
    }

    /// Sets the places of the keys of new files, given by their hashes in the order of their rows;
    /// the first file has the ordinal `first`. Each of `threads` takes the keys of its own shards.
    /// For tables without sequences.
    pub(super) fn upsert_files(
        &mut self,
        files: &[&[u128]],
        first: u32,
        threads: usize,
    ) -> Result<Upserted, KeyError> {
        let rows = files.iter().map(|hashes| hashes.len()).sum();
        let held = self.len();
        let Self::Plain(shards) = self else {
            debug_assert!(false, "the rows of this table are resolved one by one");
            return Ok(Upserted::default());
        };
        if rows > held {
            // Most of them can only be new.
            for shard in shards.iter_mut() {
                shard.reserve(rows / SHARDS * 17 / 16);
            }
        }
        let room = rows / threads.max(1) * 17 / 16;
        let mut all = Upserted::default();
        for own in by_shards(shards, rows, threads, |own| upsert_own(own, files, first, room)) {
            all.add(own?);
        }
        Ok(all)
    }

    /// Whether `rows` rows are sooner set than handed to another thread.
    pub(super) fn is_quick(&self, rows: usize) -> bool {
        rows <= QUICK_ROWS && !self.has_cold()
    }

    /// Whether going through all of it is sooner done than searching `rows` keys.
    pub(super) fn is_small_beside(&self, rows: usize) -> bool {
        !self.has_cold() && self.len() <= ALL_SHARE * rows
    }

    /// Moves keys to the rows of new files, as `upsert_files`, if these rows are those they had;
    /// sequences stay. Returns how many were moved.
    pub(super) fn relocate_files(
        &mut self,
        files: &[&[u128]],
        first: u32,
        forward: &Forward,
        threads: usize,
    ) -> Result<u64, KeyError> {
        let rows = files.iter().map(|hashes| hashes.len()).sum();
        each!(self, shards => {
            let all = by_shards(shards, rows, threads, |own| relocate_own(own, files, first, forward));
            all.into_iter().sum()
        })
    }

    /// The same, without their hashes: goes through all keys, which must be in memory.
    pub(super) fn relocate_all(&mut self, forward: &Forward, first: u32, threads: usize) -> u64 {
        debug_assert!(!self.has_cold(), "keys on disk are not seen");
        let keys = self.len();
        each!(self, shards => {
            let all = by_shards(shards, keys, threads, |own| relocate_each(own, forward, first));
            all.into_iter().sum()
        })
    }

    /// Takes back what was done.
    pub(super) fn undo(&mut self, undo: Undo) -> Result<(), KeyError> {
        let places = undo
            .places
            .into_iter()
            .map(|(hash, place)| (hash, place.map(|place| Slot { place, sequence: 0 })));
        for (hash, slot) in places.rev().chain(undo.slots.into_iter().rev()) {
            match slot {
                Some(slot) => self.set(hash, slot)?,
                None => self.remove(hash)?,
            };
        }
        Ok(())
    }

    /// Keys held: the rows of the table.
    pub(super) fn len(&self) -> usize {
        each!(self, shards => shards.iter().map(TieredTable::len).sum())
    }

    /// Tells `entry` all of a shard, in the order of their hashes.
    pub(super) fn for_each(
        &self,
        shard: usize,
        mut entry: impl FnMut(u128, Slot),
    ) -> Result<(), KeyError> {
        each!(self, shards => shards[shard].for_each(|hash, value| entry(hash, value.slot())))
    }

    /// Keys of a shard.
    pub(super) fn shard_len(&self, shard: usize) -> usize {
        each!(self, shards => shards[shard].len())
    }

    /// Fills an empty shard with at most `count` entries in the order of their hashes.
    pub(super) fn fill(
        &mut self,
        shard: usize,
        count: usize,
        entries: impl Iterator<Item = (u128, Slot)>,
    ) {
        each!(self, shards => {
            shards[shard].fill_sorted(count, entries.map(|(hash, slot)| (hash, Placed::of(slot))));
        });
    }

    /// Takes the first shards of `other` over, to where `from` begins.
    pub(super) fn put_shards(&mut self, from: usize, other: Self) {
        fn put<V: Placed>(own: &mut [TieredTable<V>], other: Vec<TieredTable<V>>) {
            for (own, other) in own.iter_mut().zip(other) {
                if !other.is_empty() {
                    *own = other;
                }
            }
        }
        match (self, other) {
            (Self::Plain(shards), Self::Plain(other)) => put(&mut shards[from..], other),
            (Self::Ordered(shards), Self::Ordered(other)) => put(&mut shards[from..], other),
            _ => debug_assert!(false, "indexes of two kinds"),
        }
    }

    /// Bytes of memory that it takes.
    pub(super) fn allocated_bytes(&self) -> usize {
        each!(self, shards => shards.iter().map(TieredTable::allocated_bytes).sum())
    }

    /// Reads the keys of all live rows. Costs one read of the key and sequence columns. Of a key
    /// that is there twice the later file counts; the other row is `owed` a mask.
    pub(super) async fn build(
        location: &Location,
        files: &Files,
        shape: &RowShape,
        bytes_max: usize,
        owed: &mut Owed,
    ) -> Result<Self, DeltaError> {
        let mut index = Self::new(!shape.rules.sequence_by.is_empty());
        let mut tasks = VecDeque::new();
        let mut rest = files.iter();
        loop {
            while tasks.len() < READS
                && let Some(file) = rest.next()
            {
                let (location, file, shape) = (location.clone(), Arc::clone(file), shape.clone());
                tasks.push_back(SpawnedTask::spawn(async move {
                    let keyed = read_keys(&location, &file, &shape).await?;
                    Ok::<_, DeltaError>((file, keyed))
                }));
            }
            let Some(task) = tasks.pop_front() else { return Ok(index) };
            let (file, keyed) = join(task).await?;
            index.place_all(file.ordinal, &keyed, files, owed)?;
            index = index.fitted(bytes_max).await?;
        }
    }

    /// As `fit`, off the async worker.
    pub(super) async fn fitted(mut self, bytes_max: usize) -> Result<Self, DeltaError> {
        if self.allocated_bytes() <= bytes_max {
            return Ok(self);
        }
        let fit = SpawnedTask::spawn_blocking(move || {
            self.fit(bytes_max)?;
            Ok(self)
        });
        join(fit).await
    }

    /// As `warm`, off the async worker.
    pub(super) async fn warmed(mut self, hashes: &[u128]) -> Result<Self, DeltaError> {
        if !self.has_cold() {
            return Ok(self);
        }
        let hashes = hashes.to_vec();
        let warm = SpawnedTask::spawn_blocking(move || {
            self.warm(&hashes)?;
            Ok(self)
        });
        join(warm).await
    }
}

/// Shards of one thread, and which shard is the first of them.
struct Own<'a, V> {
    shards: &'a mut [TieredTable<V>],
    from: usize,
}

impl<V: Placed> Own<'_, V> {
    /// Tells `row` each row of these shards, of files whose ordinals begin with `first`.
    fn each_row(
        &mut self,
        files: &[&[u128]],
        first: u32,
        mut row: impl FnMut(&mut TieredTable<V>, u128, Place) -> Result<(), KeyError>,
    ) -> Result<(), KeyError> {
        let from = self.from;
        let own_shard = |hash: u128| shard_of(hash).wrapping_sub(from);
        for (number, shard) in self.shards.iter_mut().enumerate() {
            if shard.has_cold() {
                let all = files.iter().flat_map(|hashes| hashes.iter().copied());
                shard.warm(all.filter(|hash| own_shard(*hash) == number))?;
            }
        }
        let mut touched = 0;
        for (hashes, ordinal) in files.iter().zip(first..) {
            for (block, number) in hashes.chunks(BLOCK_ROWS).zip(0_u32..) {
                for hash in block {
                    let shard = self.shards.get(own_shard(*hash));
                    touched ^= shard.map_or(0, |shard| shard.touch(*hash));
                }
                for (hash, at) in block.iter().zip(number * BLOCK_ROWS as u32..) {
                    if let Some(shard) = self.shards.get_mut(own_shard(*hash)) {
                        row(shard, *hash, (ordinal, at))?;
                    }
                }
            }
        }
        std::hint::black_box(touched);
        Ok(())
    }
}

/// Does `work` on the shards, side by side if there are many `rows`.
fn by_shards<V: Placed, T: Send>(
    shards: &mut [TieredTable<V>],
    rows: usize,
    threads: usize,
    work: impl Fn(Own<'_, V>) -> T + Sync,
) -> Vec<T> {
    let threads = if rows < ROWS_MIN { 1 } else { threads.clamp(1, SHARDS) };
    if threads == 1 {
        return vec![work(Own { shards, from: 0 })];
    }
    let share = SHARDS.div_ceil(threads);
    let parts = shards.chunks_mut(share).enumerate();
    side_by_side(parts, |(number, shards)| work(Own { shards, from: number * share }))
}

fn upsert_own(
    mut own: Own<'_, Place>,
    files: &[&[u128]],
    first: u32,
    room: usize,
) -> Result<Upserted, KeyError> {
    let mut places = Vec::with_capacity(room);
    let mut replaced = Vec::with_capacity(room);
    own.each_row(files, first, |shard, hash, place| {
        let old = shard.insert(hash, place)?;
        replaced.extend(old);
        places.push((hash, old));
        Ok(())
    })?;
    let (all, updated) = (places.len() as u64, replaced.len() as u64);
    let undo = Undo { places, slots: Vec::new() };
    let marks = marks_of(replaced);
    Ok(Upserted { marks, rows_inserted: all - updated, rows_updated: updated, undo })
}

fn relocate_own<V: Placed>(
    mut own: Own<'_, V>,
    files: &[&[u128]],
    first: u32,
    forward: &Forward,
) -> Result<u64, KeyError> {
    let mut moved = 0;
    own.each_row(files, first, |shard, hash, (file, row)| {
        shard.update(hash, |value| {
            if forward.get(value.slot().place) == Some((file - first, row)) {
                value.moved((file, row));
                moved += 1;
            }
        })
    })?;
    Ok(moved)
}

fn relocate_each<V: Placed>(own: Own<'_, V>, forward: &Forward, first: u32) -> u64 {
    let mut moved = 0;
    for shard in own.shards {
        shard.for_each_hot_mut(|value| {
            if let Some((file, row)) = forward.get(value.slot().place) {
                value.moved((first + file, row));
                moved += 1;
            }
        });
    }
    moved
}

/// Rows by file.
fn marks_of(mut places: Vec<Place>) -> BTreeMap<u32, RoaringTreemap> {
    places.sort_unstable();
    let files = places.chunk_by(|one, two| one.0 == two.0);
    let marks = files.map(|rows| (rows[0].0, rows.iter().map(|row| u64::from(row.1)).collect()));
    marks.collect()
}

/// The keys of a file's live rows: hash, row and the first bytes of the sequence.
pub(super) async fn read_keys(
    location: &Location,
    file: &LiveFile,
    shape: &RowShape,
) -> Result<Vec<(u128, u32, u64)>, DeltaError> {
    let mut keys = Vec::with_capacity(file.live_rows() as usize);
    for (batch, rows) in data::read_file(location, file, &shape.key_schema()?).await? {
        keyed(shape, &batch, &rows, &mut keys)?;
    }
    Ok(keys)
}

/// The keys of some rows of a file.
pub(super) async fn keys_at(
    location: &Location,
    file: &LiveFile,
    shape: &RowShape,
    rows: &RoaringTreemap,
) -> Result<Vec<(u128, u32, u64)>, DeltaError> {
    let rows: Vec<u32> = rows.iter().map(|row| row as u32).collect();
    let batch = data::read_some(location, file, &rows, &shape.key_schema()?).await?;
    let mut keys = Vec::with_capacity(rows.len());
    keyed(shape, &batch, &rows, &mut keys)?;
    Ok(keys)
}

fn keyed(
    shape: &RowShape,
    batch: &RecordBatch,
    rows: &[u32],
    keys: &mut Vec<(u128, u32, u64)>,
) -> Result<(), DeltaError> {
    let mut hashes = Vec::with_capacity(rows.len());
    shape.hasher.hash(&key_columns(batch, &shape.primary_key)?, &mut hashes)?;
    let sequences = match sequence_columns(batch, &shape.sequence_fields())?.first() {
        Some(first) => sequence::prefixes(first)?,
        None => vec![0; rows.len()],
    };
    let all = hashes.into_iter().zip(rows).zip(sequences);
    keys.extend(all.map(|((hash, row), sequence)| (hash, *row, sequence)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_threads_leaves_the_same_index_and_takes_it_back() {
        let hashes: Vec<u128> = (0..2 * ROWS_MIN as u128).map(spread).collect();
        let (old, rest) = hashes.split_at(20_000);
        let (middle, new) = rest.split_at(ROWS_MIN);
        let placed = |ordinal, rows: usize| (0..rows as u32).map(move |row| Some((ordinal, row)));
        let before: Vec<_> = placed(0, old.len())
            .chain(placed(1, middle.len()))
            .chain(new.iter().map(|_| None))
            .collect();
        let after: Vec<_> = placed(2, old.len())
            .chain(placed(1, 100))
            .chain(placed(4, middle.len() - 100))
            .chain(placed(5, new.len()))
            .collect();
        for threads in [1, 2, 3, 64, 100] {
            let mut index = KeyIndex::new(false);
            let first = index.upsert_files(&[old, middle], 0, threads).unwrap();
            assert_eq!(places(&index, &hashes), before, "{threads} threads");
            assert_eq!((first.rows_inserted, first.rows_updated), (20_000 + ROWS_MIN as u64, 0));
            let done = index.upsert_files(&[old, &[], &middle[100..], new], 2, threads).unwrap();
            assert_eq!(places(&index, &hashes), after, "{threads} threads");
            assert_eq!(done.rows_inserted, new.len() as u64);
            assert_eq!(done.rows_updated, (20_000 + ROWS_MIN - 100) as u64);
            let marked = [(0, (0..20_000).collect()), (1, (100..ROWS_MIN as u64).collect())];
            assert_eq!(done.marks, BTreeMap::from(marked));
            index.undo(done.undo).unwrap();
            assert_eq!(places(&index, &hashes), before, "{threads} threads");
        }
    }

    #[test]
    fn one_of_many_keys_costs_at_most_34_bytes_and_with_a_sequence_42() {
        for (is_ordered, many, few) in [(false, 34, 44), (true, 42, 58)] {
            let mut index = KeyIndex::new(is_ordered);
            for key in 1..2_500_000 {
                index.set(spread(key), Slot::default()).unwrap();
                if key > 300_000 && key % 10_000 == 0 {
                    let bytes = index.allocated_bytes() as f64 / index.len() as f64;
                    let most = if key > 2_300_000 { many } else { few };
                    assert!(bytes <= f64::from(most), "{bytes} bytes a key at {key}");
                }
            }
        }
    }

    #[test]
    fn keys_move_with_their_rows_by_their_hashes_and_without() {
        let keys = 40_000_u32;
        let hashes: Vec<u128> = (0..u128::from(keys)).map(spread).collect();
        let (left, right) = hashes.split_at(15_000);
        // Both files in one, back to front; of some keys the row was replaced meanwhile.
        let old = |key: u32| if key < 15_000 { (0, key) } else { (1, key - 15_000) };
        let origins = [(0..keys).rev().map(old).collect::<Vec<Place>>()];
        let forward = Forward::new(&origins);
        let reversed: Vec<u128> = hashes.iter().rev().copied().collect();
        for (is_ordered, threads) in [(false, 1), (false, 3), (true, 2)] {
            let index = || {
                let mut index = KeyIndex::new(is_ordered);
                for (own, file) in [left, right].into_iter().zip(0..) {
                    for (hash, row) in own.iter().zip(0..) {
                        index.set(*hash, Slot { place: (file, row), sequence: 0 }).unwrap();
                    }
                }
                for hash in &hashes[..100] {
                    index.set(*hash, Slot { place: (2, 5), sequence: 0 }).unwrap();
                }
                index
            };
            let (mut by_hash, mut by_all) = (index(), index());
            let moved = by_hash.relocate_files(&[&reversed], 9, &forward, threads).unwrap();
            assert_eq!(moved, by_all.relocate_all(&forward, 9, threads));
            assert_eq!(moved, u64::from(keys) - 100);
            let place = |key: u32| Some(if key < 100 { (2, 5) } else { (9, keys - 1 - key) });
            let expected: Vec<_> = (0..keys).map(place).collect();
            assert!(places(&by_hash, &hashes) == expected && places(&by_all, &hashes) == expected);
        }
    }

    fn spread(key: u128) -> u128 {
        key.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835)
    }

    fn places(index: &KeyIndex, hashes: &[u128]) -> Vec<Option<Place>> {
        hashes.iter().map(|hash| index.get(*hash).unwrap().map(|slot| slot.place)).collect()
    }
}
