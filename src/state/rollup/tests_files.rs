//! What loading and joining files takes, and what they give.

use super::format::{Encoder, decode, encode};
use super::tests::{Files, Partial, aggregates, copies, epoch, in_rows, join, memory_in};
use super::{RollupMemory, saved_groups};
use crate::state::{OperatorMemory, StateContent};
use crate::types::{EventTime, Watermark};
use arrow::array::UInt32Array;
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use datafusion::common::Result;
use datafusion::execution::memory_pool::{MemoryPool, MemoryReservation, UnboundedMemoryPool};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Knows the most that was reserved at once.
#[derive(Debug, Default)]
struct PeakPool {
    inner: UnboundedMemoryPool,
    peak: AtomicUsize,
}

impl fmt::Display for PeakPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeakPool")
    }
}

impl MemoryPool for PeakPool {
    fn name(&self) -> &'static str {
        "peak"
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.inner.grow(reservation, additional);
        self.peak.fetch_max(self.inner.reserved(), Ordering::Relaxed);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.inner.shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        self.grow(reservation, additional);
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.inner.reserved()
    }
}

const GROUPS: i64 = 80_000;

/// A memory of many groups, and its files: all groups twice, and some in each of some more epochs.
fn grown() -> (RollupMemory, Files) {
    let held = memory_in(u64::MAX, &(Arc::new(UnboundedMemoryPool::default()) as _));
    let mut files = Files::new();
    let own = |group: i64, step: i64| (group, 100 + group % 2 * 100, step, group * step % 1_009);
    for step in 0..14 {
        let some: Vec<Partial> = match step {
            0..12 => {
                (0..GROUPS).filter(|own| own % 6 == step % 6).map(|at| own(at, step)).collect()
            }
            _ => (0..GROUPS).filter(|own| own % 97 == step).map(|at| own(at, step)).collect(),
        };
        epoch(&held, &some, 0, &mut files);
    }
    (held, files)
}

#[test]
fn a_state_of_twenty_times_the_limit_is_loaded_within_it() {
    let (held, files) = grown();
    let limit = held.state_bytes() / 20;
    let mut joined = files.clone();
    join(&held, &mut joined, 9, 0);
    let mut some = files.clone();
    join(&held, &mut some, 1, 0);
    for (name, files) in [("epochs", files), ("joined", joined), ("some joined", some)] {
        let pool = Arc::new(PeakPool::default());
        let spilled = memory_in(limit, &(Arc::clone(&pool) as _));
        let at = Some(Watermark(EventTime(0)));
        spilled.restore([0; 16], copies(&files), at).unwrap();
        assert_eq!(spilled.keys_held(), GROUPS as u64, "{name}");
        assert!(spilled.state_bytes() <= limit, "{name}: {}", spilled.state_bytes());
        // A batch of a file is one shard of an epoch, or some rows.
        let peak = pool.peak.load(Ordering::Relaxed);
        assert!(peak <= limit as usize, "{name}: {peak} of {limit}");
        assert_eq!(all(&spilled), all(&held), "{name}");
        let again: Vec<Partial> =
            (0..GROUPS).step_by(31).map(|own| (own, 100 + own % 2 * 100, 5, 2_000)).collect();
        let (mut one, mut two) = (Files::new(), Files::new());
        let fresh = memory_in(u64::MAX, &(Arc::new(UnboundedMemoryPool::default()) as _));
        fresh.restore([0; 16], copies(&files), at).unwrap();
        let shown = epoch(&spilled, &again, 100, &mut one);
        assert!(shown == epoch(&fresh, &again, 100, &mut two), "{name}");
        assert_eq!(spilled.keys_held(), GROUPS as u64 / 2, "{name}");
    }
}

