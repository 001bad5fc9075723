//! Every aggregate of a rollup as a pipeline, over random logs, cuts, crashes and restarts under
//! another parallelism, against one query over all rows.

use crate::support::{How, Row, batch, source, with_events};
use onefold::arrow::util::display::{ArrayFormatter, FormatOptions};
use onefold::datafusion::common::Result as PlanResult;
use onefold::datafusion::prelude::{SessionConfig, SessionContext};
use onefold::object_store::ObjectStore;
use onefold::object_store::memory::InMemory;
use onefold::prelude::*;
use onefold::source::MemorySource;
use onefold::testing::{Fault, FaultyStore};
use proptest::prelude::*;
use std::sync::Arc;

/// How the value of a group must agree with that of one query.
#[derive(Clone, Copy, Debug)]
enum Agree {
    /// To the last bit.
    Same,
    /// Up to the rounding of floats.
    Near,
    /// Its rank among the values lies this near to where it should; one query gives the values.
    Rank(f64),
}

use Agree::{Near, Rank, Same};

/// The type of its column, the aggregate, what to ask one query where that is not the same, and how
/// both must agree.
type Own = (&'static str, &'static str, &'static str, Agree);

/// Columns of every type, with NULLs; `t` has ties, `e` no rounding, `g` what is no plain number.
const ROWS: &str = "SELECT coalesce(k, 'none') AS k, n, n % 5 AS t,
    CASE WHEN n % 6 = 0 THEN NULL ELSE n % 2 = 0 END AS p,
    CAST(n % 200 - 100 AS TINYINT) AS i8, CAST(nullif(n % 9, 4) - 4 AS SMALLINT) AS i16,
    CAST(n * 1000 AS INT) AS i32, nullif(n % 7, 3) * 1000000007 AS i64,
    arrow_cast(n * 3, 'UInt64') AS u64,
    CAST(CAST(nullif(n % 97, 5) AS DOUBLE) / 4 AS DECIMAL(12, 2)) AS d,
    CAST(nullif(n % 41, 8) AS DOUBLE) / 7 - 2 AS f, CAST(nullif(n % 43, 8) AS DOUBLE) / 8 AS e,
    CAST(CAST(n % 31 AS DOUBLE) / 3 AS FLOAT) AS f32,
    CASE n % 8 WHEN 0 THEN 'NaN'::DOUBLE WHEN 1 THEN 'Infinity'::DOUBLE
      WHEN 2 THEN '-Infinity'::DOUBLE WHEN 3 THEN '-0'::DOUBLE WHEN 4 THEN '0'::DOUBLE END AS g,
    CASE WHEN n % 5 = 0 THEN NULL ELSE concat('v', n % 17) END AS s,
    CASE WHEN n % 7 = 0 THEN NULL ELSE n % 3 = 0 END AS b,
    arrow_cast(n * 1000003, 'Timestamp(Microsecond, None)') AS ts,
    arrow_cast(arrow_cast(n * 11, 'Int32'), 'Date32') AS day,
    CAST(concat('x', n % 13) AS BYTEA) AS bin FROM events";

const EXACT: &[Own] = &[
    ("BIGINT", "count(*)", "", Same),
    ("BIGINT", "count(s)", "", Same),
    ("BIGINT", "count(i16, s)", "", Same),
    ("BIGINT", "sum(i8)", "", Same),
    ("BIGINT", "sum(i16)", "", Same),
    ("BIGINT", "sum(i32)", "", Same),
    ("BIGINT", "sum(i64)", "", Same),
    ("BIGINT", "sum(u64)", "", Same),
    ("DECIMAL(22, 2)", "sum(d)", "", Same),
    ("DECIMAL(16, 6)", "avg(d)", "", Same),
    ("TINYINT", "min(i8)", "", Same),
    ("SMALLINT", "max(i16)", "", Same),
    ("INT", "min(i32)", "", Same),
    ("BIGINT", "max(i64)", "", Same),
    ("BIGINT", "min(u64)", "", Same),
    ("DECIMAL(12, 2)", "max(d)", "", Same),
    ("DOUBLE", "min(f)", "", Same),
    ("FLOAT", "max(f32)", "", Same),
    ("DOUBLE", "min(g)", "first_value(g ORDER BY g NULLS LAST)", Same),
    ("DOUBLE", "max(g)", "last_value(g ORDER BY g NULLS FIRST)", Same),
    ("VARCHAR", "min(s)", "", Same),
    ("VARCHAR", "max(s)", "", Same),
    ("BOOLEAN", "min(b)", "", Same),
    ("TIMESTAMP", "max(ts)", "", Same),
    ("DATE", "min(day)", "", Same),
    ("BYTEA", "max(bin)", "", Same),
    ("BOOLEAN", "bool_and(b)", "", Same),
    ("BOOLEAN", "bool_or(b)", "", Same),
    ("INT", "bit_and(i32)", "", Same),
    ("BIGINT", "bit_or(i64)", "", Same),
    ("BIGINT", "bit_xor(u64)", "", Same),
    ("TINYINT", "bit_xor(i8)", "", Same),
    ("BIGINT", "regr_count(e, i32)", "", Same),
];

const ORDERED: &[Own] = &[
    ("BIGINT", "first_value(i64 ORDER BY t, n)", "", Same),
    ("VARCHAR", "last_value(s ORDER BY t DESC, n)", "", Same),
    ("BYTEA", "first_value(bin ORDER BY n DESC)", "", Same),
    ("BOOLEAN", "last_value(b ORDER BY n)", "", Same),
    ("TIMESTAMP", "first_value(ts ORDER BY n)", "", Same),
    ("DATE", "last_value(day ORDER BY n)", "", Same),
    ("DECIMAL(12, 2)", "first_value(d ORDER BY n)", "", Same),
    ("FLOAT", "last_value(f32 ORDER BY n)", "", Same),
    ("VARCHAR", "first_value(s ORDER BY s DESC NULLS LAST)", "", Same),
    // Rows that tie: the value itself decides.
    ("VARCHAR", "first_value(s ORDER BY t)", "first_value(s ORDER BY t, s ASC NULLS LAST)", Same),
    ("INT", "last_value(i32 ORDER BY t)", "last_value(i32 ORDER BY t, i32)", Same),
    ("BOOLEAN", "last_value(b ORDER BY t)", "last_value(b ORDER BY t, b ASC NULLS FIRST)", Same),
    ("BIGINT", "approx_distinct(i8)", "", Same),
    ("BIGINT", "approx_distinct(i16)", "", Same),
    ("BIGINT", "approx_distinct(i32)", "", Same),
    ("BIGINT", "approx_distinct(i64)", "", Same),
    ("BIGINT", "approx_distinct(u64)", "", Same),
    ("BIGINT", "approx_distinct(d)", "", Same),
    ("BIGINT", "approx_distinct(s)", "", Same),
    ("BIGINT", "approx_distinct(b)", "", Same),
    ("BIGINT", "approx_distinct(ts)", "", Same),
    ("BIGINT", "approx_distinct(day)", "", Same),
    ("BIGINT", "approx_distinct(bin)", "", Same),
    ("BYTEA", "hll_state(s)", "", Same),
    ("BYTEA", "hll_state(f, 6)", "", Same),
    ("BYTEA", "quantile_state(f)", "", Same),
    ("BYTEA", "bitmap_state(i64)", "", Same),
];

const ROUNDED: &[Own] = &[
    ("DOUBLE", "sum(f)", "", Near),
    ("DOUBLE", "sum(f32)", "", Near),
    ("DOUBLE", "avg(i32)", "", Near),
    ("DOUBLE", "avg(u64)", "", Near),
    ("DOUBLE", "avg(f)", "", Near),
    ("DOUBLE", "avg(f32)", "", Near),
    ("DOUBLE", "var(f)", "", Near),
    ("DOUBLE", "var_pop(i32)", "", Near),
    ("DOUBLE", "stddev(f)", "", Near),
    ("DOUBLE", "stddev_pop(f32)", "", Near),
    ("DOUBLE", "covar_samp(e, i32)", "", Near),
    ("DOUBLE", "covar_pop(f, f32)", "", Near),
    ("DOUBLE", "corr(e, i32)", "", Near),
    ("DOUBLE", "regr_slope(e, i32)", "", Near),
    ("DOUBLE", "regr_intercept(e, i32)", "", Near),
    ("DOUBLE", "regr_r2(e, i32)", "", Near),
    ("DOUBLE", "regr_avgx(e, i32)", "", Near),
    ("DOUBLE", "regr_avgy(e, i32)", "", Near),
    ("DOUBLE", "regr_sxx(e, i32)", "", Near),
    ("DOUBLE", "regr_syy(e, i32)", "", Near),
    ("DOUBLE", "regr_sxy(e, i32)", "", Near),
    ("DOUBLE", "approx_median(f)", "array_agg(f ORDER BY f)", Rank(0.5)),
    (
        "DOUBLE",
        "approx_percentile_cont(0.9) WITHIN GROUP (ORDER BY f)",
        "array_agg(f ORDER BY f)",
        Rank(0.9),
    ),
    (
        "DOUBLE",
        "approx_percentile_cont_with_weight(1, 0.1) WITHIN GROUP (ORDER BY f)",
        "array_agg(f ORDER BY f)",
        Rank(0.1),
    ),
];

const TABLES: [&[Own]; 3] = [EXACT, ORDERED, ROUNDED];

/// What follows after rows have come.
#[derive(Clone, Copy, Debug)]
enum Then {
    More,
    Run,
    /// Another session, with so many partitions.
    Reopen(usize),
    /// The process is cut off at a call to its store.
    Crash(u64, Fault, usize),
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4))]

    #[test]
    fn every_aggregate_is_that_of_one_query_under_every_cut_and_crash(
        logs in (log(0), log(1), log(2)),
        steps in proptest::collection::vec((0..3_usize, 1..25_usize, then()), 0..10),
        batch_size in prop_oneof![Just(1_usize), Just(7), Just(8192)],
        epoch_rows_max in prop_oneof![Just(4_u64), Just(15), Just(1000)],
    ) {
        let logs = [logs.0, logs.1, logs.2];
        runtime().block_on(async {
            let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
            let source = source(3);
            let mut read = [0; 3];
            let mut how = How { partitions: 2, batch_size, epoch_rows_max };
            let mut context = opened(&store, &source, how).await.unwrap();
            let rest = [(0, 99, Then::More), (1, 99, Then::More), (2, 99, Then::Run)];
            for (partition, length, then) in steps.into_iter().chain(rest) {
                let from = read[partition];
                let to = (from + length).min(logs[partition].len());
                source.push(&format!("p{partition}"), &batch(&logs[partition][from..to])).unwrap();
                read[partition] = to;
                match then {
                    Then::More => continue,
                    Then::Run => {}
                    Then::Reopen(partitions) => {
                        how.partitions = partitions;
                        context = opened(&store, &source, how).await.unwrap();
                    }
                    Then::Crash(at, fault, partitions) => {
                        let faulty = FaultyStore::cut_off(Arc::clone(&store), at, fault);
                        let cut_off: Arc<dyn ObjectStore> = Arc::new(faulty.clone());
                        if let Ok(context) = opened(&cut_off, &source, how).await {
                            drop(run(&context).await);
                        }
                        faulty.apply_late(u64::MAX).await;
                        how.partitions = partitions;
                        context = opened(&store, &source, how).await.unwrap();
                    }
                }
                run(&context).await.unwrap();
            }
            for (index, own) in TABLES.into_iter().enumerate() {
                compare(&context, index, own, &logs).await;
            }
        });
    }
}

