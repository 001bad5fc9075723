//! What the log says of the values in a file, for readers to pass over files by.
//!
//! Bounds are text in the log. Reading one as a number may change it, and a bound that is off by a
//! digit hides a row from other engines: here a text is only ever copied.

use super::DeltaError;
use super::schema::to_kernel;
use super::stage::{StagedFile, side_by_side, threads};
use arrow::array::cast::AsArray;
use arrow::array::types::{Float32Type, Float64Type};
use arrow::array::{Array, ArrayRef, StructArray};
use arrow::datatypes::{DataType, Schema};
use arrow::record_batch::RecordBatch;
use delta_kernel::KernelError;
use delta_kernel::engine::arrow_expression::evaluate_expression::to_json;
use delta_kernel::expressions::ColumnName;
use delta_kernel::schema::StructType;
use delta_kernel_default_engine::stats::collect_stats;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// Columns of which a file has statistics, as is Delta's default.
const STATS_COLUMNS: usize = 32;
/// Says whether some row has each bound, or rows may lie within narrower ones.
const TIGHT: &str = "tightBounds";

/// The statistics of each file; large files are looked through side by side.
pub(super) fn statistics(
    files: &[Arc<StagedFile>],
    (columns, schema): (&[ColumnName], Arc<StructType>),
) -> Vec<Result<StructArray, KernelError>> {
    let of = |file: &Arc<StagedFile>| collected(&file.rows, columns, &schema);
    if files.len() < 2 {
        return files.iter().map(of).collect();
    }
    let share = files.len().div_ceil(threads());
    let parts = side_by_side(files.chunks(share), |files| files.iter().map(of).collect::<Vec<_>>());
    parts.into_iter().flatten().collect()
}

/// The statistics of `rows`, which are a file of a table with the columns of `schema`, as the log
/// keeps them.
pub(super) fn stats_of(rows: &RecordBatch, schema: &Schema) -> Result<String, DeltaError> {
    let names = schema.fields().iter().take(STATS_COLUMNS);
    let columns: Vec<ColumnName> = names.map(|own| ColumnName::new([own.name()])).collect();
    let stats = collected(rows, &columns, &to_kernel(schema)?)?;
    let json = to_json(&stats)?;
    Ok(json.as_string::<i32>().value(0).to_owned())
}

fn collected(
    rows: &RecordBatch,
    columns: &[ColumnName],
    schema: &StructType,
) -> Result<StructArray, KernelError> {
    let stats = collect_stats(rows, columns, schema)?;
    let (fields, arrays, nulls) = stats.into_parts();
    let own = fields.iter().zip(arrays).map(|(field, array)| match field.name().as_str() {
        "minValues" => with_zero(&array, -0.0),
        "maxValues" => with_zero(&array, 0.0),
        _ => array,
    });
    Ok(StructArray::try_new(fields.clone(), own.collect(), nulls)?)
}

/// Bounds in which each zero has the sign of `zero`. Both zeros are equal, and engines that order
/// numbers by their bits put one before the other.
fn with_zero(bounds: &ArrayRef, zero: f32) -> ArrayRef {
    match bounds.data_type() {
        DataType::Float32 => {
            let own = bounds.as_primitive::<Float32Type>();
            Arc::new(own.unary::<_, Float32Type>(|own| if own == 0.0 { zero } else { own }))
        }
        DataType::Float64 => {
            let (own, zero) = (bounds.as_primitive::<Float64Type>(), f64::from(zero));
            Arc::new(own.unary::<_, Float64Type>(|own| if own == 0.0 { zero } else { own }))
        }
        DataType::Struct(fields) => {
            let own = bounds.as_struct();
            let columns = own.columns().iter().map(|own| with_zero(own, zero)).collect();
            Arc::new(StructArray::new(fields.clone(), columns, own.nulls().cloned()))
        }
        _ => Arc::clone(bounds),
    }
}

