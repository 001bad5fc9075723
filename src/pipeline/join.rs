//! Which state files become one, so that they are few, and what they hold little more than what counts.
//!
//! ```text
//!   size     .. 64 KiB | .. 512 KiB | .. 4 MiB | ..        a tier is 8 times the one below it
//!   files    . . . . . | . . .      | .        |           more than 24: the fullest tier and all
//!                                                          below it become one file
//! ```
//!
//! # What it costs
//!
//! Many files of one size become one of the next, so an entry is written anew about once per tier, and
//! a large file is left alone by small ones. Where entries take the place of others, all files become
//! one once they hold more than four times the entries that count: three quarters of them came since
//! that happened last, or were outdated by those, so that costs a third of a write for each.

use super::PipelineError;
use crate::state::{Joined, StateError};
use crate::types::StateFile;
use datafusion::common::runtime::SpawnedTask;
use datafusion::error::DataFusionError;

/// More files than this are joined.
pub(super) const FILES_MAX: usize = 24;

/// Files smaller than this are in the lowest tier.
const TIER_BYTES: u64 = 64 << 10;
/// A tier is so many doublings of the one below it.
const TIER_DOUBLINGS: u32 = 3;

/// Files hold at most so many entries for each one that counts,
const ENTRIES_PER_LIVE: u64 = 4;
/// and so many more.
const ENTRIES_SPARE: u64 = 1 << 16;

/// Files to be joined.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) files: Vec<StateFile>,
    pub(super) which: Joined,
}

impl Choice {
    /// Takes out of `files` those that are to become one, if any are; `live` of their entries count,
    /// if that is known.
    pub(super) fn of(files: &mut Vec<StateFile>, live: Option<u64>) -> Option<Self> {
        let entries: u64 = files.iter().map(|file| file.entries).sum();
        let is_worn = |live: u64| entries > live * ENTRIES_PER_LIVE + ENTRIES_SPARE;
        if live.is_some_and(is_worn) {
            return Some(Self { files: std::mem::take(files), which: Joined::All });
        }
        if files.len() <= FILES_MAX {
            return None;
        }
        let mut counts = vec![0_usize; tier(u64::MAX) + 1];
        for file in files.iter() {
            counts[tier(file.size_bytes)] += 1;
        }
        let most = counts.iter().copied().max().unwrap_or_default();
        let fullest = counts.iter().position(|count| *count == most).unwrap_or_default();
        let joined: Vec<StateFile> =
            files.extract_if(.., |file| tier(file.size_bytes) <= fullest).collect();
        let which = if files.is_empty() { Joined::All } else { Joined::Some };
        Some(Self { files: joined, which })
    }
}

fn tier(bytes: u64) -> usize {
    (bytes / TIER_BYTES).checked_ilog2().map_or(0, |doublings| 1 + doublings / TIER_DOUBLINGS)
        as usize
}

