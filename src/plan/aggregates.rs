//! The aggregates of a rollup in place of those that were written: whatever the order of rows, their
//! states merge to the same.
//!
//! ```text
//!   sum of whole numbers, decimals      exact, and an error where it leaves its type
//!   sum, avg of floats                  exact until they are shown, if the setting says so
//!   min, max of floats                  NaN is the greatest
//!   first_value, last_value             of rows that are equal in ORDER BY, the least or greatest value
//! ```

use crate::operator::{exact_float, exact_sum, float_extreme, has_exact_sum};
use arrow::datatypes::DataType;
use datafusion::common::Result;
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::{Aggregate, AggregateUDF, Expr, ExprSchemable};
use std::sync::Arc;

/// The aggregates of `aggregate`; `has_exact_floats` says whether sums of floats are exact.
pub(super) fn order_free(aggregate: &Aggregate, has_exact_floats: bool) -> Result<Vec<Expr>> {
    let schema = aggregate.input.schema();
    let own = aggregate.aggr_expr.iter().map(|expr| {
        let Expr::AggregateFunction(mut own) = expr.clone().unalias_nested().data else {
            return Ok(expr.clone());
        };
        let Some(first) = own.params.args.first().cloned() else { return Ok(expr.clone()) };
        let data_type = first.get_type(schema)?;
        if let Some(func) = replacement(own.func.name(), &data_type, has_exact_floats) {
            own.func = func;
        } else if !break_ties(&mut own, first) {
            return Ok(expr.clone());
        }
        Ok(Expr::AggregateFunction(own).alias(expr.schema_name().to_string()))
    });
    own.collect()
}

/// What computes the aggregate `name` of `data_type` instead of DataFusion's own.
fn replacement(name: &str, data_type: &DataType, exact_floats: bool) -> Option<Arc<AggregateUDF>> {
    match name {
        "sum" if has_exact_sum(data_type) => Some(exact_sum()),
        "sum" | "avg" if exact_floats && *data_type == DataType::Float64 => exact_float(name),
        "min" | "max" if data_type.is_floating() => float_extreme(name),
        _ => None,
    }
}

/// Lets the value itself decide between rows that are equal in ORDER BY; returns whether it has to.
fn break_ties(own: &mut AggregateFunction, value: Expr) -> bool {
    let nulls_first = match own.func.name() {
        "first_value" => false,
        "last_value" => true,
        _ => return false,
    };
    let order_by = &mut own.params.order_by;
    if order_by.iter().any(|sort| sort.expr == value) {
        return false;
    }
    order_by.push(value.sort(true, nulls_first));
    true
}
