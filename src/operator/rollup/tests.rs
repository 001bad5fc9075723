//! The local fold beside keys that do not come back: what it keeps, and what passes through.

use super::{GroupingSet, RollupExpressions, plan_epoch_rollup};
use crate::state::RollupMemory;
use crate::types::{RollupOptions, hidden_fields};
use arrow::array::cast::AsArray;
use arrow::array::types::Int64Type;
use arrow::array::{ArrayRef, Int64Array, UInt64Array, new_null_array};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use datafusion::common::DFSchema;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::functions_aggregate::expr_fn::{count, sum};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, col, lit};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::LoweredAggregateBuilder;
use datafusion::physical_expr::expressions;
use datafusion::physical_plan::collect;
use datafusion::prelude::SessionContext;
use std::sync::Arc;

const MEMORY: u64 = 1 << 30;
const BATCH_ROWS: usize = 8_192;
/// The groups at which a fold of keys that do not come back takes no more, and those of one batch.
const GROUPS_MAX: usize = (1 << 16) + BATCH_ROWS;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_do_not_come_back_pass_through_and_a_hot_one_is_still_one_state() {
    let found = folded((0..300_000).map(|n| if n % 3 == 0 { -1 } else { n })).await;
    assert_eq!((found.groups, found.largest), (200_001, 100_000));
    assert_eq!(found.states_out, 200_001, "one of each key, the hot one too");
    let held = found.states_out - found.rows_passed;
    assert!(held <= GROUPS_MAX, "{held} groups were held");
    assert!(held >= 1 << 16, "{held} groups were held, and there was room for more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_come_back_are_all_folded() {
    let found = folded((0..300_000).map(|n| n / 3)).await;
    assert_eq!((found.groups, found.largest), (100_000, 3));
    assert_eq!((found.states_out, found.rows_passed), (100_000, 0));
}

/// What became of an epoch.
struct Folded {
    groups: usize,
    /// Rows of the largest group.
    largest: i64,
    states_out: usize,
    rows_passed: usize,
}

/// Counts rows of `keys`, and sums their numbers, in one partition.
async fn folded(keys: impl Iterator<Item = i64>) -> Folded {
    let keys: Vec<i64> = keys.collect();
    let rows = rows_of(&keys);
    let schema = rows[0].schema();
    let input = MemorySourceConfig::try_new_exec(&[rows], Arc::clone(&schema), None).unwrap();
    let context = SessionContext::new();
    let (state, nothing) = (context.state(), PhysicalPlanningContext::default());
    let named = DFSchema::try_from(schema.as_ref().clone()).unwrap();
    let aggregate = |expr: Expr| {
        let props = state.execution_props();
        LoweredAggregateBuilder::new(&expr, &named, &schema, props, &nothing).build().unwrap()
    };
    let column = |name: &str| -> Arc<dyn PhysicalExpr> { expressions::col(name, &schema).unwrap() };
    let [position, watermark] = hidden_fields();
    let expressions = RollupExpressions {
        groups: vec![column("k")],
        sets: vec![GroupingSet { present: vec![true], id: 0 }],
        set_type: None,
        windows: Vec::new(),
        hop: None,
        aggregates: vec![aggregate(count(lit(1_i64))), aggregate(sum(col("n")))],
        hidden: [column(position.name()), column(watermark.name())],
        time: None,
    };
    let shown = ["k", "c", "s"].map(|name| Field::new(name, DataType::Int64, true));
    let output = Schema::new(shown.into_iter().chain([position, watermark]).collect::<Vec<_>>());
    let options = RollupOptions::default();
    let pool = &context.runtime_env().memory_pool;
    let memory = Arc::new(RollupMemory::new("rollup-0", options, MEMORY, pool));
    let plan =
        plan_epoch_rollup(input, expressions, options, Arc::new(output), (memory, 2)).unwrap();
    let rows = collect(Arc::clone(&plan), context.task_ctx()).await.unwrap();
    let total = |column: usize| rows.iter().flat_map(move |own| numbers(own, column).to_vec());
    assert_eq!(total(2).sum::<i64>(), (0..keys.len() as i64).sum::<i64>());
    let metrics = plan.children()[0].children()[0].metrics().unwrap();
    let metric = |name: &str| metrics.sum_by_name(name).map_or(0, |own| own.as_usize());
    assert_eq!(metric("rows_in"), keys.len());
    Folded {
        groups: total(0).count(),
        largest: total(1).max().unwrap(),
        states_out: metric("states_out"),
        rows_passed: metric("rows_passed"),
    }
}

fn numbers(rows: &RecordBatch, column: usize) -> &[i64] {
    rows.column(column).as_primitive::<Int64Type>().values()
}

fn rows_of(keys: &[i64]) -> Vec<RecordBatch> {
    let starts = (0..keys.len()).step_by(BATCH_ROWS);
    let batch = |from: usize| {
        let to = keys.len().min(from + BATCH_ROWS);
        let [position, watermark] = hidden_fields();
        let columns: [(&str, ArrayRef, bool); 4] = [
            ("k", Arc::new(Int64Array::from(keys[from..to].to_vec())), true),
            ("n", Arc::new((from as i64..to as i64).map(Some).collect::<Int64Array>()), true),
            (
                position.name(),
                Arc::new(UInt64Array::from_iter_values(from as u64..to as u64)),
                false,
            ),
            (watermark.name(), new_null_array(&DataType::Int64, to - from), true),
        ];
        RecordBatch::try_from_iter_with_nullable(columns).unwrap()
    };
    starts.map(batch).collect()
}
