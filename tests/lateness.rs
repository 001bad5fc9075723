//! Rows that come after their window has ended: within the allowed lateness they change what the table
//! says of it, under every cut; beyond it they are counted, and the status says what would have kept them.

use crate::rollups::{runtime, shown};
use crate::support::cuts::{fed, opened, run};
use crate::support::{DELAY_US, How, Row, batch, rows, source, with_events};
use onefold::arrow::array::cast::AsArray;
use onefold::arrow::array::types::Int64Type;
use onefold::datafusion::prelude::SessionContext;
use onefold::object_store::ObjectStore;
use onefold::object_store::memory::InMemory;
use onefold::pipeline::PipelineStatus;
use onefold::prelude::*;
use onefold::source::{MemorySource, SourceTableOptions, WatermarkSpec};
use onefold::types::{EventTime, LateRows};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Microseconds: the setting is in milliseconds.
const MS: i64 = 1_000;
const LATENESS: i64 = 9 * MS;
const WIDTH: i64 = 10 * MS;
const SLIDE: i64 = 4 * MS;
const SIZE: i64 = 12 * MS;
const GAP: i64 = 5 * MS;

/// The four pipelines: windows, windows once they are closed, windows that overlap, and sessions.
fn script(lateness: i64) -> String {
    let made = |table: &str, window: &str, emit: &str| {
        format!(
            "CREATE EXTERNAL TABLE {table} (k BIGINT NOT NULL, w TIMESTAMP NOT NULL, c BIGINT,
             s BIGINT, PRIMARY KEY (k, w)) STORED AS DELTA LOCATION 'memory:///{table}';
             INSERT INTO {table} SELECT n % 2 AS k, {window} AS w, count(*), sum(n) FROM events
             GROUP BY n % 2, {window} {emit};"
        )
    };
    let tumble = "tumble(at, INTERVAL '10 milliseconds')";
    let all = [
        made("changes", tumble, ""),
        made("closed", tumble, "EMIT FINAL"),
        made("hops", "hop(at, INTERVAL '4 milliseconds', INTERVAL '12 milliseconds')", ""),
        made("sessions", "session(at, INTERVAL '5 milliseconds')", ""),
    ];
    format!("SET onefold.window_lateness_ms = {}; {}", lateness / MS, all.concat())
}

fn tables() -> Vec<String> {
    ["changes", "closed", "hops", "sessions"].map(str::to_owned).to_vec()
}

/// Groups by key and start of the window: how many rows, and their sum.
type Groups = BTreeMap<(i64, i64), (i64, i64)>;

fn add(groups: &mut Groups, number: i64, start: i64) {
    let group = groups.entry((number % 2, start)).or_default();
    *group = (group.0 + 1, group.1 + number);
}

/// What each table must hold, and how many rows are late for it: a window takes a row unless what the
/// row's own log had promised before it has passed the window's end by the allowed lateness.
fn expected(logs: &[Vec<Row>], lateness: i64) -> [(Groups, i64); 4] {
    let mut all: [(Groups, i64); 4] = Default::default();
    let mut closed = i64::MAX;
    let mut in_sessions: BTreeMap<i64, Vec<Row>> = BTreeMap::new();
    for log in logs {
        let mut promised = i64::MIN;
        for row in log {
            let Some(at) = row.1 else {
                for (_, late) in &mut all {
                    *late += 1;
                }
                continue;
            };
            let takes = |end: i64| end + lateness > promised;
            let start = at.div_euclid(WIDTH) * WIDTH;
            for (groups, late) in &mut all[..2] {
                if takes(start + WIDTH) { add(groups, row.2, start) } else { *late += 1 }
            }
            let pane = at.div_euclid(SLIDE) * SLIDE;
            let starts = (0..SIZE / SLIDE).map(|back| pane - back * SLIDE);
            let open: Vec<i64> = starts.filter(|start| takes(start + SIZE)).collect();
            for start in &open {
                add(&mut all[2].0, row.2, *start);
            }
            all[2].1 += i64::from(open.is_empty());
            if takes(at + GAP) {
                in_sessions.entry(row.2 % 2).or_default().push(*row);
            } else {
                all[3].1 += 1;
            }
            promised = promised.max(at - DELAY_US);
        }
        closed = closed.min(promised);
    }
    all[1].0.retain(|(_, start), _| start + WIDTH + lateness <= closed);
    for mut rows in in_sessions.into_values() {
        rows.sort_by_key(|row| row.1);
        for session in rows.chunk_by(|one, two| two.1.unwrap() - one.1.unwrap() < GAP) {
            for row in session {
                add(&mut all[3].0, row.2, session[0].1.unwrap());
            }
        }
    }
    all
}

