//! Random tables against an oracle written from the meaning of the clause, under every cut.

use super::{DedupExpressions, plan_bounded_dedup};
use crate::types::{DedupOptions, LatePolicy, NullKeys, Within};
use arrow::array::cast::AsArray;
use arrow::array::types::Int64Type;
use arrow::array::{Array, ArrayRef, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::record_batch::RecordBatch;
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::logical_expr::LogicalPlanBuilder;
use datafusion::physical_expr::expressions::col;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::{SessionConfig, SessionContext};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

const WIDTH_US: u64 = 10;

type Row = (Option<u8>, Option<i64>, i64);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn the_answer_is_the_oracles_under_every_cut(
        rows in proptest::collection::vec(
            (proptest::option::weighted(0.9, 0..4_u8), proptest::option::weighted(0.9, 0..60_i64), 0..3_i64),
            0..80,
        ),
        cuts in proptest::collection::vec(1..20_usize, 1..6),
        partitions in 1..4_usize,
        batch_size in 1..9_usize,
        late in prop_oneof![Just(LatePolicy::Drop), Just(LatePolicy::Pass)],
        nulls in prop_oneof![Just(NullKeys::Distinct), Just(NullKeys::NotDistinct)],
        is_unbounded in any::<bool>(),
    ) {
        let within =
            if is_unbounded { Within::Unbounded } else { Within::Interval { width_us: WIDTH_US } };
        let options = DedupOptions { late, nulls, ..DedupOptions::new(within) };
        let config = SessionConfig::new().with_target_partitions(partitions).with_batch_size(batch_size);
        let context = SessionContext::new_with_config(config);
        let found = run(&context, cut(&rows, &cuts), options);
        prop_assert_eq!(found, oracle(&rows, options));
    }
}

#[test]
fn a_table_larger_than_memory_spills_and_is_right() {
    let rows: Vec<Row> =
        (0..200_000_i64).map(|n| (Some((n % 251) as u8), Some(n / 7), n % 1_000)).collect();
    let runtime = RuntimeEnvBuilder::new().with_memory_limit(8 << 20, 1.0).build_arc().unwrap();
    let config =
        SessionConfig::new().with_target_partitions(1).with_sort_spill_reservation_bytes(3 << 20);
    let context = SessionContext::new_with_config_rt(config, runtime);
    let options = DedupOptions::new(Within::Interval { width_us: WIDTH_US });
    assert_eq!(run(&context, cut(&rows, &[4096]), options), oracle(&rows, options));
}

#[test]
fn a_null_time_is_an_error_when_asked_for() {
    let options = DedupOptions {
        late: LatePolicy::Error,
        ..DedupOptions::new(Within::Interval { width_us: 1 })
    };
    let error = try_run(&SessionContext::new(), cut(&[(Some(1), None, 0)], &[1]), options);
    assert!(
        error.unwrap_err().to_string().contains("{key: 1, at: NULL, value: 0} is without a time")
    );
}

/// Straight from the rules: rows of a key by (time, all columns), compared with every anchor.
fn oracle(rows: &[Row], options: DedupOptions) -> Vec<Row> {
    let mut sorted = rows.to_vec();
    sorted.sort_by_key(|row| (row.1, row.0.is_none(), row.0, row.2));
    let mut anchors: BTreeMap<Option<u8>, Vec<i64>> = BTreeMap::new();
    let mut kept = Vec::new();
    for row in sorted {
        let time = match options.within {
            Within::Unbounded => Some(0),
            Within::Interval { .. } => row.1,
        };
        let Some(time) = time else {
            if options.late == LatePolicy::Pass {
                kept.push(row);
            }
            continue;
        };
        if row.0.is_none() && options.nulls == NullKeys::Distinct {
            kept.push(row);
            continue;
        }
        let anchors = anchors.entry(row.0).or_default();
        let is_duplicate = anchors.iter().any(|anchor| match options.within {
            Within::Unbounded => true,
            Within::Interval { width_us } => time.abs_diff(*anchor) < width_us,
        });
        if !is_duplicate {
            anchors.push(time);
            kept.push(row);
        }
    }
    // Unbounded takes rows by all columns in their order: key, time, value, NULLs last.
    if options.within == Within::Unbounded {
        kept = unbounded(rows, options);
    }
    kept.sort_unstable();
    kept
}

fn unbounded(rows: &[Row], options: DedupOptions) -> Vec<Row> {
    let mut first: BTreeMap<Option<u8>, Row> = BTreeMap::new();
    let mut kept = Vec::new();
    for row in rows {
        if row.0.is_none() && options.nulls == NullKeys::Distinct {
            kept.push(*row);
            continue;
        }
        let order = |row: &Row| (row.1.is_none(), row.1, row.2);
        let best = first.entry(row.0).or_insert(*row);
        if order(row) < order(best) {
            *best = *row;
        }
    }
    kept.extend(first.into_values());
    kept
}

fn cut(rows: &[Row], cuts: &[usize]) -> Vec<RecordBatch> {
    let mut rest = rows;
    let mut batches = vec![batch(&[])];
    for length in cuts.iter().cycle() {
        let (part, later) = rest.split_at(rest.len().min(*length));
        if part.is_empty() {
            break;
        }
        batches.push(batch(part));
        rest = later;
    }
    batches
}

fn batch(rows: &[Row]) -> RecordBatch {
    let key: StringArray = rows.iter().map(|row| row.0.map(|key| key.to_string())).collect();
    let at: TimestampMicrosecondArray = rows.iter().map(|row| row.1).collect();
    let value: Int64Array = rows.iter().map(|row| Some(row.2)).collect();
    let columns: [(&str, ArrayRef, bool); 3] = [
        ("key", Arc::new(key), true),
        ("at", Arc::new(at), true),
        ("value", Arc::new(value), true),
    ];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

fn run(context: &SessionContext, batches: Vec<RecordBatch>, options: DedupOptions) -> Vec<Row> {
    try_run(context, batches, options).unwrap()
}

#[tokio::main(flavor = "current_thread")]
async fn try_run(
    context: &SessionContext,
    batches: Vec<RecordBatch>,
    options: DedupOptions,
) -> datafusion::error::Result<Vec<Row>> {
    let schema = batches[0].schema();
    let table = MemTable::try_new(Arc::clone(&schema), vec![batches])?;
    let scan = LogicalPlanBuilder::scan("t", provider_as_source(Arc::new(table)), None)?.build()?;
    let state = context.state();
    let input = state.create_physical_plan(&scan).await?;
    let time = match options.within {
        Within::Unbounded => None,
        Within::Interval { .. } => Some(col("at", &schema)?),
    };
    let expressions = DedupExpressions { keys: vec![col("key", &schema)?], time, hidden: None };
    let mut plan: Arc<dyn ExecutionPlan> = plan_bounded_dedup(input, expressions, options)?;
    for rule in state.physical_optimizers() {
        let rule: &Arc<dyn PhysicalOptimizerRule + Send + Sync> = rule;
        plan = rule.optimize(plan, state.config_options())?;
    }
    let mut rows = Vec::new();
    for batch in collect(plan, state.task_ctx()).await? {
        let key = batch.column(0).as_string::<i32>();
        let at = batch.column(1).as_primitive::<arrow::array::types::TimestampMicrosecondType>();
        let value = batch.column(2).as_primitive::<Int64Type>();
        for row in 0..batch.num_rows() {
            rows.push((
                key.is_valid(row).then(|| key.value(row).parse().unwrap()),
                at.is_valid(row).then(|| at.value(row)),
                value.value(row),
            ));
        }
    }
    rows.sort_unstable();
    Ok(rows)
}