/// Does work that takes its time on a thread that nobody waits for.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StateError> + Send + 'static,
) -> Result<T, PipelineError> {
    let done = SpawnedTask::spawn_blocking(work).join_unwind().await;
    let done = done.map_err(|error| DataFusionError::External(Box::new(error)))?;
    Ok(done?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// What a run of epochs did.
    #[derive(Debug, Default)]
    struct Ran {
        files: Vec<(StateFile, BTreeMap<u64, u64>)>,
        added: u64,
        rewritten: u64,
        files_most: usize,
        entries_most: u64,
        largest_join: u64,
    }

    /// Runs epochs, each of which changes some groups, in files of `bytes` for each entry.
    fn run(bytes: u64, epochs: impl Iterator<Item = Vec<u64>>) -> Ran {
        let (mut ran, mut live) = (Ran::default(), BTreeMap::new());
        for (step, groups) in epochs.enumerate() {
            let own: BTreeMap<u64, u64> = groups.iter().map(|own| (*own, step as u64)).collect();
            live.extend(&own);
            ran.added += own.len() as u64;
            ran.files.push((file(step, &own, bytes), own));
            let mut names: Vec<StateFile> = ran.files.iter().map(|own| own.0.clone()).collect();
            if let Some(Choice { files, which }) = Choice::of(&mut names, Some(live.len() as u64)) {
                assert!(!files.is_empty() && (which == Joined::All) == names.is_empty());
                let mut joined = BTreeMap::new();
                for (_, own) in ran.files.extract_if(.., |own| files.contains(&own.0)) {
                    for (group, step) in own {
                        let newest = joined.entry(group).or_insert(step);
                        *newest = step.max(*newest);
                    }
                }
                ran.rewritten += joined.len() as u64;
                ran.largest_join = ran.largest_join.max(joined.len() as u64);
                ran.files.push((file(1_000_000 + step, &joined, bytes), joined));
            }
            let entries: u64 = ran.files.iter().map(|own| own.0.entries).sum();
            assert!(entries <= 4 * live.len() as u64 + ENTRIES_SPARE);
            ran.files_most = ran.files_most.max(ran.files.len());
            ran.entries_most = ran.entries_most.max(entries);
        }
        let mut newest = BTreeMap::new();
        for (group, step) in ran.files.iter().flat_map(|own| &own.1) {
            let own = newest.entry(*group).or_insert(*step);
            *own = *step.max(own);
        }
        assert_eq!(newest, live, "nothing is lost");
        ran
    }

    fn file(number: usize, entries: &BTreeMap<u64, u64>, bytes: u64) -> StateFile {
        StateFile {
            path: number.to_string(),
            size_bytes: entries.len() as u64 * bytes,
            sha256: String::new(),
            entries: entries.len() as u64,
            time_min_us: None,
            time_max_us: None,
        }
    }

    #[test]
    fn new_groups_are_written_anew_once_per_tier() {
        // 4 000 epochs of 200 groups that never come again, 16 KB each.
        let ran = run(80, (0..4_000_u64).map(|step| (step * 200..(step + 1) * 200).collect()));
        assert_eq!(ran.entries_most, 800_000);
        assert!(ran.files_most <= FILES_MAX, "{}", ran.files_most);
        let each = ran.rewritten as f64 / ran.added as f64;
        assert!(each < 4.0, "each entry is written {each} times more");
    }

    #[test]
    fn a_group_that_every_epoch_changes_does_not_keep_what_it_was() {
        // 20 000 groups, all changed by each of 200 epochs.
        let ran = run(1, (0..200).map(|_| (0..20_000).collect()));
        assert!(ran.entries_most <= 4 * 20_000 + ENTRIES_SPARE, "{}", ran.entries_most);
        assert!(ran.rewritten < ran.added / 3, "{} of {}", ran.rewritten, ran.added);
        // A few in each epoch, of many that stay.
        let all = std::iter::once((0..100_000).collect());
        let few =
            (0..3_000_u64).map(|step| (step * 77 % 50_000..step * 77 % 50_000 + 200).collect());
        let ran = run(80, all.chain(few));
        assert!(ran.files_most <= FILES_MAX, "{}", ran.files_most);
        let each = ran.rewritten as f64 / ran.added as f64;
        assert!(each < 4.0, "each entry is written {each} times more");
    }

    #[test]
    fn a_large_file_is_left_alone_by_small_ones() {
        let sized = |number: usize, size_bytes: u64| StateFile {
            size_bytes,
            entries: 1,
            ..file(number, &BTreeMap::new(), 0)
        };
        let large = (0..9).map(|number| sized(number, 1 << 30));
        let small = (9..24).map(|number| sized(number, 1_000));
        let mut files: Vec<StateFile> = large.chain(small).collect();
        assert_eq!(Choice::of(&mut files, Some(24)), None);
        files.push(sized(24, 600_000));
        let chosen = Choice::of(&mut files, None).unwrap();
        assert_eq!((chosen.files.len(), chosen.which), (15, Joined::Some));
        assert!(chosen.files.iter().all(|file| file.size_bytes == 1_000));
        assert_eq!(files.len(), 10);
        // Once most of it is outdated it is joined, and if it is the only one.
        let mut worn = vec![StateFile { entries: 4 * 1_000 + ENTRIES_SPARE, ..sized(1, 1 << 30) }];
        assert_eq!(Choice::of(&mut worn, Some(1_000)), None);
        assert_eq!(Choice::of(&mut worn, None), None);
        let chosen = Choice::of(&mut worn, Some(999)).unwrap();
        assert_eq!((chosen.files.len(), chosen.which), (1, Joined::All));
    }
}
