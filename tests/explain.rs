//! What EXPLAIN shows, and what may be pushed below DEDUP.

use onefold::arrow::util::pretty::pretty_format_batches;
use onefold::datafusion::prelude::{SessionConfig, SessionContext};
use onefold::prelude::*;

const HOUR: &str = "DEDUP BY id WITHIN INTERVAL '1 hour' OF at";

#[tokio::test]
async fn the_node_is_one_line_with_its_parameters() {
    let plan = explain(&format!("SELECT * FROM t {HOUR} LATE PASS")).await;
    let line = "Dedup: by=[t.id], within=1 hour, of=t.at, lateness=0 seconds, late=PASS, \
                nulls=DISTINCT, class=exact";
    assert!(plan.iter().any(|found| found.trim() == line), "{plan:#?}");
    let exec = "DedupExec: by=[id@0], within=1 hour, lateness=0 seconds, late=PASS, nulls=DISTINCT";
    assert!(plan.iter().any(|found| found.trim() == exec), "{plan:#?}");
}

#[tokio::test]
async fn a_predicate_on_the_key_goes_below_and_one_on_another_column_does_not() {
    let key = explain(&format!("SELECT * FROM t {HOUR} WHERE id = 7")).await;
    assert!(position(&key, "Filter: t.id = ") > position(&key, "Dedup: "), "{key:#?}");
    let other = explain(&format!("SELECT * FROM t {HOUR} WHERE v = 1")).await;
    assert!(position(&other, "Filter: t.v = ") < position(&other, "Dedup: "), "{other:#?}");
}

#[tokio::test]
async fn a_predicate_on_a_float_key_stays_above_because_two_zeros_are_one_key() {
    let query = "SELECT * FROM t DEDUP BY f WITHIN UNBOUNDED WHERE f < 0";
    let plan = explain(query).await;
    assert!(position(&plan, "Filter: ") < position(&plan, "Dedup: "), "{plan:#?}");
}

#[tokio::test]
async fn a_volatile_predicate_and_a_limit_stay_above() {
    for query in [
        format!("SELECT * FROM t {HOUR} WHERE random() < 0.5"),
        format!("SELECT id FROM (SELECT * FROM t {HOUR}) WHERE random() < 0.5 AND id > 1"),
    ] {
        let plan = explain(&query).await;
        let dedup = position(&plan, "Dedup: ");
        assert!(position(&plan, "random()") < dedup, "{plan:#?}");
        assert!(position(&plan, "Filter: ") < dedup, "{plan:#?}");
    }
    let limit = explain(&format!("SELECT * FROM t {HOUR} LIMIT 1")).await;
    assert!(position(&limit, "Limit: ") < position(&limit, "Dedup: "), "{limit:#?}");
    let below = limit.iter().skip(position(&limit, "Dedup: ") + 1);
    let below: Vec<&String> = below.take_while(|line| !line.contains("Exec")).collect();
    assert!(!below.iter().any(|line| line.contains("fetch=")), "{limit:#?}");
}

#[tokio::test]
async fn a_session_without_the_clause_is_as_before_and_installing_twice_is_once() {
    let context = SessionContext::new();
    let id = context.session_id();
    context.sql("CREATE TABLE kept AS SELECT 1 AS a").await.unwrap();
    let context = context
        .with_onefold(Settings::default())
        .unwrap()
        .with_onefold(Settings::default())
        .unwrap();
    assert_eq!(context.session_id(), id);
    assert_eq!(context.sql("SELECT * FROM kept").await.unwrap().count().await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unbounded_table_can_be_read_as_it_is_now_and_its_class_is_shown() {
    let context = SessionContext::new().with_onefold(Settings::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.csv");
    std::fs::write(&path, "a\n1\n1\n2\n").unwrap();
    let script = format!(
        "CREATE UNBOUNDED EXTERNAL TABLE s (a INT) STORED AS CSV LOCATION '{}';
         SELECT * FROM s DEDUP BY a WITHIN UNBOUNDED;
         EXPLAIN SELECT * FROM s DEDUP BY a WITHIN UNBOUNDED",
        path.display()
    );
    let mut frames = context.run_sql(&script).await.unwrap();
    let explained = frames.pop().unwrap().collect().await.unwrap();
    let text = pretty_format_batches(&explained).unwrap().to_string();
    assert!(text.contains("class=retries"), "{text}");
    assert_eq!(frames.pop().unwrap().count().await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_without_duplicates_are_folded_where_they_are_before_their_groups_are_brought_together()
 {
    let config = SessionConfig::new().with_target_partitions(3);
    let context =
        SessionContext::new_with_config(config).with_onefold(Settings::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("in")).unwrap();
    let script = format!(
        "CREATE UNBOUNDED EXTERNAL TABLE s (id BIGINT, post BIGINT NOT NULL) STORED AS CSV
           LOCATION '{0}/in/';
         CREATE EXTERNAL TABLE t (post BIGINT NOT NULL, n BIGINT, PRIMARY KEY (post)) STORED AS DELTA
           LOCATION '{0}/t';
         EXPLAIN INSERT INTO t SELECT post, count(*) FROM s DEDUP BY id WITHIN UNBOUNDED GROUP BY post",
        folder.path().display()
    );
    let mut frames = context.run_sql(&script).await.unwrap();
    let batches = frames.pop().unwrap().collect().await.unwrap();
    let text = pretty_format_batches(&batches).unwrap().to_string();
    let plan: Vec<String> =
        text.lines().map(|line| line.split('|').nth(2).unwrap_or("").to_owned()).collect();
    let global = position(&plan, "GlobalRollupExec: ");
    let order = ["ShardExchangeExec: ", "LocalRollupExec: ", "DedupEpochExec: "];
    for (line, expected) in plan[global + 1..].iter().zip(order) {
        assert!(line.contains(expected), "{expected} in {plan:#?}");
    }
}

/// The lines of both plans; deeper lines come later.
async fn explain(query: &str) -> Vec<String> {
    let config = SessionConfig::new().with_target_partitions(2);
    let context =
        SessionContext::new_with_config(config).with_onefold(Settings::default()).unwrap();
    let table = "CREATE TABLE t (id BIGINT, v BIGINT, f DOUBLE, at TIMESTAMP)";
    context.run_sql(table).await.unwrap();
    let frame = context.run_sql(&format!("EXPLAIN {query}")).await.unwrap().remove(0);
    let batches = frame.collect().await.unwrap();
    let text = pretty_format_batches(&batches).unwrap().to_string();
    text.lines().map(|line| line.split('|').nth(2).unwrap_or("").to_owned()).collect()
}

fn position(plan: &[String], text: &str) -> usize {
    let found = plan.iter().position(|line| line.contains(text));
    found.unwrap_or_else(|| panic!("no {text} in {plan:#?}"))
}
