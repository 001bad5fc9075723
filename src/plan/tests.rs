//! The states of every aggregate of a rollup: whatever the cut of the rows, and the order and the
//! tree of the merges, they are worth the same.

use super::aggregates::order_free;
use super::rollup::top_aggregate;
use crate::operator::{sketch_aggregates, sketch_functions};
use crate::state::Aggregates;
use arrow::array::{ArrayRef, BooleanArray, Int64Array, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::record_batch::RecordBatch;
use arrow::util::display::array_value_to_string;
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::EmitTo;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::physical_expr::aggregate::{LoweredAggregate, LoweredAggregateBuilder};
use datafusion::prelude::{SessionConfig, SessionContext};
use proptest::prelude::*;
use std::sync::Arc;

/// Rows with NULLs; `t` has ties, `g` what is no plain number, `w` values that lie far apart.
const ROWS: &str = "SELECT n, n % 3 AS t, nullif(n % 7, 3) * 1000000007 AS i,
    arrow_cast(n % 200 - 100, 'Int8') AS i8, arrow_cast(n, 'UInt64') AS u,
    CAST(CAST(nullif(n % 97, 5) AS DOUBLE) / 4 AS DECIMAL(12, 2)) AS d,
    CAST(nullif(n % 41, 8) AS DOUBLE) / 7 - 2 AS f, CAST(n % 31 AS FLOAT) / 3 AS f32,
    CASE n % 6 WHEN 0 THEN 'NaN'::DOUBLE WHEN 1 THEN 'Infinity'::DOUBLE
      WHEN 2 THEN '-Infinity'::DOUBLE WHEN 3 THEN '-0'::DOUBLE WHEN 4 THEN '0'::DOUBLE END AS g,
    CASE n % 5 WHEN 0 THEN 1e300 WHEN 1 THEN -1e300 WHEN 2 THEN 1e-300 ELSE n END AS w,
    CASE WHEN n % 5 = 0 THEN NULL ELSE concat('v', n % 17) END AS s,
    CASE WHEN n % 7 = 0 THEN NULL ELSE n % 3 = 0 END AS b,
    arrow_cast(n * 1000003, 'Timestamp(Microsecond, None)') AS at,
    CAST(concat('x', n % 13) AS BYTEA) AS x,
    (SELECT hll_state(7)) AS hll, (SELECT quantile_state(7)) AS quantiles, (SELECT bitmap_state(7)) AS bits
    FROM t";

const EXACT: [&str; 43] = [
    "count(*)",
    "count(s)",
    "count(i, s)",
    "sum(i)",
    "sum(i8)",
    "sum(u)",
    "sum(d)",
    "sum(w)",
    "sum(g)",
    "sum(f32)",
    "avg(w)",
    "avg(f)",
    "avg(i)",
    "avg(d)",
    "min(i)",
    "max(u)",
    "min(d)",
    "min(g)",
    "max(g)",
    "max(f32)",
    "min(s)",
    "max(x)",
    "min(b)",
    "max(at)",
    "bool_and(b)",
    "bool_or(b)",
    "bit_and(i)",
    "bit_or(i)",
    "bit_xor(u)",
    "first_value(s ORDER BY t)",
    "last_value(s ORDER BY t)",
    "first_value(b ORDER BY t DESC)",
    "last_value(g ORDER BY t)",
    "approx_distinct(s)",
    "approx_distinct(i8)",
    "approx_distinct(b)",
    "regr_count(f, i)",
    "hll_state(s)",
    "quantile_state(f)",
    "bitmap_state(i)",
    "hll_merge(hll)",
    "quantile_merge(quantiles)",
    "bitmap_merge(bits)",
];

const ROUNDED: [&str; 15] = [
    "var(f)",
    "var_pop(n)",
    "stddev(f)",
    "stddev_pop(f32)",
    "covar_samp(f, n)",
    "covar_pop(f, n)",
    "corr(f, n)",
    "regr_slope(f, n)",
    "regr_intercept(f, n)",
    "regr_r2(f, n)",
    "regr_avgx(f, n)",
    "regr_avgy(f, n)",
    "regr_sxx(f, n)",
    "regr_syy(f, n)",
    "regr_sxy(f, n)",
];

/// These are near in rank, which few rows make a large part of their range.
const SKETCHED: [&str; 3] = [
    "approx_median(f)",
    "approx_percentile_cont(0.9) WITHIN GROUP (ORDER BY f)",
    "approx_percentile_cont_with_weight(1, 0.1) WITHIN GROUP (ORDER BY f)",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn states_merge_to_the_same_by_every_order_and_every_tree(
        numbers in proptest::collection::vec(0..2000_i64, 1..60),
        cuts in proptest::collection::vec(0..9_usize, 1..7),
        order in any::<prop::sample::Index>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let all = Planned::new(&numbers).await;
            let whole = all.values(&all.states(&(0..numbers.len()).collect::<Vec<_>>()));
            let mut parts = Vec::new();
            let mut rest: Vec<usize> = (0..numbers.len()).rev().collect();
            for cut in cuts {
                let part = rest.split_off(rest.len().saturating_sub(cut));
                parts.push(part);
            }
            parts.push(rest);
            parts.retain(|part| !part.is_empty());
            let mut parts: Vec<_> = parts.iter().map(|part| all.states(part)).collect();
            let first = order.index(parts.len());
            parts.rotate_left(first);
            let by_row = (0..numbers.len()).map(|row| all.states(&[row])).collect::<Vec<_>>();
            let by_row = all.merged(&by_row.iter().collect::<Vec<_>>());
            let (first, last) = (parts[0].clone(), parts[parts.len() - 1].clone());
            let from_left = parts[1..].iter().fold(first, |sum, own| all.merged(&[&sum, own]));
            let others = parts[..parts.len() - 1].iter().rev();
            let from_right = others.fold(last, |sum, own| all.merged(&[own, &sum]));
            let at_once = all.merged(&parts.iter().collect::<Vec<_>>());
            let passed = all.passed(None);
            for states in [&by_row, &from_left, &from_right, &at_once, &passed] {
                all.compare(&all.values(states), &whole);
            }
            let lets_through = |number: &i64| (number % 6 != 0).then_some(number % 2 == 0);
            let filter: BooleanArray = numbers.iter().map(lets_through).collect();
            let folded = all.folded(&all.batch, Some(&filter));
            all.compare(&all.values(&all.passed(Some(&filter))), &all.values(&folded));
        });
    }
}

