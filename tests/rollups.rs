//! GROUP BY as a pipeline, over random logs cut at random, against one query over all rows.

use crate::support::cuts::{fed, opened, run};
use crate::support::{DELAY_US, How, Row, batch, source, with_events};
use onefold::arrow::util::display::{ArrayFormatter, FormatOptions};
use onefold::datafusion::common::Result as PlanResult;
use onefold::datafusion::prelude::{SessionConfig, SessionContext};
use onefold::object_store::ObjectStore;
use onefold::object_store::memory::InMemory;
use onefold::prelude::*;
use proptest::prelude::*;
use std::sync::Arc;

/// A query over `events`, and the table that holds its groups.
struct Rollup {
    name: &'static str,
    columns: &'static str,
    select: &'static str,
}

const WINDOW: Rollup = Rollup {
    name: "every aggregate, by key and window",
    columns: "k VARCHAR NOT NULL, w TIMESTAMP NOT NULL, c BIGINT, cn BIGINT, s BIGINT, sf DOUBLE,
      lo BIGINT, hi BIGINT, hik VARCHAR, a DOUBLE, sd DOUBLE, vp DOUBLE, b BOOLEAN, x BIGINT,
      f BIGINT, l BIGINT, e BIGINT, co DOUBLE, PRIMARY KEY (k, w)",
    select: "SELECT coalesce(k, 'none') AS k, date_bin(INTERVAL '10 microseconds', at) AS w,
      count(*) AS c, count(k) FILTER (WHERE n % 3 = 0) AS cn, sum(n) AS s,
      sum(CAST(n AS DOUBLE) / 4) AS sf, min(n) AS lo, max(n) AS hi, max(k) AS hik, avg(n) AS a,
      stddev(n) AS sd, var_pop(n) AS vp, bool_or(n % 2 = 0) AS b, bit_xor(n) AS x,
      first_value(n ORDER BY n) AS f, last_value(n ORDER BY n) AS l,
      2 * sum(n) + count(*) AS e, covar_pop(n, n + 1) AS co
      FROM events GROUP BY coalesce(k, 'none'), date_bin(INTERVAL '10 microseconds', at)",
};

const HAVING: Rollup = Rollup {
    name: "groups that qualify and stop to",
    columns: "k VARCHAR NOT NULL, w TIMESTAMP NOT NULL, c BIGINT, PRIMARY KEY (k, w)",
    select: "SELECT coalesce(k, 'none') AS k, date_bin(INTERVAL '40 microseconds', at) AS w,
      count(*) AS c FROM events GROUP BY coalesce(k, 'none'), date_bin(INTERVAL '40 microseconds', at)
      HAVING count(*) % 3 <> 0",
};

const TREE: Rollup = Rollup {
    name: "windows in windows",
    columns: "k VARCHAR NOT NULL, w TIMESTAMP NOT NULL, g INT NOT NULL, c BIGINT, s BIGINT,
      hi BIGINT, PRIMARY KEY (k, w, g)",
    select: "SELECT coalesce(k, 'all') AS k,
      coalesce(w, TIMESTAMP '1970-01-01') AS w, grouping(k, w) AS g, count(*) AS c, sum(n) AS s,
      max(n) AS hi
      FROM (SELECT coalesce(k, 'none') AS k, n, date_bin(INTERVAL '10 microseconds', at) AS w FROM events)
      GROUP BY CUBE(k, w)",
};

const CLOSED: Rollup = Rollup {
    name: "windows that are closed",
    columns: "k VARCHAR NOT NULL, w TIMESTAMP NOT NULL, c BIGINT, a DOUBLE, PRIMARY KEY (k, w)",
    select: "SELECT coalesce(k, 'none') AS k, date_bin(INTERVAL '10 microseconds', at) AS w,
      count(*) AS c, avg(n) AS a
      FROM events GROUP BY coalesce(k, 'none'), date_bin(INTERVAL '10 microseconds', at)",
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn groups_are_those_of_one_query_under_every_cut(
        fed in fed(),
    ) {
        runtime().block_on(async {
            let context = fed.through(&script(), &tables()).await;
            for (index, rollup) in ROLLUPS.iter().enumerate() {
                let expected = expected(&fed.logs, rollup).await.unwrap();
                let sql = format!("SELECT * FROM g{index}");
                assert_eq!(shown(&context, &sql).await.unwrap(), expected, "{}", rollup.name);
            }
        });
    }
}

const ROLLUPS: [Rollup; 4] = [WINDOW, HAVING, TREE, CLOSED];

