//! `DedupMemory`: all shards of one DEDUP of a pipeline, with its limit and its file.

use super::format::{decode, encode};
use super::{Anchors, Verdict};
use crate::state::{
    EncodedState, EpochChanges, Joined, Judged, OperatorMemory, StateContent, StateError, Unsaved,
};
use crate::types::{DedupOptions, EventTime, Position, StateFile, Watermark, Within};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Shards of the keys: fixed, so that parallelism can change between runs.
pub const DEDUP_SHARDS: usize = 64;

/// Shards freed at the end of each epoch; the others when they would grow.
const SWEPT_SHARDS: usize = 8;

/// A row to be judged.
#[derive(Clone, Copy, Debug)]
pub struct DedupRow {
    /// The key's hash, see [`Self::hash`]: in two halves a row takes 40 bytes and not 48.
    hash: [u64; 2],
    /// Event time in microseconds.
    pub at: i64,
    /// Where the row stands among the rows of the epoch.
    pub position: u64,
    /// The caller's number of the row.
    pub row: u64,
}

impl DedupRow {
    /// The row with this number, whose key has this hash under [`DedupMemory::hash_key`].
    #[must_use]
    #[inline]
    pub const fn new(hash: u128, at: i64, position: u64, row: u64) -> Self {
        Self { hash: [(hash >> 64) as u64, hash as u64], at, position, row }
    }

    /// The key's hash.
    #[must_use]
    #[inline]
    pub const fn hash(&self) -> u128 {
        (self.hash[0] as u128) << 64 | self.hash[1] as u128
    }
}

/// Rows by the shard of their key. The buffers are used again from epoch to epoch, see
/// [`DedupMemory::rows`], and accounted to the memory pool.
#[derive(Debug)]
pub struct DedupRows {
    shards: Vec<Vec<DedupRow>>,
    rows: usize,
    reservation: MemoryReservation,
}

impl DedupRows {
    fn new(reservation: MemoryReservation) -> Self {
        Self { shards: vec![Vec::new(); DEDUP_SHARDS], rows: 0, reservation }
    }

    /// Accounts `more` rows, before they are pushed.
    ///
    /// # Errors
    ///
    /// The memory pool is exhausted.
    pub fn reserve(&mut self, more: usize) -> datafusion::common::Result<()> {
        self.rows += more;
        let needed = self.rows * size_of::<DedupRow>();
        self.reservation.try_grow(needed.saturating_sub(self.reservation.size()))
    }

    /// Adds a row to its shard.
    #[inline]
    pub fn push(&mut self, row: DedupRow) {
        self.shards[DedupMemory::shard_of(row.hash())].push(row);
    }

    /// The rows of one shard, in the order in which they were pushed.
    #[must_use]
    pub fn shard(&self, shard: usize) -> &[DedupRow] {
        &self.shards[shard]
    }

    /// Empties it, and gives back memory that was not used this time.
    fn clear(&mut self) {
        for shard in &mut self.shards {
            let used = shard.len();
            shard.clear();
            shard.shrink_to(used * 2);
        }
        self.rows = 0;
        let capacity: usize = self.shards.iter().map(Vec::capacity).sum();
        self.reservation.resize(capacity * size_of::<DedupRow>());
    }
}

/// What one DEDUP of a pipeline remembers.
#[derive(Debug)]
pub struct DedupMemory {
    label: String,
    options: DedupOptions,
    shards: Vec<Mutex<Anchors>>,
    hash_key: Mutex<[u8; 16]>,
    judged: Mutex<BTreeMap<u64, Judged>>,
    limit_bytes: u64,
    held_bytes: AtomicU64,
    reservation: Mutex<MemoryReservation>,
    swept: AtomicUsize,
    /// Empty buffers of earlier epochs.
    spare: Mutex<Vec<DedupRows>>,
}

