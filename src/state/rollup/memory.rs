//! `RollupMemory`: all shards of one rollup of a pipeline, with its limit and its files.

use super::chunks::Gathered;
use super::held::Held;
use super::runs::{Merged, Runs};
use super::shard::{OPEN_END, next_end};
use super::spill::{BLOCK_ROWS, SpillFile, SpillFiles};
use super::{Aggregates, GroupRows, format};
use crate::state::{
    EncodedState, EpochChanges, Joined, Judged, OperatorMemory, StateContent, StateError, Unsaved,
};
use crate::types::{RollupOptions, StateFile, Watermark};
use arrow::compute::concat_batches;
use arrow::record_batch::RecordBatch;
use datafusion::DATAFUSION_VERSION;
use datafusion::common::Result;
use datafusion::execution::memory_pool::{
    MemoryConsumer, MemoryPool, MemoryReservation, UnboundedMemoryPool,
};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Shards of the groups: fixed, so that parallelism can change between runs.
pub const ROLLUP_SHARDS: usize = 64;

/// Rows that are read from files, and written to them, together.
const READ_ROWS: usize = 16 * BLOCK_ROWS;
/// Which part of the limit the rows of files may take while they are sorted to be loaded.
const LOADED_PART: u64 = 4;
/// The same, while they are sorted to be joined beside what is held.
const JOINED_PART: u64 = 16;
/// Bytes of a joined file that stay in memory.
const JOINED_HELD_MAX: usize = 4 << 20;

/// What one rollup of a pipeline remembers.
#[derive(Debug)]
pub struct RollupMemory {
    label: String,
    options: RollupOptions,
    shards: Vec<Mutex<Held>>,
    hash_key: Mutex<[u8; 16]>,
    epoch: Mutex<Epoch>,
    /// The epoch that is being computed, counted from the first that any file knows.
    step: AtomicU64,
    limit_bytes: u64,
    held_bytes: AtomicU64,
    /// The most groups that one partition folded lately.
    folded_groups: AtomicUsize,
    reservation: Mutex<MemoryReservation>,
    spill_files: SpillFiles,
}

/// A way to take a shard out of memory.
type Spill = fn(&mut Held, &Arc<SpillFile>) -> Result<(), StateError>;

/// What an epoch says and counts.
#[derive(Debug, Default)]
struct Epoch {
    watermark: Option<Watermark>,
    judged: BTreeMap<u64, Judged>,
    folded: BTreeMap<u64, u64>,
}

impl RollupMemory {
    /// An empty memory of about `bytes_max` bytes at most, accounted to `pool`; what is more is
    /// kept in the folder for temporary files. `label` names the operator in messages.
    pub fn new(
        label: &str,
        options: RollupOptions,
        bytes_max: u64,
        pool: &Arc<dyn MemoryPool>,
    ) -> Self {
        let reservation = MemoryConsumer::new(format!("onefold {label}")).register(pool);
        Self {
            label: label.to_owned(),
            options,
            shards: empty_shards(options),
            hash_key: Mutex::new([0; 16]),
            epoch: Mutex::default(),
            step: AtomicU64::new(1),
            limit_bytes: bytes_max,
            held_bytes: AtomicU64::new(0),
            folded_groups: AtomicUsize::new(0),
            reservation: Mutex::new(reservation),
            spill_files: SpillFiles::default(),
        }
    }

    /// The key of the 128-bit hash of groups.
    #[must_use]
    pub fn hash_key(&self) -> [u8; 16] {
        *locked(&self.hash_key)
    }

    /// How many groups one partition may fold, by what the epochs before did.
    #[must_use]
    pub fn groups_expected(&self) -> usize {
        self.folded_groups.load(Ordering::Relaxed)
    }

    /// Says how many groups one partition folded.
    pub fn note_groups(&self, groups: usize) {
        let decayed = self.groups_expected() / 8 * 7;
        self.folded_groups.store(groups.max(decayed), Ordering::Relaxed);
    }

    /// The shard that `hash` belongs to.
    #[must_use]
    #[inline]
    pub const fn shard_of(hash: u128) -> usize {
        (hash as usize) % ROLLUP_SHARDS
    }

    /// Adds to what became of the rows of this epoch, by partition ordinal: those folded into a
    /// group, and those judged.
    pub fn record(
        &self,
        folded: impl IntoIterator<Item = (u64, u64)>,
        judged: impl IntoIterator<Item = (u64, Judged)>,
    ) {
        let mut epoch = locked(&self.epoch);
        for (ordinal, rows) in folded {
            *epoch.folded.entry(ordinal).or_default() += rows;
        }
        for (ordinal, counts) in judged {
            epoch.judged.entry(ordinal).or_default().add(&counts);
        }
    }