/// Makes the tables, and a pipeline into each.
fn script() -> String {
    let statements = ROLLUPS.iter().enumerate().map(|(index, Rollup { name, columns, select })| {
        let emit = if *name == CLOSED.name { "EMIT FINAL" } else { "" };
        format!(
            "CREATE EXTERNAL TABLE g{index} ({columns}) STORED AS DELTA LOCATION 'memory:///g{index}';
             INSERT INTO g{index} {select} {emit};"
        )
    });
    statements.collect::<Vec<_>>().concat()
}

fn tables() -> Vec<String> {
    (0..ROLLUPS.len()).map(|index| format!("g{index}")).collect()
}

/// What one query says of the rows that are not too late for their window.
async fn expected(logs: &[Vec<Row>], rollup: &Rollup) -> PlanResult<Vec<String>> {
    let width = if rollup.name == HAVING.name { 40 } else { 10 };
    let mut accepted = Vec::new();
    let mut closed = i64::MAX;
    for log in logs {
        let mut newest: Option<i64> = None;
        for row in log {
            let Some(at) = row.1 else { continue };
            let end = at.div_euclid(width) * width + width;
            if newest.is_none_or(|newest| end > newest - DELAY_US) {
                accepted.push(*row);
            }
            newest = Some(newest.map_or(at, |newest| newest.max(at)));
        }
        closed = closed.min(newest.map_or(i64::MIN, |newest| newest - DELAY_US));
    }
    if rollup.name == CLOSED.name {
        let end = |row: &Row| row.1.map_or(i64::MAX, |at| at.div_euclid(width) * width + width);
        accepted.retain(|row| end(row) <= closed);
    }
    let config = SessionConfig::new().with_target_partitions(1);
    let context = SessionContext::new_with_config(config);
    context.register_batch("events", batch(&accepted))?;
    shown(&context, rollup.select).await
}

/// The rows, as sorted text; floats as far as they agree.
pub(crate) async fn shown(context: &SessionContext, sql: &str) -> PlanResult<Vec<String>> {
    let options = FormatOptions::default().with_null("NULL");
    let mut rows = Vec::new();
    for batch in context.sql(sql).await?.collect().await? {
        let cells = batch.columns().iter().map(|own| ArrayFormatter::try_new(own, &options));
        let cells = cells.collect::<Result<Vec<_>, _>>()?;
        for row in 0..batch.num_rows() {
            let cells = cells.iter().map(|own| {
                let text = own.value(row).to_string();
                match text.parse::<f64>() {
                    Ok(number) if text.contains('.') => format!("{number:.6}"),
                    _ => text,
                }
            });
            rows.push(cells.collect::<Vec<_>>().join(" | "));
        }
    }
    rows.sort();
    Ok(rows)
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_of_groups_has_one_writer() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let source = source(1);
    let context = opened(&store, &source, How::default(), &script()).await.unwrap();
    source.push("p0", &batch(&[(Some(1), Some(5), 0)])).unwrap();
    run(&context, &tables()).await;
    let refused = async |script: &str, expected: &str| {
        let error = match context.run_sql(script).await {
            Ok(frames) => {
                for frame in frames {
                    if let Err(error) = frame.collect().await {
                        assert!(error.to_string().contains(expected), "{script}: {error}");
                        return;
                    }
                }
                let error =
                    context.pipeline("other").map(|own| async move { own.run_until_idle().await });
                error.expect("a pipeline").await.expect_err(script).to_string()
            }
            Err(error) => error.to_string(),
        };
        assert!(error.contains(expected), "{script}: {error}");
    };
    refused(
        "SET onefold.pipeline = 'other';
         INSERT INTO g0 (k, w) SELECT coalesce(k, 'x'), date_bin(INTERVAL '1 minute', at)
         FROM events GROUP BY coalesce(k, 'x'), date_bin(INTERVAL '1 minute', at);",
        "its rows are groups of one pipeline",
    )
    .await;
    context
        .run_sql(
            "SET onefold.pipeline = '';
             CREATE EXTERNAL TABLE full (k VARCHAR NOT NULL, c BIGINT, PRIMARY KEY (k))
             STORED AS DELTA LOCATION 'memory:///full'",
        )
        .await
        .unwrap();
    for frame in context.run_sql("INSERT INTO full VALUES ('a', 1)").await.unwrap() {
        frame.collect().await.unwrap();
    }
    context
        .run_sql("INSERT INTO full SELECT coalesce(k, 'x') AS k, count(*) FROM events GROUP BY coalesce(k, 'x')")
        .await
        .unwrap();
    let error = context.pipeline("full").unwrap().run_until_idle().await.unwrap_err();
    assert!(error.to_string().contains("it has 1 rows"), "{error}");
}

