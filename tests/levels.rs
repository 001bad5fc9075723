//! GROUP BY with columns that every grouping set has, beside others that some leave out: by INSERT and
//! as a view, against one query over all rows.

use crate::rollups::shown;
use crate::support::tables::{refusal, run};
use crate::support::{How, Row, batch, source, with_events};
use onefold::datafusion::prelude::SessionContext;
use onefold::object_store::ObjectStore;
use onefold::object_store::memory::InMemory;
use onefold::prelude::*;
use std::sync::Arc;

/// The columns of a table, and what goes there: of two keys and of windows in windows.
const LEVELS: [(&str, &str); 5] = [
    (
        "k VARCHAR NOT NULL, d TIMESTAMP NOT NULL, h TIMESTAMP NOT NULL, g INT NOT NULL, c BIGINT,
         s BIGINT, PRIMARY KEY (k, d, h, g)",
        "SELECT k, coalesce(d, TIMESTAMP '1970-01-01') AS d, coalesce(h, TIMESTAMP '1970-01-01') AS h,
           grouping(d, h) AS g, count(*) AS c, sum(n) AS s FROM EVENTS GROUP BY k, ROLLUP(d, h)",
    ),
    (
        "d TIMESTAMP NOT NULL, h TIMESTAMP NOT NULL, g INT NOT NULL, c BIGINT, s BIGINT,
         PRIMARY KEY (d, h, g)",
        "SELECT d, coalesce(h, TIMESTAMP '1970-01-01') AS h, grouping(h) AS g, count(*) AS c,
           max(n) AS s FROM EVENTS GROUP BY GROUPING SETS ((d, h), (d))",
    ),
    (
        "k VARCHAR NOT NULL, h TIMESTAMP NOT NULL, g INT NOT NULL, c BIGINT, PRIMARY KEY (k, h, g)",
        "SELECT k, coalesce(h, TIMESTAMP '1970-01-01') AS h, grouping(h) AS g, count(*) AS c
         FROM EVENTS GROUP BY GROUPING SETS ((k, h), (k))",
    ),
    (
        "k VARCHAR NOT NULL, g INT NOT NULL, w TIMESTAMP NOT NULL, c BIGINT, PRIMARY KEY (k, g, w)",
        "SELECT coalesce(k, '1') AS k, grouping(k) AS g,
           hop(at, INTERVAL '10 microseconds', INTERVAL '30 microseconds') AS w, count(*) AS c
         FROM EVENTS
         GROUP BY hop(at, INTERVAL '10 microseconds', INTERVAL '30 microseconds'), ROLLUP(k)",
    ),
    (
        "k VARCHAR NOT NULL, d TIMESTAMP NOT NULL, h TIMESTAMP NOT NULL, gk INT NOT NULL,
         gh INT NOT NULL, c BIGINT, PRIMARY KEY (k, d, h, gk, gh)",
        "SELECT coalesce(k, '1') AS k, d, coalesce(h, TIMESTAMP '1970-01-01') AS h,
           grouping(k) AS gk, grouping(h) AS gh, count(*) AS c FROM EVENTS GROUP BY d, CUBE(k, h)",
    ),
];

const EVENTS: &str = "(SELECT k, n, at, date_bin(INTERVAL '40 microseconds', at) AS d,
    date_bin(INTERVAL '10 microseconds', at) AS h FROM events WHERE k IS NOT NULL) AS e";

/// A table and a view for each of `LEVELS`, and their names.
fn script(emit: &str) -> (String, Vec<String>) {
    let (mut script, mut tables) = (String::new(), Vec::new());
    for (index, (columns, select)) in LEVELS.iter().enumerate() {
        let select = select.replace("EVENTS", EVENTS);
        script += &format!(
            "CREATE EXTERNAL TABLE t{index} ({columns}) STORED AS DELTA LOCATION 'memory:///t{index}';
             INSERT INTO t{index} {select} {emit};
             CREATE MATERIALIZED VIEW v{index} LOCATION 'memory:///v{index}' AS {select} {emit};"
        );
        tables.extend([format!("t{index}"), format!("v{index}")]);
    }
    (script, tables)
}

/// What one query of all rows with a time says, for each of `LEVELS`.
async fn expected(rows: &[Row]) -> Vec<Vec<String>> {
    let context = SessionContext::new().with_onefold(Settings::default()).unwrap();
    let timed: Vec<Row> = rows.iter().copied().filter(|row| row.1.is_some()).collect();
    context.register_batch("events", batch(&timed)).unwrap();
    let mut all = Vec::new();
    for (_, select) in LEVELS {
        all.push(shown(&context, &select.replace("EVENTS", EVENTS)).await.unwrap());
    }
    all
}

