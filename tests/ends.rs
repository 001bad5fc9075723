//! How programs end: what was begun beside commits is finished, or done by the next program.

use crate::support::busy::BusyStore;
use crate::support::tables::{World, rows, run};
use futures::{FutureExt, TryStreamExt};
use onefold::object_store::ObjectStore;
use onefold::object_store::memory::InMemory;
use onefold::prelude::*;
use onefold::testing::AgedStore;
use onefold::types::{Clock, SystemClock};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

const TABLE: &str = "CREATE EXTERNAL TABLE t (k BIGINT NOT NULL, v BIGINT, PRIMARY KEY (k))
    STORED AS DELTA LOCATION 'memory:///t'";

#[test]
fn a_runtime_may_be_dropped_at_once_and_every_version_has_its_checksum() {
    let mut world = World::new();
    let store = slow_checksums();
    world.store = Arc::new(store);
    for (round, mut builder) in
        [Builder::new_multi_thread(), Builder::new_current_thread()].into_iter().enumerate()
    {
        let runtime: Runtime = builder.enable_all().build().unwrap();
        runtime.block_on(async {
            let context = world.session();
            run(&context, TABLE).await.unwrap();
            run(&context, &format!("INSERT INTO t VALUES ({round}, 1)")).await.unwrap();
            run(&context, "UPDATE t SET v = 2 WHERE k = 0").await.unwrap();
            let expected = ["0", "0 1"][round];
            assert_eq!(rows(&context, "SELECT k FROM t ORDER BY k").await.join(" "), expected);
        });
        drop(runtime);
        assert_eq!(versions(&world, "crc"), versions(&world, "json"), "round {round}");
    }
    assert_eq!(versions(&world, "json").len(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_rests_has_written_its_checksums_and_one_that_is_dropped_does_so_too() {
    let mut world = World::new();
    world.store = Arc::new(slow_checksums());
    let context = world.session();
    run(&context, TABLE).await.unwrap();
    run(&context, "INSERT INTO t VALUES (1, 1); DELETE FROM t").await.unwrap();
    context.rest().await;
    assert_eq!(log(&world, "crc").await, log(&world, "json").await);
    run(&context, "INSERT INTO t VALUES (2, 2)").await.unwrap();
    drop(context);
    while log(&world, "crc").await != log(&world, "json").await {
        SystemClock.sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_that_run_for_a_moment_vacuum_once_an_hour_and_keep_what_may_be_read() {
    let mut world = World::new();
    world.settings.retention_hours = 24;
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let store = BusyStore::new(Arc::new(AgedStore::new(inner, world.clock.as_ref().clone())));
    store.before_put("_onefold/clock-", 1_000, || async {}.boxed()); // once for each vacuum
    world.store = Arc::new(store.clone());
    let vacuums = || 1_000 - store.left();
    let mut known: BTreeMap<u64, (i64, Vec<String>)> = BTreeMap::new();
    for round in 0..60_i64 {
        let context = world.session();
        run(&context, TABLE).await.unwrap();
        run(&context, &format!("INSERT INTO t VALUES ({}, {round})", round % 7)).await.unwrap();
        let table = rows(&context, "SELECT k, v FROM t ORDER BY k").await;
        known.insert(context.table_version("t").unwrap(), (world.clock.now_us(), table));
        context.rest().await;
        let before = vacuums();
        let again = world.session();
        run(&again, TABLE).await.unwrap();
        run(&again, "UPDATE t SET v = v WHERE k = 0").await.unwrap();
        again.rest().await;
        again.rest().await;
        assert_eq!(vacuums(), before, "another did it within the hour");
        world.clock.advance(Duration::from_hours(2));
    }
    assert!((50..=60).contains(&vacuums()), "{}", vacuums());
    let reader = world.session();
    run(&reader, TABLE).await.unwrap();
    reader.rest().await;
    let log = log(&world, "json").await;
    assert!((20..60).contains(&log.len()), "{log:?}");
    assert!((50..=60).contains(&vacuums()), "who only reads deletes nothing");
    let is_young = |at: &i64| world.clock.now_us() - at <= 24 * 3_600_000_000;
    for (version, (at, table)) in &known {
        let query = format!("SELECT k, v FROM onefold_at('t', {version}) ORDER BY k");
        if log.contains(&format!("{version:020}")) {
            assert_eq!(rows(&reader, &query).await, *table, "version {version}");
        } else {
            assert!(!is_young(at), "version {version} is within the retention");
        }
    }
    world.settings.retention_hours = 0;
    let keeper = world.session();
    world.clock.advance(Duration::from_hours(100));
    let before = vacuums();
    run(&keeper, TABLE).await.unwrap();
    run(&keeper, "UPDATE t SET v = v WHERE k = 0").await.unwrap();
    keeper.rest().await;
    assert_eq!(vacuums(), before, "a retention of 0 keeps all");
}

/// A store in which a checksum takes its time.
fn slow_checksums() -> BusyStore {
    let store = BusyStore::new(Arc::new(InMemory::new()));
    store.before_put("crc", usize::MAX, || {
        async { SystemClock.sleep(Duration::from_millis(60)).await }.boxed()
    });
    store
}

fn versions(world: &World, kind: &str) -> Vec<String> {
    Builder::new_current_thread().build().unwrap().block_on(log(world, kind))
}

/// The versions of which the log has a file of this kind.
async fn log(world: &World, kind: &str) -> Vec<String> {
    let found: Vec<_> = world.store.list(Some(&"t/_delta_log".into())).try_collect().await.unwrap();
    let of_kind = found.iter().filter(|own| own.location.extension() == Some(kind));
    let mut names: Vec<String> = of_kind
        .filter_map(|own| Some(own.location.filename()?.split_once('.')?.0.to_owned()))
        .collect();
    names.sort();
    names
}