impl DedupMemory {
    /// An empty memory of at most `bytes_max` bytes, accounted to `pool`; `label` names the
    /// operator in messages.
    pub fn new(
        label: &str,
        options: DedupOptions,
        bytes_max: u64,
        pool: &Arc<dyn MemoryPool>,
    ) -> Self {
        let reservation = MemoryConsumer::new(format!("onefold {label}")).register(pool);
        Self {
            label: label.to_owned(),
            options,
            shards: empty_shards(options),
            hash_key: Mutex::new([0; 16]),
            judged: Mutex::default(),
            limit_bytes: bytes_max,
            held_bytes: AtomicU64::new(0),
            reservation: Mutex::new(reservation),
            swept: AtomicUsize::new(0),
            spare: Mutex::default(),
        }
    }

    /// The key of the 128-bit hash of keys.
    #[must_use]
    pub fn hash_key(&self) -> [u8; 16] {
        *locked(&self.hash_key)
    }

    /// The shard that `hash` belongs to.
    #[must_use]
    #[inline]
    pub const fn shard_of(hash: u128) -> usize {
        (hash as usize) % DEDUP_SHARDS
    }

    /// An empty buffer for rows to be judged; [`Self::take_back`] keeps it for the next epoch.
    pub fn rows(&self) -> DedupRows {
        let spare = locked(&self.spare).pop();
        spare.unwrap_or_else(|| DedupRows::new(locked(&self.reservation).new_empty()))
    }

    /// Takes a buffer back whose rows were judged.
    pub fn take_back(&self, mut rows: DedupRows) {
        rows.clear();
        locked(&self.spare).push(rows);
    }

    /// Judges rows of one shard, given in parts, in the order of their positions; calls
    /// `drop_row` with each duplicate.
    ///
    /// # Errors
    ///
    /// [`StateError::Full`] before any row is judged.
    pub fn judge(
        &self,
        shard: usize,
        parts: &[&[DedupRow]],
        mut drop_row: impl FnMut(&DedupRow),
    ) -> Result<(), StateError> {
        let rows: usize = parts.iter().map(|part| part.len()).sum();
        let mut anchors = locked(&self.shards[shard]);
        let before = self.make_room(&mut anchors, rows)?;
        let mut counts = Counts::default();
        if is_in_order(parts) {
            for part in parts {
                judge_in_order(&mut anchors, part, &mut counts, &mut drop_row);
            }
        } else {
            let mut sorted = parts.concat();
            sorted.sort_unstable_by_key(|row| (row.position, row.row));
            judge_in_order(&mut anchors, &sorted, &mut counts, &mut drop_row);
        }
        self.account(before, anchors.bytes() as u64)?;
        drop(anchors);
        self.record(counts.finish());
        Ok(())
    }

    /// Adds to how the rows of this epoch were judged, by partition ordinal.
    pub fn record(&self, counts: impl IntoIterator<Item = (u64, Judged)>) {
        let mut judged = locked(&self.judged);
        for (ordinal, count) in counts {
            judged.entry(ordinal).or_default().add(&count);
        }
    }

    /// Reserves room for `more` anchors; returns the bytes that are then accounted to the shard.
    fn make_room(&self, anchors: &mut Anchors, more: usize) -> Result<u64, StateError> {
        let before = anchors.bytes() as u64;
        if anchors.bytes_after(more) as u64 > before {
            anchors.forget();
        }
        let now = anchors.bytes() as u64;
        self.account(before, now)?;
        let after = anchors.bytes_after(more) as u64;
        self.account(now, after)?;
        Ok(after)
    }

    fn account(&self, before: u64, after: u64) -> Result<(), StateError> {
        let held = if after >= before {
            self.held_bytes.fetch_add(after - before, Ordering::Relaxed) + (after - before)
        } else {
            self.held_bytes.fetch_sub(before - after, Ordering::Relaxed) - (before - after)
        };
        if after <= before {
            locked(&self.reservation).shrink((before - after) as usize);
            return Ok(());
        }
        let pool = locked(&self.reservation).try_grow((after - before) as usize);
        if held > self.limit_bytes || pool.is_err() {
            self.held_bytes.fetch_sub(after - before, Ordering::Relaxed);
            if pool.is_ok() {
                locked(&self.reservation).shrink((after - before) as usize);
            }
            return Err(StateError::Full {
                operator: self.label.clone(),
                held_bytes: held,
                limit_bytes: self.limit_bytes,
            });
        }
        Ok(())
    }

