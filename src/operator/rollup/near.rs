//! Rows that are near in time: most batches lie in one window, which is then looked up once.

use super::shape::RollupExpressions;
use arrow::array::{Array, ArrayRef, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Schema};
use arrow::record_batch::RecordBatch;
use datafusion::common::{Result, ScalarValue};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::utils::collect_columns;
use std::sync::Arc;

/// For each column of the group, whether it never falls as event time rises: a window made of nothing
/// but event time. In zones whose clocks are set back it might, and so it might where two queries made
/// the column, each in its own way.
pub(super) fn rising(own: &RollupExpressions, input: &Schema) -> Vec<bool> {
    let of_time = own.time.as_ref().filter(|_| own.hop.is_none()).map(collect_columns);
    let is_window = |column| own.windows.iter().any(|window| window.column == column);
    let is_of_time = |expr| of_time.as_ref().is_some_and(|time| collect_columns(expr) == *time);
    let groups = own.groups.iter().enumerate();
    groups
        .map(|(column, expr)| is_window(column) && is_of_time(expr) && !has_zone(expr, input))
        .collect()
}

fn has_zone(expr: &Arc<dyn PhysicalExpr>, input: &Schema) -> bool {
    let is_zoned = |own: &DataType| matches!(own, DataType::Timestamp(_, Some(_)));
    expr.data_type(input).is_ok_and(|own| is_zoned(&own))
        || expr.children().into_iter().any(|own| has_zone(own, input))
}

/// The columns of the groups of rows, and which of them are known to be the same for all. One that is
/// `rising`, and the same for the earliest and the latest row, is.
pub(super) fn group_columns(
    own: &RollupExpressions,
    rising: &[bool],
    batch: &RecordBatch,
) -> Result<(Vec<ArrayRef>, Vec<bool>)> {
    let outermost = match &own.time {
        Some(time) if rising.contains(&true) => outermost(time, batch)?,
        _ => None,
    };
    let column = |(expr, is_rising): (&Arc<dyn PhysicalExpr>, &bool)| {
        if let Some(outermost) = outermost.as_ref().filter(|_| *is_rising) {
            let two = expr.evaluate(outermost)?.into_array(2)?;
            let earliest = ScalarValue::try_from_array(&two, 0)?;
            if !earliest.is_null() && earliest == ScalarValue::try_from_array(&two, 1)? {
                return Ok((earliest.to_array_of_size(batch.num_rows())?, true));
            }
        }
        Ok((expr.evaluate(batch)?.into_array(batch.num_rows())?, false))
    };
    own.groups.iter().zip(rising).map(column).collect()
}

/// The rows with the earliest and the latest time, if all have one.
fn outermost(time: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<Option<RecordBatch>> {
    let times = time.evaluate(batch)?.into_array(batch.num_rows())?;
    let Some(times) = instants(&times).filter(|times| !times.is_empty()) else { return Ok(None) };
    let (mut least, mut most) = (i64::MAX, i64::MIN);
    for at in &times {
        (least, most) = (least.min(*at), most.max(*at));
    }
    let earliest = times.iter().position(|at| *at == least).unwrap_or_default();
    let latest = times.iter().rposition(|at| *at == most).unwrap_or_default();
    let two = UInt32Array::from(vec![earliest as u32, latest as u32]);
    Ok(Some(take_record_batch(batch, &two)?))
}

/// The values of a column of timestamps without a zone, in its unit, if none is NULL.
pub(super) fn instants(column: &ArrayRef) -> Option<ScalarBuffer<i64>> {
    let is_plain = matches!(column.data_type(), DataType::Timestamp(_, None));
    if !is_plain || column.null_count() > 0 {
        return None;
    }
    let data = column.to_data();
    Some(ScalarBuffer::new(data.buffers()[0].clone(), data.offset(), data.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::{WindowColumn, WindowStep};
    use arrow::array::{Int64Array, TimestampMicrosecondArray};
    use datafusion::common::ToDFSchema;
    use datafusion::execution::context::SessionContext;
    use datafusion::logical_expr::ExprSchemable;
    use datafusion::physical_expr::expressions::{Column, lit};
    use proptest::prelude::*;

    fn batch(times: &[Option<i64>]) -> RecordBatch {
        let at: ArrayRef = Arc::new(TimestampMicrosecondArray::from(times.to_vec()));
        let number: ArrayRef = Arc::new(Int64Array::from_iter_values(0..times.len() as i64));
        RecordBatch::try_from_iter_with_nullable([("at", at, true), ("n", number, true)]).unwrap()
    }

    /// GROUP BY n, and by a window of `at`, as SQL.
    fn expressions(window: &str, column: usize) -> RollupExpressions {
        let schema = batch(&[]).schema().as_ref().clone().to_dfschema().unwrap();
        let context = SessionContext::new();
        let own = context.parse_sql_expr(window, &schema).unwrap();
        assert!(own.get_type(&schema).is_ok());
        let window = context.create_physical_expr(own, &schema).unwrap();
        RollupExpressions {
            groups: vec![Arc::new(Column::new("n", 1)), window],
            sets: Vec::new(),
            set_type: None,
            windows: vec![WindowColumn { column, step: WindowStep::Micros(10) }],
            hop: None,
            aggregates: Vec::new(),
            hidden: [lit(0_u64), lit(0_i64)],
            time: Some(Arc::new(Column::new("at", 0))),
        }
    }

    const BINS: &str = "date_bin(INTERVAL '10 microseconds', at)";

    proptest! {
        #[test]
        fn windows_are_those_of_each_row(
            times in proptest::collection::vec(proptest::option::weighted(0.98, -25..25_i64), 0..12),
            from in -200..200_i64,
            spread in 1..4_i64,
        ) {
            let times: Vec<_> = times.into_iter().map(|at| Some(from + at? / spread)).collect();
            let (batch, own) = (batch(&times), expressions(BINS, 1));
            let expected: Vec<ArrayRef> = own
                .groups
                .iter()
                .map(|own| own.evaluate(&batch).unwrap().into_array(times.len()).unwrap())
                .collect();
            let rising = rising(&own, &batch.schema());
            prop_assert_eq!(&rising, &[false, true]);
            let (columns, same) = group_columns(&own, &rising, &batch).unwrap();
            for (column, _) in columns.iter().zip(same).filter(|(_, is_same)| *is_same) {
                let first = column.slice(0, 1);
                prop_assert!((0..column.len()).all(|row| *column.slice(row, 1) == *first));
            }
            prop_assert_eq!(columns, expected);
        }
    }

    #[test]
    fn other_columns_and_times_in_a_zone_are_looked_up_row_by_row() {
        let schema = batch(&[]).schema();
        assert_eq!(rising(&expressions(BINS, 0), &schema), [false, false], "of another column");
        let zoned = "date_bin(INTERVAL '10 microseconds', arrow_cast(at, 'Timestamp(us, \"Europe/Rome\")'))";
        assert_eq!(rising(&expressions(zoned, 1), &schema), [false, false]);
    }
}
