//! GROUP BY with columns that every grouping set has, beside others that some leave out: by INSERT and
//! as a view, against one query over all rows.

use crate::rollups::shown;
use crate::support::tables::{refusal, rows, run};
use crate::support::{How, Row, batch, source, with_events};
use onefold::arrow::array::ArrayRef;
use onefold::arrow::array::cast::AsArray;
use onefold::arrow::array::types::Int64Type;
use onefold::arrow::datatypes::DataType;
use onefold::datafusion::common::{Result as PlanResult, ScalarValue};
use onefold::datafusion::logical_expr::{Accumulator, Volatility, create_udaf};
use onefold::datafusion::prelude::SessionContext;
use onefold::object_store::ObjectStore;
use onefold::object_store::memory::InMemory;
use onefold::prelude::*;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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
        let created = write!(
            script,
            "CREATE EXTERNAL TABLE t{index} ({columns}) STORED AS DELTA LOCATION 'memory:///t{index}';
             INSERT INTO t{index} {select} {emit};
             CREATE MATERIALIZED VIEW v{index} LOCATION 'memory:///v{index}' AS {select} {emit};"
        );
        created.unwrap();
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
        let read = &log[..=part.last().unwrap().2 as usize];
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_shows_of_which_set_each_level_is_made() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let context = with_events(&store, &source(1), How::default()).unwrap();
    for (groups, tree) in [
        ("k, ROLLUP(d, h)", "(k, d, h) from rows; (k, d) from #1; (k) from #2"),
        ("d, CUBE(k, h)", "(d, k, h) from rows; (d, k) from #1; (d, h) from #1; (d) from #2"),
        ("GROUPING SETS ((k, h), (d), (k))", "(k, h) from rows; (d) from rows; (k) from #1"),
    ] {
        let explain = format!(
            "EXPLAIN CREATE MATERIALIZED VIEW v LOCATION 'memory:///v' AS
             SELECT coalesce(k, '') AS k, coalesce(d, TIMESTAMP '1970-01-01') AS d,
               coalesce(h, TIMESTAMP '1970-01-01') AS h, grouping(k) AS gk, grouping(d) AS gd,
               grouping(h) AS gh, count(*) AS c FROM {EVENTS} GROUP BY {groups}"
        );
        let plan = rows(&context, &explain).await.join("\n");
        let line = plan.lines().find(|own| own.contains("LocalRollupExec: ")).unwrap();
        let (_, sets) = line.split_once("sets=[").unwrap();
        let bare: String =
            sets.split('@').map(|own| own.trim_start_matches(char::is_numeric)).collect();
        assert_eq!(bare, format!("{tree}]"), "{line}");
    }
}

/// A sum that counts the rows that it is given, and the states.
#[derive(Debug, Default)]
struct Counted {
    sum: i64,
    rows: Arc<AtomicU64>,
    states: Arc<AtomicU64>,
}

impl Counted {
    fn add(&mut self, values: &[ArrayRef]) -> u64 {
        let values = values[0].as_primitive::<Int64Type>();
        self.sum += values.iter().flatten().sum::<i64>();
        values.len() as u64
    }
}

impl Accumulator for Counted {
    fn update_batch(&mut self, values: &[ArrayRef]) -> PlanResult<()> {
        let rows = self.add(values);
        self.rows.fetch_add(rows, Ordering::Relaxed);
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> PlanResult<()> {
        let rows = self.add(states);
        self.states.fetch_add(rows, Ordering::Relaxed);
        Ok(())
    }

    fn evaluate(&mut self) -> PlanResult<ScalarValue> {
        Ok(ScalarValue::Int64(Some(self.sum)))
    }

    fn state(&mut self) -> PlanResult<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::Int64(Some(self.sum))])
    }

    fn size(&self) -> usize {
        size_of::<Self>()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_row_is_folded_once_and_coarser_levels_take_the_states_of_finer_ones() {
    const ROWS: i64 = 6_000;
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let source = source(1);
    let (counted_rows, counted_states) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    let (rows, states) = (Arc::clone(&counted_rows), Arc::clone(&counted_states));
    let counted = create_udaf(
        "counted",
        vec![DataType::Int64],
        Arc::new(DataType::Int64),
        Volatility::Immutable,
        Arc::new(move |_| {
            let (rows, states) = (Arc::clone(&rows), Arc::clone(&states));
            Ok(Box::new(Counted { sum: 0, rows, states }))
        }),
        Arc::new(vec![DataType::Int64]),
    );
    let context = with_events(&store, &source, How::default()).unwrap();
    context.register_udaf(counted);
    let script = format!(
        "CREATE MATERIALIZED VIEW v LOCATION 'memory:///v' AS
         SELECT k, coalesce(d, TIMESTAMP '1970-01-01') AS d, coalesce(h, TIMESTAMP '1970-01-01') AS h,
           grouping(d, h) AS g, counted(n) AS s FROM {EVENTS} GROUP BY k, ROLLUP(d, h)"
    );
    context.run_sql(&script).await.unwrap();
    // 3 keys in 20 hours of 5 days: 60, 15 and 3 groups.
    let log: Vec<Row> =
        (0..ROWS).map(|n| (Some((n % 3) as u8), Some(1_000 + n * 200 / ROWS), n)).collect();
    source.push("p0", &batch(&log)).unwrap();
    context.pipeline("v").unwrap().run_until_idle().await.unwrap();
    let sums = "SELECT g, count(*), CAST(sum(s) AS BIGINT) FROM v GROUP BY g";
    let sum = ROWS * (ROWS - 1) / 2;
    let expected = [(0, 60), (1, 15), (3, 3)].map(|(g, groups)| format!("{g} | {groups} | {sum}"));
    assert_eq!(shown(&context, sums).await.unwrap(), expected);
    assert_eq!(counted_rows.load(Ordering::Relaxed), ROWS as u64, "each row once, for all sets");
    let states = counted_states.load(Ordering::Relaxed);
    // To the coarser levels, and into what is remembered, of either of two partitions.
    assert!((60 + 15..=2 * (60 + 15) + 2 * (60 + 15 + 3)).contains(&states), "{states} states");
}