/// The aggregates over a batch.
struct Planned {
    lowered: Vec<LoweredAggregate>,
    aggregates: Aggregates,
    batch: RecordBatch,
}

impl Planned {
    async fn new(numbers: &[i64]) -> Self {
        let mut context =
            SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
        for own in sketch_aggregates() {
            context.register_udaf((*own).clone());
        }
        for own in sketch_functions() {
            FunctionRegistry::register_udf(&mut context, own).unwrap();
        }
        let numbers: ArrayRef = Arc::new(Int64Array::from(numbers.to_vec()));
        context.register_batch("t", RecordBatch::try_from_iter([("n", numbers)]).unwrap()).unwrap();
        let frame = context.sql(ROWS).await.unwrap();
        let schema = Arc::clone(frame.schema().inner());
        let batches = frame.collect().await.unwrap();
        let batch = arrow::compute::concat_batches(&schema, &batches).unwrap();
        context.register_batch("rows", batch.clone()).unwrap();
        let names: Vec<&str> = EXACT.into_iter().chain(ROUNDED).chain(SKETCHED).collect();
        let sql = format!("SELECT n, {} FROM rows GROUP BY n", names.join(", "));
        let state = context.state();
        let plan = state.create_logical_plan(&sql).await.unwrap();
        let plan = state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {});
        let plan = plan.unwrap();
        let aggregate = top_aggregate(&plan).unwrap();
        let input = aggregate.input.schema();
        let lowered: Vec<LoweredAggregate> = order_free(aggregate, true)
            .unwrap()
            .iter()
            .map(|expr| {
                let (props, nothing) =
                    (state.execution_props(), PhysicalPlanningContext::default());
                LoweredAggregateBuilder::new(expr, input, input.inner(), props, &nothing)
                    .build()
                    .unwrap()
            })
            .collect();
        assert_eq!(lowered.len(), names.len());
        let functions = lowered.iter().map(|own| Arc::clone(&own.aggregate)).collect();
        Self { lowered, aggregates: Aggregates::try_new(functions).unwrap(), batch }
    }

    /// The states of one group of some rows.
    fn states(&self, rows: &[usize]) -> Vec<ArrayRef> {
        let rows: UInt32Array = rows.iter().map(|row| *row as u32).collect();
        let batch = take_record_batch(&self.batch, &rows).unwrap();
        self.folded(&batch, None)
    }

    fn folded(&self, batch: &RecordBatch, filter: Option<&BooleanArray>) -> Vec<ArrayRef> {
        let ids = vec![0; batch.num_rows()];
        let mut states = Vec::new();
        let accumulators = self.aggregates.accumulators().unwrap();
        for (own, mut accumulator) in self.lowered.iter().zip(accumulators) {
            accumulator.update_batch(&arguments(own, batch), &ids, filter, 1).unwrap();
            states.extend(accumulator.state(EmitTo::All).unwrap());
        }
        states
    }

    /// The states of one group, merged from those of each row as it passes through a fold.
    fn passed(&self, filter: Option<&BooleanArray>) -> Vec<ArrayRef> {
        let mut states = Vec::new();
        for (own, accumulator) in self.lowered.iter().zip(self.aggregates.accumulators().unwrap()) {
            let values = arguments(own, &self.batch);
            states.extend(accumulator.convert_to_state(&values, filter).unwrap());
        }
        let ids = vec![0; self.batch.num_rows()];
        self.aggregates.merge(&[(&states, &ids)], 1).unwrap()
    }

    fn merged(&self, parts: &[&Vec<ArrayRef>]) -> Vec<ArrayRef> {
        let parts: Vec<(&[ArrayRef], &[usize])> =
            parts.iter().map(|part| (part.as_slice(), [0].as_slice())).collect();
        self.aggregates.merge(&parts, 1).unwrap()
    }

    fn values(&self, states: &[ArrayRef]) -> Vec<String> {
        let mut from = 0;
        let mut values = Vec::new();
        let accumulators = self.aggregates.accumulators().unwrap();
        for (own, mut accumulator) in self.aggregates.functions().zip(accumulators) {
            let to = from + own.state_fields().unwrap().len();
            accumulator.merge_batch(&states[from..to], &[0], 1).unwrap();
            let value = accumulator.evaluate(EmitTo::All).unwrap();
            values.push(array_value_to_string(&value, 0).unwrap());
            from = to;
        }
        values
    }

    fn compare(&self, found: &[String], expected: &[String]) {
        for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
            let name = self.lowered[index].aggregate.name();
            let numbers = (found.parse::<f64>(), expected.parse::<f64>());
            let slack = match index {
                _ if index < EXACT.len() => 0.0,
                _ if index < EXACT.len() + ROUNDED.len() => 1e-6,
                _ => 1.0,
            };
            match numbers {
                (Ok(found), Ok(expected)) if slack > 0.0 => {
                    let scale = 1_f64.max(found.abs()).max(expected.abs());
                    let is_near = (found - expected).abs() <= slack * scale;
                    assert!(is_near, "{name}: {found}, not {expected}");
                }
                _ => assert_eq!(found, expected, "{name}"),
            }
        }
    }
}

fn arguments(own: &LoweredAggregate, batch: &RecordBatch) -> Vec<ArrayRef> {
    let order_by = own.order_bys.iter().map(|sort| Arc::clone(&sort.expr));
    let all = own.aggregate.all_expressions().args.into_iter().chain(order_by);
    all.map(|own| own.evaluate(batch).unwrap().into_array(batch.num_rows()).unwrap()).collect()
}