#[test]
fn files_are_joined_within_a_part_of_the_limit_and_block_by_block() {
    let (held, mut files) = grown();
    let pool = Arc::new(PeakPool::default());
    let limit = held.state_bytes() / 20;
    let joins = memory_in(limit, &(Arc::clone(&pool) as _));
    join(&joins, &mut files, 9, 0);
    let peak = pool.peak.load(Ordering::Relaxed) as u64;
    assert!(0 < peak && peak <= limit / 16, "{peak} of {limit}");
    let [file] = &copies(&files)[..] else { panic!("{} files", files.len()) };
    let batches: Vec<RecordBatch> = decode(file).unwrap().map(Result::unwrap).collect();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), GROUPS as usize);
    assert!(batches.iter().all(|batch| batch.num_rows() <= 4_096));
    // What has ended is left out, and what nobody holds is no file.
    join(&joins, &mut files, 9, 100);
    assert_eq!(saved_groups(&copies(&files)).unwrap().unwrap().num_rows(), GROUPS as usize / 2);
    join(&joins, &mut files, 9, 200);
    assert_eq!(files.len(), 0);
}

#[test]
fn a_file_of_one_batch_that_is_not_sorted_is_read_too() {
    // So did earlier versions join files: in one batch, by hash alone.
    let (held, files) = grown();
    let mut groups = saved_groups(&copies(&files)).unwrap().unwrap();
    let mut order: Vec<u32> = (0..groups.num_rows() as u32).collect();
    order.sort_unstable_by_key(|row| row.wrapping_mul(0x9E37_79B9));
    groups = arrow::compute::take_record_batch(&groups, &UInt32Array::from(order)).unwrap();
    let file = encode(&[groups.slice(0, 50_000), groups.slice(50_000, 30_000)]).unwrap().unwrap();
    let mut files = files;
    files.insert(3, file.content.to_bytes().unwrap());
    let spilled = memory_in(held.state_bytes() / 20, &(Arc::new(PeakPool::default()) as _));
    spilled.restore([0; 16], copies(&files), None).unwrap();
    assert_eq!(all(&spilled), all(&held));
}

#[test]
fn a_file_that_is_damaged_anywhere_is_noticed() {
    let held = memory_in(u64::MAX, &(Arc::new(UnboundedMemoryPool::default()) as _));
    let mut files = Files::new();
    epoch(&held, &[(1, 100, 1, 1), (2, 100, 1, 1), (3, 100, 1, 1)], 0, &mut files);
    let is_read = |bytes: Vec<u8>| {
        let content = StateContent::from(Bytes::from(bytes));
        let batches = decode(&content).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        batches.is_ok()
    };
    let whole = files[0].to_vec();
    assert!(is_read(whole.clone()));
    for at in (0..whole.len()).rev().take(40).chain((0..whole.len()).step_by(13)) {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        assert!(!is_read(damaged), "byte {at}");
        assert!(!is_read(whole[..at].to_vec()), "cut at {at}");
    }
    // Bytes behind the stream are read as well.
    let mut longer = whole[..whole.len() - 4].to_vec();
    longer.extend([0; 4]);
    longer.extend(&whole[whole.len() - 4..]);
    assert!(!is_read(longer));
}

#[test]
fn a_file_is_the_same_in_memory_and_on_disk() {
    let (_, files) = grown();
    let batches: Vec<RecordBatch> =
        decode(&copies(&files)[0]).unwrap().map(Result::unwrap).collect();
    let mut encoder = Encoder::new(1_000);
    for batch in &batches {
        encoder.write(batch).unwrap();
    }
    let local = encoder.finish().unwrap().unwrap();
    assert!(local.content.held().is_none());
    assert_eq!(local.content.to_bytes().unwrap(), files[0]);
    assert_eq!(local.entries, (GROUPS as u64).div_ceil(6));
    assert!(Encoder::new(1_000).finish().unwrap().is_none());
}

/// All groups, and what they are worth.
fn all(memory: &RollupMemory) -> Vec<Vec<i64>> {
    let states = aggregates().state_fields().len();
    assert_eq!(states, 2);
    let mut all = Vec::new();
    for batch in memory.groups().unwrap() {
        all.extend(in_rows(&batch.columns()[1..]));
    }
    all.sort();
    all
}
