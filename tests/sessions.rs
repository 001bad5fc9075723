//! `session` windows in a pipeline, over random logs with late rows, cut at random, against sessions
//! made of all rows that are not late at once; and in plain queries, against the same.

use crate::rollups::{runtime, shown};
use crate::support::cuts::{fed, log, opened, run};
use crate::support::{DELAY_US, How, Row, batch, source, with_events};
use onefold::arrow::array::{ArrayRef, Int64Array, StringArray, TimestampMicrosecondArray};
use onefold::arrow::record_batch::RecordBatch;
use onefold::datafusion::common::Result as PlanResult;
use onefold::datafusion::prelude::{SessionConfig, SessionContext};
use onefold::object_store::ObjectStore;
use onefold::object_store::memory::InMemory;
use onefold::prelude::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A query over `EVENTS`, where `SESSION` stands for the window, and the table that holds its groups.
struct Sessions {
    name: &'static str,
    gap: i64,
    /// What besides the session a row is grouped by.
    key: fn(&Row) -> Option<i64>,
    /// ALLOWED LATENESS of a DEDUP below.
    dedup: Option<i64>,
    emit: &'static str,
    columns: &'static str,
    select: &'static str,
}

const EACH: Sessions = Sessions {
    name: "every aggregate, of each key",
    gap: 8,
    key: |row| row.0.map(i64::from),
    dedup: None,
    emit: "",
    columns:
        "k VARCHAR NOT NULL, w TIMESTAMP NOT NULL, until TIMESTAMP, c BIGINT, cn BIGINT, s BIGINT,
      sf DOUBLE, lo BIGINT, a DOUBLE, sd DOUBLE, f BIGINT, l BIGINT, PRIMARY KEY (k, w)",
    select: "SELECT coalesce(k, 'none') AS k, SESSION AS w, max(at) AS until, count(*) AS c,
      count(k) FILTER (WHERE n % 3 = 0) AS cn, sum(n) AS s, sum(CAST(n AS DOUBLE) / 4) AS sf,
      min(n) AS lo, avg(n) AS a, stddev(n) AS sd, first_value(n ORDER BY n) AS f,
      last_value(n ORDER BY n) AS l FROM EVENTS GROUP BY coalesce(k, 'none'), SESSION",
};

const HAVING: Sessions = Sessions {
    name: "sessions of all rows that qualify and stop to",
    gap: 2,
    key: |_| None,
    columns: "w TIMESTAMP NOT NULL, c BIGINT NOT NULL, PRIMARY KEY (w)",
    select:
        "SELECT w, c FROM (SELECT SESSION AS w, count(*) AS c FROM EVENTS GROUP BY SESSION) AS e
      WHERE c % 3 <> 0",
    ..EACH
};

const CLOSED: Sessions = Sessions {
    name: "sessions that are closed",
    gap: 5,
    emit: "EMIT FINAL",
    columns: "k VARCHAR NOT NULL, w TIMESTAMP NOT NULL, c BIGINT, PRIMARY KEY (w, k)",
    select: "SELECT coalesce(k, 'none') AS k, SESSION AS w, count(*) AS c FROM EVENTS
      GROUP BY SESSION, coalesce(k, 'none')",
    ..EACH
};

const BESIDE: Sessions = Sessions {
    name: "within other windows",
    key: |row| row.1.map(|at| at.div_euclid(15)),
    columns: "b TIMESTAMP NOT NULL, w TIMESTAMP NOT NULL, c BIGINT, PRIMARY KEY (b, w)",
    select: "SELECT date_bin(INTERVAL '15 microseconds', at) AS b, SESSION AS w, count(*) AS c
      FROM EVENTS GROUP BY date_bin(INTERVAL '15 microseconds', at), SESSION",
    ..EACH
};

const DEDUP: Sessions = Sessions {
    name: "behind a DEDUP that waits",
    gap: 3,
    key: |row| Some(row.2 % 3),
    dedup: Some(4),
    columns: "m BIGINT NOT NULL, w TIMESTAMP NOT NULL, c BIGINT, s BIGINT, PRIMARY KEY (m, w)",
    select: "SELECT n % 3 AS m, SESSION AS w, count(*) AS c, sum(n) AS s FROM EVENTS
      GROUP BY n % 3, SESSION",
    ..EACH
};

