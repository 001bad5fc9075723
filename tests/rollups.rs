//! GROUP BY as a pipeline, over random logs cut at random, against one query over all rows.

use crate::support::{DELAY_US, How, Row, batch, source, with_events};
use onefold::arrow::util::display::{ArrayFormatter, FormatOptions};
use onefold::datafusion::common::Result as PlanResult;
use onefold::datafusion::prelude::{SessionConfig, SessionContext};
use onefold::object_store::ObjectStore;
use onefold::object_store::memory::InMemory;
use onefold::prelude::*;
use onefold::source::MemorySource;
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn groups_are_those_of_one_query_under_every_cut(
        logs in (log(0), log(1), log(2)),
        cuts in proptest::collection::vec((0..3_usize, 1..25_usize, any::<bool>(), any::<bool>(), 1..4_usize), 0..12),
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
            run(&context).await;
            let rest = [(0, 99, false, true, 1), (1, 99, false, true, 1), (2, 99, false, true, 1)];
            for (partition, length, reopens, runs, partitions) in cuts.into_iter().chain(rest) {
                let log = &logs[partition];
                let from = read[partition];
                let to = (from + length).min(log.len());
                source.push(&format!("p{partition}"), &batch(&log[from..to])).unwrap();
                read[partition] = to;
                if reopens {
                    how.partitions = partitions;
                    context = opened(&store, &source, how).await.unwrap();
                }
                if runs {
                    run(&context).await;
                }
            }
            for (index, rollup) in ROLLUPS.iter().enumerate() {
                let expected = expected(&logs, rollup).await.unwrap();
                let sql = format!("SELECT * FROM g{index}");
                assert_eq!(shown(&context, &sql).await.unwrap(), expected, "{}", rollup.name);
            }
        });
    }
}

const ROLLUPS: [Rollup; 3] = [WINDOW, HAVING, TREE];

/// The rows of one partition: some late, some without a key or a time.
fn log(partition: u8) -> impl Strategy<Value = Vec<Row>> {
    let row = (
        proptest::option::weighted(0.9, 0..4_u8),
        proptest::option::weighted(0.97, 0..22_i64),
        0..5_i64,
    );
    proptest::collection::vec(row, 0..40).prop_map(move |steps| {
        let mut now = 100;
        let mut rows = Vec::new();
        for (index, (key, back, ahead)) in steps.into_iter().enumerate() {
            now += ahead;
            let number = i64::from(partition) * 1000 + index as i64;
            rows.push((key, back.map(|back| now - back), number));
        }
        rows
    })
}

async fn opened(
    store: &Arc<dyn ObjectStore>,
    source: &MemorySource,
    how: How,
) -> Result<SessionContext, Error> {
    let context = with_events(store, source, how)?;
    for (index, Rollup { columns, select, .. }) in ROLLUPS.iter().enumerate() {
        let script = format!(
            "CREATE EXTERNAL TABLE g{index} ({columns}) STORED AS DELTA LOCATION 'memory:///g{index}';
             INSERT INTO g{index} {select}"
        );
        context.run_sql(&script).await?;
    }
    Ok(context)
}

async fn run(context: &SessionContext) {
    for index in 0..ROLLUPS.len() {
        let pipeline = context.pipeline(&format!("g{index}")).unwrap();
        pipeline.run_until_idle().await.unwrap();
    }
}

/// What one query says of the rows that are not too late for their window.
async fn expected(logs: &[Vec<Row>], rollup: &Rollup) -> PlanResult<Vec<String>> {
    let width = if rollup.name == HAVING.name { 40 } else { 10 };
    let mut accepted = Vec::new();
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
    }
    let config = SessionConfig::new().with_target_partitions(1);
    let context = SessionContext::new_with_config(config);
    context.register_batch("events", batch(&accepted))?;
    shown(&context, rollup.select).await
}

/// The rows, as sorted text; floats as far as they agree.
async fn shown(context: &SessionContext, sql: &str) -> PlanResult<Vec<String>> {
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

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}