fn then() -> impl Strategy<Value = Then> {
    let fault = proptest::sample::select(Fault::ALL.to_vec());
    prop_oneof![
        2 => Just(Then::More),
        2 => Just(Then::Run),
        1 => (1..5_usize).prop_map(Then::Reopen),
        1 => (1..90_u64, fault, 1..5_usize).prop_map(|(at, fault, own)| Then::Crash(at, fault, own)),
    ]
}

fn log(partition: i64) -> impl Strategy<Value = Vec<Row>> {
    let key = proptest::option::weighted(0.9, 0..3_u8);
    proptest::collection::vec(key, 0..60).prop_map(move |keys| {
        let row = |(index, key)| (key, Some(100), partition * 1000 + index as i64);
        keys.into_iter().enumerate().map(row).collect()
    })
}

async fn opened(
    store: &Arc<dyn ObjectStore>,
    source: &MemorySource,
    how: How,
) -> Result<SessionContext, Error> {
    let context = with_events(store, source, how)?;
    for (index, own) in TABLES.into_iter().enumerate() {
        let columns: Vec<String> = own
            .iter()
            .enumerate()
            .map(|(column, (kind, ..))| format!("a{column} {kind}, f{column} {kind}"))
            .collect();
        let select = select(own.iter().map(|own| own.1));
        let script = format!(
            "CREATE EXTERNAL TABLE g{index} (k VARCHAR NOT NULL, {}, PRIMARY KEY (k))
             STORED AS DELTA LOCATION 'memory:///g{index}';
             INSERT INTO g{index} {select}",
            columns.join(", ")
        );
        context.run_sql(&script).await?;
    }
    Ok(context)
}