const ALL: [Sessions; 5] = [EACH, HAVING, CLOSED, BESIDE, DEDUP];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn sessions_are_those_of_all_rows_that_are_not_late_under_every_cut(
        fed in fed(),
    ) {
        runtime().block_on(async {
            let context = fed.through(&script(), &tables()).await;
            for (index, own) in ALL.iter().enumerate() {
                let (rows, late, closed) = accepted(&fed.logs, own);
                let mut begun = begun(&rows, own);
                if own.emit == "EMIT FINAL" {
                    begun.retain(|(.., last)| last + 2 * own.gap <= closed);
                }
                let expected = grouped(&begun, own).await.unwrap();
                let sql = format!("SELECT * FROM s{index}");
                assert_eq!(shown(&context, &sql).await.unwrap(), expected, "{}", own.name);
                let counted = format!(
                    "SELECT CAST(coalesce(sum(rows_late), 0) AS BIGINT) FROM onefold_history('s{index}')"
                );
                let counted = shown(&context, &counted).await.unwrap();
                assert_eq!(counted, [late.to_string()], "late: {}", own.name);
            }
        });
    }

    #[test]
    fn a_plain_query_gives_the_same_sessions(log in log(0)) {
        runtime().block_on(async {
            let log: Vec<Row> = log.into_iter().filter(|row| row.1.is_some()).collect();
            let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(2));
            let context = context.with_onefold(Settings::default()).unwrap();
            context.register_batch("events", batch(&log)).unwrap();
            for own in [EACH, HAVING, BESIDE] {
                let expected = grouped(&begun(&log, &own), &own).await.unwrap();
                let sql = written(&own, "events");
                assert_eq!(shown(&context, &sql).await.unwrap(), expected, "{}", own.name);
            }
        });
    }
}

fn written(own: &Sessions, events: &str) -> String {
    let call = format!("session(at, INTERVAL '{} microseconds')", own.gap);
    own.select.replace("SESSION", &call).replace("EVENTS", events)
}

/// Makes the tables, and a pipeline into each.
fn script() -> String {
    let statements = ALL.iter().enumerate().map(|(index, own)| {
        let Sessions { columns, emit, .. } = own;
        let events = match own.dedup {
            Some(lateness) => format!(
                "events DEDUP BY n WITHIN INTERVAL '20 microseconds'
                 ALLOWED LATENESS INTERVAL '{lateness} microseconds'"
            ),
            None => "events".to_owned(),
        };
        let select = written(own, &events);
        format!(
            "CREATE EXTERNAL TABLE s{index} ({columns}) STORED AS DELTA LOCATION 'memory:///s{index}';
             INSERT INTO s{index} {select} {emit};"
        )
    });
    statements.collect::<Vec<_>>().concat()
}

fn tables() -> Vec<String> {
    (0..ALL.len()).map(|index| format!("s{index}")).collect()
}

/// The rows that are not late, how many are, and the watermark: a row is late once what its own log
/// had promised before it has passed the end of a session of that row alone.
fn accepted(logs: &[Vec<Row>], own: &Sessions) -> (Vec<Row>, usize, i64) {
    let (mut rows, mut late, mut closed) = (Vec::new(), 0, i64::MAX);
    for log in logs {
        let mut promised = i64::MIN;
        for row in log {
            let Some(at) = row.1 else {
                late += 1;
                continue;
            };
            let is_known = own.dedup.is_none() || at >= promised;
            if is_known && at + own.gap > promised {
                rows.push(*row);
            } else {
                late += 1;
            }
            promised = promised.max(at - DELAY_US - own.dedup.unwrap_or_default());
        }
        closed = closed.min(promised);
    }
    (rows, late, closed)
}

/// Each row with the first and the last time of its session.
fn begun(rows: &[Row], own: &Sessions) -> Vec<(Row, i64, i64)> {
    let mut keys: BTreeMap<Option<i64>, Vec<Row>> = BTreeMap::new();
    for row in rows {
        keys.entry((own.key)(row)).or_default().push(*row);
    }
    let mut begun = Vec::new();
    for mut rows in keys.into_values() {
        rows.sort_by_key(|row| row.1);
        for session in rows.chunk_by(|one, two| two.1.unwrap() - one.1.unwrap() < own.gap) {
            let (first, last) = (session[0].1.unwrap(), session[session.len() - 1].1.unwrap());
            begun.extend(session.iter().map(|row| (*row, first, last)));
        }
    }
    begun
}

