//! A hot key that has nine of ten rows, among keys that never come again, epoch after epoch and process
//! after process: the answer is exact, and memory does not grow with the rows.

use crate::support::tables::{rows, run};
use crate::support::{DELAY_US, Row, batch, source};
use onefold::datafusion::common::Result as PoolResult;
use onefold::datafusion::execution::SessionStateBuilder;
use onefold::datafusion::execution::memory_pool::{
    GreedyMemoryPool, MemoryPool, MemoryReservation,
};
use onefold::datafusion::execution::runtime_env::RuntimeEnvBuilder;
use onefold::datafusion::prelude::{SessionConfig, SessionContext};
use onefold::object_store::ObjectStore;
use onefold::object_store::memory::InMemory;
use onefold::prelude::*;
use onefold::session::Ports;
use onefold::source::{MemorySource, SourceTableOptions, WatermarkSpec};
use onefold::testing::SimulatedClock;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

const EPOCHS: i64 = 60;
/// Rows of one epoch, of which the tenth part are keys of their own.
const ROWS: i64 = 3_000;
const STATE_BYTES_MAX: u64 = 400_000;

/// The consumer that a local fold is to the pool.
pub(crate) const FOLD: &str = "onefold local rollup";

/// A pool that knows the most that each consumer had.
#[derive(Debug)]
pub(crate) struct Watched {
    inner: GreedyMemoryPool,
    most: Mutex<HashMap<String, usize>>,
    pub(crate) refused: Mutex<u64>,
}

impl Watched {
    pub(crate) fn of(limit: usize) -> Arc<Self> {
        let inner = GreedyMemoryPool::new(limit);
        Arc::new(Self { inner, most: Mutex::default(), refused: Mutex::default() })
    }

    fn note(&self, reservation: &MemoryReservation, more: usize) {
        let mut most = self.most.lock().unwrap();
        let own = most.entry(reservation.consumer().name().to_owned()).or_default();
        *own = (*own).max(reservation.size() + more);
    }

    /// The most that a consumer of this name had since the last call.
    pub(crate) fn take(&self, name: &str) -> usize {
        self.most.lock().unwrap().remove(name).unwrap_or_default()
    }
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("watched")
    }
}

impl MemoryPool for Watched {
    fn name(&self) -> &'static str {
        "watched"
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.note(reservation, additional);
        self.inner.grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.inner.shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> PoolResult<()> {
        let grown = self.inner.try_grow(reservation, additional);
        match grown {
            Ok(()) => self.note(reservation, additional),
            Err(_) if reservation.consumer().name() == FOLD => *self.refused.lock().unwrap() += 1,
            Err(_) => {}
        }
        grown
    }

    fn reserved(&self) -> usize {
        self.inner.reserved()
    }
}

/// A session over `store` whose operators have `pool` together.
pub(crate) fn session_in(
    pool: &Arc<Watched>,
    store: &Arc<dyn ObjectStore>,
    source: &MemorySource,
    state_bytes_max: u64,
) -> SessionContext {
    let mut settings = Settings::default();
    settings.state_bytes_max = state_bytes_max;
    let ports = Ports { clock: Arc::new(SimulatedClock::default()), ..Ports::default() };
    let config = SessionConfig::new().with_target_partitions(2);
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::clone(pool) as _).build_arc();
    let state = SessionStateBuilder::new().with_default_features().with_config(config);
    let state = state.with_runtime_env(runtime.unwrap()).with_onefold_ports(settings, ports);
    let context = SessionContext::new_with_state(state.build());
    context.runtime_env().register_object_store(&"memory:///".parse().unwrap(), Arc::clone(store));
    let watermark = WatermarkSpec {
        column: "at".to_owned(),
        delay_us: DELAY_US,
        max_future_us: WatermarkSpec::MAX_FUTURE_US,
    };
    let options = SourceTableOptions { watermark: Some(watermark), is_unbounded: true };
    context.register_source("events", Arc::new(source.clone()), options).unwrap();
    context
}

