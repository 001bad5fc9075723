//! What judging a row costs, beside a bare hashbrown table with the same hashes.
//!
//! Answers: how many rows per second one core can judge among ten million live keys, and what a
//! live key costs in memory. Grouping the rows by shard is part of our time. Both are measured in
//! turns in the same run; the best of three counts.

use hashbrown::HashTable;
use onefold::datafusion::execution::memory_pool::{MemoryPool, UnboundedMemoryPool};
use onefold::state::{DEDUP_SHARDS, DedupMemory, DedupRow, OperatorMemory};
use onefold::types::{DedupOptions, Within};
use std::hint::black_box;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

const KEYS: usize = 10_000_000;
const ROWS: usize = 1_000_000;
const TURNS: usize = 3;
const HOUR_US: u64 = 3_600_000_000;

type Bare = HashTable<(u128, i64)>;

#[allow(clippy::disallowed_methods, reason = "a bench reads the clock")]
fn timed(work: impl FnOnce() -> usize) -> (Duration, usize) {
    let start = Instant::now();
    let found = black_box(work());
    (start.elapsed(), found)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut out = std::io::stdout();
    let mut random = Random(1);
    let pool: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
    let options = DedupOptions::new(Within::Interval { width_us: HOUR_US });
    let ours = DedupMemory::new("dedup-0", options, u64::MAX, &pool);
    let mut bare = Bare::new();
    let mut keys: Vec<u128> = Vec::with_capacity(KEYS);
    for _ in 0..KEYS / ROWS {
        let more: Vec<u128> = (0..ROWS).map(|_| random.next()).collect();
        judge_ours(&ours, &more)?;
        judge_bare(&mut bare, &more);
        ours.finish_epoch(None)?;
        keys.extend(more);
    }
    writeln!(
        out,
        "bytes per live key at {KEYS} keys: ours {:.1}, hashbrown {:.1}",
        ours.state_bytes() as f64 / KEYS as f64,
        bare.allocation_size() as f64 / KEYS as f64
    )?;
    for duplicate_percent in [0, 5, 50] {
        let (mut best_ours, mut best_bare) = (Duration::MAX, Duration::MAX);
        for _ in 0..TURNS {
            let rows: Vec<u128> = (0..ROWS)
                .map(|_| {
                    let pick = random.next();
                    if pick % 100 < duplicate_percent {
                        keys[(pick >> 64) as usize % KEYS]
                    } else {
                        random.next()
                    }
                })
                .collect();
            let mut found = Ok(0);
            let (time_ours, _) = timed(|| {
                found = judge_ours(&ours, &rows);
                0
            });
            let found_ours = found?;
            let (time_bare, found_bare) = timed(|| judge_bare(&mut bare, &rows));
            assert_eq!(found_ours, found_bare, "both tables must agree");
            ours.finish_epoch(None)?;
            best_ours = best_ours.min(time_ours);
            best_bare = best_bare.min(time_bare);
        }
        let rate = |time: Duration| ROWS as f64 / time.as_secs_f64() / 1e6;
        writeln!(
            out,
            "{duplicate_percent:2} % duplicates: ours {:.1} M/s, hashbrown {:.1} M/s, ratio {:.2}",
            rate(best_ours),
            rate(best_bare),
            rate(best_ours) / rate(best_bare)
        )?;
    }
    Ok(())
}

/// Answers how many were duplicates.
fn judge_ours(memory: &DedupMemory, hashes: &[u128]) -> Result<usize, onefold::state::StateError> {
    let mut rows = memory.rows();
    for (row, hash) in hashes.iter().enumerate() {
        rows.push(DedupRow::new(*hash, 1, row as u64, row as u64));
    }
    let mut found = 0;
    for shard in 0..DEDUP_SHARDS {
        memory.judge(shard, &[rows.shard(shard)], |_| found += 1)?;
    }
    memory.take_back(rows);
    Ok(found)
}

fn judge_bare(table: &mut Bare, probes: &[u128]) -> usize {
    probes.iter().filter(|key| insert_bare(table, **key, 0)).count()
}

/// Answers whether the key was there.
fn insert_bare(table: &mut Bare, key: u128, at: i64) -> bool {
    let rehash = |entry: &(u128, i64)| (entry.0 >> 64) as u64;
    match table.entry((key >> 64) as u64, |entry| entry.0 == key, rehash) {
        hashbrown::hash_table::Entry::Occupied(_) => true,
        hashbrown::hash_table::Entry::Vacant(place) => {
            place.insert((key, at));
            false
        }
    }
}

/// A seeded, uniform generator (`SplitMix64`, two draws a hash).
struct Random(u64);

impl Random {
    fn half(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    fn next(&mut self) -> u128 {
        u128::from(self.half()) << 64 | u128::from(self.half())
    }
}
