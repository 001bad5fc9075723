//! `DedupStream`: judges sorted rows one after the other.

use crate::types::{DedupOptions, LatePolicy, Within};
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
use std::collections::BTreeSet;
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
            judge: Judge { options, key: None, anchors: BTreeSet::new() },
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
        let distinct = batch.column(own + 3).as_boolean();
        let mut keep = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            let time = times.is_valid(row).then(|| times.value(row));
            let key = (!distinct.value(row)).then(|| (high[row], low[row]));
            let verdict = self.judge.judge(key, time);
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

/// Judges rows that come sorted by key, and within a key in any order.
#[derive(Debug)]
struct Judge {
    options: DedupOptions,
    /// The key of the row before.
    key: Option<(u64, u64)>,
    /// The times of its accepted rows.
    anchors: BTreeSet<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    New,
    Duplicate,
    Late { passes: bool },
}

impl Judge {
    /// Judges a row of `key`, `None` if that is never a duplicate, at `time`, `None` if the row
    /// cannot be decided.
    fn judge(&mut self, key: Option<(u64, u64)>, time: Option<i64>) -> Verdict {
        let Some(time) = time else {
            return Verdict::Late { passes: self.options.late == LatePolicy::Pass };
        };
        if key.is_none() {
            return Verdict::New;
        }
        if self.key != key {
            self.key = key;
            self.anchors.clear();
        }
        let is_duplicate = match self.options.within {
            Within::Unbounded => !self.anchors.is_empty(),
            Within::Interval { width_us } => {
                let before = self.anchors.range(..=time).next_back();
                let after = self.anchors.range(time..).next();
                before.into_iter().chain(after).any(|anchor| anchor.abs_diff(time) < width_us)
            }
        };
        if is_duplicate {
            return Verdict::Duplicate;
        }
        self.anchors.insert(time);
        Verdict::New
    }
}