/// A query of the aggregates, each of all rows and of some.
fn select<'a>(aggregates: impl Iterator<Item = &'a str>) -> String {
    let shown = aggregates
        .enumerate()
        .map(|(column, own)| format!("{own} AS a{column}, {own} FILTER (WHERE p) AS f{column}"));
    let shown: Vec<String> = shown.collect();
    format!("SELECT k, {} FROM ({ROWS}) GROUP BY k", shown.join(", "))
}

async fn run(context: &SessionContext) -> Result<(), Error> {
    for index in 0..TABLES.len() {
        context.pipeline(&format!("g{index}"))?.run_until_idle().await?;
    }
    Ok(())
}

async fn compare(context: &SessionContext, index: usize, own: &[Own], logs: &[Vec<Row>]) {
    let plain = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1))
        .with_onefold(Settings::default())
        .unwrap();
    let all: Vec<Row> = logs.iter().flatten().copied().collect();
    plain.register_batch("events", batch(&all)).unwrap();
    let asked =
        own.iter().map(|(_, ours, theirs, _)| if theirs.is_empty() { *ours } else { *theirs });
    let expected = shown(&plain, &select(asked)).await.unwrap();
    let found = shown(context, &format!("SELECT * FROM g{index}")).await.unwrap();
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found[0], expected[0]);
        for (column, (found, expected)) in found[1..].iter().zip(&expected[1..]).enumerate() {
            let (_, aggregate, _, agree) = own[column / 2];
            assert!(agree.holds(found, expected), "{aggregate}: {found}, not {expected}");
        }
    }
}