/// The statistics of a file that has a deletion vector from now on: its bounds are those of all rows,
/// masked ones too.
pub(super) fn widened(stats: &str) -> Cow<'_, str> {
    match value_of(stats, TIGHT) {
        Some(value) if &stats[value.clone()] == "false" => Cow::Borrowed(stats),
        Some(value) => Cow::Owned(format!("{}false{}", &stats[..value.start], &stats[value.end..])),
        None => {
            let begin = stats.find('{').map_or(0, |at| at + 1);
            Cow::Owned(format!("{}\"{TIGHT}\":false,{}", &stats[..begin], &stats[begin..]))
        }
    }
}

/// Where an object in JSON has the value of its own field `name`, which is a word.
fn value_of(json: &str, name: &str) -> Option<Range<usize>> {
    let bytes = json.as_bytes();
    let (mut depth, mut at) = (0, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            b'"' => {
                let end = end_of_text(bytes, at + 1);
                let rest = json.get(end + 1..).unwrap_or_default().trim_start();
                if depth == 1 && json.get(at + 1..end) == Some(name) && rest.starts_with(':') {
                    let value = rest[1..].trim_start();
                    let start = json.len() - value.len();
                    let length = value.bytes().take_while(u8::is_ascii_alphabetic).count();
                    return Some(start..start + length);
                }
                at = end;
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// Where a text in JSON ends that has its first byte at `at`: at its closing quote.
fn end_of_text(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at.min(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float32Array, Float64Array, Int64Array};

    #[test]
    fn bounds_stay_as_they_are_written_when_they_are_said_to_be_wide() {
        let bounds = r#""minValues":{"x":119.57142857142857,"d":1234567890123456.79,"t":"a\"}{"}"#;
        let tight = format!(r#"{{"numRecords":2,{bounds},"tightBounds":true}}"#);
        let wide = format!(r#"{{"numRecords":2,{bounds},"tightBounds":false}}"#);
        assert_eq!(widened(&tight), wide);
        assert!(matches!(widened(&wide), Cow::Borrowed(own) if own == wide));
        let foreign = format!(r#"{{ "tightBounds" : true , {bounds} }}"#);
        assert_eq!(widened(&foreign), foreign.replace("true", "false"));
        let silent = format!(r#"{{"numRecords":2,{bounds}}}"#);
        assert_eq!(widened(&silent), format!(r#"{{"tightBounds":false,"numRecords":2,{bounds}}}"#));
        let column = r#"{"maxValues":{"tightBounds":true},"t":"tightBounds","tightBounds":true}"#;
        let expected =
            r#"{"maxValues":{"tightBounds":true},"t":"tightBounds","tightBounds":false}"#;
        assert_eq!(widened(column), expected);
        let escaped = r#"{"a\\":"\"tightBounds\":true","numRecords":1}"#;
        assert!(widened(escaped).starts_with(r#"{"tightBounds":false,"a\\""#));
    }

    #[test]
    fn zeros_are_negative_as_the_least_and_positive_as_the_greatest() {
        let columns: [(&str, ArrayRef); 4] = [
            ("f", Arc::new(Float32Array::from(vec![0.0, 0.0, -0.0]))),
            ("g", Arc::new(Float64Array::from(vec![-1.5, 0.0, 2.5]))),
            ("x", Arc::new(Float64Array::from(vec![Some(-0.0), None, Some(0.0)]))),
            ("n", Arc::new(Int64Array::from(vec![0, 0, 0]))),
        ];
        let rows = RecordBatch::try_from_iter_with_nullable(
            columns.map(|(name, column)| (name, column, true)),
        );
        let rows = rows.unwrap();
        let stats = stats_of(&rows, &rows.schema()).unwrap();
        for bounds in [
            r#""minValues":{"f":-0.0,"g":-1.5,"x":-0.0,"n":0}"#,
            r#""maxValues":{"f":0.0,"g":2.5,"x":0.0,"n":0}"#,
        ] {
            assert!(stats.contains(bounds), "{stats}");
        }
    }
}
