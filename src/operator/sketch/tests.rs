//! The aggregates under every plan, and as states that are kept.

use super::{sketch_aggregates, sketch_functions};
use arrow::array::cast::AsArray;
use arrow::array::types::Int8Type;
use arrow::array::{
    ArrayRef, DictionaryArray, Float64Array, Int32Array, Int64Array, LargeStringArray, StringArray,
    StringViewArray, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use datafusion::common::ScalarValue;
use datafusion::datasource::MemTable;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::logical_expr::Accumulator;
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::PhysicalExpr;
use datafusion::prelude::{SessionConfig, SessionContext};
use std::sync::Arc;

const SKETCHES: &str = "hll_state(n), hll_state(s, 5), quantile_state(x), quantile_state(x, 20),
    bitmap_state(n), hll_state(n) FILTER (WHERE n > 10)";
const MERGED: &str = "hll_merge(a), hll_merge(b), quantile_merge(c), quantile_merge(d),
    bitmap_merge(e), hll_merge(f)";

#[tokio::test]
async fn every_plan_gives_the_same_bytes() {
    let grouped = format!("SELECT g, {SKETCHES} FROM t GROUP BY g ORDER BY g");
    let whole = format!("SELECT 0 AS g, {SKETCHES} FROM t");
    let rolled_up = format!(
        "SELECT 0 AS g, {MERGED} FROM (SELECT g, {SKETCHES} FROM t GROUP BY g)
         AS m (g, a, b, c, d, e, f)"
    );
    let one = context(1, 8192, 1);
    let expected = (cells(&one, &grouped).await, cells(&one, &whole).await);
    assert_eq!((expected.0.len(), expected.1.len()), (7, 1));
    for (partitions, batch_size, files) in [(1, 8192, 1), (2, 100, 3), (4, 7, 5), (8, 1000, 40)] {
        let context = context(partitions, batch_size, files);
        let name = format!("{partitions} partitions, batches of {batch_size}, {files} parts");
        assert_eq!(cells(&context, &grouped).await, expected.0, "{name}");
        assert_eq!(cells(&context, &whole).await, expected.1, "{name}");
        assert_eq!(cells(&context, &rolled_up).await, expected.1, "{name}: rolled up");
    }
}

#[tokio::test]
async fn states_are_the_stored_form_and_asking_for_them_changes_nothing() {
    for (function, column) in [
        ("hll_state", ints(0..3000)),
        ("bitmap_state", ints(0..3000)),
        ("quantile_state", floats(0..3000)),
    ] {
        let mut whole = accumulator(function, &column);
        whole.update_batch(&[Arc::clone(&column)]).unwrap();
        let expected = whole.evaluate().unwrap();
        assert_eq!(whole.state().unwrap(), std::slice::from_ref(&expected));
        assert_eq!(whole.evaluate().unwrap(), expected, "{function}: again");

        // Two epochs, the state of the first one kept as a row.
        let mut first = accumulator(function, &column);
        first.update_batch(&[column.slice(0, 1000)]).unwrap();
        assert_eq!(first.state().unwrap(), [first.evaluate().unwrap()]);
        let kept = first.state().unwrap()[0].to_array().unwrap();
        first.update_batch(&[column.slice(1000, 2000)]).unwrap();
        assert_eq!(first.evaluate().unwrap(), expected, "{function}: went on after state()");
        let mut second = accumulator(function, &column);
        second.update_batch(&[column.slice(1000, 2000)]).unwrap();
        second.merge_batch(&[Arc::clone(&kept)]).unwrap();
        assert_eq!(second.evaluate().unwrap(), expected, "{function}: merged");
        let mut merge = accumulator(&function.replace("state", "merge"), &kept);
        merge.update_batch(&[kept]).unwrap();
        merge.merge_batch(&[second.state().unwrap()[0].to_array().unwrap()]).unwrap();
        if function != "quantile_state" {
            assert_eq!(merge.evaluate().unwrap(), expected, "{function}: a set");
        }
    }
}

#[tokio::test]
async fn equal_values_are_one_value_whatever_their_type() {
    let sketch = |column: ArrayRef| {
        let mut accumulator = accumulator("hll_state", &column);
        accumulator.update_batch(&[column]).unwrap();
        accumulator.evaluate().unwrap()
    };
    let texts = vec![Some("a"), None, Some("a text of more than twelve bytes"), Some("a")];
    let text = sketch(Arc::new(StringArray::from(texts.clone())));
    assert_eq!(sketch(Arc::new(LargeStringArray::from(texts.clone()))), text);
    assert_eq!(sketch(Arc::new(StringViewArray::from(texts.clone()))), text);
    let dictionary: DictionaryArray<Int8Type> = texts.into_iter().collect();
    assert_eq!(sketch(Arc::new(dictionary)), text);
    let number = sketch(Arc::new(Int64Array::from(vec![Some(7), None, Some(8)])));
    assert_eq!(sketch(Arc::new(Int32Array::from(vec![8, 7, 7]))), number);
    assert_eq!(sketch(Arc::new(UInt64Array::from(vec![8, 7, 7]))), number);
    assert_ne!(text, number);
}

/// The hash and its key are part of the format.
#[tokio::test]
async fn the_hash_of_a_value_never_changes() {
    let column: ArrayRef = Arc::new(StringArray::from(vec!["onefold", ""]));
    let mut accumulator = accumulator("hll_state", &column);
    accumulator.update_batch(&[column]).unwrap();
    let ScalarValue::Binary(Some(bytes)) = accumulator.evaluate().unwrap() else { panic!() };
    assert_eq!(bytes[8..16], [7, 241, 187, 34, 71, 232, 122, 52]);
}

#[tokio::test]
async fn an_accumulator_says_how_much_memory_it_holds() {
    for (function, column, least_bytes) in [
        ("hll_state", ints(0..100_000), 4096),
        ("quantile_state", floats(1..100_000), 10_000 * 8 / 16),
        ("bitmap_state", ints(0..100_000), 16 * 1024),
    ] {
        let mut accumulator = accumulator(function, &column);
        let empty_bytes = accumulator.size();
        assert!((32..700).contains(&empty_bytes), "{function}: {empty_bytes}");
        accumulator.update_batch(&[column]).unwrap();
        let bytes = accumulator.size();
        assert!((least_bytes..8 * least_bytes).contains(&bytes), "{function}: {bytes}");
    }
}

#[tokio::test]
async fn memory_that_is_not_there_is_an_error() {
    let runtime = RuntimeEnvBuilder::new().with_memory_limit(2 << 20, 1.0).build_arc().unwrap();
    let config = SessionConfig::new().with_target_partitions(1);
    let context = with_functions(SessionContext::new_with_config_rt(config, runtime));
    let numbers = "SELECT unnest(range(0, 1000000)) AS n";
    let sum = format!("SELECT bitmap_count(bitmap_state(n * 1000003)) FROM ({numbers})");
    let error = context.sql(&sum).await.unwrap().collect().await.unwrap_err();
    assert!(error.to_string().contains("Resources exhausted"), "{error}");
}

/// Functions, and a table `t` in `files` partitions: 5000 rows in 7 groups.
fn context(partitions: usize, batch_size: usize, files: usize) -> SessionContext {
    let config =
        SessionConfig::new().with_target_partitions(partitions).with_batch_size(batch_size);
    let context = with_functions(SessionContext::new_with_config(config));
    let rows: Vec<i64> = (0..5000).collect();
    let batch = |rows: &[i64]| {
        let column = |make: &dyn Fn(i64) -> Option<i64>| {
            Int64Array::from(rows.iter().map(|row| make(*row)).collect::<Vec<_>>())
        };
        let texts = rows.iter().map(|row| Some(format!("user {}", row % 900)));
        let numbers = rows.iter().map(|row| (row % 11 > 0).then(|| 1.01_f64.powf(*row as f64)));
        RecordBatch::try_from_iter_with_nullable([
            ("g", Arc::new(column(&|row| Some(row * row % 13))) as ArrayRef, true),
            ("n", Arc::new(column(&|row| (row % 5 > 0).then_some(row * 77 % 3001))), true),
            ("s", Arc::new(texts.collect::<StringArray>()), true),
            ("x", Arc::new(numbers.collect::<Float64Array>()), true),
        ])
        .unwrap()
    };
    let parts: Vec<Vec<RecordBatch>> =
        rows.chunks(rows.len().div_ceil(files)).map(|part| vec![batch(part)]).collect();
    let table = MemTable::try_new(parts[0][0].schema(), parts).unwrap();
    context.register_table("t", Arc::new(table)).unwrap();
    context
}

fn with_functions(context: SessionContext) -> SessionContext {
    for function in sketch_aggregates() {
        context.register_udaf((*function).clone());
    }
    for function in sketch_functions() {
        context.register_udf((*function).clone());
    }
    context
}

/// The group and the sketches of each row.
async fn cells(context: &SessionContext, sql: &str) -> Vec<(i64, Vec<Vec<u8>>)> {
    let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
    let mut rows = Vec::new();
    for batch in &batches {
        let groups = batch.column(0).as_primitive::<arrow::array::types::Int64Type>();
        for row in 0..batch.num_rows() {
            let sketches = batch.columns()[1..].iter();
            let bytes = sketches.map(|column| column.as_binary::<i32>().value(row).to_vec());
            rows.push((groups.value(row), bytes.collect()));
        }
    }
    rows
}

/// An accumulator of `function` over a column like `column`.
fn accumulator(function: &str, column: &ArrayRef) -> Box<dyn Accumulator> {
    let field = Arc::new(Field::new("v", column.data_type().clone(), true));
    let schema = Schema::new(vec![Arc::clone(&field)]);
    let exprs: [Arc<dyn PhysicalExpr>; 1] = [Arc::new(Column::new("v", 0))];
    let functions = sketch_aggregates();
    let found = functions.iter().find(|found| found.name() == function).unwrap();
    let args = AccumulatorArgs {
        return_field: Arc::new(Field::new("state", DataType::Binary, false)),
        schema: &schema,
        ignore_nulls: false,
        order_bys: &[],
        is_reversed: false,
        name: function,
        is_distinct: false,
        exprs: &exprs,
        expr_fields: &[field],
    };
    found.accumulator(args).unwrap()
}

fn ints(range: std::ops::Range<i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(range))
}

fn floats(range: std::ops::Range<i32>) -> ArrayRef {
    Arc::new(Float64Array::from_iter_values(range.map(f64::from)))
}