    fn free(&self, shards: impl Iterator<Item = usize>) -> Result<(), StateError> {
        for shard in shards {
            let mut anchors = locked(&self.shards[shard]);
            let before = anchors.bytes() as u64;
            anchors.forget();
            self.account(before, anchors.bytes() as u64)?;
        }
        Ok(())
    }
}

impl OperatorMemory for DedupMemory {
    fn fingerprint(&self) -> String {
        let DedupOptions { within, lateness_us, nulls, .. } = self.options;
        format!("dedup within={within} lateness_us={lateness_us} nulls={nulls}")
    }

    fn restore(
        &self,
        hash_key: [u8; 16],
        files: Vec<StateContent>,
        watermark: Option<Watermark>,
    ) -> Result<(), StateError> {
        *locked(&self.hash_key) = hash_key;
        locked(&self.judged).clear();
        for (shard, empty) in self.shards.iter().zip(empty_shards(self.options)) {
            let mut anchors = locked(shard);
            let before = anchors.bytes() as u64;
            *anchors = empty.into_inner().unwrap_or_else(PoisonError::into_inner);
            if let Some(watermark) = watermark {
                anchors.advance(watermark);
            }
            self.account(before, 0)?;
        }
        for file in files {
            let mut shards: Vec<_> = self.shards.iter().map(locked).collect();
            for (hash, at) in decode(&file.to_bytes()?)? {
                shards[Self::shard_of(hash)].restore(hash, at);
            }
        }
        let held: usize = self.shards.iter().map(|shard| locked(shard).bytes()).sum();
        self.account(0, held as u64)
    }

    fn begin_epoch(&self, _: Option<Watermark>) {
        locked(&self.judged).clear();
    }

    fn finish_epoch(&self, watermark: Option<Watermark>) -> Result<EpochChanges, StateError> {
        let mut shards: Vec<_> = self.shards.iter().map(locked).collect();
        let added = encode(shards.iter().flat_map(|shard| shard.added()));
        for anchors in &mut shards {
            let before = anchors.bytes() as u64;
            anchors.clear_added();
            if let Some(watermark) = watermark {
                anchors.advance(watermark);
            }
            self.account(before, anchors.bytes() as u64)?;
        }
        drop(shards);
        let first = self.swept.fetch_add(SWEPT_SHARDS, Ordering::Relaxed);
        self.free((first..first + SWEPT_SHARDS).map(|shard| shard % DEDUP_SHARDS))?;
        let judged = std::mem::take(&mut *locked(&self.judged));
        Ok(EpochChanges { added: added.map(Unsaved::from), judged, ..EpochChanges::default() })
    }

    fn is_expired(&self, file: &StateFile, watermark: Watermark) -> bool {
        let mut point = Anchors::new(self.options.within, self.options.lateness_us);
        point.advance(watermark);
        file.time_max_us.is_some_and(|newest| point.is_forgotten(newest))
    }

    fn merge(
        &self,
        files: Vec<StateContent>,
        _: Joined,
        watermark: Option<Watermark>,
    ) -> Result<Option<EncodedState>, StateError> {
        let mut point = Anchors::new(self.options.within, self.options.lateness_us);
        if let Some(watermark) = watermark {
            point.advance(watermark);
        }
        let mut live = Vec::new();
        for file in files {
            let bytes = file.to_bytes()?;
            live.extend(decode(&bytes)?.filter(|(_, at)| !point.is_forgotten(*at)));
        }
        Ok(encode(live.iter().copied()))
    }

    fn state_bytes(&self) -> u64 {
        self.held_bytes.load(Ordering::Relaxed)
    }

