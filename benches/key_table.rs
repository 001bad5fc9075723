//! What remembering a key costs, beside a bare hashbrown table with the same hashes.
//!
//! Answers: how many keys per second one core can find or insert among ten million, and what each
//! costs in memory. Both tables are measured in turns in the same run; the best of three counts.

use hashbrown::HashTable;
use onefold::key::{Entry, KeyTable};
use std::hint::black_box;
use std::io::Write;
use std::time::{Duration, Instant};

const KEYS: usize = 10_000_000;
const PROBES: usize = 2_000_000;
const TURNS: usize = 3;

type Bare = HashTable<(u128, i64)>;

#[allow(clippy::disallowed_methods, reason = "a bench reads the clock")]
fn timed(work: impl FnOnce() -> usize) -> (Duration, usize) {
    let start = Instant::now();
    let found = black_box(work());
    (start.elapsed(), found)
}

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout();
    let mut random = Random(1);
    let keys: Vec<u128> = (0..KEYS).map(|_| random.next()).collect();
    let mut ours = KeyTable::new();
    let mut bare = Bare::new();
    for (at, key) in (0_i64..).zip(&keys) {
        ours.insert(*key, at);
        insert_bare(&mut bare, *key, at);
    }
    writeln!(
        out,
        "bytes per live key at {KEYS} keys: ours {:.1}, hashbrown {:.1}",
        ours.allocated_bytes() as f64 / KEYS as f64,
        bare.allocation_size() as f64 / KEYS as f64
    )?;
    for duplicate_percent in [0, 5, 50] {
        let probes: Vec<u128> = (0..PROBES)
            .map(|_| {
                let pick = random.next();
                if pick % 100 < duplicate_percent {
                    keys[(pick >> 64) as usize % KEYS]
                } else {
                    random.next()
                }
            })
            .collect();
        let (mut best_ours, mut best_bare) = (Duration::MAX, Duration::MAX);
        for _ in 0..TURNS {
            let (mut ours, mut bare) = (ours.clone(), bare.clone());
            let (time_ours, found_ours) = timed(|| judge_ours(&mut ours, &probes));
            let (time_bare, found_bare) = timed(|| judge_bare(&mut bare, &probes));
            assert_eq!(found_ours, found_bare, "both tables must agree");
            best_ours = best_ours.min(time_ours);
            best_bare = best_bare.min(time_bare);
        }
        let rate = |time: Duration| PROBES as f64 / time.as_secs_f64() / 1e6;
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

fn judge_ours(table: &mut KeyTable<i64>, probes: &[u128]) -> usize {
    let found = |key: &&u128| matches!(table.find_or_insert(**key, 0), Entry::Found(_));
    probes.iter().filter(found_by(found)).count()
}

fn found_by<F: FnMut(&&u128) -> bool>(found: F) -> F {
    found
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