    /// Merges partial states of one shard, each group's row as often as there are partials of it;
    /// returns the groups with what they are worth now. At most once in each epoch.
    ///
    /// # Errors
    ///
    /// An aggregate that fails, or a disk; the memory is then in no known state.
    pub fn merge(
        &self,
        shard: usize,
        aggregates: &Aggregates,
        partials: &RecordBatch,
    ) -> Result<Vec<GroupRows>> {
        let mut own = locked(&self.shards[shard]);
        let before = own.bytes() as u64;
        let changed = own.merge(aggregates, partials)?;
        self.account(before, own.bytes() as u64);
        if !self.fits(self.limit_bytes) {
            let before = own.bytes() as u64;
            own.spill_rows(&self.spill_files.current()?, true)?; // its newest chunk is of this epoch
            self.account(before, own.bytes() as u64);
        }
        Ok(changed)
    }

    /// The groups of one shard that the watermark of this epoch closes.
    ///
    /// # Errors
    ///
    /// An aggregate that fails.
    pub fn closed(&self, shard: usize, aggregates: &Aggregates) -> Result<Option<GroupRows>> {
        let last = self.last_end(locked(&self.epoch).watermark);
        locked(&self.shards[shard]).closed(aggregates, last)
    }

    /// All groups that are held, in rows as those of a chunk.
    ///
    /// # Errors
    ///
    /// Chunks that do not fit together.
    pub fn groups(&self) -> Result<Vec<RecordBatch>> {
        let mut all = Vec::new();
        for shard in &self.shards {
            all.extend(locked(shard).all()?);
        }
        Ok(all)
    }

    /// The last end of a window that `watermark` closes.
    fn last_end(&self, watermark: Option<Watermark>) -> i64 {
        // A group without a window has the greatest end, which no watermark reaches.
        let reached = |watermark: Watermark| watermark.0.minus_us(self.options.lateness_us).0;
        watermark.map_or(i64::MIN, reached).min(OPEN_END - 1)
    }

    /// Moves groups to local disk until the others fit into memory.
    fn fit(&self) -> Result<(), StateError> {
        if self.fits(self.limit_bytes) {
            return Ok(());
        }
        let enough = self.limit_bytes / 4 * 3; // the next epoch needs room
        let spills: [Spill; 3] = [
            |shard, file| shard.spill_rows(file, true),
            |shard, file| shard.spill_rows(file, false),
            |shard, file| shard.spill_places(file.folder()),
        ];
        for spill in spills {
            for shard in &self.shards {
                let mut shard = locked(shard);
                let before = shard.bytes() as u64;
                spill(&mut shard, &self.spill_files.current()?)?;
                self.account(before, shard.bytes() as u64);
                if self.fits(enough) {
                    return Ok(());
                }
            }
        }
        if self.fits(self.limit_bytes) {
            return Ok(());
        }
        Err(StateError::Full {
            operator: self.label.clone(),
            held_bytes: self.state_bytes(),
            limit_bytes: self.limit_bytes,
        })
    }

    /// Files to be sorted, of which a part of the limit may stay in memory.
    fn runs(&self, part: u64, watermark: Option<Watermark>) -> Runs {
        let limit = usize::try_from(self.limit_bytes / part).unwrap_or(usize::MAX);
        Runs::new(limit, self.last_end(watermark), locked(&self.reservation).new_empty())
    }

    /// Takes the rows of an empty shard.
    fn load(&self, number: usize, merged: &mut Merged) -> Result<(), StateError> {
        let part = self.limit_bytes / ROLLUP_SHARDS as u64;
        let mut rows = Gathered::new(usize::try_from(part).unwrap_or(usize::MAX));
        let (mut hashes, mut ends) = (Vec::new(), OPEN_END);
        let mut shard = locked(&self.shards[number]);
        while let Some(read) = merged.take(READ_ROWS, Some(number))? {
            let read = format::without_step(&read)?;
            shard.index(&read, &mut hashes);
            ends = ends.min(next_end(&read));
            rows.push(read, || self.spill_files.current())?;
        }
        if let Some(rows) = rows.finish()? {
            shard.fill(rows, hashes, ends);
        }
        self.account(0, shard.bytes() as u64);
        Ok(())
    }

    /// Whether what is held is at most `most` bytes, and the pool has room for it.
    fn fits(&self, most: u64) -> bool {
        let held = self.state_bytes();
        held <= most && locked(&self.reservation).try_resize(held as usize).is_ok()
    }

    fn account(&self, before: u64, after: u64) {
        if after >= before {
            self.held_bytes.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.held_bytes.fetch_sub(before - after, Ordering::Relaxed);
        }
    }
}

