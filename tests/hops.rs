//! `hop` windows in a pipeline, over random logs with late rows, cut at random, against one query over
//! every pair of a row and a window that takes it; and in plain queries, against the same.

use crate::rollups::{runtime, shown};
use crate::support::cuts::{fed, log, opened, run};
use crate::support::{DELAY_US, How, Row, batch, source};
use onefold::arrow::array::{ArrayRef, Int64Array, StringArray, TimestampMicrosecondArray};
use onefold::arrow::record_batch::RecordBatch;
use onefold::datafusion::common::Result as PlanResult;
use onefold::datafusion::prelude::{SessionConfig, SessionContext};
use onefold::object_store::ObjectStore;
use onefold::object_store::memory::InMemory;
use onefold::prelude::*;
use proptest::prelude::*;
use std::sync::Arc;

/// A query over `events`, where `HOP` stands for the window, and the table that holds its groups.
struct Hop {
    name: &'static str,
    slide: i64,
    size: i64,
    /// The width of another window in the same GROUP BY.
    bin: Option<i64>,
    /// ALLOWED LATENESS of a DEDUP below.
    dedup: Option<i64>,
    emit: &'static str,
    columns: &'static str,
    select: &'static str,
}

const PLAIN: Hop = Hop {
    name: "every aggregate",
    slide: 10,
    size: 30,
    bin: None,
    dedup: None,
    emit: "",
    columns: "k VARCHAR NOT NULL, w TIMESTAMP NOT NULL, c BIGINT, cn BIGINT, s BIGINT, sf DOUBLE,
      lo BIGINT, hik VARCHAR, a DOUBLE, sd DOUBLE, f BIGINT, l BIGINT, PRIMARY KEY (k, w)",
    select: "SELECT coalesce(k, 'none') AS k, HOP AS w, count(*) AS c,
      count(k) FILTER (WHERE n % 3 = 0) AS cn, sum(n) AS s, sum(CAST(n AS DOUBLE) / 4) AS sf,
      min(n) AS lo, max(k) AS hik, avg(n) AS a, stddev(n) AS sd, first_value(n ORDER BY n) AS f,
      last_value(n ORDER BY n) AS l FROM EVENTS GROUP BY coalesce(k, 'none'), HOP",
};

const HAVING: Hop = Hop {
    name: "groups that qualify and stop to",
    slide: 5,
    size: 40,
    columns: "w TIMESTAMP NOT NULL, c BIGINT, PRIMARY KEY (w)",
    select: "SELECT HOP AS w, count(*) AS c FROM EVENTS GROUP BY HOP HAVING count(*) % 3 <> 0",
    ..PLAIN
};

const SETS: Hop = Hop {
    name: "coarser groups",
    columns: "k VARCHAR NOT NULL, w TIMESTAMP NOT NULL, g INT NOT NULL, c BIGINT, hi BIGINT,
      PRIMARY KEY (k, w, g)",
    select: "SELECT coalesce(k, 'all') AS k, coalesce(HOP, TIMESTAMP '1970-01-01') AS w,
      grouping(k) AS g, count(*) AS c, max(n) AS hi FROM (SELECT coalesce(k, 'none') AS k, n, AT FROM EVENTS) AS e GROUP BY HOP, ROLLUP(k)",
    ..PLAIN
};

const CLOSED: Hop = Hop {
    name: "windows that are closed",
    emit: "EMIT FINAL",
    columns: "k VARCHAR NOT NULL, w TIMESTAMP NOT NULL, c BIGINT, PRIMARY KEY (k, w)",
    select: "SELECT coalesce(k, 'none') AS k, HOP AS w, count(*) AS c FROM EVENTS
      GROUP BY coalesce(k, 'none'), HOP",
    ..PLAIN
};

const BESIDE: Hop = Hop {
    name: "beside another window, which may be closed first",
    slide: 10,
    size: 40,
    bin: Some(15),
    columns: "b TIMESTAMP NOT NULL, w TIMESTAMP NOT NULL, c BIGINT, PRIMARY KEY (b, w)",
    select:
        "SELECT date_bin(INTERVAL '15 microseconds', at) AS b, HOP AS w, count(*) AS c FROM EVENTS
      GROUP BY date_bin(INTERVAL '15 microseconds', at), HOP",
    ..PLAIN
};

const DEDUP: Hop = Hop {
    name: "behind a DEDUP that waits",
    dedup: Some(4),
    columns: "w TIMESTAMP NOT NULL, c BIGINT, s BIGINT, PRIMARY KEY (w)",
    select: "SELECT HOP AS w, count(*) AS c, sum(n) AS s FROM EVENTS GROUP BY HOP",
    ..PLAIN
};

const HOPS: [Hop; 6] = [PLAIN, HAVING, SETS, CLOSED, BESIDE, DEDUP];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn windows_hold_the_rows_that_are_not_late_for_them_under_every_cut(
        fed in fed(),
    ) {
        runtime().block_on(async {
            let context = fed.through(&script(), &tables()).await;
            for (index, hop) in HOPS.iter().enumerate() {
                let (pairs, late) = taken(&fed.logs, hop);
                let sql = format!("SELECT * FROM h{index}");
                let expected = grouped(&pairs, hop).await.unwrap();
                assert_eq!(shown(&context, &sql).await.unwrap(), expected, "{}", hop.name);
                let counted = format!(
                    "SELECT CAST(coalesce(sum(rows_late), 0) AS BIGINT) FROM onefold_history('h{index}')"
                );
                let counted = shown(&context, &counted).await.unwrap();
                assert_eq!(counted, [late.to_string()], "late: {}", hop.name);
            }
        });
    }

    #[test]
    fn a_plain_query_gives_every_window_of_every_row(log in log(0)) {
        runtime().block_on(async {
            let log: Vec<Row> = log.into_iter().filter(|row| row.1.is_some()).collect();
            let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(2));
            let context = context.with_onefold(Settings::default()).unwrap();
            context.register_batch("events", batch(&log)).unwrap();
            for hop in [PLAIN, HAVING, SETS, BESIDE] {
                let pairs = log.iter().flat_map(|row| starts(row.1.unwrap(), &hop).map(|w| (*row, w)));
                let expected = grouped(&pairs.collect::<Vec<_>>(), &hop).await.unwrap();
                let sql = written(&hop, "events");
                assert_eq!(shown(&context, &sql).await.unwrap(), expected, "{}", hop.name);
            }
        });
    }
}

