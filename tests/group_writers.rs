//! What another engine does by hand to a table whose rows are the groups of a pipeline, between two of
//! its commits, and whenever that is found: it is refused, unless it only moves rows.

use crate::support::tables::{World, rows, run};
use crate::support::{batch, source};
use futures::TryStreamExt;
use onefold::datafusion::prelude::SessionContext;
use onefold::object_store::{ObjectStore, ObjectStoreExt};
use onefold::prelude::*;
use onefold::source::{MemorySource, SourceTableOptions};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// A file of groups once more.
    Append,
    /// A file of groups goes.
    Delete,
    /// A file is written again, as it is.
    Rewrite,
    /// Files of an older version are put back.
    Restore,
}

/// What happens until the pipeline's next epoch.
#[derive(Clone, Copy, Debug)]
enum Until {
    /// Nothing: its commit loses the race.
    Race,
    /// Somebody asks what the table and its pipelines did.
    Look,
    /// So long that the log is listed anew.
    Idle,
    /// It is opened again, as after a crash.
    Restart,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_changes_groups_beside_their_pipeline_stops_it() {
    for act in [Act::Append, Act::Delete, Act::Rewrite, Act::Restore] {
        for until in [Until::Race, Until::Look, Until::Idle, Until::Restart] {
            let (world, source) = (World::new(), source(1));
            let mut context = opened(&world, &source).await;
            feed(&source, 0..40);
            drain(&context).await.unwrap();
            let before = newest(&world.store).await;
            by_hand(&world.store, act).await;
            match until {
                Until::Race => {}
                Until::Look => {
                    let looked = rows(&context, "SELECT count(*) FROM onefold_history('g')").await;
                    assert_eq!(looked, ["1"]);
                }
                Until::Idle => world.clock.advance(Duration::from_hours(1)),
                Until::Restart => context = opened(&world, &source).await,
            }
            feed(&source, 40..90);
            let found = drain(&context).await;
            if act == Act::Rewrite {
                found.unwrap_or_else(|error| panic!("{act:?} {until:?}: {error}"));
            } else {
                let why = if act == Act::Restore { "restored" } else { "groups of a pipeline" };
                for _ in 0..2 {
                    context = opened(&world, &source).await; // which changes nothing
                    let again = drain(&context).await.unwrap_err().to_string();
                    assert!(again.contains("groups of a pipeline"), "{act:?} {until:?}: {again}");
                }
                let first = found.expect_err("changed beside its pipeline").to_string();
                assert!(first.contains(why) || first.contains("groups of"), "{act:?}: {first}");
                let back = format!("RESTORE g TO VERSION AS OF {before}");
                run(&context, &back).await.unwrap();
                context = opened(&world, &source).await;
                drain(&context).await.unwrap();
            }
            let found = rows(&context, "SELECT * FROM g ORDER BY k").await;
            let expected = ["0 30 1305", "1 30 1335", "2 30 1365"];
            assert_eq!(found, expected, "{act:?} {until:?}");
        }
    }
}

async fn opened(world: &World, source: &MemorySource) -> SessionContext {
    let context = world.session();
    let options = SourceTableOptions { watermark: None, is_unbounded: true };
    context.register_source("events", Arc::new(source.clone()), options).unwrap();
    run(
        &context,
        "CREATE EXTERNAL TABLE g (k BIGINT NOT NULL, c BIGINT, s BIGINT, PRIMARY KEY (k))
         STORED AS DELTA LOCATION 'memory:///g';
         INSERT INTO g SELECT n % 3, count(*), sum(n) FROM events GROUP BY n % 3",
    )
    .await
    .unwrap();
    context
}

async fn drain(context: &SessionContext) -> Result<(), Error> {
    context.pipeline("g")?.run_until_idle().await.map(drop)
}

fn feed(source: &MemorySource, numbers: std::ops::Range<i64>) {
    let rows: Vec<_> = numbers.map(|number| (Some(1), Some(5), number)).collect();
    source.push("p0", &batch(&rows)).unwrap();
}

async fn newest(store: &Arc<dyn ObjectStore>) -> u64 {
    let listed: Vec<_> = store.list(Some(&"g/_delta_log".into())).try_collect().await.unwrap();
    let version = |name: &str| name.strip_suffix(".json")?.parse::<u64>().ok();
    listed.iter().filter_map(|own| version(own.location.filename()?)).max().unwrap()
}

/// Commits `act` as another engine does that knows nothing of pipelines.
async fn by_hand(store: &Arc<dyn ObjectStore>, act: Act) {
    let version = newest(store).await + 1;
    let mut added = None;
    for version in 0..version {
        let path = format!("g/_delta_log/{version:020}.json");
        let text = store.get(&path.as_str().into()).await.unwrap().bytes().await.unwrap();
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let mut lines = lines.map(|line| serde_json::from_slice::<Value>(line).unwrap());
        added = lines.find_map(|line| line.get("add").cloned()).or(added);
    }
    let add = added.unwrap();
    let path = add["path"].as_str().unwrap();
    let mut again = add.clone();
    again["path"] = format!("again-{path}").into();
    let to = format!("g/again-{path}");
    store.copy(&format!("g/{path}").as_str().into(), &to.as_str().into()).await.unwrap();
    let mut remove = json!({ "path": path, "dataChange": act != Act::Rewrite,
        "deletionTimestamp": 4_102_444_800_000_u64, "size": add["size"],
        "partitionValues": {}, "extendedFileMetadata": true });
    if !add["deletionVector"].is_null() {
        remove["deletionVector"] = add["deletionVector"].clone();
    }
    again["dataChange"] = (act != Act::Rewrite).into();
    let (remove, again) = (json!({ "remove": remove }), json!({ "add": again }));
    let (operation, lines) = match act {
        Act::Append => ("WRITE", vec![again]),
        Act::Delete => ("DELETE", vec![remove]),
        Act::Rewrite => ("OPTIMIZE", vec![remove, again]),
        Act::Restore => ("RESTORE", vec![remove]),
    };
    let at_ms = 4_102_444_800_000 + version;
    let info = json!({ "commitInfo": { "timestamp": at_ms, "inCommitTimestamp": at_ms,
        "operation": operation, "txnId": format!("by-hand-{version}") } });
    let lines = [info].into_iter().chain(lines).map(|line| line.to_string());
    let text = lines.collect::<Vec<_>>().join("\n");
    let path = format!("g/_delta_log/{version:020}.json");
    store.put(&path.as_str().into(), text.into()).await.unwrap();
}
