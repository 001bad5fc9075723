//! What DEDUP must know of each row before it can judge: key hash, time, and whether it can be
//! decided at all.

use super::DedupError;
use crate::key::KeyHasher;
use crate::operator::time::{is_time, to_micros};
use crate::types::{DedupOptions, EventTime, LatePolicy, LateRows, NullKeys, Watermark};
use arrow::array::cast::AsArray;
use arrow::array::types::{Int64Type, UInt64Type};
use arrow::array::{Array, ArrayRef, Int64Array};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::Result;
use datafusion::physical_expr::PhysicalExpr;
use std::sync::Arc;

/// What a dedup reads of its input.
#[derive(Clone, Debug)]
pub struct DedupExpressions {
    /// The keys; at least one.
    pub keys: Vec<Arc<dyn PhysicalExpr>>,
    /// The event time, a timestamp or date; `None` only with WITHIN UNBOUNDED.
    pub time: Option<Arc<dyn PhysicalExpr>>,
    /// The hidden position and watermark columns; `None` where the input has no positions, and so
    /// no late rows.
    pub hidden: Option<[Arc<dyn PhysicalExpr>; 2]>,
}

impl DedupExpressions {
    /// A hasher for the keys over rows of `schema`.
    ///
    /// # Errors
    ///
    /// A key type without equality, or a time that is neither timestamp nor date.
    pub(super) fn hasher(&self, hash_key: [u8; 16], schema: &SchemaRef) -> Result<KeyHasher> {
        let types = self.keys.iter().map(|key| key.data_type(schema));
        let types = types.collect::<Result<Vec<DataType>>>()?;
        if let Some(time) = &self.time {
            let data_type = time.data_type(schema)?;
            if !is_time(&data_type) {
                return Err(DedupError::TimeType { data_type }.into());
            }
        }
        Ok(KeyHasher::try_new(hash_key, &types)?)
    }
}

/// The facts of one batch.
#[derive(Debug)]
pub(super) struct Facts {
    /// Hash of each row's key.
    pub(super) hashes: Vec<u128>,
    /// Rows whose key is never a duplicate are null here.
    pub(super) distinct: Option<NullBuffer>,
    /// Time in microseconds; null where the row cannot be decided. 0 with WITHIN UNBOUNDED.
    pub(super) times: Int64Array,
    /// Position of each row, where there is one.
    pub(super) positions: Option<ScalarBuffer<u64>>,
    /// How late the late rows were.
    pub(super) late: Option<LateRows>,
}

/// Evaluates `expressions` over `batch`.
///
/// # Errors
///
/// With LATE ERROR, the first row that cannot be decided.
pub(super) fn facts(
    batch: &RecordBatch,
    expressions: &DedupExpressions,
    options: DedupOptions,
    hasher: &KeyHasher,
) -> Result<Facts> {
    let rows = batch.num_rows();
    let column = |expr: &Arc<dyn PhysicalExpr>| expr.evaluate(batch)?.into_array(rows);
    let keys = expressions.keys.iter().map(column).collect::<Result<Vec<ArrayRef>>>()?;
    let mut digests = Vec::with_capacity(rows);
    let nulls = hasher.hash(&keys, &mut digests)?;
    let distinct = nulls.filter(|_| options.nulls == NullKeys::Distinct);
    let hidden = expressions.hidden.as_ref();
    let hidden = hidden
        .map(|[at, wm]| Ok::<_, datafusion::error::DataFusionError>([column(at)?, column(wm)?]));
    let hidden = hidden.transpose()?;
    let positions = hidden.as_ref().map(|[at, _]| at.as_primitive::<UInt64Type>().values().clone());
    let Some(time) = &expressions.time else {
        let times = Int64Array::from(vec![0; rows]);
        return Ok(Facts { hashes: digests, distinct, times, positions, late: None });
    };
    let times = to_micros(&column(time)?)?;
    let watermarks = hidden.as_ref().map(|[_, wm]| wm.as_primitive::<Int64Type>());
    let watermarks = watermarks.filter(|wm| wm.null_count() < rows);
    let (times, late) = match watermarks {
        Some(watermarks) => without_late(&times, watermarks, options.lateness_us),
        None => (times, None),
    };
    if options.late == LatePolicy::Error
        && let Some(row) = (0..rows).find(|row| times.is_null(*row))
    {
        return Err(undecidable(batch, row, late).into());
    }
    Ok(Facts { hashes: digests, distinct, times, positions, late })
}

/// `times` with the late ones null, and how late these were.
fn without_late(
    times: &Int64Array,
    watermarks: &Int64Array,
    lateness_us: i64,
) -> (Int64Array, Option<LateRows>) {
    let mut late: Option<LateRows> = None;
    let mut decided = Vec::with_capacity(times.len());
    for row in 0..times.len() {
        let at = EventTime(times.value(row));
        let watermark = Watermark(EventTime(watermarks.value(row)));
        let is_late =
            watermarks.is_valid(row) && times.is_valid(row) && watermark.is_late(at, lateness_us);
        if is_late {
            let own = LateRows { oldest: at, behind_us: watermark.0.distance_us(at) };
            late = Some(own.and(late));
        }
        decided.push(!is_late);
    }
    if late.is_none() {
        return (times.clone(), late);
    }
    let decided = NullBuffer::from(decided);
    let nulls = NullBuffer::union(times.nulls(), Some(&decided));
    (Int64Array::new(times.values().clone(), nulls), late)
}

fn undecidable(batch: &RecordBatch, row: usize, late: Option<LateRows>) -> DedupError {
    let options = FormatOptions::default().with_null("NULL");
    let schema = batch.schema();
    let shown = schema.fields().iter().zip(batch.columns()).filter_map(|(field, column)| {
        if crate::types::is_hidden(field.name()) {
            return None;
        }
        let value = ArrayFormatter::try_new(column, &options).ok()?;
        Some(format!("{}: {}", field.name(), value.value(row)))
    });
    DedupError::Undecidable {
        row: format!("{{{}}}", shown.collect::<Vec<_>>().join(", ")),
        reason: if late.is_some() { "late" } else { "without a time" },
    }
}
