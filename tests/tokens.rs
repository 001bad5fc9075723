//! `write_once`: a batch is in the table once, whatever fails and however often it is sent.

use crate::support::busy::BusyStore;
use crate::support::tables::{World, rows, run};
use futures::FutureExt;
use onefold::datafusion::common::config::ConfigEntry;
use onefold::datafusion::prelude::SessionContext;
use onefold::object_store::ObjectStore;
use onefold::object_store::memory::InMemory;
use onefold::prelude::*;
use onefold::testing::{Fault, FaultyStore};
use std::sync::Arc;

/// Each row that is folded in twice would be seen.
const TABLE: &str = "CREATE EXTERNAL TABLE t (k BIGINT NOT NULL, n BIGINT, PRIMARY KEY (k))
    STORED AS DELTA LOCATION 'memory:///t'
    OPTIONS ('merge_mode' 'aggregate', 'merge.n' 'sum')";
const LOAD: &str = "SELECT value % 3 AS k, value AS n FROM generate_series(1, 9)";
const OTHER: &str = "SELECT value AS k, 100 AS n FROM generate_series(1, 4)";
const LOADED: [&str; 3] = ["0 18", "1 12", "2 15"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_of_one_write_whatever_is_sent_under_it_again() {
    let world = World::new();
    let context = opened(&world).await;
    let first = write(&context, LOAD, "a").await.unwrap();
    assert!(!first.is_repeated && first.rows_inserted == 3, "{first:?}");
    for context in [&context, &opened(&world).await] {
        for query in [LOAD, OTHER] {
            let again = write(context, query, "a").await.unwrap();
            assert!(again.is_repeated && again.version == first.version, "{again:?}");
            assert_eq!(again.rows_inserted + again.rows_updated + again.rows_ignored, 0);
        }
        assert_eq!(table(context).await, LOADED);
        assert_eq!(context.table_version("t"), Some(first.version), "and no commit is made");
    }
    let second = write(&context, LOAD, "A").await.unwrap();
    assert!(!second.is_repeated && second.rows_updated == 3, "tokens differ by case: {second:?}");
    assert_eq!(table(&context).await, ["0 36", "1 24", "2 30"]);
    let third = write(&context, OTHER, "b").await.unwrap();
    assert_eq!((third.rows_inserted, third.rows_updated), (2, 2));
    let empty = "SELECT 1 AS k, 1 AS n WHERE false";
    let nothing = write(&context, empty, "empty").await.unwrap();
    assert!(!nothing.is_repeated && nothing.version > third.version, "{nothing:?}");
    for token in ["empty", "a", "A", "b"] {
        assert!(write(&context, LOAD, token).await.unwrap().is_repeated, "{token}");
        let reopened = opened(&world).await;
        assert!(write(&reopened, LOAD, token).await.unwrap().is_repeated, "{token}, reopened");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_there_once_wherever_the_writer_is_cut_off() {
    let clean = FaultyStore::once(Arc::new(InMemory::new()), u64::MAX, Fault::Lost);
    let world = World { store: Arc::new(clean.clone()), ..World::new() };
    let context = opened(&world).await;
    let before = clean.calls();
    let _ = write(&context, LOAD, "a").await.unwrap();
    let calls = before + 1..=clean.calls();
    assert!(calls.clone().count() >= 6, "{calls:?}");
    for fault in Fault::ALL {
        for at in calls.clone() {
            let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
            let faulty = FaultyStore::cut_off(Arc::clone(&inner), at, fault);
            let mut world = World { store: Arc::new(faulty.clone()), ..World::new() };
            let context = opened(&world).await;
            drop(write(&context, LOAD, "a").await);
            faulty.apply_late(u64::MAX).await;
            world.store = inner;
            for _ in 0..2 {
                let context = opened(&world).await;
                let _ = write(&context, LOAD, "a").await.unwrap();
                assert_eq!(table(&context).await, LOADED, "{fault:?} at call {at}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_writers_with_one_token_the_first_to_commit_counts() {
    let mut world = World::new();
    let other = opened(&world).await;
    let busy = BusyStore::new(Arc::clone(&world.store));
    world.store = Arc::new(busy.clone());
    let context = opened(&world).await;
    busy.before_put("_delta_log/0", 1, move || {
        let other = other.clone();
        async move { assert!(!write(&other, LOAD, "a").await.unwrap().is_repeated) }.boxed()
    });
    assert!(write(&context, OTHER, "a").await.unwrap().is_repeated);
    assert_eq!(table(&context).await, LOADED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_write_that_is_done_uses_a_token_up_however_it_runs() {
    const SET: &str = "SET onefold.idempotency_token = 'a'";
    for by_script in [true, false] {
        let context = opened(&World::new()).await;
        let does = async |statement: &str| {
            if by_script {
                run(&context, statement).await.map_err(|error| error.to_string())
            } else {
                let frame = context.sql(statement).await.map_err(|error| error.to_string())?;
                frame.collect().await.map(drop).map_err(|error| error.to_string())
            }
        };
        let token = async || {
            let entries = context.state().config_options().entries();
            let is_it = |own: &&ConfigEntry| own.key == "onefold.idempotency_token";
            entries.iter().find(is_it).unwrap().value.as_deref() == Some("a")
        };
        does(SET).await.unwrap();
        does("SELECT count(*) FROM t").await.unwrap();
        does("SELECT * FROM onefold_optimize('t')").await.unwrap();
        does("INSERT INTO t VALUES (NULL, 1)").await.unwrap_err();
        assert!(token().await, "nothing was written");
        does("INSERT INTO t VALUES (1, 1)").await.unwrap();
        assert!(!token().await, "it is used up");
        does("INSERT INTO t VALUES (2, 1)").await.unwrap();
        does("UPDATE t SET n = n + 1 WHERE k = 2").await.unwrap();
        assert_eq!(table(&context).await, ["1 1", "2 2"]);
        does(SET).await.unwrap();
        assert!(token().await, "the same again");
        does("UPDATE t SET n = 7").await.unwrap();
        assert_eq!(table(&context).await, ["1 1", "2 2"], "it was used before");
        does("UPDATE t SET n = n + 1").await.unwrap();
        assert_eq!(table(&context).await, ["1 2", "2 3"]);
        does("SET onefold.idempotency_token = 'none'").await.unwrap();
        does("INSERT INTO t SELECT 9, 8 WHERE false").await.unwrap();
        does("SET onefold.idempotency_token = 'none'").await.unwrap();
        does("INSERT INTO t VALUES (9, 9)").await.unwrap();
        assert_eq!(table(&context).await, ["1 2", "2 3"], "no rows are a write too");
        run(&context, "SET onefold.idempotency_token = 'a'").await.unwrap();
        run(&context, "RESET onefold.idempotency_token; OPTIMIZE t").await.unwrap();
        does("INSERT INTO t VALUES (3, 3)").await.unwrap();
        assert_eq!(table(&context).await, ["1 2", "2 3", "3 3"], "it was taken back");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copy_and_optimize_leave_the_token_to_the_write_after_them() {
    let context = opened(&World::new()).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("one.csv").display().to_string();
    let script = format!(
        "SET onefold.idempotency_token = 'a'; COPY (SELECT 1 AS k) TO '{file}'; OPTIMIZE t;
         INSERT INTO t VALUES (1, 1); SET onefold.idempotency_token = 'a';
         INSERT INTO t VALUES (1, 1)"
    );
    run(&context, &script).await.unwrap();
    assert_eq!(table(&context).await, ["1 1"]);
}

async fn opened(world: &World) -> SessionContext {
    let context = world.session();
    run(&context, TABLE).await.unwrap();
    context
}

async fn write(context: &SessionContext, query: &str, token: &str) -> Result<WriteReport, Error> {
    context.write_once("t", context.sql(query).await?, token).await
}

async fn table(context: &SessionContext) -> Vec<String> {
    rows(context, "SELECT * FROM t ORDER BY k").await
}
