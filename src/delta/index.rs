//! The key index: where the live row of each primary key is.

use super::files::{Files, LiveFile};
use super::patch::Owed;
use super::stage::{RowShape, join, key_columns};
use super::wanted::sequence_columns;
use super::{DeltaError, data, sequence};
use crate::key::KeyTable;
use crate::store::Location;
use arrow::record_batch::RecordBatch;
use datafusion::common::runtime::SpawnedTask;
use roaring::RoaringTreemap;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

pub(super) const SHARDS: usize = 64;
/// An epoch of fewer rows is done by one thread: starting others would take as long.
const ROWS_MIN: usize = 50_000;
/// Rows whose searches overlap their cache misses.
const BLOCK_ROWS: usize = 32;
/// Files whose keys are read side by side.
const READS: usize = 4;

/// A file by its ordinal, and a row of it.
pub(super) type Place = (u32, u32);

/// Where the row of a key is, and the first bytes of its sequence, 0 in a table without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) place: Place,
    pub(super) sequence: u64,
}

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
#[derive(Debug)]
pub(super) enum KeyIndex {
    Plain(Vec<KeyTable<Place>>),
    /// Of a table whose rows have sequences.
    Ordered(Vec<KeyTable<Slot>>),
}

/// Shards that grow one after the other, not all at once.
fn shards<V: Copy + Default>() -> Vec<KeyTable<V>> {
    (0..SHARDS).map(|shard| KeyTable::dense(shard as f64 / SHARDS as f64)).collect()
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
    pub(super) fn get(&self, hash: u128) -> Option<Slot> {
        match self {
            Self::Plain(shards) => {
                let place = shards[shard_of(hash)].get(hash);
                place.map(|place| Slot { place: *place, sequence: 0 })
            }
            Self::Ordered(shards) => shards[shard_of(hash)].get(hash).copied(),
        }
    }

    /// Sets where the row of `hash` is; returns where it was.
    pub(super) fn set(&mut self, hash: u128, slot: Slot) -> Option<Slot> {
        match self {
            Self::Plain(shards) => {
                let place = shards[shard_of(hash)].insert(hash, slot.place);
                place.map(|place| Slot { place, sequence: 0 })
            }
            Self::Ordered(shards) => shards[shard_of(hash)].insert(hash, slot),
        }
    }

    /// Moves the row of `hash`, whose sequence stays.
    pub(super) fn relocate(&mut self, hash: u128, place: Place) {
        let sequence = self.get(hash).map_or(0, |slot| slot.sequence);
        self.set(hash, Slot { place, sequence });
    }

    /// Forgets `hash`; returns where its row was.
    pub(super) fn remove(&mut self, hash: u128) -> Option<Slot> {
        match self {
            Self::Plain(shards) => {
                let place = shards[shard_of(hash)].remove(hash);
                place.map(|place| Slot { place, sequence: 0 })
            }
            Self::Ordered(shards) => shards[shard_of(hash)].remove(hash),
        }
    }

    /// Sets the places of the keys of new files, given by their hashes in the order of their rows;
    /// the first file has the ordinal `first`. Each of `threads` takes the keys of its own shards.
    /// For tables without sequences.
    pub(super) fn upsert_files(
        &mut self,
        files: &[&[u128]],
        first: u32,
        threads: usize,
    ) -> Upserted {
        let rows = files.iter().map(|hashes| hashes.len()).sum();
        let held = self.len();
        let Self::Plain(shards) = self else {
            debug_assert!(false, "the rows of this table are resolved one by one");
            return Upserted::default();
        };
        if rows > held {
            // Most of them can only be new.
            for shard in shards.iter_mut() {
                shard.reserve(rows / SHARDS * 17 / 16);
            }
        }
        let threads = if rows < ROWS_MIN { 1 } else { threads.clamp(1, SHARDS) };
        let share = SHARDS.div_ceil(threads);
        if threads == 1 {
            return upsert_own(shards, 0, files, first, rows);
        }
        std::thread::scope(|scope| {
            let mut tasks = Vec::with_capacity(threads);
            for (number, shards) in shards.chunks_mut(share).enumerate() {
                let room = rows / threads * 17 / 16;
                let own = move || upsert_own(shards, number * share, files, first, room);
                tasks.push(scope.spawn(own));
            }
            let mut all = Upserted::default();
            for task in tasks {
                match task.join() {
                    Ok(own) => all.add(own),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            all
        })
    }

    /// Takes back what was done.
    pub(super) fn undo(&mut self, undo: Undo) {
        let places = undo
            .places
            .into_iter()
            .map(|(hash, place)| (hash, place.map(|place| Slot { place, sequence: 0 })));
        for (hash, slot) in places.rev().chain(undo.slots.into_iter().rev()) {
            match slot {
                Some(slot) => self.set(hash, slot),
                None => self.remove(hash),
            };
        }
    }

    /// Keys held: the rows of the table.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Plain(shards) => shards.iter().map(KeyTable::len).sum(),
            Self::Ordered(shards) => shards.iter().map(KeyTable::len).sum(),
        }
    }

    /// Appends the entries of a shard; files are written by their `numbers`.
    pub(super) fn encode(&self, shard: usize, numbers: &HashMap<u32, u32>, bytes: &mut Vec<u8>) {
        let number = |file: u32| numbers.get(&file).copied().unwrap_or(u32::MAX);
        match self {
            Self::Plain(shards) => {
                bytes.extend_from_slice(&(shards[shard].len() as u64).to_le_bytes());
                for (hash, (file, row)) in shards[shard].iter() {
                    bytes.extend_from_slice(&hash.to_le_bytes());
                    bytes.extend_from_slice(&number(file).to_le_bytes());
                    bytes.extend_from_slice(&row.to_le_bytes());
                }
            }
            Self::Ordered(shards) => {
                bytes.extend_from_slice(&(shards[shard].len() as u64).to_le_bytes());
                for (hash, Slot { place: (file, row), sequence }) in shards[shard].iter() {
                    bytes.extend_from_slice(&hash.to_le_bytes());
                    bytes.extend_from_slice(&number(file).to_le_bytes());
                    bytes.extend_from_slice(&row.to_le_bytes());
                    bytes.extend_from_slice(&sequence.to_le_bytes());
                }
            }
        }
    }

    /// Fills an empty shard with `count` entries in the order of their hashes.
    pub(super) fn fill(
        &mut self,
        shard: usize,
        count: usize,
        entries: impl Iterator<Item = (u128, Slot)>,
    ) {
        match self {
            Self::Plain(shards) => {
                let places = entries.map(|(hash, slot)| (hash, slot.place));
                shards[shard].fill_sorted(count, places);
            }
            Self::Ordered(shards) => shards[shard].fill_sorted(count, entries),
        }
    }

    /// Takes the first shards of `other` over, to where `from` begins.
    pub(super) fn put_shards(&mut self, from: usize, other: Self) {
        match (self, other) {
            (Self::Plain(shards), Self::Plain(other)) => {
                for (own, other) in shards[from..].iter_mut().zip(other) {
                    if !other.is_empty() {
                        *own = other;
                    }
                }
            }
            (Self::Ordered(shards), Self::Ordered(other)) => {
                for (own, other) in shards[from..].iter_mut().zip(other) {
                    if !other.is_empty() {
                        *own = other;
                    }
                }
            }
            _ => debug_assert!(false, "indexes of two kinds"),
        }
    }

    /// Bytes that it takes.
    pub(super) fn allocated_bytes(&self) -> usize {
        match self {
            Self::Plain(shards) => shards.iter().map(KeyTable::allocated_bytes).sum(),
            Self::Ordered(shards) => shards.iter().map(KeyTable::allocated_bytes).sum(),
        }
    }

    /// Reads the keys of all live rows. Costs one read of the key and sequence columns. Of a key
    /// that is there twice the later file counts; the other row is `owed` a mask.
    pub(super) async fn build(
        location: &Location,
        files: &Files,
        shape: &RowShape,
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
            for (hash, row, sequence) in keyed {
                index.place(hash, Slot { place: (file.ordinal, row), sequence }, files, owed);
            }
        }
    }
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

