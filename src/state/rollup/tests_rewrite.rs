//! Shards that are written anew while their rows, or their index too, are on disk.

use super::shard::Shard;
use super::spill::SpillFiles;
use super::tests::{Partial, aggregates, in_rows, rows};
use std::collections::BTreeMap;

/// More than a few blocks.
const GROUPS: i64 = 9_000;

/// Which chunks leave memory before an epoch ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaves {
    Nothing,
    AllButNewest,
    Rows,
    RowsAndIndex,
}

#[test]
fn a_shard_is_written_anew_where_it_is() {
    for leaves in [Leaves::Nothing, Leaves::AllButNewest, Leaves::Rows, Leaves::RowsAndIndex] {
        let (mut shard, files) = (Shard::new(0.0), SpillFiles::default());
        let mut expected: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
        let mut rewritten = 0;
        for step in 1..40_i64 {
            let some: Vec<Partial> = (0..GROUPS)
                .filter(|group| group % 7 == step % 7 || group % 3 == step % 3)
                .map(|group| (group, 100 + group % 2 * 100, step, group * step % 1_009))
                .collect();
            for (group, end, count, max) in &some {
                let own = expected.entry(*group).or_insert_with(|| vec![*end, *group, 0, *max]);
                (own[2], own[3]) = (own[2] + count, own[3].max(*max));
            }
            shard.merge(&aggregates(), &rows(&some)).unwrap();
            if leaves != Leaves::Nothing {
                let keeps_newest = leaves == Leaves::AllButNewest;
                shard.spill_rows(&files.current().unwrap(), keeps_newest).unwrap();
            }
            if leaves == Leaves::RowsAndIndex {
                shard.spill_places(&SpillFiles::folder()).unwrap();
            }
            let (before, chunks) = (shard.bytes(), shard.chunks());
            let changed = shard.finish(0, &files).unwrap().unwrap();
            assert_eq!(changed.num_rows(), some.len());
            if shard.chunks() < chunks {
                rewritten += 1;
                let after = shard.bytes();
                assert!(after <= before + before / 8, "{leaves:?}: {before} and then {after}");
            }
            assert_eq!(shard.groups(), expected.len());
        }
        assert!(rewritten > 5, "{leaves:?}: {rewritten} times");
        let mut all = in_rows(&shard.all().unwrap().unwrap().columns()[1..]);
        all.sort_by_key(|own| own[1]);
        assert!(all.into_iter().eq(expected.values().cloned()), "{leaves:?}");
        // The windows of even groups are closed first.
        let mut closed = in_rows(&shard.closed(&aggregates(), 100).unwrap().unwrap().columns);
        closed.sort();
        let (even, odd): (Vec<_>, Vec<_>) = expected.values().partition(|own| own[0] == 100);
        assert!(closed.iter().eq(even.iter().map(|own| &own[1..])), "{leaves:?}");
        assert!(shard.finish(100, &files).unwrap().is_none());
        let mut left = in_rows(&shard.all().unwrap().unwrap().columns()[1..]);
        left.sort_by_key(|own| own[1]);
        assert!(left.iter().eq(odd), "{leaves:?}");
        assert!(shard.finish(200, &files).unwrap().is_none());
        assert_eq!((shard.groups(), shard.chunks()), (0, 0), "{leaves:?}");
    }
}
