//! Leaves files out of a scan that cannot hold a row it asks for, by the log's statistics and by the
//! partitions they belong to.

use super::DeltaError;
use super::files::LiveFile;
use super::partition::value_of;
use arrow::array::{ArrayRef, BooleanArray, UInt64Array, new_null_array};
use arrow::datatypes::{DataType, Schema};
use arrow::record_batch::RecordBatch;
use datafusion::common::cast::as_boolean_array;
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::{Column, Result, ScalarValue};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr::{PhysicalExpr, split_conjunction};
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::sync::Arc;

/// The files that may hold a row for which `predicate` is true.
pub(super) fn prune(
    files: Vec<Arc<LiveFile>>,
    predicate: Option<&Arc<dyn PhysicalExpr>>,
    columns: &TableSchema,
) -> Vec<Arc<LiveFile>> {
    let Some(predicate) = predicate else { return files };
    let files = by_partition(files, predicate, columns);
    let Some(pruning) = PruningPredicateBuilder::new()
        .with_file_schema(Arc::clone(columns.table_schema()))
        .build(Arc::clone(predicate))
    else {
        return files;
    };
    let parsed = files.iter().map(|file| serde_json::from_str(&file.stats).unwrap_or_default());
    let known = FileStats { columns, files: &files, stats: parsed.collect() };
    match pruning.prune(&known) {
        Ok(keep) => kept(files, keep),
        Err(_) => files,
    }
}

fn kept(files: Vec<Arc<LiveFile>>, keep: Vec<bool>) -> Vec<Arc<LiveFile>> {
    files.into_iter().zip(keep).filter(|(_, keep)| *keep).map(|(file, _)| file).collect()
}

/// The files of partitions for which all that `predicate` says of partition columns alone is true.
fn by_partition(
    files: Vec<Arc<LiveFile>>,
    predicate: &Arc<dyn PhysicalExpr>,
    columns: &TableSchema,
) -> Vec<Arc<LiveFile>> {
    let first = columns.file_schema().fields().len();
    let is_told = |own: &&Arc<dyn PhysicalExpr>| {
        let named = collect_columns(own);
        !named.is_empty() && named.iter().all(|column| column.index() >= first)
    };
    let told: Vec<_> = split_conjunction(predicate).into_iter().filter(is_told).collect();
    if told.is_empty() || files.is_empty() {
        return files;
    }
    let keep = partitions(&files, columns).and_then(|partitions| {
        let mut keep = vec![true; files.len()];
        for own in told {
            let truth = own.evaluate(&partitions)?.into_array(files.len())?;
            for (keep, is_true) in keep.iter_mut().zip(as_boolean_array(&truth)?) {
                *keep &= is_true == Some(true);
            }
        }
        Ok(keep)
    });
    match keep {
        Ok(keep) => kept(files, keep),
        Err(_) => files, // the scan itself will say what is wrong
    }
}

/// One row for each file, in which only the partition columns are filled.
fn partitions(files: &[Arc<LiveFile>], columns: &TableSchema) -> Result<RecordBatch> {
    let whole = columns.table_schema();
    let first = columns.file_schema().fields().len();
    let mut arrays: Vec<ArrayRef> = Vec::with_capacity(whole.fields().len());
    for (index, field) in whole.fields().iter().enumerate() {
        arrays.push(if index < first {
            new_null_array(field.data_type(), files.len())
        } else {
            let values = files.iter().map(|file| value_of(&file.partition, field));
            ScalarValue::iter_to_array(values.collect::<Result<Vec<_>, DeltaError>>()?)?
        });
    }
    let open = whole.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
    Ok(RecordBatch::try_new(Arc::new(Schema::new(open.collect::<Vec<_>>())), arrays)?)
}

struct FileStats<'a> {
    columns: &'a TableSchema,
    files: &'a [Arc<LiveFile>],
    stats: Vec<Map<String, Value>>,
}

impl FileStats<'_> {
    fn column(&self, which: &str, column: &Column) -> Option<ArrayRef> {
        if let Some(values) = self.partition(column) {
            return ScalarValue::iter_to_array(values).ok();
        }
        let data_type = self.columns.table_schema().field_with_name(&column.name).ok()?.data_type();
        let none = ScalarValue::try_from(data_type).ok()?;
        let values = self.stats.iter().map(|file| {
            let value = file.get(which)?.get(&column.name)?;
            scalar(value, data_type)
        });
        let values: Vec<ScalarValue> =
            values.map(|value| value.unwrap_or_else(|| none.clone())).collect();
        ScalarValue::iter_to_array(values).ok()
    }

    /// The value that each file has in a partition column; `None` for another column.
    fn partition(&self, column: &Column) -> Option<Vec<ScalarValue>> {
        let mut fields = self.columns.table_partition_cols().iter();
        let field = fields.find(|field| *field.name() == column.name)?;
        self.files.iter().map(|file| value_of(&file.partition, field).ok()).collect()
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

impl PruningStatistics for FileStats<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.column("minValues", column)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.column("maxValues", column)
    }

    fn num_containers(&self) -> usize {
        self.files.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let values = self.partition(column)?.into_iter().zip(self.files);
        let counts = values.map(|(value, file)| if value.is_null() { file.rows } else { 0 });
        Some(Arc::new(UInt64Array::from_iter_values(counts)))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        Some(Arc::new(UInt64Array::from_iter_values(self.files.iter().map(|file| file.rows))))
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}
