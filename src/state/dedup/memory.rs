//! `DedupMemory`: all shards of one DEDUP of a pipeline, with its limit and its file.

use super::format::{decode, encode};
use super::{Anchors, Verdict};
use crate::state::{EncodedState, EpochChanges, Judged, OperatorMemory, StateError};
use crate::types::{DedupOptions, EventTime, StateFile, Watermark, Within};
use bytes::Bytes;
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
    /// The key's hash under [`DedupMemory::hash_key`].
    pub hash: u128,
    /// Event time in microseconds.
    pub at: i64,
    /// Where the row stands among the rows of the epoch.
    pub position: u64,
    /// The caller's number of the row.
    pub row: u64,
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

    /// Judges rows of one shard, in the order of their positions; calls `drop_row` with each
    /// duplicate, and adds to `judged` by the partition ordinal that `ordinal_of` reads from a row.
    ///
    /// # Errors
    ///
    /// [`StateError::Full`] before any row is judged.
    pub fn judge(
        &self,
        shard: usize,
        rows: &mut [DedupRow],
        mut drop_row: impl FnMut(&DedupRow),
    ) -> Result<(), StateError> {
        const AHEAD: usize = 8;
        if !rows.is_sorted_by_key(|row| row.position) {
            rows.sort_unstable_by_key(|row| row.position);
        }
        let mut anchors = locked(&self.shards[shard]);
        let before = self.make_room(&mut anchors, rows.len())?;
        let mut counts: BTreeMap<u64, Judged> = BTreeMap::new();
        let mut ordinal = None;
        let mut own = Judged::default();
        let mut touched = 0;
        for index in 0..rows.len() {
            if let Some(next) = rows.get(index + AHEAD) {
                touched ^= anchors.touch(next.hash);
            }
            let row = &rows[index];
            let partition = crate::types::Position(row.position).partition();
            if ordinal != Some(partition) {
                if let Some(ordinal) = ordinal {
                    counts.entry(ordinal).or_default().add(&own);
                }
                (ordinal, own) = (Some(partition), Judged::default());
            }
            match anchors.judge(row.hash, EventTime(row.at)) {
                Verdict::First => {
                    own.rows_accepted += 1;
                    own.digest = own.digest.wrapping_add(row.hash);
                }
                Verdict::Duplicate => {
                    own.rows_duplicate += 1;
                    drop_row(row);
                }
            }
        }
        std::hint::black_box(touched);
        if let Some(ordinal) = ordinal {
            counts.entry(ordinal).or_default().add(&own);
        }
        self.account(before, anchors.bytes() as u64)?;
        drop(anchors);
        self.record(counts);
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
        files: &[Bytes],
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
            for (hash, at) in decode(file)? {
                shards[Self::shard_of(hash)].restore(hash, at);
            }
        }
        let held: usize = self.shards.iter().map(|shard| locked(shard).bytes()).sum();
        self.account(0, held as u64)
    }

    fn begin_epoch(&self) {
        locked(&self.judged).clear();
    }

    fn finish_epoch(&self, watermark: Option<Watermark>) -> Result<EpochChanges, StateError> {
        let mut added = Vec::new();
        for shard in &self.shards {
            let mut anchors = locked(shard);
            let before = anchors.bytes() as u64;
            added.push(anchors.take_added());
            if let Some(watermark) = watermark {
                anchors.advance(watermark);
            }
            self.account(before, anchors.bytes() as u64)?;
        }
        let first = self.swept.fetch_add(SWEPT_SHARDS, Ordering::Relaxed);
        self.free((first..first + SWEPT_SHARDS).map(|shard| shard % DEDUP_SHARDS))?;
        let judged = std::mem::take(&mut *locked(&self.judged));
        Ok(EpochChanges { added: encode(added.into_iter().flatten()), judged })
    }

    fn is_expired(&self, file: &StateFile, watermark: Watermark) -> bool {
        let mut point = Anchors::new(self.options.within, self.options.lateness_us);
        point.advance(watermark);
        file.time_max_us.is_some_and(|newest| point.is_forgotten(newest))
    }

    fn merge(
        &self,
        files: &[Bytes],
        watermark: Option<Watermark>,
    ) -> Result<Option<EncodedState>, StateError> {
        let mut point = Anchors::new(self.options.within, self.options.lateness_us);
        if let Some(watermark) = watermark {
            point.advance(watermark);
        }
        let mut live = Vec::new();
        for file in files {
            live.extend(decode(file)?.filter(|(_, at)| !point.is_forgotten(*at)));
        }
        Ok(encode(live.into_iter()))
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
        let second = memory.finish_epoch(None).unwrap();
        let files = [first.added.unwrap().bytes, second.added.unwrap().bytes];
        let merged = memory.merge(&files, None).unwrap().unwrap();
        for files in [files.to_vec(), vec![merged.bytes]] {
            let again = self::memory(1 << 30);
            again.restore([7; 16], &files, None).unwrap();
            assert_eq!(judge(&again, &[(1, 7), (2, 7), (3, 7), (4, 7)]), [0, 1, 2]);
            assert_eq!(again.keys_held(), 4);
        }
    }

    #[test]
    fn rows_are_judged_in_the_order_of_their_positions() {
        let memory = memory(1 << 30);
        let row = |position, row| DedupRow { hash: 64, at: 1, position, row };
        let mut dropped = Vec::new();
        let mut rows = [row(9, 0), row(3, 1)];
        memory.judge(0, &mut rows, |row| dropped.push(row.row)).unwrap();
        assert_eq!(dropped, [0]);
    }

    #[test]
    fn a_full_memory_is_an_error_and_not_a_forgotten_key() {
        let memory = memory(100_000);
        let keys: Vec<(u128, i64)> = (0..100_000).map(|key| (key, 5)).collect();
        let mut rows: Vec<DedupRow> = rows(&keys).collect();
        let error = memory.judge(0, &mut rows, |_| ()).unwrap_err();
        assert!(error.to_string().contains("state_bytes_max"), "{error}");
        let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(100_000));
        let pooled = DedupMemory::new("dedup-0", options(), 1 << 30, &pool);
        assert!(pooled.judge(0, &mut rows, |_| ()).is_err());
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
        let added = memory.finish_epoch(late).unwrap().added.unwrap();
        for _ in 0..DEDUP_SHARDS / SWEPT_SHARDS {
            memory.finish_epoch(late).unwrap();
        }
        assert_eq!(memory.keys_held(), 0);
        assert!(memory.state_bytes() < held / 4, "{} of {held}", memory.state_bytes());
        assert!(memory.merge(&[added.bytes], late).unwrap().is_none());
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
            DedupRow { hash, at: *at, position: row as u64, row: row as u64 }
        })
    }

    fn judge(memory: &DedupMemory, keys: &[(u128, i64)]) -> Vec<u64> {
        let mut dropped = Vec::new();
        for shard in 0..DEDUP_SHARDS {
            let mut own: Vec<DedupRow> =
                rows(keys).filter(|row| DedupMemory::shard_of(row.hash) == shard).collect();
            memory.judge(shard, &mut own, |row| dropped.push(row.row)).unwrap();
        }
        dropped.sort_unstable();
        dropped
    }
}
