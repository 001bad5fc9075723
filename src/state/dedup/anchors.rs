//! `Anchors`: the judgement, for one shard of the keys.

use crate::key::{Entry, KeyTable};
use crate::types::{EventTime, Watermark, Within};
use std::collections::{BTreeSet, HashMap};

/// The anchors of one shard of the keys.
#[derive(Debug)]
pub struct Anchors {
    within: Within,
    lateness_us: i64,
    /// The anchor of each key, or [`SEVERAL`].
    single: KeyTable<i64>,
    /// Keys with more than one live anchor.
    several: HashMap<u128, BTreeSet<i64>>,
    /// Hash, in two halves so that an entry takes 24 bytes, and time.
    added: Vec<(u64, u64, i64)>,
    /// Anchors at or before this are forgotten.
    forgotten_to: i64,
}

/// Marks a key whose anchors are in the set beside the table.
const SEVERAL: i64 = i64::MIN;

/// What a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The first of its key within the interval: now an anchor.
    First,
    /// Less than the interval away from an anchor.
    Duplicate,
}

impl Anchors {
    /// No anchors; `lateness_us` is the allowed lateness in microseconds, at least 0.
    #[must_use]
    pub fn new(within: Within, lateness_us: i64) -> Self {
        Self {
            within,
            lateness_us,
            single: KeyTable::new(),
            several: HashMap::new(),
            added: Vec::new(),
            forgotten_to: i64::MIN,
        }
    }

    /// Judges a row that is not late, and makes it an anchor if it is the first of its key.
    ///
    /// Costs one search of the table. With `WITHIN UNBOUNDED` the time is not looked at.
    #[inline]
    pub fn judge(&mut self, hash: u128, at: EventTime) -> Verdict {
        let Within::Interval { width_us } = self.within else {
            return match self.single.find_or_insert(hash, 0) {
                Entry::Found(_) => Verdict::Duplicate,
                Entry::Added => self.accept(hash, 0),
            };
        };
        let at = at.0.max(SEVERAL + 1);
        let anchor = match self.single.find_or_insert(hash, at) {
            Entry::Added => return self.accept(hash, at),
            Entry::Found(anchor) => anchor,
        };
        if *anchor == SEVERAL {
            return self.judge_several(hash, at, width_us);
        }
        if anchor.abs_diff(at) < width_us {
            return Verdict::Duplicate;
        }
        if *anchor <= self.forgotten_to {
            *anchor = at;
        } else {
            let first = std::mem::replace(anchor, SEVERAL);
            self.several.insert(hash, BTreeSet::from([first, at]));
        }
        self.accept(hash, at)
    }

    /// Starts to bring what a judgement of `hash` reads into the cache.
    #[must_use]
    #[inline]
    pub fn touch(&self, hash: u128) -> u64 {
        self.single.touch(hash)
    }

    /// Puts back an anchor that an earlier epoch accepted.
    pub fn restore(&mut self, hash: u128, at: i64) {
        if self.is_forgotten(at) {
            return;
        }
        match self.single.find_or_insert(hash, at) {
            Entry::Added => {}
            Entry::Found(anchor) if *anchor == at => {}
            Entry::Found(anchor) => {
                let first = std::mem::replace(anchor, SEVERAL);
                let anchors = self.several.entry(hash).or_default();
                if first != SEVERAL {
                    anchors.insert(first);
                }
                anchors.insert(at);
            }
        }
    }

    /// Moves the point up to which anchors need not be kept; it never goes back. Frees nothing.
    pub fn advance(&mut self, watermark: Watermark) {
        let Within::Interval { width_us } = self.within else { return };
        let width = i64::try_from(width_us).unwrap_or(i64::MAX);
        let point = watermark.0.minus_us(width).minus_us(self.lateness_us);
        self.forgotten_to = self.forgotten_to.max(point.0);
    }

    /// Frees the anchors that need not be kept. Costs one pass over the shard.
    pub fn forget(&mut self) {
        if self.forgotten_to == i64::MIN {
            return;
        }
        let point = self.forgotten_to;
        let several = &mut self.several;
        self.single.retain(|hash, anchor| {
            if *anchor != SEVERAL {
                return *anchor > point;
            }
            let Some(anchors) = several.get_mut(&hash) else { return false };
            let live = anchors.split_off(&point.saturating_add(1));
            let Some(first) = live.first().copied() else {
                several.remove(&hash);
                return false;
            };
            if live.len() == 1 {
                several.remove(&hash);
                *anchor = first;
            } else {
                *anchors = live;
            }
            true
        });
    }