impl OperatorMemory for RollupMemory {
    fn fingerprint(&self) -> String {
        let RollupOptions { emit, lateness_us, delay_us, session, exact_float_sums, .. } =
            self.options;
        let sums = if exact_float_sums { ", exact float sums" } else { "" };
        // The states of DataFusion's aggregates are its own, and may change with its major version.
        let host = DATAFUSION_VERSION.split('.').next().unwrap_or_default();
        let sessions = session.map(|own| format!(", sessions with a gap of {} us", own.gap_us));
        format!(
            "rollup 2 on DataFusion {host}, emit {emit}, lateness {lateness_us} us, delay \
             {delay_us} us{sums}{}",
            sessions.unwrap_or_default()
        )
    }

    fn restore(
        &self,
        hash_key: [u8; 16],
        files: Vec<StateContent>,
        watermark: Option<Watermark>,
    ) -> Result<(), StateError> {
        *locked(&self.hash_key) = hash_key;
        *locked(&self.epoch) = Epoch { watermark, ..Epoch::default() };
        for shard in &self.shards {
            locked(shard).clear();
        }
        self.held_bytes.store(0, Ordering::Relaxed);
        self.fit()?;
        let mut runs = self.runs(LOADED_PART, watermark);
        for file in files {
            runs.add(&file)?;
        }
        self.step.store(runs.last_step() + 1, Ordering::Relaxed);
        let mut merged = runs.merge(false)?;
        while let Some(number) = merged.shard() {
            self.load(number, &mut merged)?;
            self.fit()?;
        }
        Ok(())
    }

    fn begin_epoch(&self, watermark: Option<Watermark>) {
        *locked(&self.epoch) = Epoch { watermark, ..Epoch::default() };
    }

    fn finish_epoch(&self, watermark: Option<Watermark>) -> Result<EpochChanges, StateError> {
        let last = self.last_end(watermark);
        let step = self.step.fetch_add(1, Ordering::Relaxed);
        let mut changed = Vec::new();
        for shard in &self.shards {
            let mut shard = locked(shard);
            let before = shard.bytes() as u64;
            if let Some(rows) = shard.finish(last, &self.spill_files)? {
                changed.push(format::with_step(&rows, step)?);
            }
            self.account(before, shard.bytes() as u64);
        }
        self.fit()?;
        let epoch = std::mem::take(&mut *locked(&self.epoch));
        Ok(EpochChanges {
            added: (!changed.is_empty()).then(|| Unsaved::new(move || format::encode(&changed))),
            judged: epoch.judged,
            folded: Some(epoch.folded),
            entries_live: Some(self.keys_held()),
        })
    }

    fn is_expired(&self, file: &StateFile, watermark: Watermark) -> bool {
        file.time_max_us.is_some_and(|end| end <= self.last_end(Some(watermark)))
    }

    fn merge(
        &self,
        files: Vec<StateContent>,
        which: Joined,
        watermark: Option<Watermark>,
    ) -> Result<Option<EncodedState>, StateError> {
        let mut runs = self.runs(JOINED_PART, watermark);
        for file in files {
            runs.add(&file)?;
        }
        // Only other files could hold what is gone.
        let mut merged = runs.merge(which == Joined::Some)?;
        let mut encoder = format::Encoder::new(JOINED_HELD_MAX);
        while let Some(rows) = merged.take(READ_ROWS, None)? {
            encoder.write(&rows)?;
        }
        encoder.finish()
    }

    fn state_bytes(&self) -> u64 {
        self.held_bytes.load(Ordering::Relaxed)
    }

    fn keys_held(&self) -> u64 {
        self.shards.iter().map(|shard| locked(shard).groups() as u64).sum()
    }

    fn is_unbounded(&self) -> bool {
        true
    }
}

/// The groups that files hold, in rows as those of a chunk and a step.
///
/// # Errors
///
/// A file that is not one of rollup states.
pub fn saved_groups(files: &[StateContent]) -> Result<Option<RecordBatch>, StateError> {
    let pool: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
    let reservation = MemoryConsumer::new("onefold state").register(&pool);
    let mut runs = Runs::new(usize::MAX, i64::MIN, reservation);
    for file in files {
        runs.add(file)?;
    }
    let (mut merged, mut all) = (runs.merge(false)?, Vec::new());
    while let Some(rows) = merged.take(READ_ROWS, None)? {
        all.push(rows);
    }
    let Some(first) = all.first() else { return Ok(None) };
    Ok(Some(concat_batches(&first.schema(), &all)?))
}

fn empty_shards(options: RollupOptions) -> Vec<Mutex<Held>> {
    let shard = |number| Mutex::new(Held::new(options, number as f64 / ROLLUP_SHARDS as f64));
    (0..ROLLUP_SHARDS).map(shard).collect()
}

/// A panic of another thread leaves the memory to be dropped, not to be blocked on.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