    fn keys_held(&self) -> u64 {
        self.shards.iter().map(|shard| locked(shard).keys() as u64).sum()
    }

    fn is_unbounded(&self) -> bool {
        self.options.within == Within::Unbounded
    }
}

/// Counts of one shard by partition ordinal; rows of a partition mostly stand together.
#[derive(Default)]
struct Counts {
    done: BTreeMap<u64, Judged>,
    ordinal: u64,
    own: Judged,
}

impl Counts {
    #[inline]
    fn of(&mut self, row: &DedupRow) -> &mut Judged {
        let ordinal = Position(row.position).partition();
        if ordinal != self.ordinal {
            self.set_aside();
            self.ordinal = ordinal;
        }
        &mut self.own
    }

    fn set_aside(&mut self) {
        let own = std::mem::take(&mut self.own);
        if own != Judged::default() {
            self.done.entry(self.ordinal).or_default().add(&own);
        }
    }

    fn finish(mut self) -> BTreeMap<u64, Judged> {
        self.set_aside();
        self.done
    }
}

fn is_in_order(parts: &[&[DedupRow]]) -> bool {
    let mut last = 0;
    parts.iter().copied().flatten().all(|row| {
        let is_next = row.position >= last;
        last = row.position;
        is_next
    })
}

fn judge_in_order(
    anchors: &mut Anchors,
    rows: &[DedupRow],
    counts: &mut Counts,
    drop_row: &mut impl FnMut(&DedupRow),
) {
    const BLOCK_ROWS: usize = 32;
    let mut touched = 0;
    for block in rows.chunks(BLOCK_ROWS) {
        for row in block {
            touched ^= anchors.touch(row.hash());
        }
        for row in block {
            let own = counts.of(row);
            match anchors.judge(row.hash(), EventTime(row.at)) {
                Verdict::First => {
                    own.rows_accepted += 1;
                    own.digest = own.digest.wrapping_add(row.hash());
                }
                Verdict::Duplicate => {
                    own.rows_duplicate += 1;
                    drop_row(row);
                }
            }
        }
    }
    std::hint::black_box(touched);
}

fn empty_shards(options: DedupOptions) -> Vec<Mutex<Anchors>> {
    let empty = || Mutex::new(Anchors::new(options.within, options.lateness_us));
    std::iter::repeat_with(empty).take(DEDUP_SHARDS).collect()
}

