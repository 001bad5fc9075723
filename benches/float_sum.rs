//! What a sum of floats costs that does not depend on the order of rows, beside DataFusion's own.
//!
//! Answers: how many rows and how many partial states per second one core adds to their groups, and
//! what a state takes, for prices and for values that lie up to 2^80 apart; and how much slower a
//! pipeline is under the setting. Both are measured in turns in the same run; the best of three counts.
#![allow(clippy::future_not_send, reason = "a bench waits on one thread")]

use onefold::arrow::array::{Array, ArrayRef, Float64Array};
use onefold::arrow::datatypes::{DataType, Field, Schema};
use onefold::datafusion::common::Result as PlanResult;
use onefold::datafusion::functions_aggregate::sum::sum_udaf;
use onefold::datafusion::logical_expr::{AggregateUDF, EmitTo, GroupsAccumulator};
use onefold::datafusion::physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use onefold::datafusion::physical_expr::expressions::Column;
use onefold::datafusion::prelude::{SessionConfig, SessionContext};
use onefold::operator::exact_float;
use onefold::prelude::*;
use std::error::Error as StdError;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn StdError>>;

const ROWS: usize = 8_000_000;
const BATCH_ROWS: usize = 8_192;
const TURNS: usize = 3;

/// Values, and the groups of their rows.
type Batches = Vec<(ArrayRef, Vec<usize>)>;

fn main() -> Outcome<()> {
    let theirs = function(sum_udaf())?;
    let ours = function(exact_float("sum").ok_or("no exact sum")?)?;
    for is_wide in [false, true] {
        for groups in [1, 1_000, 1_000_000] {
            let batches = batches(groups, is_wide);
            let [mut add, mut merge] = [[Duration::MAX; 2]; 2];
            let mut bytes = [0.0; 2];
            for _ in 0..TURNS {
                for (index, function) in [&theirs, &ours].into_iter().enumerate() {
                    let (added, merged, held) = measure(function, &batches, groups)?;
                    add[index] = add[index].min(added);
                    merge[index] = merge[index].min(merged);
                    bytes[index] = held as f64 / groups as f64;
                }
            }
            let rate = |time: Duration, many: usize| many as f64 / time.as_secs_f64() / 1e6;
            let ratio = |both: [Duration; 2]| both[0].as_secs_f64() / both[1].as_secs_f64();
            writeln!(
                std::io::stdout(),
                "{}, {groups} groups: rows {:.0} M/s, DataFusion {:.0} M/s, ratio {:.2}; states \
                 {:.1} M/s, DataFusion {:.1} M/s, ratio {:.2}; bytes of a state {:.1}, {:.1}",
                if is_wide { "2^80 apart" } else { "prices" },
                rate(add[1], ROWS),
                rate(add[0], ROWS),
                ratio(add),
                rate(merge[1], groups),
                rate(merge[0], groups),
                ratio(merge),
                bytes[1],
                bytes[0],
            )?;
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(pipelines())
}

/// A pipeline of `sum` and `avg` per key, without the setting and with it.
async fn pipelines() -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    let plain = SessionContext::new_with_config(SessionConfig::new());
    let copy = format!(
        "COPY (SELECT value * 7919 % 100003 AS id, CAST(value * 104729 % 1000000 AS DOUBLE) / 100 AS v
         FROM generate_series(1, {ROWS})) TO '{}' STORED AS PARQUET",
        path("rows/0.parquet")
    );
    plain.sql(&copy).await?.collect().await?;
    let (mut best, mut state) = ([Duration::MAX; 2], [0; 2]);
    for turn in 0..TURNS {
        for (index, setting) in ["false", "true"].into_iter().enumerate() {
            let context = SessionContext::new_with_config(SessionConfig::new());
            let context = context.with_onefold(Settings::default())?;
            let script = format!(
                "SET onefold.exact_float_sums = {setting};
                 CREATE UNBOUNDED EXTERNAL TABLE e (id BIGINT, v DOUBLE) STORED AS PARQUET LOCATION '{}/';
                 CREATE EXTERNAL TABLE t (id BIGINT NOT NULL, s DOUBLE, a DOUBLE, PRIMARY KEY (id))
                 STORED AS DELTA LOCATION '{}';
                 INSERT INTO t SELECT id, sum(v), avg(v) FROM e GROUP BY id",
                path("rows"),
                path(&format!("t-{turn}-{setting}"))
            );
            context.run_sql(&script).await?;
            let start = now();
            let status = context.pipeline("t")?.run_until_idle().await?;
            best[index] = best[index].min(start.elapsed());
            state[index] = status.state_bytes;
        }
    }
    let rate = |time: Duration| ROWS as f64 / time.as_secs_f64() / 1e6;
    writeln!(
        std::io::stdout(),
        "pipeline of sum and avg, 100 003 keys: {:.2} M rows/s, without the setting {:.2} M, ratio \
         {:.2}; state {:.1} MiB, {:.1} MiB",
        rate(best[1]),
        rate(best[0]),
        best[0].as_secs_f64() / best[1].as_secs_f64(),
        state[1] as f64 / f64::from(1 << 20),
        state[0] as f64 / f64::from(1 << 20)
    )?;
    Ok(())
}

fn function(own: Arc<AggregateUDF>) -> PlanResult<AggregateFunctionExpr> {
    let schema = Arc::new(Schema::new(vec![Field::new("v", DataType::Float64, true)]));
    AggregateExprBuilder::new(own, vec![Arc::new(Column::new("v", 0))])
        .schema(schema)
        .alias("s")
        .build()
}

/// How long it takes to add all rows, how long to merge the states of their groups with themselves,
/// and the bytes of these states.
fn measure(
    function: &AggregateFunctionExpr,
    batches: &Batches,
    groups: usize,
) -> Outcome<(Duration, Duration, usize)> {
    let mut sums = function.create_groups_accumulator()?;
    let start = now();
    for (values, ids) in batches {
        sums.update_batch(std::slice::from_ref(values), ids, None, groups)?;
    }
    let added = start.elapsed();
    let states = sums.state(EmitTo::All)?;
    let ids: Vec<usize> = (0..groups).collect();
    let mut sums: Box<dyn GroupsAccumulator> = function.create_groups_accumulator()?;
    let start = now();
    sums.merge_batch(&states, &ids, groups)?;
    sums.merge_batch(&states, &ids, groups)?;
    let merged = start.elapsed() / 2;
    let bytes = states.iter().map(|own| own.to_data().get_slice_memory_size());
    Ok((added, merged, bytes.sum::<Result<usize, _>>()?))
}

fn batches(groups: usize, is_wide: bool) -> Batches {
    let mut random = Random(7);
    let batch = |_| {
        let ids = (0..BATCH_ROWS).map(|_| random.next() as usize % groups).collect();
        let values = (0..BATCH_ROWS).map(|_| {
            let price = (random.next() % 1_000_000) as f64 / 100.0;
            if is_wide { price * 2_f64.powi((random.next() % 81) as i32 - 40) } else { price }
        });
        let values: ArrayRef = Arc::new(Float64Array::from_iter_values(values));
        (values, ids)
    };
    (0..ROWS / BATCH_ROWS).map(batch).collect()
}

#[allow(clippy::disallowed_methods, reason = "a bench reads the clock")]
fn now() -> Instant {
    Instant::now()
}

/// A seeded, uniform generator (`SplitMix64`).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }
}
