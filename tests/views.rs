//! Materialized views: what they make, what they are to others, and what is refused.

use crate::support::tables::{World, refusal, rows, run};
use futures::TryStreamExt;
use onefold::arrow::array::{ArrayRef, Int64Array, StringArray, TimestampMicrosecondArray};
use onefold::arrow::array::{UInt8Array, UInt64Array};
use onefold::arrow::record_batch::RecordBatch;
use onefold::datafusion::prelude::SessionContext;
use onefold::object_store::ObjectStore;
use onefold::prelude::*;
use onefold::source::{MemorySource, SourceTableOptions, WatermarkSpec};
use std::sync::Arc;

const QUERY: &str =
    "SELECT id, v, at FROM clicks DEDUP BY id WITHIN UNBOUNDED WHERE id IS NOT NULL";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_is_a_table_and_the_pipeline_into_it_and_goes_on_where_it_was() {
    let (world, source) = (World::new(), clicks());
    let create =
        format!("CREATE MATERIALIZED VIEW IF NOT EXISTS ones LOCATION 'memory:///ones' AS {QUERY}");
    for (pushed, expected) in [
        (vec![("a", 1), ("b", 2), ("a", 3)], vec!["a 1", "b 2"]),
        (vec![("b", 9), ("c", 4)], vec!["a 1", "b 2", "c 4"]),
    ] {
        source.push("p", &batch(&pushed)).unwrap();
        let context = session(&world, &source);
        assert_eq!(rows(&context, &create).await, ["default ones"]);
        let status = context.pipeline("ones").unwrap().run_until_idle().await.unwrap();
        assert_eq!(status.rows_in, pushed.len() as u64, "nothing is read twice");
        assert_eq!(rows(&context, "SELECT id, v FROM ones ORDER BY id").await, expected);
        run(&context, &create).await.unwrap();
        assert_eq!(context.pipelines().len(), 1, "IF NOT EXISTS does nothing");
    }
    let context = session(&world, &source);
    let other = "CREATE MATERIALIZED VIEW ones LOCATION 'memory:///ones' AS
                 SELECT id, at FROM clicks DEDUP BY id WITHIN UNBOUNDED WHERE id IS NOT NULL";
    let error = refusal(&context, other).await;
    assert!(error.contains("it has a column v too"), "{error}");
    let named = format!("SET onefold.pipeline = 'second'; {create}");
    let error = refusal(&context, &named).await;
    assert!(error.contains("the pipeline default writes it; SET onefold.pipeline"), "{error}");
    assert!(context.pipelines().is_empty() && context.table_version("ones").is_none());
    run(&context, "SET onefold.pipeline = 'default'").await.unwrap();
    run(&context, &create.replace("IS NOT NULL", "> ''")).await.unwrap();
    let error = context.pipeline("ones").unwrap().run_until_idle().await.unwrap_err().to_string();
    assert!(error.contains("another query"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_is_the_two_statements_it_stands_for() {
    let (world, source) = (World::new(), clicks());
    source.push("p", &batch(&[("a", 1), ("b", 2)])).unwrap();
    let context = session(&world, &source);
    let script = format!(
        "CREATE MATERIALIZED VIEW v LOCATION 'memory:///v' AS {QUERY};
         CREATE EXTERNAL TABLE t (id VARCHAR NOT NULL, v BIGINT, at TIMESTAMP, PRIMARY KEY (id))
         STORED AS DELTA LOCATION 'memory:///t';
         INSERT INTO t {QUERY}"
    );
    run(&context, &script).await.unwrap();
    let mut prints = Vec::new();
    for name in ["v", "t"] {
        let pipeline = context.pipeline(name).unwrap();
        pipeline.run_until_idle().await.unwrap();
        let epoch = pipeline.epochs(1).await.unwrap().remove(0);
        prints.push(epoch.manifest.plan.clone());
    }
    assert_eq!(prints[0], prints[1], "the same query, so the same pipeline");
    let columns = |table: &str| {
        format!(
            "SELECT column_name, data_type, is_nullable FROM information_schema.columns
             WHERE table_name = '{table}' ORDER BY ordinal_position"
        )
    };
    assert_eq!(rows(&context, &columns("v")).await, rows(&context, &columns("t")).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_but_its_pipeline_changes_a_view() {
    let (world, source) = (World::new(), clicks());
    source.push("p", &batch(&[("a", 1)])).unwrap();
    let context = session(&world, &source);
    run(&context, &format!("CREATE MATERIALIZED VIEW v LOCATION 'memory:///v' AS {QUERY}"))
        .await
        .unwrap();
    context.pipeline("v").unwrap().run_until_idle().await.unwrap();
    let other = session(&world, &source);
    run(&other, "CREATE EXTERNAL TABLE v STORED AS DELTA LOCATION 'memory:///v'").await.unwrap();
    for (statement, said) in [
        ("INSERT INTO v VALUES ('z', 1, NULL)", "so INSERT is refused"),
        ("INSERT INTO v SELECT id, v, at FROM clicks", "so a second pipeline into it is refused"),
        ("INSERT OVERWRITE v VALUES ('z', 1, NULL)", "is refused"),
        ("REPLACE INTO v VALUES ('z', 1, NULL)", "is refused"),
        ("UPDATE v SET v = 7", "so UPDATE is refused"),
        ("DELETE FROM v", "so DELETE is refused"),
        ("TRUNCATE TABLE v", "so TRUNCATE is refused"),
        ("MERGE INTO v USING (SELECT 'a' AS i) ON v.id = i WHEN MATCHED THEN DELETE", "is refused"),
        ("ALTER TABLE v ADD COLUMN w BIGINT", "so ALTER TABLE is refused"),
        ("DROP TABLE v", "write DROP MATERIALIZED VIEW v"),
        ("DROP VIEW IF EXISTS v", "write DROP MATERIALIZED VIEW v"),
    ] {
        for context in [&context, &other] {
            let error = refusal(context, statement).await;
            assert!(error.contains(said), "{statement}: {error}");
        }
    }
    let frame = context.sql("SELECT 'z' AS id").await.unwrap();
    let error = context.write_once("v", frame, "token").await.unwrap_err();
    assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("a batch write"));
    let plain = other.sql("DELETE FROM v").await.unwrap().collect().await.unwrap_err().to_string();
    assert!(plain.contains("so DELETE is refused"), "{plain}");
    let declared = "CREATE EXTERNAL TABLE w (id VARCHAR NOT NULL, v BIGINT, at TIMESTAMP, PRIMARY
                    KEY (id)) STORED AS DELTA LOCATION 'memory:///v'";
    let error = refusal(&session(&world, &source), declared).await;
    assert!(error.contains("it is a materialized view"), "{error}");
    source.push("p", &batch(&[("b", 2)])).unwrap();
    context.pipeline("v").unwrap().run_until_idle().await.unwrap();
    run(&context, "OPTIMIZE v; CHECKPOINT v").await.unwrap();
    assert_eq!(rows(&context, "SELECT id, v FROM v ORDER BY id").await, ["a 1", "b 2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_are_shown_and_dropped_and_their_files_stay() {
    let (world, source) = (World::new(), clicks());
    source.push("p", &batch(&[("a", 1)])).unwrap();
    let context = session(&world, &source);
    let create = format!("CREATE MATERIALIZED VIEW v LOCATION 'memory:///it''s' AS\n{QUERY}");
    let secret = "OPTIONS ('merge_mode' 'first') AS ";
    run(&context, &create.replace("AS\n", secret)).await.unwrap();
    context.pipeline("v").unwrap().run_until_idle().await.unwrap();
    run(&context, "CREATE TABLE t AS SELECT 1 AS a").await.unwrap();
    let shown = rows(&context, "SHOW MATERIALIZED VIEWS").await;
    assert_eq!(shown, [format!("v memory:///it's default {QUERY}")]);
    let tables = rows(&context, "SHOW TABLES").await;
    assert!(tables.contains(&"datafusion public v VIEW".to_owned()), "{tables:?}");
    let made = rows(&context, "SHOW CREATE TABLE v").await.remove(0);
    let statement = made.split_once("public v ").unwrap().1;
    assert_eq!(
        statement,
        format!(
            "CREATE MATERIALIZED VIEW v LOCATION 'memory:///it''s' OPTIONS ('merge_mode' 'first') \
             AS {QUERY}"
        )
    );
    for (statement, said) in [
        ("DROP MATERIALIZED VIEW w", "materialized view w: there is none of this name"),
        ("DROP MATERIALIZED VIEW v, t", "materialized view t: it is no materialized view"),
        ("SHOW MATERIALIZED VIEWS LIKE 'v'", "nothing behind it"),
    ] {
        let error = refusal(&context, statement).await;
        assert!(error.contains(said), "{statement}: {error}");
    }
    run(&context, "DROP MATERIALIZED VIEW IF EXISTS w, v").await.unwrap();
    assert!(rows(&context, "SHOW MATERIALIZED VIEWS").await.is_empty());
    assert!(context.pipelines().is_empty() && context.table_version("v").is_none());
    let error = refusal(&context, "SELECT * FROM v").await;
    assert!(error.contains("not found"), "{error}");
    source.push("p", &batch(&[("b", 2)])).unwrap();
    for context in [context, session(&world, &source)] {
        run(&context, statement).await.unwrap();
        context.pipeline("v").unwrap().run_until_idle().await.unwrap();
        assert_eq!(rows(&context, "SELECT id, v FROM v ORDER BY id").await, ["a 1", "b 2"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_shows_the_table_and_the_plan_of_the_pipeline_and_makes_nothing() {
    let (world, source) = (World::new(), clicks());
    let context = session(&world, &source);
    let create = format!("CREATE MATERIALIZED VIEW v LOCATION 'memory:///v' AS {QUERY}");
    let plan = rows(&context, &format!("EXPLAIN FORMAT INDENT {create}")).await;
    assert_eq!(
        plan[0],
        "table v: id Utf8 NOT NULL, v Int64, at Timestamp(\u{b5}s), PRIMARY KEY (id), LOCATION \
         'memory:///v'"
    );
    assert!(plan[1].starts_with("logical_plan") && plan[1].contains("class=retries"));
    assert!(plan[2].starts_with("physical_plan") && plan[2].contains("DedupEpochExec"), "{plan:?}");
    assert!(context.pipelines().is_empty() && context.table_version("v").is_none());
    let error = refusal(&context, &format!("EXPLAIN ANALYZE {create}")).await;
    assert!(error.contains("write EXPLAIN"), "{error}");
    let empty = world.store.list(None).try_collect::<Vec<_>>().await.unwrap();
    assert!(empty.is_empty(), "{empty:?}");
    run(&context, &create).await.unwrap();
    let insert = format!("EXPLAIN FORMAT INDENT INSERT INTO v {QUERY}");
    let inserted = rows(&context, &insert).await;
    assert_eq!(inserted[1..], plan[2..], "the INSERT of a pipeline is explained so too");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_view_is_refused_with_the_way_out_and_leaves_nothing() {
    let (world, source) = (World::new(), clicks());
    let context = session(&world, &source);
    run(&context, "CREATE TABLE finite AS SELECT 'a' AS id").await.unwrap();
    let at = "LOCATION 'memory:///v'";
    let dedup = "FROM clicks DEDUP BY id WITHIN UNBOUNDED WHERE id > ''";
    for (statement, said) in [
        (format!("OR REPLACE MATERIALIZED VIEW v {at} AS {QUERY}"), "write DROP MATERIALIZED VIEW"),
        (
            format!("MATERIALIZED VIEW v AS {QUERY}"),
            "write LOCATION 'url' before AS, or SET onefold.w",
        ),
        (
            format!("MATERIALIZED VIEW finite {at} AS {QUERY}"),
            "there is a table or view of this name",
        ),
        (format!("MATERIALIZED VIEW v {at} AS SELECT id FROM finite"), "reads no unbounded table"),
        (
            format!("MATERIALIZED VIEW v {at} AS INSERT INTO finite SELECT id FROM clicks"),
            "stands a query",
        ),
        (format!("MATERIALIZED VIEW v {at} AS SELECT id FROM clicks"), "its rows have no key"),
        (
            format!(
                "MATERIALIZED VIEW v {at} AS SELECT id FROM clicks DEDUP BY id WITHIN UNBOUNDED"
            ),
            "clicks.id can be NULL, and a PRIMARY KEY cannot; write WHERE clicks.id IS NOT NULL",
        ),
        (format!("MATERIALIZED VIEW v {at} AS SELECT id, v + 1 {dedup}"), "needs a name; write"),
        (format!("MATERIALIZED VIEW v {at} AS SELECT id, v AS \"ID\" {dedup}"), "two columns"),
        (
            format!("MATERIALIZED VIEW v {at} AS SELECT id, NULL AS n {dedup}"),
            "column n: Delta has no type for Null; CAST it to one",
        ),
        (format!("MATERIALIZED VIEW v {at} AS SELECT id, random() AS r {dedup}"), "random()"),
        (format!("MATERIALIZED VIEW v {at} AS SELECT id {dedup} ORDER BY id"), "ORDER BY"),
        (
            format!("MATERIALIZED VIEW v {at} AS SELECT id {dedup} EMIT FINAL"),
            "EMIT FINAL of a query without windows",
        ),
        (
            format!("MATERIALIZED VIEW v {at} OPTIONS ('merge.v' 'sum') AS SELECT id, v {dedup}"),
            "needs 'merge_mode' 'aggregate'",
        ),
        (
            format!(
                "MATERIALIZED VIEW v {at} OPTIONS ('sequence_by' 'n') AS SELECT id, count(*) AS n \
                 FROM clicks WHERE id > '' GROUP BY id"
            ),
            "option 'sequence_by' is refused",
        ),
    ] {
        let error = refusal(&context, &format!("CREATE {statement}")).await;
        assert!(error.contains(said), "{statement}: {error}");
        assert!(context.table_version("v").is_none() && context.pipelines().is_empty());
    }
    let left = world.store.list(None).try_collect::<Vec<_>>().await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_warehouse_gives_each_view_a_folder_of_its_name() {
    let (world, source) = (World::new(), clicks());
    let context = session(&world, &source);
    let script = format!(
        "SET onefold.warehouse = 'memory:///lake/';
         CREATE SCHEMA s;
         CREATE MATERIALIZED VIEW one AS {QUERY};
         CREATE MATERIALIZED VIEW s.two PARTITIONED BY (v) AS {QUERY} EMIT CHANGES;
         CREATE MATERIALIZED VIEW three LOCATION 'memory:///three' AS {QUERY}"
    );
    run(&context, &script).await.unwrap();
    let shown = rows(&context, "SHOW MATERIALIZED VIEWS").await;
    let places: Vec<&str> = shown.iter().map(|own| own.split(' ').nth(1).unwrap()).collect();
    assert_eq!(places, ["memory:///lake/one", "memory:///lake/s/two", "memory:///three"]);
    source.push("p", &batch(&[("a", 7)])).unwrap();
    context.pipeline("s.two").unwrap().run_until_idle().await.unwrap();
    assert_eq!(rows(&context, "SELECT id, v FROM s.two").await, ["a 7"]);
    let paths = world.store.list(Some(&"lake/s/two/v=7".into())).try_collect::<Vec<_>>().await;
    assert_eq!(paths.unwrap().len(), 1);
    let error = refusal(&context, &format!("CREATE MATERIALIZED VIEW \"../x\" AS {QUERY}")).await;
    assert!(error.contains("names no folder"), "{error}");
    run(&context, "DROP MATERIALIZED VIEW s.two").await.unwrap();
    assert_eq!(context.pipelines().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn types_that_delta_lacks_become_the_next_that_it_has() {
    let (world, context) = (World::new(), World::new().session());
    let columns: [(&str, ArrayRef, bool); 3] = [
        ("k", Arc::new(UInt64Array::from(vec![7])), false),
        ("small", Arc::new(UInt8Array::from(vec![255])), true),
        ("big", Arc::new(UInt64Array::from(vec![Some(i64::MAX as u64)])), true),
    ];
    let first = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let source = MemorySource::new("numbers", first.schema());
    let url = "memory:///".parse().unwrap();
    context.runtime_env().register_object_store(&url, world.store);
    let options = SourceTableOptions { watermark: None, is_unbounded: true };
    context.register_source("numbers", Arc::new(source.clone()), options).unwrap();
    let create = "CREATE MATERIALIZED VIEW v LOCATION 'memory:///v' AS
                  SELECT k, small, big FROM numbers DEDUP BY k WITHIN UNBOUNDED";
    run(&context, create).await.unwrap();
    source.push("p", &first).unwrap();
    context.pipeline("v").unwrap().run_until_idle().await.unwrap();
    let types = "SELECT *, arrow_typeof(k), arrow_typeof(small), arrow_typeof(big) FROM v";
    let expected = format!("7 255 {} Int64 Int16 Int64", i64::MAX);
    assert_eq!(rows(&context, types).await, [expected]);
    let columns: [(&str, ArrayRef, bool); 3] = [
        ("k", Arc::new(UInt64Array::from(vec![8])), false),
        ("small", Arc::new(UInt8Array::from(vec![1])), true),
        ("big", Arc::new(UInt64Array::from(vec![Some(u64::MAX)])), true),
    ];
    source.push("p", &RecordBatch::try_from_iter_with_nullable(columns).unwrap()).unwrap();
    let error = context.pipeline("v").unwrap().run_until_idle().await.unwrap_err().to_string();
    assert!(error.contains("18446744073709551615"), "it does not wrap: {error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn emit_is_of_a_pipeline_and_changes_is_the_default() {
    let (world, source) = (World::new(), clicks());
    source.push("p", &batch(&[("a", 1), ("b", 2)])).unwrap();
    let context = session(&world, &source);
    let table = "CREATE EXTERNAL TABLE t (id VARCHAR NOT NULL, v BIGINT, PRIMARY KEY (id))
                 STORED AS DELTA LOCATION 'memory:///t'";
    run(&context, table).await.unwrap();
    let insert = "INSERT INTO t SELECT id, v FROM clicks WHERE id > ''";
    for emit in ["", "EMIT CHANGES", "emit changes"] {
        run(&context, &format!("{insert} {emit}")).await.unwrap();
        context.pipeline("t").unwrap().run_until_idle().await.unwrap();
    }
    for emit in [insert.to_owned(), format!("EXPLAIN {insert}")] {
        let error = refusal(&context, &format!("{emit} EMIT FINAL")).await;
        assert!(error.contains("EMIT FINAL of a query without windows"), "{error}");
    }
    for emit in ["CHANGES", "FINAL"] {
        let now = format!("SELECT id FROM clicks ORDER BY id DESC EMIT {emit}");
        assert_eq!(rows(&context, &now).await, ["b", "a"]);
        run(&context, &format!("INSERT INTO t VALUES ('z', 1) EMIT {emit}")).await.unwrap();
    }
    assert_eq!(rows(&context, "SELECT id FROM t ORDER BY id").await, ["a", "b", "z"]);
}

/// A session with the unbounded table `clicks`.
fn session(world: &World, source: &MemorySource) -> SessionContext {
    let context = world.session();
    let shared = context.state_ref();
    shared.write().config_mut().options_mut().catalog.information_schema = true;
    let watermark = WatermarkSpec {
        column: "at".to_owned(),
        delay_us: 1_000_000,
        max_future_us: WatermarkSpec::MAX_FUTURE_US,
    };
    let options = SourceTableOptions { watermark: Some(watermark), is_unbounded: true };
    context.register_source("clicks", Arc::new(source.clone()), options).unwrap();
    context
}

fn clicks() -> MemorySource {
    MemorySource::new("clicks", batch(&[]).schema())
}

/// Rows of an id and a number, which is also their time in seconds.
fn batch(rows: &[(&str, i64)]) -> RecordBatch {
    let id: StringArray = rows.iter().map(|row| Some(row.0)).collect();
    let v: Int64Array = rows.iter().map(|row| Some(row.1)).collect();
    let at: TimestampMicrosecondArray = rows.iter().map(|row| Some(row.1 * 1_000_000)).collect();
    let columns: [(&str, ArrayRef, bool); 3] =
        [("id", Arc::new(id), true), ("v", Arc::new(v), true), ("at", Arc::new(at), true)];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_primary_key_of_a_rollup_is_what_it_groups_by() {
    let (world, source) = (World::new(), clicks());
    let create = "CREATE MATERIALIZED VIEW sums LOCATION 'memory:///sums' AS
        SELECT count(*) AS n, sum(v) AS v, id AS who, tumble(at, INTERVAL '10 seconds') AS since
        FROM clicks DEDUP BY v WITHIN INTERVAL '1 hour'
        WHERE id IS NOT NULL
        GROUP BY id, tumble(at, INTERVAL '10 seconds') EMIT CHANGES";
    for (pushed, expected) in [
        (vec![("a", 1), ("b", 2), ("a", 3), ("a", 3)], vec!["a 0 2 4", "b 0 1 2"]),
        (vec![("b", 9), ("a", 14)], vec!["a 0 2 4", "a 10 1 14", "b 0 2 11"]),
    ] {
        source.push("p", &batch(&pushed)).unwrap();
        let context = session(&world, &source);
        run(&context, create).await.unwrap();
        context.pipeline("sums").unwrap().run_until_idle().await.unwrap();
        let query = "SELECT who, date_part('second', since), n, v FROM sums ORDER BY who, since";
        assert_eq!(rows(&context, query).await, expected);
        // The key, in the order of the SELECT list.
        let other = "CREATE EXTERNAL TABLE o (n BIGINT NOT NULL, v BIGINT, who VARCHAR NOT NULL,
                     since TIMESTAMP NOT NULL, PRIMARY KEY (since)) STORED AS DELTA
                     LOCATION 'memory:///sums'";
        let error = refusal(&context, other).await;
        assert!(error.contains("its primary key is (who, since), not (since)"), "{error}");
        let error = refusal(&context, "UPDATE sums SET n = 0").await;
        assert!(error.contains("so UPDATE is refused"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn having_decides_which_groups_are_there() {
    let (world, source) = (World::new(), clicks());
    let context = session(&world, &source);
    let create = "CREATE MATERIALIZED VIEW few LOCATION 'memory:///few' AS
        SELECT id, count(*) AS n FROM clicks WHERE id > '' GROUP BY id HAVING count(*) < 3";
    run(&context, create).await.unwrap();
    for (pushed, expected) in
        [(vec![("a", 1), ("b", 2), ("a", 3)], vec!["a 2", "b 1"]), (vec![("a", 4)], vec!["b 1"])]
    {
        source.push("p", &batch(&pushed)).unwrap();
        context.pipeline("few").unwrap().run_until_idle().await.unwrap();
        assert_eq!(rows(&context, "SELECT id, n FROM few ORDER BY id").await, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn levels_of_a_rollup_are_rows_of_their_own() {
    let (world, source) = (World::new(), clicks());
    let context = session(&world, &source);
    let create = "CREATE MATERIALIZED VIEW levels LOCATION 'memory:///levels' AS
        SELECT coalesce(id, 'all') AS id, grouping(id) AS level, count(*) AS n, sum(v) AS v
        FROM clicks WHERE id IS NOT NULL GROUP BY ROLLUP(id)";
    run(&context, create).await.unwrap();
    // An id that is called as the level above it.
    source.push("p", &batch(&[("all", 1), ("a", 2), ("all", 3)])).unwrap();
    context.pipeline("levels").unwrap().run_until_idle().await.unwrap();
    source.push("p", &batch(&[("a", 4)])).unwrap();
    context.pipeline("levels").unwrap().run_until_idle().await.unwrap();
    let query = "SELECT id, level, n, v FROM levels ORDER BY level, id";
    assert_eq!(rows(&context, query).await, ["a 0 2 6", "all 0 2 4", "all 1 4 10"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollup_by_two_statements_is_the_same_pipeline_as_its_view() {
    let (world, source) = (World::new(), clicks());
    source.push("p", &batch(&[("a", 1), ("b", 2), ("a", 3)])).unwrap();
    let context = session(&world, &source);
    let query = "SELECT id, count(*) AS n, max(v) AS v FROM clicks WHERE id > '' GROUP BY id";
    let script = format!(
        "CREATE MATERIALIZED VIEW v LOCATION 'memory:///v' AS {query};
         CREATE EXTERNAL TABLE t (id VARCHAR NOT NULL, n BIGINT NOT NULL, v BIGINT,
           PRIMARY KEY (id)) STORED AS DELTA LOCATION 'memory:///t';
         INSERT INTO t {query}"
    );
    run(&context, &script).await.unwrap();
    let mut plans = Vec::new();
    for name in ["v", "t"] {
        let pipeline = context.pipeline(name).unwrap();
        pipeline.run_until_idle().await.unwrap();
        plans.push(pipeline.epochs(1).await.unwrap().remove(0).manifest.plan.clone());
        let query = format!("SELECT id, n, v FROM {name} ORDER BY id");
        assert_eq!(rows(&context, &query).await, ["a 2 3", "b 1 2"]);
    }
    assert_eq!(plans[0], plans[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_of_a_rollup_shows_its_key_and_its_operators() {
    let (world, source) = (World::new(), clicks());
    let context = session(&world, &source);
    let explain = "EXPLAIN FORMAT INDENT CREATE MATERIALIZED VIEW v LOCATION 'memory:///v' AS
        SELECT id, count(*) AS n FROM clicks WHERE id > '' GROUP BY id";
    let plan = rows(&context, explain).await;
    assert!(plan[0].contains("id Utf8 NOT NULL, n Int64 NOT NULL, PRIMARY KEY (id)"), "{plan:?}");
    assert!(plan[2].contains("GlobalRollupExec"), "{plan:?}");
}
