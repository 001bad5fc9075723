//! VALUES of an INSERT. DataFusion makes the rows fit the table before the table sees them, and
//! what it then says of a row that does not fit names neither table nor column: here a NULL gets as
//! far as the table, which names them, and a value out of range is found before it is computed.

use crate::delta::DeltaError;
use crate::delta::table::DeltaTable;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::{Cast, Expr, LogicalPlan, Values};
use std::collections::HashMap;
use std::sync::Arc;

/// The input of an INSERT into `table`, whose VALUES may hold any NULL.
pub(super) fn with_nullable_values(table: &DeltaTable, input: LogicalPlan) -> Result<LogicalPlan> {
    let found = match &input {
        LogicalPlan::Projection(projection) => projection.input.as_ref(),
        other => other,
    };
    let LogicalPlan::Values(values) = found else { return Ok(input) };
    refuse_out_of_range(table, &input, values)?;
    let nullable = input.transform_up(|plan| match plan {
        LogicalPlan::Values(values) => nullable(values).map(Transformed::yes),
        other => other.recompute_schema().map(Transformed::yes),
    });
    nullable.map(|transformed| transformed.data)
}

fn nullable(values: Values) -> Result<LogicalPlan> {
    let fields = values.schema.iter().map(|(qualifier, field)| {
        (qualifier.cloned(), Arc::new(field.as_ref().clone().with_nullable(true)))
    });
    let metadata = values.schema.metadata().clone();
    let schema = DFSchema::new_with_metadata(fields.collect(), metadata)?;
    Ok(LogicalPlan::Values(Values { schema: Arc::new(schema), values: values.values }))
}

/// Refuses a literal that is none of its column's type.
fn refuse_out_of_range(table: &DeltaTable, input: &LogicalPlan, values: &Values) -> Result<()> {
    let names = column_names(input, values);
    for (row, number) in values.values.iter().zip(1_usize..) {
        for (cell, name) in row.iter().zip(&names) {
            let Expr::Cast(Cast { expr, field }) = cell else { continue };
            let Some(value) = literal(expr) else { continue };
            if value.cast_to(field.data_type()).is_err() {
                let (table, column) = (table.name().to_owned(), name.clone());
                let (value, data_type) = (value.to_string(), field.data_type().clone());
                return Err(
                    DeltaError::Unfit { table, column, value, row: number, data_type }.into()
                );
            }
        }
    }
    Ok(())
}

/// The table's columns that take the columns of VALUES.
fn column_names(input: &LogicalPlan, values: &Values) -> Vec<String> {
    let mut names = HashMap::new();
    if let LogicalPlan::Projection(projection) = input {
        for (expr, field) in projection.expr.iter().zip(projection.schema.fields()) {
            for column in expr.column_refs() {
                names.insert(column.name.clone(), field.name().clone());
            }
        }
    }
    let own = values.schema.fields().iter();
    own.map(|field| names.get(field.name()).unwrap_or(field.name()).clone()).collect()
}

fn literal(expr: &Expr) -> Option<ScalarValue> {
    match expr {
        Expr::Literal(value, _) => Some(value.clone()),
        Expr::Negative(inner) => literal(inner)?.arithmetic_negate().ok(),
        _ => None,
    }
}
