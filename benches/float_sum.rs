//! What a sum of floats costs that does not depend on the order of rows, beside DataFusion's own.
//!
//! Answers: how many rows and how many partial states per second one core adds to their groups, and
//! what a state takes, for prices and for values that lie up to 2^80 apart. Both are measured in turns
//! in the same run; the best of three counts.

use onefold::arrow::array::{Array, ArrayRef, Float64Array};
use onefold::arrow::datatypes::{DataType, Field, Schema};
use onefold::datafusion::common::Result;
use onefold::datafusion::functions_aggregate::sum::sum_udaf;
use onefold::datafusion::logical_expr::{AggregateUDF, EmitTo, GroupsAccumulator};
use onefold::datafusion::physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use onefold::datafusion::physical_expr::expressions::Column;
use onefold::operator::exact_float;
use std::error::Error as StdError;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

type Outcome<T> = std::result::Result<T, Box<dyn StdError>>;

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
    Ok(())
}

fn function(own: Arc<AggregateUDF>) -> Result<AggregateFunctionExpr> {
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
) -> Result<(Duration, Duration, usize)> {
    let mut sums = function.create_groups_accumulator()?;
    let start = now();
    for (values, ids) in batches {
        sums.update_batch(std::slice::from_ref(values), ids, None, groups)?;
    }
    let added = start.elapsed();
    let states = sums.state(EmitTo::All)?;
    let ids: Vec<usize> = (0..groups).collect();
    let mut merged: Box<dyn GroupsAccumulator> = function.create_groups_accumulator()?;
    let start = now();
    merged.merge_batch(&states, &ids, groups)?;
    merged.merge_batch(&states, &ids, groups)?;
    let bytes = states
        .iter()
        .map(|own| own.to_data().get_slice_memory_size())
        .sum::<std::result::Result<usize, _>>()?;
    Ok((added, start.elapsed() / 2, bytes))
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