/// A panic of another thread leaves the memory to be dropped, not to be blocked on.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::execution::memory_pool::{GreedyMemoryPool, UnboundedMemoryPool};

    #[test]
    fn a_memory_restored_from_its_files_judges_as_before() {
        let memory = memory(1 << 30);
        assert_eq!(judge(&memory, &[(1, 5), (2, 5), (1, 6)]), [2]);
        let first = memory.finish_epoch(None).unwrap();
        assert_eq!(first.judged[&0].rows_accepted, 2);
        assert_eq!(judge(&memory, &[(3, 5)]), [] as [u64; 0]);
        let second = memory.finish_epoch(None).unwrap().file();
        assert_eq!(second.as_ref().map(|file| file.entries), Some(1));
        let files = [first.file(), second].map(|own| own.unwrap().content.to_bytes().unwrap());
        let files = || files.iter().cloned().map(StateContent::from).collect();
        let merged = memory.merge(files(), Joined::All, None).unwrap().unwrap();
        for files in [files(), vec![merged.content]] {
            let again = self::memory(1 << 30);
            again.restore([7; 16], files, None).unwrap();
            assert_eq!(judge(&again, &[(1, 7), (2, 7), (3, 7), (4, 7)]), [0, 1, 2]);
            assert_eq!(again.keys_held(), 4);
        }
    }

    #[test]
    fn rows_are_judged_in_the_order_of_their_positions() {
        let memory = memory(1 << 30);
        let row = |position, row| DedupRow::new(64, 1, position, row);
        let mut dropped = Vec::new();
        let parts: [&[DedupRow]; 2] = [&[row(9, 0), row(10, 1)], &[row(3, 2)]];
        memory.judge(0, &parts, |row| dropped.push(row.row)).unwrap();
        assert_eq!(dropped, [0, 1]);
    }

    #[test]
    fn buffers_are_used_again_and_accounted() {
        let pool: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
        let memory = DedupMemory::new("dedup-0", options(), 1 << 30, &pool);
        let keys: Vec<(u128, i64)> = (0..10_000).map(|key| (key, 5)).collect();
        let mut buffer = memory.rows();
        buffer.reserve(keys.len()).unwrap();
        assert_eq!(pool.reserved(), keys.len() * size_of::<DedupRow>());
        rows(&keys).for_each(|row| buffer.push(row));
        memory.take_back(buffer);
        let kept = pool.reserved();
        let again = memory.rows();
        assert_eq!((0..DEDUP_SHARDS).map(|shard| again.shard(shard).len()).sum::<usize>(), 0);
        assert!(kept >= keys.len() * size_of::<DedupRow>() && pool.reserved() == kept);
        memory.take_back(again);
        assert_eq!(pool.reserved(), 0, "what was not used is given back");
    }

    #[test]
    fn a_full_memory_is_an_error_and_not_a_forgotten_key() {
        let memory = memory(100_000);
        let keys: Vec<(u128, i64)> = (0..100_000).map(|key| (key, 5)).collect();
        let rows: Vec<DedupRow> = rows(&keys).collect();
        let error = memory.judge(0, &[&rows], |_| ()).unwrap_err();
        assert!(error.to_string().contains("state_bytes_max"), "{error}");
        let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(100_000));
        let pooled = DedupMemory::new("dedup-0", options(), 1 << 30, &pool);
        assert!(pooled.judge(0, &[&rows], |_| ()).is_err());
        assert_eq!(pool.reserved(), 0);
    }

    #[test]
    fn what_has_expired_is_freed_and_its_files_are_dropped() {
        let pool: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
        let memory = DedupMemory::new("dedup-0", options(), 1 << 30, &pool);
        let keys: Vec<(u128, i64)> = (0..10_000).map(|key| (key, 5)).collect();
        judge(&memory, &keys);
        let held = memory.state_bytes();
        assert_eq!(pool.reserved() as u64, held);
        let late = Some(Watermark(EventTime(15)));
        let added = memory.finish_epoch(late).unwrap().file().unwrap();
        for _ in 0..DEDUP_SHARDS / SWEPT_SHARDS {
            memory.finish_epoch(late).unwrap();
        }
        assert_eq!(memory.keys_held(), 0);
        assert!(memory.state_bytes() < held / 4, "{} of {held}", memory.state_bytes());
        assert!(memory.merge(vec![added.content], Joined::All, late).unwrap().is_none());
    }

    fn options() -> DedupOptions {
        DedupOptions::new(Within::Interval { width_us: 10 })
    }

    fn memory(bytes_max: u64) -> DedupMemory {
        let pool: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
        DedupMemory::new("dedup-0", options(), bytes_max, &pool)
    }

    fn rows(keys: &[(u128, i64)]) -> impl Iterator<Item = DedupRow> {
        keys.iter().enumerate().map(|(row, (key, at))| {
            let hash = key.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
            DedupRow::new(hash, *at, row as u64, row as u64)
        })
    }

    fn judge(memory: &DedupMemory, keys: &[(u128, i64)]) -> Vec<u64> {
        let mut dropped = Vec::new();
        let mut shards = vec![Vec::new(); DEDUP_SHARDS];
        rows(keys).for_each(|row| shards[DedupMemory::shard_of(row.hash())].push(row));
        for (shard, rows) in shards.iter().enumerate() {
            memory.judge(shard, &[rows], |row| dropped.push(row.row)).unwrap();
        }
        dropped.sort_unstable();
        dropped
    }
}