async fn groups(context: &SessionContext, table: &str) -> Groups {
    let sql = format!("SELECT k, CAST(w AS BIGINT), c, s FROM {table}");
    let mut groups = Groups::new();
    for batch in rows(context, &sql).await {
        let column = |index: usize| batch.column(index).as_primitive::<Int64Type>();
        for row in 0..batch.num_rows() {
            let value = |index| column(index).value(row);
            groups.insert((value(0), value(1)), (value(2), value(3)));
        }
    }
    groups
}

async fn late(context: &SessionContext, table: &str) -> String {
    let sql = format!(
        "SELECT CAST(coalesce(sum(rows_late), 0) AS BIGINT) FROM onefold_history('{table}')"
    );
    shown(context, &sql).await.unwrap().remove(0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn windows_take_late_rows_within_the_allowed_lateness_under_every_cut(fed in fed()) {
        let fed = fed.slower(MS);
        runtime().block_on(async {
            let context = fed.through(&script(LATENESS), &tables()).await;
            for (table, (groups_of, late_of)) in tables().iter().zip(expected(&fed.logs, LATENESS)) {
                assert_eq!(groups(&context, table).await, groups_of, "{table}");
                assert_eq!(late(&context, table).await, late_of.to_string(), "late: {table}");
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_window_changes_until_the_lateness_is_over() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let source = source(1);
    let context = opened(&store, &source, How::default(), &script(LATENESS)).await.unwrap();
    let push = async |times: &[i64]| {
        let rows: Vec<Row> = times.iter().map(|at| (None, Some(*at), 2)).collect();
        source.push("p0", &batch(&rows)).unwrap();
        run(&context, &tables()).await;
    };
    let first = async |table: &str| {
        let sql = format!("SELECT max(c) FROM {table} WHERE CAST(w AS BIGINT) <= {}", 2 * MS);
        shown(&context, &sql).await.unwrap().remove(0)
    };
    let late = async || [late(&context, "changes").await, late(&context, "sessions").await];
    // The window ends at 10 ms, and a session of the row at 2 ms alone at 7 ms.
    push(&[2 * MS, 15 * MS + DELAY_US]).await;
    assert_eq!([first("changes").await, first("sessions").await], ["1", "1"]);
    push(&[2 * MS]).await; // five and eight milliseconds late
    assert_eq!([first("changes").await, first("sessions").await], ["2", "2"]);
    assert_eq!(first("closed").await, "NULL", "it still takes rows");
    push(&[19 * MS - 1 + DELAY_US, 2 * MS]).await;
    assert_eq!(first("changes").await, "3", "one microsecond is left");
    assert_eq!(first("sessions").await, "2");
    assert_eq!(late().await, ["0", "1"]);
    assert_eq!(first("closed").await, "NULL");
    push(&[19 * MS + DELAY_US, 2 * MS]).await;
    assert_eq!([first("changes").await, first("closed").await], ["3", "3"]);
    assert_eq!(late().await, ["1", "2"]);
    let held = context.pipeline("changes").unwrap().status().borrow().keys_held;
    assert_eq!(held, 1, "what is closed is forgotten");
}

/// Two rows that push the watermark to 190 ms, one of 110 ms, one that pushes it to 300 ms, and one of
/// 150 ms: the first that is late is the older, and the second comes later behind the watermark.
const LATE: [i64; 6] = [100, 190, 110, 300, 150, 900];

/// The status after [`LATE`] went into a table that `select` fills.
async fn told(select: &str, lateness_ms: i64) -> PipelineStatus {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (events, others) = (source(1), MemorySource::new("others", batch(&[]).schema()));
    let context = with_events(&store, &events, How::default()).unwrap();
    let max_future_us = WatermarkSpec::MAX_FUTURE_US;
    let spec = WatermarkSpec { column: "at".to_owned(), delay_us: DELAY_US, max_future_us };
    let options = SourceTableOptions { watermark: Some(spec), is_unbounded: true };
    context.register_source("others", Arc::new(others), options).unwrap();
    let script = format!(
        "SET onefold.window_lateness_ms = {lateness_ms};
         CREATE EXTERNAL TABLE t (w TIMESTAMP NOT NULL, c BIGINT, PRIMARY KEY (w))
         STORED AS DELTA LOCATION 'memory:///t'; INSERT INTO t {select}"
    );
    context.run_sql(&script).await.unwrap();
    let rows = LATE.iter().zip(0..).map(|(at, number)| (None, Some(at * MS + DELAY_US), number));
    events.push("p0", &batch(&rows.collect::<Vec<Row>>())).unwrap();
    context.pipeline("t").unwrap().run_until_idle().await.unwrap()
}

const BINS: &str = "date_bin(INTERVAL '20 milliseconds', at)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_rows_are_told_by_their_own_time_and_by_what_would_have_kept_them() {
    let direct = format!("SELECT {BINS}, count(*) FROM events GROUP BY {BINS}");
    let below = format!("SELECT w, count(*) FROM (SELECT {BINS} AS w FROM events) AS e GROUP BY w");
    let deep = format!(
        "SELECT e.w, count(*) FROM (SELECT x.w FROM (SELECT {BINS} AS w, n FROM events AS q) AS x
         WHERE n >= 0) AS e GROUP BY e.w"
    );
    let both = format!(
        "SELECT w, count(*) FROM (SELECT {BINS} AS w FROM events UNION ALL
         SELECT {BINS} AS w FROM others) AS e GROUP BY w"
    );
    let hop = "SELECT hop(at, INTERVAL '10 milliseconds', INTERVAL '20 milliseconds'), count(*)
        FROM events GROUP BY hop(at, INTERVAL '10 milliseconds', INTERVAL '20 milliseconds')";
    let session = "SELECT session(at, INTERVAL '15 milliseconds'), count(*) FROM events
        GROUP BY session(at, INTERVAL '15 milliseconds')";
    let dedup = "SELECT at, n FROM events DEDUP BY n WITHIN INTERVAL '20 milliseconds'";
    let clause = "DEDUP BY n WITHIN INTERVAL '20 milliseconds' LATE PASS";
    let passed = direct.replace("events", &format!("events {clause}"));
    let waits =
        "DEDUP BY n WITHIN INTERVAL '20 milliseconds' ALLOWED LATENESS INTERVAL '100 milliseconds'";
    let waits = direct.replace("events", &format!("events {waits} LATE PASS"));
    // From the ends of the windows, or the rows, to the watermark that they met.
    for (select, behind_ms) in [
        (direct.as_str(), 300 - 160),
        (below.as_str(), 300 - 160),
        (deep.as_str(), 300 - 160),
        (both.as_str(), 300 - 160),
        (hop, 300 - 170),
        (session, 300 - 165),
        (dedup, 300 - 150),
        (passed.as_str(), 300 - 160),
    ] {
        let status = told(select, 0).await;
        assert_eq!(status.rows_late, 2, "{select}");
        // Rows are DELAY_US later than their milliseconds, and so is the end of a session.
        let own = if select == session || select == dedup { DELAY_US } else { 0 };
        let behind_us = (behind_ms * MS - own).unsigned_abs();
        let oldest = EventTime(110 * MS + DELAY_US);
        assert_eq!(status.late, Some(LateRows { oldest, behind_us }), "{select}");
    }
    let status = told(&waits, 0).await;
    let late = status.late.map(|own| (own.oldest.0, own.behind_us));
    assert_eq!((status.rows_late, late), (1, Some((150 * MS + DELAY_US, 40_000))), "{waits}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_lateness_than_late_rows_are_behind_keeps_them() {
    let select = format!("SELECT {BINS}, count(*) FROM events GROUP BY {BINS}");
    let late = async |lateness_ms| told(&select, lateness_ms).await;
    let behind_us = late(0).await.late.unwrap().behind_us;
    assert_eq!(behind_us, 140_000);
    assert_eq!(
        (late(140).await.rows_late, late(140).await.late.unwrap().behind_us),
        (1, behind_us)
    );
    assert_eq!((late(141).await.rows_late, late(141).await.late), (0, None));
}