/// The upserts that belong to `shards`, which begin at shard `from`.
fn upsert_own(
    shards: &mut [KeyTable<Place>],
    from: usize,
    files: &[&[u128]],
    first: u32,
    room: usize,
) -> Upserted {
    let undo = Undo { places: Vec::with_capacity(room), slots: Vec::new() };
    let mut done = Upserted { undo, ..Upserted::default() };
    let shard_of = |hash: u128| (hash as usize % SHARDS).wrapping_sub(from);
    let mut touched = 0;
    for (hashes, ordinal) in files.iter().zip(first..) {
        for (block, number) in hashes.chunks(BLOCK_ROWS).zip(0_u32..) {
            for hash in block {
                touched ^= shards.get(shard_of(*hash)).map_or(0, |shard| shard.touch(*hash));
            }
            for (hash, row) in block.iter().zip(number * BLOCK_ROWS as u32..) {
                let Some(shard) = shards.get_mut(shard_of(*hash)) else { continue };
                let replaced = shard.insert(*hash, (ordinal, row));
                match replaced {
                    Some((file, row)) => {
                        done.marks.entry(file).or_default().insert(u64::from(row));
                        done.rows_updated += 1;
                    }
                    None => done.rows_inserted += 1,
                }
                done.undo.places.push((*hash, replaced));
            }
        }
    }
    std::hint::black_box(touched);
    done
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
            let first = index.upsert_files(&[old, middle], 0, threads);
            assert_eq!(places(&index, &hashes), before, "{threads} threads");
            assert_eq!((first.rows_inserted, first.rows_updated), (20_000 + ROWS_MIN as u64, 0));
            let done = index.upsert_files(&[old, &[], &middle[100..], new], 2, threads);
            assert_eq!(places(&index, &hashes), after, "{threads} threads");
            assert_eq!(done.rows_inserted, new.len() as u64);
            assert_eq!(done.rows_updated, (20_000 + ROWS_MIN - 100) as u64);
            let marked = [(0, (0..20_000).collect()), (1, (100..ROWS_MIN as u64).collect())];
            assert_eq!(done.marks, BTreeMap::from(marked));
            index.undo(done.undo);
            assert_eq!(places(&index, &hashes), before, "{threads} threads");
        }
    }

    fn spread(key: u128) -> u128 {
        key.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835)
    }

    fn places(index: &KeyIndex, hashes: &[u128]) -> Vec<Option<Place>> {
        hashes.iter().map(|hash| index.get(*hash).map(|slot| slot.place)).collect()
    }
}