    /// What was accepted since the last [`Self::clear_added`]: hash and time of each anchor.
    pub fn added(&self) -> impl Iterator<Item = (u128, i64)> + Clone + '_ {
        self.added.iter().map(|(high, low, at)| (u128::from(*high) << 64 | u128::from(*low), *at))
    }

    /// Begins anew to note what is accepted. The notes keep the room they used, unless it was much
    /// more than this time.
    pub fn clear_added(&mut self) {
        let used = self.added.len();
        self.added.clear();
        self.added.shrink_to(used * 2);
    }

    /// Keys held.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.single.len()
    }

    /// Bytes held now.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.single.allocated_bytes() + self.beside()
    }

    /// Bytes that will be held after at most `more` new anchors.
    #[must_use]
    pub fn bytes_after(&self, more: usize) -> usize {
        let notes = (self.added.len() + more).saturating_sub(self.added.capacity());
        self.single.bytes_after(more) + self.beside() + notes * size_of::<(u64, u64, i64)>()
    }

    /// Whether an anchor at `at` need not be kept.
    #[must_use]
    pub fn is_forgotten(&self, at: i64) -> bool {
        self.forgotten_to != i64::MIN && at <= self.forgotten_to
    }

    fn beside(&self) -> usize {
        const SET_BYTES: usize = 160; // one map entry and one tree node
        self.several.len() * SET_BYTES + self.added.capacity() * size_of::<(u64, u64, i64)>()
    }

    fn accept(&mut self, hash: u128, at: i64) -> Verdict {
        self.added.push(((hash >> 64) as u64, hash as u64, at));
        Verdict::First
    }

    fn judge_several(&mut self, hash: u128, at: i64, width_us: u64) -> Verdict {
        let anchors = self.several.entry(hash).or_default();
        let before = anchors.range(..=at).next_back();
        let after = anchors.range(at..).next();
        if before.into_iter().chain(after).any(|anchor| anchor.abs_diff(at) < width_us) {
            return Verdict::Duplicate;
        }
        anchors.insert(at);
        self.accept(hash, at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_interval_is_half_open_in_both_directions() {
        let mut anchors = within(10);
        assert_eq!(judge(&mut anchors, 1, 100), Verdict::First);
        assert_eq!(judge(&mut anchors, 1, 109), Verdict::Duplicate);
        assert_eq!(judge(&mut anchors, 1, 91), Verdict::Duplicate);
        assert_eq!(judge(&mut anchors, 1, 110), Verdict::First);
        assert_eq!(judge(&mut anchors, 1, 90), Verdict::First);
        assert_eq!(judge(&mut anchors, 1, 81), Verdict::Duplicate);
        assert_eq!(judge(&mut anchors, 2, 100), Verdict::First);
    }

    #[test]
    fn an_anchor_is_forgotten_exactly_when_no_duplicate_can_come() {
        let mut anchors = Anchors::new(Within::Interval { width_us: 10 }, 5);
        judge(&mut anchors, 1, 100);
        anchors.advance(Watermark(EventTime(114)));
        anchors.forget();
        assert_eq!(anchors.keys(), 1);
        anchors.advance(Watermark(EventTime(115)));
        anchors.forget();
        assert_eq!(anchors.keys(), 0);
    }

    #[test]
    fn unbounded_remembers_for_ever() {
        let mut anchors = Anchors::new(Within::Unbounded, 0);
        assert_eq!(judge(&mut anchors, 1, 0), Verdict::First);
        anchors.advance(Watermark(EventTime(i64::MAX)));
        anchors.forget();
        assert_eq!(judge(&mut anchors, 1, i64::MAX), Verdict::Duplicate);
    }

    proptest! {
        #[test]
        fn forgetting_restoring_and_the_order_of_it_never_change_an_answer(
            steps in proptest::collection::vec((0..3_u128, 0..40_i64, 0..4_u8), 0..120),
        ) {
            let (mut tried, mut all) = (within(10), Vec::<(u128, i64)>::new());
            let mut watermark = 0;
            for (hash, ahead, what) in steps {
                let at = watermark + ahead;
                let near = |(key, anchor): &(u128, i64)| *key == hash && anchor.abs_diff(at) < 10;
                let expected = if all.iter().any(near) { Verdict::Duplicate } else { Verdict::First };
                prop_assert_eq!(judge(&mut tried, hash, at), expected);
                if expected == Verdict::First {
                    all.push((hash, at));
                }
                match what {
                    0 => watermark += ahead / 2,
                    1 => tried.forget(),
                    2 => {
                        tried = within(10);
                        tried.advance(Watermark(EventTime(watermark)));
                        for (key, at) in &all {
                            tried.restore(hash_of(*key), *at);
                        }
                    }
                    _ => {}
                }
                tried.advance(Watermark(EventTime(watermark)));
            }
        }
    }

    fn within(width_us: u64) -> Anchors {
        Anchors::new(Within::Interval { width_us }, 0)
    }

    fn judge(anchors: &mut Anchors, key: u128, at: i64) -> Verdict {
        anchors.judge(hash_of(key), EventTime(at))
    }

    fn hash_of(key: u128) -> u128 {
        (key + 1) << 100 | key
    }
}
