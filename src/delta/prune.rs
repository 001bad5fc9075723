//! Leaves files out of a scan that cannot hold a row it asks for, by the log's statistics.

use super::files::LiveFile;
use arrow::array::{ArrayRef, BooleanArray, UInt64Array};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::{Column, ScalarValue};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::sync::Arc;

/// The files that may hold a row for which `predicate` is true.
pub(super) fn prune(
    files: Vec<Arc<LiveFile>>,
    predicate: Option<&Arc<dyn PhysicalExpr>>,
    schema: &SchemaRef,
) -> Vec<Arc<LiveFile>> {
    let Some(predicate) = predicate else { return files };
    let Some(pruning) = PruningPredicateBuilder::new()
        .with_file_schema(Arc::clone(schema))
        .build(Arc::clone(predicate))
    else {
        return files;
    };
    let parsed = files.iter().map(|file| serde_json::from_str(&file.stats).unwrap_or_default());
    let known = FileStats { schema: Arc::clone(schema), files: parsed.collect() };
    match pruning.prune(&known) {
        Ok(keep) => files.into_iter().zip(keep).filter(|(_, keep)| *keep).map(|(f, _)| f).collect(),
        Err(_) => files,
    }
}

struct FileStats {
    schema: SchemaRef,
    files: Vec<Map<String, Value>>,
}

impl FileStats {
    fn column(&self, which: &str, column: &Column) -> Option<ArrayRef> {
        let data_type = self.schema.field_with_name(&column.name).ok()?.data_type();
        let none = ScalarValue::try_from(data_type).ok()?;
        let values = self.files.iter().map(|file| {
            let value = file.get(which)?.get(&column.name)?;
            scalar(value, data_type)
        });
        let values: Vec<ScalarValue> =
            values.map(|value| value.unwrap_or_else(|| none.clone())).collect();
        ScalarValue::iter_to_array(values).ok()
    }
}

/// A bound as Delta writes it in JSON. Texts may be cut off and times are rounded to
/// milliseconds, so both are left out; numbers, dates and booleans are exact.
fn scalar(value: &Value, data_type: &DataType) -> Option<ScalarValue> {
    Some(match data_type {
        DataType::Int8 => ScalarValue::Int8(Some(i8::try_from(value.as_i64()?).ok()?)),
        DataType::Int16 => ScalarValue::Int16(Some(i16::try_from(value.as_i64()?).ok()?)),
        DataType::Int32 => ScalarValue::Int32(Some(i32::try_from(value.as_i64()?).ok()?)),
        DataType::Int64 => ScalarValue::Int64(Some(value.as_i64()?)),
        DataType::Date32 => {
            ScalarValue::try_from_string(value.as_str()?.to_owned(), data_type).ok()?
        }
        _ => return None,
    })
}

impl PruningStatistics for FileStats {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.column("minValues", column)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.column("maxValues", column)
    }

    fn num_containers(&self) -> usize {
        self.files.len()
    }

    fn null_counts(&self, _: &Column) -> Option<ArrayRef> {
        None
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        let rows = self.files.iter().map(|file| file.get("numRecords").and_then(Value::as_u64));
        Some(Arc::new(rows.collect::<UInt64Array>()))
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}