/// The query of `hop`.
fn written(hop: &Hop, events: &str) -> String {
    let Hop { slide, size, .. } = hop;
    let call = format!("hop(at, INTERVAL '{slide} microseconds', INTERVAL '{size} microseconds')");
    hop.select.replace("HOP", &call).replace("AT", "at").replace("EVENTS", events)
}

/// The starts of the windows that hold `at`.
fn starts(at: i64, hop: &Hop) -> impl Iterator<Item = i64> + use<> {
    let Hop { slide, size, .. } = *hop;
    let first = (at - size).div_euclid(slide) + 1;
    (first..).map(move |index| index * slide).take_while(move |start| *start <= at)
}

/// Makes the tables, and a pipeline into each.
fn script() -> String {
    let statements = HOPS.iter().enumerate().map(|(index, hop)| {
        let Hop { columns, emit, .. } = hop;
        let events = match hop.dedup {
            Some(lateness) => format!(
                "events DEDUP BY n WITHIN INTERVAL '20 microseconds'
                 ALLOWED LATENESS INTERVAL '{lateness} microseconds'"
            ),
            None => "events".to_owned(),
        };
        let select = written(hop, &events);
        format!(
            "CREATE EXTERNAL TABLE h{index} ({columns}) STORED AS DELTA LOCATION 'memory:///h{index}';
             INSERT INTO h{index} {select} {emit};"
        )
    });
    statements.collect::<Vec<_>>().concat()
}

fn tables() -> Vec<String> {
    (0..HOPS.len()).map(|index| format!("h{index}")).collect()
}

/// Each row with each window that takes it, and how many rows none takes: a window is closed for a
/// row once what the row's own log had promised before it has passed the window's end.
fn taken(logs: &[Vec<Row>], hop: &Hop) -> (Vec<(Row, i64)>, usize) {
    let (mut pairs, mut late, mut closed) = (Vec::new(), 0, i64::MAX);
    let waits = hop.dedup.unwrap_or_default();
    for log in logs {
        let mut promised = i64::MIN;
        for row in log {
            let Some(at) = row.1 else {
                late += 1;
                continue;
            };
            let bin = hop.bin.map_or(i64::MAX, |bin| at.div_euclid(bin) * bin + bin);
            let is_open = |start: &i64| (start + hop.size).min(bin) > promised;
            let before = pairs.len();
            if hop.dedup.is_none() || at >= promised {
                pairs.extend(starts(at, hop).filter(is_open).map(|start| (*row, start)));
            }
            late += usize::from(pairs.len() == before);
            promised = promised.max(at - DELAY_US - waits);
        }
        closed = closed.min(promised);
    }
    if hop.emit == "EMIT FINAL" {
        pairs.retain(|(_, start)| start + hop.size <= closed);
    }
    (pairs, late)
}

/// What one query says of the pairs.
async fn grouped(pairs: &[(Row, i64)], hop: &Hop) -> PlanResult<Vec<String>> {
    let key: StringArray = pairs.iter().map(|(row, _)| row.0.map(|key| key.to_string())).collect();
    let at: TimestampMicrosecondArray = pairs.iter().map(|(row, _)| row.1).collect();
    let number: Int64Array = pairs.iter().map(|(row, _)| Some(row.2)).collect();
    let window: TimestampMicrosecondArray = pairs.iter().map(|(_, start)| Some(*start)).collect();
    let columns: [(&str, ArrayRef, bool); 4] = [
        ("k", Arc::new(key), true),
        ("at", Arc::new(at), true),
        ("n", Arc::new(number), true),
        ("start", Arc::new(window), true),
    ];
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
    context.register_batch("pairs", RecordBatch::try_from_iter_with_nullable(columns)?)?;
    let select = hop.select.replace("HOP", "start").replace("AT", "at, start");
    shown(&context, &select.replace("EVENTS", "pairs")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_is_left_out_of_the_windows_that_were_closed_before_it_only() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let source = source(1);
    let context = opened(&store, &source, How::default(), &script()).await.unwrap();
    // Row 3 finds a watermark of 40 + 20 - 7 = 53: of its windows [20, 50), [30, 60) and [40, 70) the
    // first is closed. Row 4 finds all of its own closed.
    let rows = [
        (Some(1), Some(45), 1),
        (Some(1), Some(60), 2),
        (Some(1), Some(46), 3),
        (Some(1), Some(15), 4),
    ];
    source.push("p0", &batch(&rows)).unwrap();
    run(&context, &tables()).await;
    let found = shown(&context, "SELECT CAST(w AS BIGINT), c FROM h0").await.unwrap();
    assert_eq!(found, ["20 | 1", "30 | 2", "40 | 3", "50 | 1", "60 | 1"]);
    let late = "SELECT CAST(sum(rows_late) AS BIGINT) FROM onefold_history('h0')";
    assert_eq!(shown(&context, late).await.unwrap(), ["1"]);
}