impl Agree {
    fn holds(self, found: &str, expected: &str) -> bool {
        let number = |text: &str| text.parse::<f64>().ok();
        match (self, number(found)) {
            (Same, _) | (Near, None) => found == expected,
            (Near, Some(found)) => number(expected).is_some_and(|expected| {
                let scale = 1_f64.max(found.abs()).max(expected.abs());
                (found - expected).abs() <= 1e-6 * scale
            }),
            (Rank(rank), found) => {
                let sorted = expected.trim_matches(['[', ']']).split(", ");
                let values: Vec<f64> = sorted.filter_map(number).collect();
                let Some(found) = found else { return values.is_empty() };
                let last = (values.len() - 1) as f64;
                let slack = 1.0 + 0.1 * last;
                let at = |place: f64| values[place.clamp(0.0, last) as usize];
                let place = rank * last;
                (at((place - slack).floor())..=at((place + slack).ceil())).contains(&found)
            }
        }
    }
}

/// The accumulators see new groups beside groups that are remembered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_group_of_nulls_is_null_beside_groups_that_have_values() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let source = source(1);
    let context = with_events(&store, &source, How::default()).unwrap();
    let script = "CREATE EXTERNAL TABLE t (k VARCHAR NOT NULL, lo BIGINT, hi DOUBLE, s BIGINT,
          a DECIMAL(14, 6), m DOUBLE, b BOOLEAN, x BIGINT, PRIMARY KEY (k))
        STORED AS DELTA LOCATION 'memory:///t';
        INSERT INTO t SELECT coalesce(k, 'x') AS k, min(v), max(CAST(v AS DOUBLE)), sum(v),
          avg(CAST(v AS DECIMAL(10, 2))), avg(v + 1), bool_and(v > 0), bit_and(v)
        FROM (SELECT k, CASE WHEN n < 1000 THEN n END AS v FROM events) GROUP BY coalesce(k, 'x')";
    context.run_sql(script).await.unwrap();
    let push = |keys: std::ops::Range<u8>, from: i64| {
        let row = |key: u8| (Some(key), Some(5), from + i64::from(key));
        source.push("p0", &batch(&keys.map(row).collect::<Vec<Row>>())).unwrap();
    };
    let pipeline = context.pipeline("t").unwrap();
    push(0..100, 0);
    pipeline.run_until_idle().await.unwrap();
    push(0..200, 1000);
    pipeline.run_until_idle().await.unwrap();
    for column in ["lo", "hi", "s", "a", "m", "b", "x"] {
        let query = format!("SELECT 'known', count({column}), count(*) FROM t");
        assert_eq!(shown(&context, &query).await.unwrap(), [["known", "100", "200"]], "{column}");
    }
}

/// The rows, sorted, each column as text.
async fn shown(context: &SessionContext, sql: &str) -> PlanResult<Vec<Vec<String>>> {
    let options = FormatOptions::default().with_null("NULL");
    let mut rows = Vec::new();
    for batch in context.sql(sql).await?.collect().await? {
        let cells = batch.columns().iter().map(|own| ArrayFormatter::try_new(own, &options));
        let cells = cells.collect::<Result<Vec<_>, _>>()?;
        let row = |row| cells.iter().map(|own| own.value(row).to_string()).collect();
        rows.extend((0..batch.num_rows()).map(row));
    }
    rows.sort_by(|one: &Vec<String>, other| one[0].cmp(&other[0]));
    Ok(rows)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}
