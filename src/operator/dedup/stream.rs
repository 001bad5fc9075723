//! `DedupStream`: judges sorted rows one after the other.

use super::DedupError;
use crate::types::{DedupOptions, LatePolicy, NullKeys, Within};
use arrow::array::cast::AsArray;
use arrow::array::types::{Int64Type, UInt64Type};
use arrow::array::{Array, BooleanArray, Int64Array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream};
use datafusion::physical_plan::metrics::{
    BaselineMetrics, Count, ExecutionPlanMetricsSet, MetricBuilder,
};
use futures::{Stream, StreamExt};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

pub(super) struct DedupStream {
    input: SendableRecordBatchStream,
    schema: SchemaRef,
    judge: Judge,
    baseline: BaselineMetrics,
    rows_in: Count,
    rows_duplicate: Count,
    rows_late: Count,
}

impl DedupStream {
    pub(super) fn new(
        input: SendableRecordBatchStream,
        schema: SchemaRef,
        options: DedupOptions,
        (metrics, partition): (&ExecutionPlanMetricsSet, usize),
    ) -> Self {
        let counter = |name| MetricBuilder::new(metrics).counter(name, partition);
        Self {
            input,
            schema,
            judge: Judge { options, anchor: None },
            baseline: BaselineMetrics::new(metrics, partition),
            rows_in: counter("rows_in"),
            rows_duplicate: counter("rows_duplicate"),
            rows_late: counter("rows_late"),
        }
    }

    fn dedup(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let working = self.baseline.elapsed_compute().timer();
        let own = self.schema.fields().len();
        let high = batch.column(own).as_primitive::<UInt64Type>().values();
        let low = batch.column(own + 1).as_primitive::<UInt64Type>().values();
        let times: &Int64Array = batch.column(own + 2).as_primitive::<Int64Type>();
        let null_keys = batch.column(own + 3).as_boolean();
        let mut keep = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            let time = times.is_valid(row).then(|| times.value(row));
            let key = (!null_keys.value(row) || self.judge.options.nulls == NullKeys::NotDistinct)
                .then(|| (high[row], low[row]));
            let verdict = self.judge.judge(key, time)?;
            match verdict {
                Verdict::Duplicate => self.rows_duplicate.add(1),
                Verdict::Late { .. } => self.rows_late.add(1),
                Verdict::New => {}
            }
            keep.push(matches!(verdict, Verdict::New | Verdict::Late { passes: true }));
        }
        self.rows_in.add(batch.num_rows());
        let kept = RecordBatch::try_new(Arc::clone(&self.schema), batch.columns()[..own].to_vec())?;
        let kept = filter_record_batch(&kept, &BooleanArray::from(keep))?;
        working.done();
        Ok(kept)
    }
}

impl Stream for DedupStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = match ready!(self.input.poll_next_unpin(context)) {
            Some(Ok(batch)) => Some(self.dedup(&batch)),
            end_or_error => end_or_error,
        };
        self.baseline.record_poll(Poll::Ready(next))
    }
}

impl RecordBatchStream for DedupStream {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

/// Judges rows that come sorted by key and time.
#[derive(Debug)]
struct Judge {
    options: DedupOptions,
    /// The key of the row before and the time of its last accepted row.
    anchor: Option<((u64, u64), i64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    New,
    Duplicate,
    Late { passes: bool },
}

impl Judge {
    /// Judges a row of `key`, `None` if that is never a duplicate, at `time`.
    fn judge(&mut self, key: Option<(u64, u64)>, time: Option<i64>) -> Result<Verdict, DedupError> {
        let Some(time) = time else {
            return match self.options.late {
                LatePolicy::Drop => Ok(Verdict::Late { passes: false }),
                LatePolicy::Pass => Ok(Verdict::Late { passes: true }),
                LatePolicy::Error => Err(DedupError::NullTime),
            };
        };
        let Some(key) = key else { return Ok(Verdict::New) };
        let is_duplicate = self.anchor.is_some_and(|(anchor_key, anchor)| {
            anchor_key == key
                && match self.options.within {
                    Within::Unbounded => true,
                    Within::Interval { width_us } => time.abs_diff(anchor) < width_us,
                }
        });
        if is_duplicate {
            return Ok(Verdict::Duplicate);
        }
        self.anchor = Some((key, time));
        Ok(Verdict::New)
    }
}