/// The same, with the two pipelines.
async fn opened(
    store: &Arc<dyn ObjectStore>,
    source: &MemorySource,
    pool: &Arc<Watched>,
) -> SessionContext {
    let context = session_in(pool, store, source, STATE_BYTES_MAX);
    run(
        &context,
        "CREATE EXTERNAL TABLE ever (m BIGINT NOT NULL, c BIGINT, s BIGINT, PRIMARY KEY (m))
           STORED AS DELTA LOCATION 'memory:///ever';
         INSERT INTO ever SELECT CASE WHEN n % 10 < 9 THEN -1 ELSE n END AS m, count(*), sum(n)
         FROM events GROUP BY CASE WHEN n % 10 < 9 THEN -1 ELSE n END;
         CREATE EXTERNAL TABLE windows (m BIGINT NOT NULL, w TIMESTAMP NOT NULL, c BIGINT, s BIGINT,
           PRIMARY KEY (m, w)) STORED AS DELTA LOCATION 'memory:///windows';
         INSERT INTO windows SELECT CASE WHEN n % 10 < 9 THEN -1 ELSE n END AS m,
           date_bin(INTERVAL '1 millisecond', at) AS w, count(*), sum(n)
         FROM events GROUP BY CASE WHEN n % 10 < 9 THEN -1 ELSE n END,
           date_bin(INTERVAL '1 millisecond', at)",
    )
    .await
    .unwrap();
    context
}

/// The rows of one epoch; time goes on by a microsecond a row.
fn epoch(number: i64) -> Vec<Row> {
    (number * ROWS..(number + 1) * ROWS).map(|n| (None, Some(n), n)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hot_key_among_keys_that_never_come_again_is_counted_in_memory_that_does_not_grow() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (source, pool) = (source(2), Watched::of(usize::MAX));
    let mut context = opened(&store, &source, &pool).await;
    let (mut folds, mut held, mut windows) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..EPOCHS {
        if number % 17 == 16 {
            context = opened(&store, &source, &pool).await;
        }
        let rows = epoch(number);
        let (one, two) = rows.split_at(rows.len() / 3);
        source.push("p0", &batch(one)).unwrap();
        source.push("p1", &batch(two)).unwrap();
        let ever = context.pipeline("ever").unwrap().run_until_idle().await.unwrap();
        assert!(ever.state_bytes <= STATE_BYTES_MAX, "{number}: {}", ever.state_bytes);
        assert_eq!(ever.keys_held, (number + 1) as u64 * ROWS as u64 / 10 + 1);
        let own = context.pipeline("windows").unwrap().run_until_idle().await.unwrap();
        windows.push(own.keys_held);
        held.push(own.state_bytes);
        folds.push(pool.take(FOLD) as u64);
    }
    for (what, all) in [("keys", &windows), ("state", &held), ("folds", &folds)] {
        let most = |range: std::ops::Range<usize>| *all[range].iter().max().unwrap();
        let (early, late) = (most(5..20), most(40..60));
        assert!(early > 0 && late <= early + early / 4, "{what}: {early} and then {late}: {all:?}");
    }
    exact(&context, EPOCHS * ROWS).await;
}

async fn exact(context: &SessionContext, all: i64) {
    let hot: i64 = (0..all).filter(|n| n % 10 < 9).sum();
    let others: i64 = (0..all).filter(|n| n % 10 == 9).sum();
    let query = "SELECT m >= 0, count(DISTINCT m), sum(c), sum(s), max(CASE WHEN m >= 0 THEN c END)
        FROM TABLE GROUP BY m >= 0 ORDER BY 1";
    for table in ["ever", "windows"] {
        assert_eq!(
            rows(context, &query.replace("TABLE", table)).await,
            [
                format!("false 1 {} {hot} NULL", all / 10 * 9),
                format!("true {} {} {others} 1", all / 10, all / 10)
            ],
            "{table}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fold_for_which_there_is_no_memory_hands_on_what_it_has() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (source, pool) = (source(1), Watched::of(1_000_000));
    for number in 0..3 {
        let context = opened(&store, &source, &pool).await;
        let rows: Vec<Row> =
            (number * 100_000..(number + 1) * 100_000).map(|n| (None, Some(n), n)).collect();
        source.push("p0", &batch(&rows)).unwrap();
        for name in ["ever", "windows"] {
            context.pipeline(name).unwrap().run_until_idle().await.unwrap();
        }
    }
    let context = opened(&store, &source, &Watched::of(usize::MAX)).await;
    exact(&context, 300_000).await;
    let refused = *pool.refused.lock().unwrap();
    assert!(refused > 3, "{refused} times there was not enough");
}
