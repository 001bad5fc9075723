//! The key index: where the live row of each primary key is.

use super::files::Files;
use super::{DeltaError, writer};
use crate::key::{Entry, KeyHasher, KeyTable};
use crate::store::Location;
use arrow::datatypes::SchemaRef;
use datafusion::common::runtime::SpawnedTask;
use roaring::RoaringTreemap;
use std::collections::BTreeMap;
use std::sync::Arc;

const SHARDS: usize = 64;
/// An epoch of fewer rows is done by one thread: starting others would take as long.
const ROWS_MIN: usize = 50_000;
/// Rows whose searches overlap their cache misses.
const BLOCK_ROWS: usize = 32;

/// A file by its ordinal, and a row of it.
pub(super) type Place = (u32, u32);

/// What an upsert replaced, by key; of one key the newest last.
pub(super) type Undo = Vec<(u128, Option<Place>)>;

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
        self.undo.extend(other.undo);
    }
}

/// Key hash to place. Built from the table when it is first written, kept right by each commit.
#[derive(Debug)]
pub(super) struct KeyIndex {
    shards: Vec<KeyTable<Place>>,
}

impl KeyIndex {
    pub(super) fn new() -> Self {
        Self { shards: std::iter::repeat_with(KeyTable::new).take(SHARDS).collect() }
    }

    /// Sets the place of `hash`; returns the one it had.
    pub(super) fn upsert(&mut self, hash: u128, place: Place) -> Option<Place> {
        self.shards[hash as usize % SHARDS].insert(hash, place)
    }

    /// Sets the places of the keys of new files, given by their hashes in the order of their rows;
    /// the first file has the ordinal `first`. Each of `threads` takes the keys of its own shards.
    pub(super) fn upsert_files(
        &mut self,
        files: &[&[u128]],
        first: u32,
        threads: usize,
    ) -> Upserted {
        let rows = files.iter().map(|hashes| hashes.len()).sum();
        self.reserve(rows);
        let threads = if rows < ROWS_MIN { 1 } else { threads.clamp(1, SHARDS) };
        let share = SHARDS.div_ceil(threads);
        if threads == 1 {
            return upsert_own(&mut self.shards, 0, files, first, rows);
        }
        std::thread::scope(|scope| {
            let mut tasks = Vec::with_capacity(threads);
            for (number, shards) in self.shards.chunks_mut(share).enumerate() {
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

    /// Makes room for `rows` upserts, if most of them can only be new.
    fn reserve(&mut self, rows: usize) {
        if rows > self.len() {
            for shard in &mut self.shards {
                shard.reserve(rows / SHARDS * 17 / 16);
            }
        }
    }

    /// Takes back what [`Self::upsert_files`] did.
    pub(super) fn undo(&mut self, undo: Undo) {
        for (hash, place) in undo.into_iter().rev() {
            let shard = &mut self.shards[hash as usize % SHARDS];
            match place {
                Some(place) => shard.insert(hash, place),
                None => shard.remove(hash),
            };
        }
    }

    /// Keys held: the rows of the table.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(KeyTable::len).sum()
    }

    /// Reads the keys of all live rows. Costs one read of the key columns.
    ///
    /// # Errors
    ///
    /// [`DeltaError::Damaged`] if a key is in the table twice.
    pub(super) async fn build(
        location: &Location,
        files: &Files,
        schema: &SchemaRef,
        primary_key: &[String],
        hasher: &KeyHasher,
    ) -> Result<Self, DeltaError> {
        let mut index = Self::new();
        let mut tasks = std::collections::VecDeque::new();
        let mut rest = files.iter();
        loop {
            while tasks.len() < 4
                && let Some(file) = rest.next()
            {
                let (location, file) = (location.clone(), Arc::clone(file));
                let (schema, keys) = (Arc::clone(schema), primary_key.to_vec());
                let own = hasher.clone();
                tasks.push_back(SpawnedTask::spawn(async move {
                    let rows = writer::read_file(&location, &file, &schema, Some(&keys)).await?;
                    let mut digests = Vec::with_capacity(file.live_rows() as usize);
                    for (batch, _) in &rows {
                        own.hash(&writer::key_columns(batch, &keys)?, &mut digests)?;
                    }
                    let places = rows.into_iter().flat_map(|(_, rows)| rows);
                    let keyed: Vec<(u128, u32)> = digests.into_iter().zip(places).collect();
                    Ok::<_, DeltaError>((file, keyed))
                }));
            }
            let Some(task) = tasks.pop_front() else { return Ok(index) };
            let (file, keyed) = writer::join(task).await?;
            for (hash, row) in keyed {
                let shard = &mut index.shards[hash as usize % SHARDS];
                if let Entry::Found((other, _)) = shard.find_or_insert(hash, (file.ordinal, row)) {
                    let other = files.get(*other).map(|file| file.path.clone()).unwrap_or_default();
                    let reason = format!(
                        "a primary key is in {other} and again in {} at row {row}",
                        file.path
                    );
                    return Err(DeltaError::Damaged { reason });
                }
            }
        }
    }
}

/// The upserts that belong to `shards`, which begin at shard `from`.
fn upsert_own(
    shards: &mut [KeyTable<Place>],
    from: usize,
    files: &[&[u128]],
    first: u32,
    room: usize,
) -> Upserted {
    let mut done = Upserted { undo: Vec::with_capacity(room), ..Upserted::default() };
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
                done.undo.push((*hash, replaced));
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
            let mut index = KeyIndex::new();
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
        let place = |hash: &u128| index.shards[*hash as usize % SHARDS].get(*hash).copied();
        hashes.iter().map(place).collect()
    }
}
