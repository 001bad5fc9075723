//! The rules of upsert tables: sequences, deletes and merge modes, through SQL.

use crate::support;
use crate::support::tables::{World, refusal, rows, run};
use onefold::object_store::memory::InMemory;
use onefold::object_store::{ObjectStore, ObjectStoreExt};
use onefold::prelude::*;
use onefold::testing::SimulatedClock;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const CDC: &str = "CREATE EXTERNAL TABLE t (k BIGINT NOT NULL, v VARCHAR, lsn BIGINT, op VARCHAR,
    PRIMARY KEY (k)) STORED AS DELTA LOCATION 'memory:///t'
    OPTIONS ('sequence_by' 'lsn', 'op_column' 'op', 'unstored' 'lsn, op')";

/// A change of key `k`: its sequence, and its value or that it is deleted.
type Event = (i64, i64, Option<i64>);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn columns_that_are_not_stored_are_taken_and_not_shown() {
    let world = World::new();
    let context = world.session();
    run(&context, CDC).await.unwrap();
    run(&context, "INSERT INTO t VALUES (1, 'a', 10, 'c'), (2, 'b', 11, 'I'), (1, 'c', 9, 'u')")
        .await
        .unwrap();
    assert_eq!(rows(&context, "SELECT * FROM t ORDER BY k").await, ["1 a", "2 b"]);
    run(&context, "INSERT INTO t (k, lsn, op) VALUES (2, 12, 'd')").await.unwrap();
    assert_eq!(rows(&context, "SELECT * FROM t AS x WHERE x.k > 0").await, ["1 a"]);
    let again = world.session();
    run(&again, "CREATE EXTERNAL TABLE t STORED AS DELTA LOCATION 'memory:///t'").await.unwrap();
    run(
        &again,
        "INSERT INTO t VALUES (2, 'older', 11, 'u'), (1, 'older', 9, 'u'), (3, 'n', 1, 'r')",
    )
    .await
    .unwrap();
    assert_eq!(rows(&again, "SELECT * FROM t ORDER BY k").await, ["1 a", "3 n"]);
    let unknown = refusal(&again, "INSERT INTO t VALUES (5, 'x', 20, 'z')").await;
    assert!(unknown.contains("op is 'z' in row {k: 5, v: x, lsn: 20, op: z}"), "{unknown}");
    let null = refusal(&again, "INSERT INTO t VALUES (5, 'x', NULL, 'c')").await;
    assert!(null.contains("column lsn is NULL in row"), "{null}");
    let again = world.session();
    run(&again, CDC).await.unwrap();
    let again = world.session();
    let other = CDC.replace("'sequence_by' 'lsn', ", "").replace("lsn, op'", "op'");
    let other = refusal(&again, &other).await;
    assert!(other.contains("it has option 'sequence_by' 'lsn' too"), "{other}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_beats_older_rows_until_the_horizon_and_older_ones_are_then_dropped() {
    let world = World::new();
    let context = world.session();
    let table = CDC.replace("'op_column'", "'tombstone_horizon' '1 hour', 'op_column'");
    run(&context, &table).await.unwrap();
    run(&context, "INSERT INTO t VALUES (1, 'a', 10, 'c'), (2, 'z', 90, 'c')").await.unwrap();
    run(&context, "INSERT INTO t VALUES (1, NULL, 20, 'd'), (7, NULL, 21, 'd')").await.unwrap();
    let late =
        "INSERT INTO t VALUES (1, 'late', 15, 'u'), (7, 'late', 20, 'u'), (8, 'new', 5, 'c')";
    run(&context, late).await.unwrap();
    assert_eq!(rows(&context, "SELECT * FROM t ORDER BY k").await, ["2 z", "8 new"]);
    wait(&world.clock, Duration::from_secs(3601)).await;
    run(&context, "INSERT INTO t VALUES (2, 'y', 91, 'u')").await.unwrap();
    let after =
        "INSERT INTO t VALUES (1, 'late', 15, 'u'), (9, 'old', 21, 'c'), (10, 'n', 22, 'c')";
    let again = world.session();
    run(&again, &table).await.unwrap();
    for context in [&context, &again] {
        run(context, after).await.unwrap();
        let found = rows(context, "SELECT * FROM t ORDER BY k").await;
        assert_eq!(found, ["2 y", "8 new", "10 n"], "not newer than what was forgotten");
    }
    run(&context, "INSERT INTO t VALUES (1, 'back', 30, 'u')").await.unwrap();
    assert_eq!(rows(&context, "SELECT v FROM t WHERE k = 1").await, ["back"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sequences_of_several_columns_are_compared_whole() {
    let world = World::new();
    let context = world.session();
    run(
        &context,
        "CREATE EXTERNAL TABLE t (k BIGINT NOT NULL, v VARCHAR, a VARCHAR, b BIGINT, PRIMARY KEY (k))
         STORED AS DELTA LOCATION 'memory:///t' OPTIONS ('sequence_by' 'a, b', 'op_column' 'v',
         'op_delete' 'gone', 'op_insert' 'one,two,three', 'op_update' '')",
    )
    .await
    .unwrap();
    for (row, expected) in [
        ("(1, 'one', 'longer than eight', 5)", vec!["one"]),
        ("(1, 'two', 'longer than eighs', 9)", vec!["one"]),
        ("(1, 'two', 'longer than eight', 4)", vec!["one"]),
        ("(1, 'two', 'longer than eight', 5)", vec!["two"]),
        ("(1, 'gone', 'longer than eight', 4)", vec!["two"]),
        ("(1, 'gone', 'longer than eight', 6)", vec![]),
        ("(1, 'three', 'longer than eight', 5)", vec![]),
        ("(1, 'gone', 'longer than eight', 2)", vec![]),
        ("(1, 'three', 'longer than eight', 6)", vec!["three"]),
    ] {
        run(&context, &format!("INSERT INTO t VALUES {row}")).await.unwrap();
        assert_eq!(rows(&context, "SELECT v FROM t").await, expected, "after {row}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_row_stays_where_the_table_keeps_the_first() {
    let world = World::new();
    let context = world.session();
    run(
        &context,
        "CREATE EXTERNAL TABLE f (k BIGINT NOT NULL, v BIGINT, PRIMARY KEY (k)) STORED AS DELTA
         LOCATION 'memory:///f' OPTIONS ('merge_mode' 'first');
         INSERT INTO f VALUES (1, 1), (1, 2); INSERT INTO f VALUES (1, 3), (2, 4);
         CREATE EXTERNAL TABLE s (k BIGINT NOT NULL, v BIGINT, PRIMARY KEY (k)) STORED AS DELTA
         LOCATION 'memory:///s' OPTIONS ('merge_mode' 'first', 'sequence_by' 'v');
         INSERT INTO s VALUES (1, 5), (1, 4); INSERT INTO s VALUES (1, 6), (2, 9);
         INSERT INTO s VALUES (1, 3), (2, 9);
         CREATE EXTERNAL TABLE e (k BIGINT NOT NULL, at BIGINT, v BIGINT, PRIMARY KEY (k))
         STORED AS DELTA LOCATION 'memory:///e' OPTIONS ('merge_mode' 'first', 'sequence_by' 'at');
         INSERT INTO e VALUES (1, 5, 1), (1, 5, 2); INSERT INTO e VALUES (1, 5, 3)",
    )
    .await
    .unwrap();
    assert_eq!(rows(&context, "SELECT * FROM f ORDER BY k").await, ["1 1", "2 4"]);
    assert_eq!(rows(&context, "SELECT * FROM s ORDER BY k").await, ["1 3", "2 9"]);
    assert_eq!(rows(&context, "SELECT v FROM e").await, ["1"], "of equal ones the earlier");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partial_row_fills_in_and_groups_follow_their_own_sequence() {
    let world = World::new();
    let context = world.session();
    run(
        &context,
        "CREATE EXTERNAL TABLE p (k BIGINT NOT NULL, name VARCHAR, price BIGINT, currency VARCHAR,
         at BIGINT, must BIGINT NOT NULL, PRIMARY KEY (k)) STORED AS DELTA LOCATION 'memory:///p'
         OPTIONS ('merge_mode' 'partial', 'sequence_group.at' 'price, currency');
         INSERT INTO p VALUES (1, 'a', 10, 'EUR', 5, 1), (1, NULL, 11, NULL, 4, 1);
         INSERT INTO p VALUES (1, NULL, 12, NULL, 6, 2), (1, 'b', 99, 'USD', NULL, 2);
         INSERT INTO p VALUES (1, NULL, 13, 'CHF', 5, 3)",
    )
    .await
    .unwrap();
    assert_eq!(rows(&context, "SELECT * FROM p").await, ["1 b 12 NULL 6 3"]);
    let missing = "INSERT INTO p (k, name) VALUES (2, 'x')";
    let refused = refusal(&context, missing).await;
    assert!(refused.contains("column must is NULL in row {k: 2, name: x,"), "{refused}");
    run(&context, &missing.replace('2', "1")).await.unwrap();
    assert_eq!(rows(&context, "SELECT name, must FROM p").await, ["x 3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aggregating_columns_fold_every_row_once() {
    let world = World::new();
    let context = world.session();
    run(
        &context,
        "CREATE EXTERNAL TABLE a (k BIGINT NOT NULL, n BIGINT, total TINYINT, low BIGINT,
         high VARCHAR, any BOOLEAN, bits INT, last VARCHAR, op VARCHAR, PRIMARY KEY (k))
         STORED AS DELTA LOCATION 'memory:///a' OPTIONS ('merge_mode' 'aggregate',
         'merge.n' 'count', 'merge.total' 'sum', 'merge.low' 'min', 'merge.high' 'max',
         'merge.any' 'bool_or', 'merge.bits' 'bit_xor', 'op_column' 'op', 'unstored' 'op');
         INSERT INTO a VALUES (1, 7, 50, 3, 'b', false, 5, 'x', 'I'),
                              (1, NULL, 20, 2, 'a', NULL, 1, 'y', 'I');
         INSERT INTO a VALUES (1, 7, 50, 9, 'c', true, NULL, NULL, 'I'), (2, 1, 1, 1, 'z', false, 0, 'q', 'I')",
    )
    .await
    .unwrap();
    let found = rows(&context, "SELECT * FROM a ORDER BY k").await;
    assert_eq!(found, ["1 2 120 2 c true 4 NULL", "2 1 1 1 z false 0 q"]);
    let overflow =
        refusal(&context, "INSERT INTO a (k, total, op) VALUES (2, 5, 'I'), (1, 8, 'I')").await;
    assert!(overflow.contains("the sum in column total leaves the range"), "{overflow}");
    assert_eq!(rows(&context, "SELECT * FROM a ORDER BY k").await, found, "nothing of it is there");
    run(
        &context,
        "INSERT INTO a (k, n, total, op) VALUES (1, 1, 1, 'I'), (1, 1, 1, 'D'), (1, 1, 3, 'I')",
    )
    .await
    .unwrap();
    assert_eq!(rows(&context, "SELECT n, total, low FROM a WHERE k = 1").await, ["1 3 NULL"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_of_changes_ends_with_the_newest_of_each_key() {
    let (source, how) =
        (support::source(2), support::How { epoch_rows_max: 7, ..Default::default() });
    let mut newest: BTreeMap<i64, (i64, String)> = BTreeMap::new();
    for partition in 0..2 {
        let number = |row: i64| (row * 37 % 40) * 2 + partition; // each once
        let log: Vec<support::Row> =
            (0..40).map(|row| (Some((row % 9) as u8), Some(row), number(row))).collect();
        for (key, _, number) in &log {
            let own = (*number, key.unwrap().to_string());
            let best = newest.entry(number % 6).or_insert((-1, String::new()));
            if own.0 > best.0 {
                *best = own;
            }
        }
        source.push(&format!("p{partition}"), &support::batch(&log)).unwrap();
    }
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let context = support::session(&store, &source, how).await.unwrap();
    let create = CDC.replace("TABLE t", "TABLE c").replace("memory:///t", "memory:///c");
    run(&context, &create).await.unwrap();
    let insert = "INSERT INTO c SELECT n % 6, k, n,
        CASE WHEN n % 4 = 0 THEN 'd' ELSE 'u' END FROM events";
    context.run_sql(insert).await.unwrap();
    let status = context.pipeline("c").unwrap().run_until_idle().await.unwrap();
    let alive = newest.iter().filter(|(_, (number, _))| number % 4 != 0);
    let expected: Vec<String> = alive.map(|(key, (_, value))| format!("{key} {value}")).collect();
    assert_eq!(rows(&context, "SELECT * FROM c ORDER BY k").await, expected);
    assert_eq!(status.rows_inserted, status.rows_deleted + expected.len() as u64);
    assert!(status.epochs > 5 && status.rows_ignored > 0, "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_takes_new_columns_and_the_rest_is_refused_with_the_reason() {
    let world = World::new();
    let context = world.session();
    run(&context, CDC).await.unwrap();
    run(&context, "INSERT INTO t VALUES (1, 'a', 1, 'c'), (2, 'b', 1, 'c')").await.unwrap();
    for (statement, said) in [
        ("ALTER TABLE t ADD COLUMN V BIGINT", "there is a column v already"),
        ("ALTER TABLE t ADD COLUMN w BIGINT NOT NULL", "a new column cannot be NOT NULL"),
        ("ALTER TABLE t ADD COLUMN w BIGINT[]", "Delta has no type for"),
        ("ALTER TABLE t DROP COLUMN v", "DROP COLUMN v: an upsert table knows ADD COLUMN"),
        ("ALTER TABLE t ALTER COLUMN v TYPE BIGINT", "column v is Utf8, and not all its values"),
        ("ALTER TABLE t ALTER COLUMN k DROP NOT NULL", "k is in the PRIMARY KEY"),
        ("ALTER TABLE nothing ADD COLUMN w BIGINT", "is for upsert tables of this session"),
    ] {
        let error = refusal(&context, statement).await;
        assert!(error.contains(said), "{statement}: {error}");
    }
    run(&context, "ALTER TABLE t ADD COLUMN w BIGINT, ADD COLUMN IF NOT EXISTS v VARCHAR")
        .await
        .unwrap();
    assert_eq!(rows(&context, "SELECT * FROM t ORDER BY k").await, ["1 a NULL", "2 b NULL"]);
    run(&context, "INSERT INTO t VALUES (2, 'c', 2, 'u', 7), (3, 'd', 1, 'c', 8)").await.unwrap();
    run(&context, "RESTORE t TO VERSION AS OF 3; INSERT INTO t VALUES (2, 'c', 2, 'u', 7)")
        .await
        .unwrap();
    for version in [3, 5] {
        let checksum = format!("t/_delta_log/{version:020}.crc");
        assert!(world.store.head(&checksum.as_str().into()).await.is_ok(), "{checksum}");
    }
    let again = world.session();
    run(&again, "CREATE EXTERNAL TABLE t STORED AS DELTA LOCATION 'memory:///t'").await.unwrap();
    for context in [&context, &again] {
        run(context, "OPTIMIZE t").await.unwrap();
        let found = rows(context, "SELECT w, k, v FROM t ORDER BY k").await;
        assert_eq!(found, ["NULL 1 a", "7 2 c", "8 3 d"]);
        assert_eq!(rows(context, "SELECT k FROM t WHERE w > 7").await, ["3"]);
        assert_eq!(rows(context, "SELECT * FROM t VERSION AS OF 1 ORDER BY k").await.len(), 2);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_order_of_arrival_does_not_matter_where_rows_have_sequences(
        events in proptest::collection::vec((0..6_i64, 0..40_i64, proptest::option::of(0..100_i64)), 1..40),
        order in any::<u64>(),
        cuts in proptest::collection::vec(1..9_usize, 1..12),
        restarts in any::<u16>(),
    ) {
        // Of equal sequences the later one would win: give each event of a key its own.
        let mut events: Vec<Event> = events;
        let mut seen = std::collections::BTreeSet::new();
        events.retain(|(key, sequence, _)| seen.insert((*key, *sequence)));
        let mut model: BTreeMap<i64, (i64, Option<i64>)> = BTreeMap::new();
        for (key, sequence, value) in &events {
            let newest = model.entry(*key).or_insert((i64::MIN, None));
            if *sequence >= newest.0 {
                *newest = (*sequence, *value);
            }
        }
        let expected: Vec<String> =
            model.iter().filter_map(|(key, (_, value))| Some(format!("{key} {}", (*value)?))).collect();
        shuffle(&mut events, order);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let found = runtime.unwrap().block_on(arrive(&events, &cuts, restarts));
        prop_assert_eq!(found, expected);
    }
}

/// Inserts `events` in parts of the lengths `cuts`, in a new session wherever a bit of `restarts` says.
async fn arrive(events: &[Event], cuts: &[usize], restarts: u16) -> Vec<String> {
    let world = World::new();
    let mut context = world.session();
    run(&context, CDC).await.unwrap();
    let mut rest = events;
    for (number, cut) in cuts.iter().cycle().enumerate() {
        let (now, later) = rest.split_at((*cut).min(rest.len()));
        let values: Vec<String> = now
            .iter()
            .map(|(key, sequence, value)| match value {
                Some(value) => format!("({key}, '{value}', {sequence}, 'u')"),
                None => format!("({key}, NULL, {sequence}, 'd')"),
            })
            .collect();
        run(&context, &format!("INSERT INTO t VALUES {}", values.join(", "))).await.unwrap();
        rest = later;
        if rest.is_empty() {
            break;
        }
        if restarts & (1 << (number % 16)) != 0 {
            context = world.session();
            run(&context, CDC).await.unwrap();
        }
    }
    rows(&context, "SELECT k, v FROM t ORDER BY k").await
}

fn shuffle(events: &mut [Event], seed: u64) {
    let mut state = seed | 1;
    for index in (1..events.len()).rev() {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        events.swap(index, (state >> 33) as usize % (index + 1));
    }
}

async fn wait(clock: &SimulatedClock, time: Duration) {
    use onefold::types::Clock;
    clock.sleep(time).await;
}