/// Columns of a table, its key, a query, and why its groups do not fit.
const REFUSED: [(&str, &str, &str, &str); 14] = [
    (
        "k VARCHAR NOT NULL, g INT NOT NULL, c BIGINT",
        "k, g",
        "coalesce(k, 'all'), grouping(k), count(*) FROM events GROUP BY ROLLUP(k)",
        "may be NULL of its own",
    ),
    (
        "k TIMESTAMP NOT NULL, c BIGINT",
        "k",
        "date_bin(INTERVAL '10 nanoseconds', CAST(at AS TIMESTAMP)), count(*) FROM events
         GROUP BY date_bin(INTERVAL '10 nanoseconds', CAST(at AS TIMESTAMP))",
        "can make two groups one",
    ),
    (
        "k VARCHAR NOT NULL, c BIGINT",
        "k",
        "max(k), count(*) FROM events GROUP BY n",
        "key column k is no column of GROUP BY",
    ),
    (
        "k VARCHAR NOT NULL, c BIGINT",
        "k",
        "k, count(*) FROM events GROUP BY k, n",
        "does not hold that column",
    ),
    (
        "k BIGINT NOT NULL, c BIGINT",
        "k",
        "n % 2, count(*) FROM events GROUP BY n",
        "key column k is no column of GROUP BY",
    ),
    (
        "k VARCHAR NOT NULL, c BIGINT",
        "k",
        "coalesce(k, 'x'), count(*) FROM events GROUP BY k",
        "GROUP BY the coalesce",
    ),
    (
        "k VARCHAR NOT NULL, c BIGINT",
        "k",
        "k, count(*) FROM events GROUP BY ROLLUP(k)",
        "write coalesce",
    ),
    (
        "k VARCHAR NOT NULL, c BIGINT",
        "k",
        "coalesce(k, 'all'), count(*) FROM events GROUP BY ROLLUP(k)",
        "does not tell them apart",
    ),
    (
        "k INT NOT NULL, c BIGINT",
        "k",
        "CAST(CAST(n AS DOUBLE) / 3 AS INT), count(*) FROM events GROUP BY CAST(n AS DOUBLE) / 3",
        "can make two groups one",
    ),
    (
        "k VARCHAR NOT NULL, c BIGINT",
        "k",
        "k, count(DISTINCT n) FROM events GROUP BY k",
        "keeps every value of a group",
    ),
    (
        "k VARCHAR NOT NULL, c BIGINT",
        "k",
        "k, first_value(n) FROM events GROUP BY k",
        "write first_value(... ORDER BY ...)",
    ),
    (
        "k VARCHAR NOT NULL, c BIGINT",
        "k",
        "k, any_value(n) FROM events GROUP BY k",
        "depends on the order in which rows come",
    ),
    (
        "k VARCHAR NOT NULL, c BIGINT",
        "k",
        "k, median(n) FROM events GROUP BY k",
        "keeps every value of a group",
    ),
    (
        "k VARCHAR NOT NULL, c BIGINT",
        "k",
        "k, sum(c) FROM (SELECT k, n, count(*) AS c FROM events GROUP BY k, n) GROUP BY k",
        "into a table of its own",
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_does_not_tell_groups_apart_is_refused() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let context = with_events(&store, &source(1), How::default()).unwrap();
    for (index, (columns, key, select, expected)) in REFUSED.into_iter().enumerate() {
        let script = format!(
            "CREATE EXTERNAL TABLE t ({columns}, PRIMARY KEY ({key}))
             STORED AS DELTA LOCATION 'memory:///t{index}';
             INSERT INTO t SELECT {select}"
        );
        let error = context.run_sql(&script).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{select}: {error}");
        context.run_sql("DROP TABLE t").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sum_that_leaves_its_type_is_an_error_and_one_that_comes_back_is_exact() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let source = source(1);
    let context = with_events(&store, &source, How::default()).unwrap();
    let script = "CREATE EXTERNAL TABLE t (k VARCHAR NOT NULL, s BIGINT, PRIMARY KEY (k))
        STORED AS DELTA LOCATION 'memory:///t';
        INSERT INTO t SELECT coalesce(k, 'x') AS k, sum(n) FROM events GROUP BY coalesce(k, 'x')";
    context.run_sql(script).await.unwrap();
    let push = |numbers: &[i64]| {
        let rows: Vec<Row> = numbers.iter().map(|number| (Some(1), Some(5), *number)).collect();
        source.push("p0", &batch(&rows)).unwrap();
    };
    push(&[i64::MAX, i64::MAX, i64::MIN, i64::MIN, 7]);
    let pipeline = context.pipeline("t").unwrap();
    pipeline.run_until_idle().await.unwrap();
    assert_eq!(shown(&context, "SELECT s FROM t").await.unwrap(), ["5"]);
    push(&[i64::MAX]);
    let error = pipeline.run_until_idle().await.unwrap_err().to_string();
    assert!(error.contains("does not fit into Int64"), "{error}");
    assert_eq!(shown(&context, "SELECT s FROM t").await.unwrap(), ["5"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_remembered_is_shown_and_leaves_with_its_window() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let source = source(1);
    let context = opened(&store, &source, How::default(), &script()).await.unwrap();
    source.push("p0", &batch(&[(Some(1), Some(5), 3), (Some(1), Some(6), 4)])).unwrap();
    run(&context, &tables()).await;
    let state = "SELECT operator, \"group\", window_end, state FROM onefold_state('g1')";
    let found = shown(&context, state).await.unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    for part in [
        "rollup-0 | coalesce(events.k,Utf8(\"none\"))=1, date_bin(",
        ",events.at)=1970-01-01T00:00:00 | 1970-01-01T00:00:00.000040 | ",
        " | count(Int64(1))[count]=2",
    ] {
        assert!(found[0].contains(part), "{part}: {found:?}");
    }
    source.push("p0", &batch(&[(Some(2), Some(200), 5)])).unwrap();
    run(&context, &tables()).await;
    let found = shown(&context, state).await.unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("=2,"), "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_was_restored_goes_on_from_there() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let source = source(1);
    let context = opened(&store, &source, How::default(), &script()).await.unwrap();
    source.push("p0", &batch(&[(Some(1), Some(5), 3)])).unwrap();
    run(&context, &tables()).await;
    source.push("p0", &batch(&[(Some(1), Some(6), 4), (Some(3), Some(7), 5)])).unwrap();
    run(&context, &tables()).await;
    let all = shown(&context, "SELECT * FROM g0").await.unwrap();
    let frames = context.run_sql("RESTORE g0 TO VERSION AS OF 2").await.unwrap();
    for frame in frames {
        frame.collect().await.unwrap();
    }
    assert_eq!(shown(&context, "SELECT k, c FROM g0").await.unwrap(), ["1 | 1"]);
    let context = opened(&store, &source, How::default(), &script()).await.unwrap();
    run(&context, &tables()).await;
    assert_eq!(shown(&context, "SELECT * FROM g0").await.unwrap(), all);
}

/// So many keys that the local fold freezes: some rows are folded there, and others pass through.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hot_key_among_keys_that_do_not_come_back_is_counted_whole() {
    hot_key(u64::MAX).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_that_do_not_fit_into_memory_are_counted_whole() {
    hot_key(3_000_000).await;
}

/// Counts 150 000 rows, and some of them again after a restart, in `state_bytes_max` of memory.
async fn hot_key(state_bytes_max: u64) {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let source = source(1);
    let script = format!(
        "SET onefold.state_bytes_max = {state_bytes_max};
        CREATE EXTERNAL TABLE t (m BIGINT NOT NULL, c BIGINT, s BIGINT, f BIGINT, a DOUBLE,
          PRIMARY KEY (m)) STORED AS DELTA LOCATION 'memory:///t';
        INSERT INTO t SELECT CASE WHEN n % 4 = 0 THEN -1 ELSE n END AS m, count(*), sum(n),
          count(*) FILTER (WHERE n % 3 = 0), avg(n)
        FROM events GROUP BY CASE WHEN n % 4 = 0 THEN -1 ELSE n END"
    );
    let how = How { partitions: 1, epoch_rows_max: 70_000, ..How::default() };
    let query = "SELECT count(*), sum(c), sum(s), sum(f), max(c), max(CASE WHEN m = -1 THEN f END),
        sum(CASE WHEN m >= 0 AND a <> m THEN 1 ELSE 0 END) FROM t";
    let (first, again): (i64, i64) = ((0..150_000).sum(), (0..15_000).sum());
    let expected = [
        (150_000, format!("112501 | 150000 | {first} | 50000 | 37500 | 12500 | 0")),
        (15_000, format!("112501 | 165000 | {} | 55000 | 41250 | 13750 | 0", first + again)),
    ];
    for (count, expected) in expected {
        let context = with_events(&store, &source, how).unwrap();
        context.run_sql(&script).await.unwrap();
        let rows: Vec<Row> = (0..count).map(|number| (Some(1), Some(5), number)).collect();
        source.push("p0", &batch(&rows)).unwrap();
        let status = context.pipeline("t").unwrap().run_until_idle().await.unwrap();
        assert!(status.state_bytes <= state_bytes_max, "{}", status.state_bytes);
        assert_eq!(status.keys_held, 112_501);
        assert_eq!(shown(&context, query).await.unwrap(), [expected]);
    }
}