fn log() -> Vec<Row> {
    let row = |number: i64| {
        let key = (number % 7 != 3).then_some((number % 3) as u8);
        (key, (number % 11 != 5).then_some(1_000 + number), number)
    };
    (0..130).map(row).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_that_every_set_has_is_bare_in_the_key_and_the_others_are_told_apart() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (source, log) = (source(1), log());
    let (script, tables) = script("");
    for part in log.chunks(50) {
        source.push("p0", &batch(part)).unwrap();
        let context = with_events(&store, &source, How::default()).unwrap();
        context.run_sql(&script).await.unwrap();
        for table in &tables {
            context.pipeline(table).unwrap().run_until_idle().await.unwrap();
        }
        let read = &log[..part.last().unwrap().2 as usize + 1];
        for (index, expected) in expected(read).await.into_iter().enumerate() {
            for table in [format!("t{index}"), format!("v{index}")] {
                let found = shown(&context, &format!("SELECT * FROM {table}")).await.unwrap();
                assert_eq!(found, expected, "{table}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_of_all_levels_come_once_their_windows_are_closed() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (source, mut log) = (source(1), log());
    // Keyed by a window in every set.
    let tables = ["t1", "v1", "t3", "v3", "t4", "v4"];
    let all = script("EMIT FINAL").0;
    let script = all
        .split_inclusive(';')
        .filter(|own| tables.iter().any(|table| own.contains(&format!(" {table} "))));
    let context = with_events(&store, &source, How::default()).unwrap();
    context.run_sql(&script.collect::<String>()).await.unwrap();
    let expected = expected(&log).await;
    log.push((Some(1), Some(9_000), 130));
    source.push("p0", &batch(&log)).unwrap();
    for table in tables {
        context.pipeline(table).unwrap().run_until_idle().await.unwrap();
        let index: usize = table[1..].parse().unwrap();
        let found = shown(&context, &format!("SELECT * FROM {table}")).await.unwrap();
        assert_eq!(found, expected[index], "{table}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_of_the_key_that_does_not_fit_is_named_with_what_to_write() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let context = with_events(&store, &source(1), How::default()).unwrap();
    let columns = "k VARCHAR NOT NULL, h TIMESTAMP NOT NULL, g INT NOT NULL, c BIGINT";
    let from = EVENTS.replace(" WHERE k IS NOT NULL", "");
    for (index, (shown, events, groups, said)) in [
        (
            "k, h, grouping(h)",
            EVENTS,
            "k, ROLLUP(h)",
            "whose key column h is e.h, which is NULL in the groups of sets that leave it out, \
             cannot run as a pipeline: write coalesce(e.h, TIMESTAMP '1970-01-01') in its place, \
             and grouping(e.h) in another column of the primary key",
        ),
        (
            "k, coalesce(h, TIMESTAMP '1970-01-01'), grouping(h)",
            &from,
            "k, ROLLUP(h)",
            "GROUP BY with several grouping sets of e.k, which may be NULL of its own, while a key \
             cannot, or then is that of another group, cannot run as a pipeline: write WHERE e.k IS \
             NOT NULL, or GROUP BY coalesce(e.k, '') in its place",
        ),
        (
            "coalesce(k, ''), h, 0",
            &from,
            "k, h",
            "whose key column k gives the groups of e.k that are NULL the key of others, cannot run \
             as a pipeline: GROUP BY the coalesce, or write WHERE e.k IS NOT NULL",
        ),
        (
            "coalesce(k, max(k)), h, 0",
            EVENTS,
            "k, h",
            "whose key column k is no coalesce(column, literal), cannot run as a pipeline: make each \
             column of the key of one column of GROUP BY, bare, or of grouping(...)",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let script = format!(
            "CREATE EXTERNAL TABLE r{index} ({columns}, PRIMARY KEY (k, h, g)) STORED AS DELTA
             LOCATION 'memory:///r{index}';
             INSERT INTO r{index} SELECT {shown}, count(*) FROM {events} GROUP BY {groups}"
        );
        let error = refusal(&context, &script).await;
        assert!(error.contains(said), "{shown}: {error}");
    }
    let script = format!(
        "CREATE EXTERNAL TABLE ok ({columns}, PRIMARY KEY (k, h, g)) STORED AS DELTA
         LOCATION 'memory:///ok';
         INSERT INTO ok SELECT coalesce(k, ''), h, 0, count(*) FROM {EVENTS} GROUP BY k, h"
    );
    run(&context, &script).await.unwrap(); // a k that is never NULL is what the coalesce is
}
