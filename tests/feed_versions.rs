//! Which versions of a table a pipeline over its changes reads, and when.

use crate::support::feeds::{COPY, drain, small};
use crate::support::tables::{World, rows, run};
use futures::TryStreamExt;
use onefold::datafusion::common::runtime::SpawnedTask;
use onefold::object_store::{ObjectStore, ObjectStoreExt};
use onefold::pipeline::EpochOutcome;
use onefold::prelude::*;
use onefold::source::SourceTable;
use onefold::testing::source_conformance;
use std::sync::Arc;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_version_is_read_once_and_what_only_moved_files_is_no_change() {
    let mut world = World::new();
    world.settings.compact_files_min = 1000; // but by hand
    let context = small(&world, COPY).await;
    let pipeline = context.pipeline("c").unwrap();
    let epoch = async || match pipeline.run_epoch().await.unwrap() {
        EpochOutcome::Committed { rows, .. } => Some(rows),
        EpochOutcome::Idle => None,
    };
    assert_eq!((epoch().await, epoch().await), (Some(2), None));
    run(&context, "UPDATE t SET n = n + 1 WHERE k = 1; INSERT INTO t VALUES (3, 'a', 30, 3)")
        .await
        .unwrap();
    let changed = "UPDATE t SET n = 9 WHERE k = 3; UPDATE t SET n = 20 WHERE k = 2";
    run(&context, changed).await.unwrap();
    assert_eq!(epoch().await, Some(3), "the row before, the row after, and the new one");
    assert_eq!(rows(&context, "SELECT * FROM c ORDER BY k").await, ["1 11", "2 20", "3 9"]);
    run(&context, "OPTIMIZE t").await.unwrap();
    assert_eq!((epoch().await, epoch().await), (Some(0), None), "only its place moved");
    run(&context, "DELETE FROM t WHERE k = 2; OPTIMIZE t").await.unwrap();
    assert_eq!(epoch().await, Some(1), "moved rows are netted");
    let ledger = "SELECT \"partition\", rows_read, rows_emitted FROM onefold_history('c')
        ORDER BY epoch";
    let first = rows(&context, ledger).await;
    assert_eq!(first.len(), 3, "{first:?}");
    assert!(first[0].starts_with("version ") && first[0].ends_with(" 2 2"), "{first:?}");
    assert!(first[1].starts_with("versions ") && first[1].ends_with(" 3 3"), "{first:?}");
    assert!(first[2].ends_with(" 1 1"), "{first:?}");
    assert_eq!(rows(&context, "SELECT * FROM t_changes WHERE k > 2").await, ["3 a 9 3.0"]);
    let again = small(&world, COPY).await.pipeline("c").unwrap();
    assert_eq!(again.run_epoch().await.unwrap(), EpochOutcome::Idle, "a new process goes on there");
    let provider = context.table_provider("t_changes").await.unwrap();
    let source = Arc::clone(provider.downcast_ref::<SourceTable>().unwrap().source());
    source_conformance(&source).await.unwrap();
}

/// A fence in the source is not worth an epoch at once, and is one before its version is forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_tables_that_follow_each_other_come_to_rest() {
    let world = World::new();
    let back = format!(
        "{COPY}; CREATE UNBOUNDED EXTERNAL TABLE c_changes STORED AS DELTA LOCATION 'memory:///c';
         INSERT INTO t SELECT k, NULL AS g, n, NULL AS f FROM c_changes WHERE k < 0"
    );
    let context = small(&world, &back).await;
    let versions = || (context.table_version("t"), context.table_version("c"));
    for _ in 0..3 {
        drain(&context, "c").await;
        drain(&context, "t").await;
    }
    let rested = versions();
    drain(&context, "c").await;
    drain(&context, "t").await;
    assert_eq!(versions(), rested);
    assert_eq!(rows(&context, "SELECT count(*) FROM t").await, ["2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_is_gone_is_said_with_the_way_out() {
    let mut world = World::new();
    world.settings.compact_files_min = 1000;
    let context = small(&world, COPY).await;
    drain(&context, "c").await;
    let before = files(&world.store, "t/part-").await;
    run(&context, "UPDATE t SET n = 0").await.unwrap();
    for file in before {
        world.store.delete(&file.into()).await.unwrap(); // as a vacuum does, much later
    }
    let again = small(&world, COPY).await;
    for context in [&context, &again] {
        let error = context.pipeline("c").unwrap().run_until_idle().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data, "{error}");
        let text = error.to_string();
        for part in ["after version 1", "there is no t/part-", "write into a new table"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
    for commit in files(&world.store, "t/_delta_log/0000").await {
        world.store.delete(&commit.into()).await.unwrap();
    }
    let context = small(&world, COPY).await; // another table in the same place
    let error = context.pipeline("c").unwrap().run_until_idle().await.unwrap_err().to_string();
    assert!(error.contains("another source t_changes"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_was_altered_is_followed_when_it_is_opened_again() {
    let world = World::new();
    let context = small(&world, COPY).await;
    drain(&context, "c").await;
    run(&context, "ALTER TABLE t ADD COLUMN more BIGINT; UPDATE t SET n = 7, more = 1")
        .await
        .unwrap();
    let error = context.pipeline("c").unwrap().run_until_idle().await.unwrap_err().to_string();
    assert!(error.contains("its table was altered"), "{error}");
    run(
        &context,
        "DROP TABLE t_changes;
         CREATE UNBOUNDED EXTERNAL TABLE t_changes STORED AS DELTA LOCATION 'memory:///t';
         INSERT INTO c SELECT k, n FROM t_changes",
    )
    .await
    .unwrap();
    drain(&context, "c").await;
    assert_eq!(rows(&context, "SELECT * FROM c ORDER BY k").await, ["1 7", "2 7"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_followed_while_they_happen() {
    let world = World::new();
    let context = small(&world, &format!("SET onefold.poll_interval_ms = 5; {COPY}")).await;
    let pipeline = context.pipeline("c").unwrap();
    let (told, stop) = tokio::sync::oneshot::channel::<()>();
    let running = SpawnedTask::spawn({
        let pipeline = pipeline.clone();
        async move { pipeline.run(async { stop.await.unwrap() }).await }
    });
    let mut status = pipeline.status();
    status.wait_for(|now| now.rows_in >= 2).await.unwrap();
    run(&context, "INSERT INTO t VALUES (3, 'a', 30, 3)").await.unwrap();
    status.wait_for(|now| now.rows_in >= 3).await.unwrap();
    told.send(()).unwrap();
    running.join().await.unwrap().unwrap();
    assert_eq!(rows(&context, "SELECT count(*) FROM c").await, ["3"]);
}

async fn files(store: &Arc<dyn ObjectStore>, prefix: &str) -> Vec<String> {
    let listed = store.list(None).map_ok(|own| own.location.to_string());
    let all: Vec<String> = listed.try_collect().await.unwrap();
    all.into_iter().filter(|own| own.starts_with(prefix)).collect()
}