/// What one query says of the sessions.
async fn grouped(begun: &[(Row, i64, i64)], own: &Sessions) -> PlanResult<Vec<String>> {
    let key: StringArray = begun.iter().map(|(row, ..)| row.0.map(|key| key.to_string())).collect();
    let at: TimestampMicrosecondArray = begun.iter().map(|(row, ..)| row.1).collect();
    let number: Int64Array = begun.iter().map(|(row, ..)| Some(row.2)).collect();
    let start: TimestampMicrosecondArray = begun.iter().map(|(_, first, _)| Some(*first)).collect();
    let columns: [(&str, ArrayRef, bool); 4] = [
        ("k", Arc::new(key), true),
        ("at", Arc::new(at), true),
        ("n", Arc::new(number), true),
        ("start", Arc::new(start), true),
    ];
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
    context.register_batch("begun", RecordBatch::try_from_iter_with_nullable(columns)?)?;
    let select = own.select.replace("SESSION", "start");
    shown(&context, &select.replace("EVENTS", "begun")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_between_two_sessions_makes_them_one_in_one_commit() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let source = source(1);
    let context = opened(&store, &source, How::default(), &script()).await.unwrap();
    let sessions = "SELECT CAST(w AS BIGINT), CAST(until AS BIGINT), c FROM s0";
    let push = async |rows: &[Row]| {
        source.push("p0", &batch(rows)).unwrap();
        run(&context, &tables()).await;
        shown(&context, sessions).await.unwrap()
    };
    // The gap is 8: 7 apart is one session, 8 apart are two.
    let found =
        push(&[(Some(1), Some(107), 1), (Some(1), Some(100), 2), (Some(1), Some(115), 3)]).await;
    assert_eq!(found, ["100 | 107 | 2", "115 | 115 | 1"]);
    // The first of a session moves it.
    let found = push(&[(Some(2), Some(110), 4)]).await;
    assert_eq!(found, ["100 | 107 | 2", "110 | 110 | 1", "115 | 115 | 1"]);
    let found = push(&[(Some(2), Some(104), 5)]).await;
    assert_eq!(found, ["100 | 107 | 2", "104 | 110 | 2", "115 | 115 | 1"]);
    let version = context.table_version("s0");
    let found = push(&[(Some(1), Some(108), 6)]).await;
    assert_eq!(found, ["100 | 115 | 4", "104 | 110 | 2"]);
    assert_eq!(context.table_version("s0"), version.map(|own| own + 1));
    let state = "SELECT \"group\", window_end FROM onefold_state('s0')";
    assert_eq!(shown(&context, state).await.unwrap().len(), 2);
    // A session is forgotten once a row in it would be late: at its last time and two gaps.
    let found = push(&[(Some(3), Some(115 + 16 + 7), 7)]).await;
    assert_eq!(found, ["100 | 115 | 4", "104 | 110 | 2", "138 | 138 | 1"]);
    let found = shown(&context, state).await.unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    let found = push(&[(Some(1), Some(123), 8), (Some(1), Some(124), 9)]).await;
    assert_eq!(found, ["100 | 115 | 4", "104 | 110 | 2", "124 | 124 | 1", "138 | 138 | 1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_need_the_watermark_column() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let context = with_events(&store, &source(1), How::default()).unwrap();
    let script = "CREATE EXTERNAL TABLE t (w TIMESTAMP NOT NULL, c BIGINT, PRIMARY KEY (w))
        STORED AS DELTA LOCATION 'memory:///t';
        INSERT INTO t SELECT session(to_timestamp(n), INTERVAL '1 minute'), count(*) FROM events
        GROUP BY session(to_timestamp(n), INTERVAL '1 minute')";
    let error = context.run_sql(script).await.unwrap_err().to_string();
    assert!(error.contains("of another column than that of the watermark"), "{error}");
}
