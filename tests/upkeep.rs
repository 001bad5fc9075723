//! A table's past and its upkeep: time travel, changes, restore, compaction, vacuum.

use crate::support;
use crate::support::busy::BusyStore;
use crate::support::tables::{World, refusal, rows, run};
use futures::{FutureExt, TryStreamExt};
use onefold::datafusion::prelude::SessionContext;
use onefold::object_store::memory::InMemory;
use onefold::object_store::{ObjectStore, ObjectStoreExt};
use onefold::prelude::*;
use onefold::testing::AgedStore;
use onefold::types::{Clock, SystemClock};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const TABLE: &str = "CREATE EXTERNAL TABLE t (k BIGINT NOT NULL, v BIGINT, PRIMARY KEY (k))
    STORED AS DELTA LOCATION 'memory:///t'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_table_can_be_read_as_it_was_by_version_and_by_time() {
    let context = World::new().session();
    run(&context, TABLE).await.unwrap();
    let mut known: Vec<(u64, String, String)> = Vec::new();
    for round in 0..8 {
        run(&context, &format!("INSERT INTO t VALUES ({}, {round}), (9, {round})", round % 3))
            .await
            .unwrap();
        SystemClock.sleep(Duration::from_millis(15)).await;
        let now = rows(&context, "SELECT now()").await.remove(0);
        SystemClock.sleep(Duration::from_millis(15)).await;
        let found = rows(&context, "SELECT * FROM t ORDER BY k").await.join("|");
        known.push((context.table_version("t").unwrap(), now, found));
    }
    for (version, at, expected) in &known {
        for time in [version.to_string(), format!("'{at}'"), format!("TIMESTAMP '{at}'")] {
            let query = format!("SELECT * FROM onefold_at('t', {time}) ORDER BY k");
            assert_eq!(rows(&context, &query).await.join("|"), *expected, "{query}");
        }
    }
    let filtered = format!("SELECT v FROM onefold_at('t', {}) WHERE k = 9", known[2].0);
    assert_eq!(rows(&context, &filtered).await, ["2"]);
    let future = refusal(&context, "SELECT * FROM onefold_at('t', 1000)").await;
    assert!(future.contains("version 1000 is not kept; there are versions 0 to"), "{future}");
    let past = refusal(&context, "SELECT * FROM onefold_at('t', '1999-01-01T00:00:00')").await;
    assert!(past.contains("1999-01-01T00:00:00Z is not kept"), "{past}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_netted_and_a_compaction_is_none() {
    let context = World::new().session();
    run(&context, TABLE).await.unwrap();
    run(&context, "INSERT INTO t VALUES (1, 1), (2, 2), (3, 3), (4, 4)").await.unwrap();
    let from = context.table_version("t").unwrap();
    for statement in [
        "UPDATE t SET v = 10 WHERE k = 1",
        "UPDATE t SET v = 11 WHERE k = 1",
        "DELETE FROM t WHERE k = 2",
        "DELETE FROM t WHERE k = 3",
        "INSERT INTO t VALUES (3, 3), (5, 5), (6, 6)",
        "DELETE FROM t WHERE k = 6",
        "UPDATE t SET v = v WHERE k = 4",
        "SELECT * FROM onefold_optimize('t')",
    ] {
        run(&context, statement).await.unwrap();
    }
    let to = context.table_version("t").unwrap();
    let query =
        format!("SELECT _change_type, k, v FROM onefold_changes('t', {from}, {to}) ORDER BY k, v");
    let found = rows(&context, &query).await;
    assert_eq!(found, ["update_preimage 1 1", "update_postimage 1 11", "delete 2 2", "insert 5 5"]);
    assert_eq!(
        rows(&context, &query.replace(&format!("{from},"), &format!("{to},"))).await,
        [""; 0]
    );
    let undo = format!(
        "DELETE FROM t WHERE k IN (SELECT k FROM onefold_changes('t', {from}, {to}) WHERE _change_type = 'insert')"
    );
    assert_eq!(rows(&context, &undo).await, ["1"], "a statement may ask for the past of its table");
    let backwards = refusal(&context, "SELECT * FROM onefold_changes('t', 3, 1)").await;
    assert!(backwards.contains("the older version first"), "{backwards}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_after_a_restore_equals_one_that_never_went_further() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (source, how) = (support::source(1), support::How::default());
    let log: Vec<support::Row> =
        (0..60).map(|row| (Some((row % 5) as u8), Some(row * 4), row)).collect();
    let context = support::session(&store, &source, how).await.unwrap();
    let pipeline = context.pipeline("t").unwrap();
    let mut versions = Vec::new();
    for part in log.chunks(10) {
        source.push("p0", &support::batch(part)).unwrap();
        pipeline.run_until_idle().await.unwrap();
        versions.push((context.table_version("t").unwrap(), table(&context).await));
    }
    let finished = table(&context).await;
    for (version, then) in versions.into_iter().rev() {
        let context = support::session(&store, &source, how).await.unwrap();
        let restored =
            rows(&context, &format!("SELECT * FROM onefold_restore('t', {version})")).await;
        assert_eq!(restored, [context.table_version("t").unwrap().to_string()]);
        assert_eq!(table(&context).await, then, "version {version}");
        context.pipeline("t").unwrap().run_until_idle().await.unwrap();
        assert_eq!(table(&context).await, finished, "gone on from version {version}");
    }
    source.push("p0", &support::batch(&[(Some(1), Some(1_000), 1_000)])).unwrap();
    assert!(pipeline.run_epoch().await.is_err(), "who ran before is fenced off");
    let context = support::session(&store, &source, how).await.unwrap();
    context.pipeline("t").unwrap().run_until_idle().await.unwrap();
    let finished = table(&context).await;
    let context = support::session(&store, &source, how).await.unwrap();
    rows(&context, "SELECT * FROM onefold_restore('t', 1)").await;
    assert_eq!(table(&context).await, [""; 0], "before the first epoch");
    context.pipeline("t").unwrap().run_until_idle().await.unwrap();
    assert_eq!(table(&context).await, finished, "the whole log again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vacuum_deletes_what_no_kept_version_names_and_nothing_else() {
    let mut world = World::new();
    world.settings.retention_hours = 0; // no vacuum but ours
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    world.store = Arc::new(AgedStore::new(inner, world.clock.as_ref().clone()));
    let context = world.session();
    run(&context, TABLE).await.unwrap();
    let mut known = BTreeMap::new();
    for round in 0..60_i64 {
        run(
            &context,
            &format!("INSERT INTO t VALUES ({}, {round}), ({}, {round})", round % 7, 100 + round),
        )
        .await
        .unwrap();
        known.insert(context.table_version("t").unwrap(), table(&context).await);
        if round == 20 || round == 45 {
            rows(&context, "SELECT * FROM onefold_restore('t', 8)").await;
            known.insert(context.table_version("t").unwrap(), table(&context).await);
        }
        world.clock.advance(Duration::from_hours(2));
    }
    world.store.put(&"t/orphan.parquet".into(), "lost".into()).await.unwrap();
    let objects = objects(&world.store).await;
    let report = rows(&context, "SELECT * FROM onefold_vacuum('t', '60 hours')").await.remove(0);
    let numbers: Vec<u64> = report.split(' ').map(|number| number.parse().unwrap()).collect();
    assert!(numbers[0] > 20 && numbers[1] > 20 && numbers[2] > 10, "{report}");
    assert!(world.store.head(&"t/orphan.parquet".into()).await.is_ok(), "too young");
    for context in [&context, &opened_in(&world).await] {
        for (version, expected) in &known {
            let query = format!("SELECT k, v FROM onefold_at('t', {version}) ORDER BY k");
            if *version >= numbers[0] {
                assert_eq!(rows(context, &query).await, *expected, "version {version}");
            } else {
                let refused = refusal(context, &query).await;
                assert!(refused.contains("is not kept"), "version {version}: {refused}");
            }
        }
    }
    world.clock.advance(Duration::from_hours(200));
    for _ in 0..10 {
        run(&context, "INSERT INTO t VALUES (1, 1)").await.unwrap();
    }
    world.clock.advance(Duration::from_hours(100));
    run(&context, "INSERT INTO t VALUES (1, 1); SELECT * FROM onefold_checkpoint('t')")
        .await
        .unwrap();
    let short = refusal(&context, "VACUUM t RETAIN 23 HOURS").await;
    assert!(short.contains("for 24 hours at least"), "{short}");
    rows(&context, "VACUUM t RETAIN 24 HOURS").await;
    assert!(world.store.head(&"t/orphan.parquet".into()).await.is_err());
    assert!(self::objects(&world.store).await * 4 < objects);
    assert_eq!(table(&opened_in(&world).await).await, table(&context).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_and_feeds_read_the_files_that_differ_and_no_other() {
    let mut world = World::new();
    world.settings.compact_rows_min = 0;
    world.settings.checkpoint_interval = 1_000; // a checkpoint is a Parquet file too
    let busy = BusyStore::new(Arc::clone(&world.store));
    let writer = opened_in(&world).await;
    for key in 0..12 {
        run(&writer, &format!("INSERT INTO t VALUES ({key}, 0)")).await.unwrap();
    }
    let from = writer.table_version("t").unwrap();
    let files = async || -> BTreeSet<String> {
        let all = world.store.list(Some(&"t".into())).map_ok(|own| own.location.to_string());
        let all: Vec<String> = all.try_collect().await.unwrap();
        all.into_iter().filter(|path| path.ends_with(".parquet")).collect()
    };
    let old = files().await;
    let feed = "CREATE UNBOUNDED EXTERNAL TABLE t_changes STORED AS DELTA LOCATION 'memory:///t';
        CREATE EXTERNAL TABLE c (k BIGINT NOT NULL, v BIGINT, PRIMARY KEY (k))
        STORED AS DELTA LOCATION 'memory:///c'; INSERT INTO c SELECT k, v FROM t_changes";
    let follower = world.session();
    run(&follower, feed).await.unwrap();
    follower.pipeline("c").unwrap().run_until_idle().await.unwrap();
    run(&writer, "INSERT INTO t VALUES (20, 1); UPDATE t SET v = 1 WHERE k = 3").await.unwrap();
    run(&writer, "DELETE FROM t WHERE k = 5").await.unwrap();
    let to = writer.table_version("t").unwrap();
    let (now, read) = (files().await, Arc::new(Mutex::new(BTreeSet::new())));
    for path in &now {
        let (read, own) = (Arc::clone(&read), path.clone());
        busy.before_get(path, usize::MAX >> 8, move || {
            read.lock().unwrap().insert(own.clone());
            async {}.boxed()
        });
    }
    let come: BTreeSet<String> = now.difference(&old).cloned().collect();
    assert_eq!((old.len(), come.len()), (12, 2));
    world.store = Arc::new(busy);
    let reader = opened_in(&world).await;
    assert!(read.lock().unwrap().is_empty(), "opening reads no data file");
    let query = format!("SELECT _change_type, k, v FROM onefold_changes('t', {from}, {to})");
    let mut found = rows(&reader, &query).await;
    found.sort();
    let expected = ["delete 5 0", "insert 20 1", "update_postimage 3 1", "update_preimage 3 0"];
    assert_eq!(found, expected);
    let seen = std::mem::take(&mut *read.lock().unwrap());
    assert!(come.is_subset(&seen), "{seen:?}");
    assert_eq!(seen.len(), 4, "two that came, one for each row that is gone: {seen:?}");
    let again = world.session();
    run(&again, feed).await.unwrap();
    again.pipeline("c").unwrap().run_until_idle().await.unwrap();
    assert_eq!(rows(&again, "SELECT count(*), sum(v) FROM c").await, ["12 2"]);
    assert_eq!(*read.lock().unwrap(), seen, "a pipeline reads the same");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    #[test]
    fn changes_lead_from_any_version_to_any_later_one(
        steps in proptest::collection::vec((0..12_i64, 0..4_i64, any::<bool>()), 2..16),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.unwrap().block_on(async {
            let context = World::new().session();
            run(&context, TABLE).await.unwrap();
            let mut states = vec![(0, Vec::new())];
            for (key, value, deletes) in steps {
                let statement = if deletes {
                    format!("DELETE FROM t WHERE k BETWEEN {key} AND {}", key + value)
                } else {
                    format!("INSERT INTO t SELECT value, {value} FROM generate_series({key}, {})", key + 5)
                };
                run(&context, &statement).await.unwrap();
                states.push((context.table_version("t").unwrap(), table(&context).await));
            }
            for (from, old) in &states {
                for (to, new) in states.iter().filter(|(to, _)| to >= from) {
                    let query = format!("SELECT _change_type, k, v FROM onefold_changes('t', {from}, {to})");
                    let mut state = old.clone();
                    let changes: Vec<(String, String)> = rows(&context, &query).await.iter()
                        .map(|row| row.split_once(' ').map(|(kind, row)| (kind.to_owned(), row.to_owned())).unwrap())
                        .collect();
                    for (kind, row) in &changes {
                        if kind == "delete" || kind == "update_preimage" {
                            let at = state.iter().position(|known| known == row).expect("it was there");
                            state.remove(at);
                        }
                    }
                    state.extend(changes.iter().filter(|(kind, _)| kind == "insert" || kind == "update_postimage").map(|(_, row)| row.clone()));
                    state.sort_by_key(|row| row.split(' ').next().unwrap().parse::<i64>().unwrap());
                    assert_eq!(&state, new, "{from} to {to}");
                }
            }
        });
    }
}

async fn opened_in(world: &World) -> SessionContext {
    let context = world.session();
    run(&context, TABLE).await.unwrap();
    context
}

async fn table(context: &SessionContext) -> Vec<String> {
    let has_n = context.table("t").await.unwrap().schema().has_column_with_unqualified_name("n");
    let query = if has_n { "SELECT n FROM t ORDER BY n" } else { "SELECT k, v FROM t ORDER BY k" };
    rows(context, query).await
}

async fn objects(store: &Arc<dyn ObjectStore>) -> usize {
    store.list(None).try_collect::<Vec<_>>().await.unwrap().len()
}
