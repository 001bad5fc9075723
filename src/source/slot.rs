//! `EpochSlot`: stands for a source in the plan of a pipeline.

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use std::sync::{Arc, Mutex, PoisonError};

/// Holds the rows of one epoch, hidden columns last, in the order of their positions.
///
/// A scan hands out what the slot holds when it is planned, in contiguous runs.
#[derive(Debug)]
pub struct EpochSlot {
    schema: SchemaRef,
    rows: Mutex<Vec<RecordBatch>>,
}

impl EpochSlot {
    /// An empty slot for rows of `schema`, hidden columns included.
    #[must_use]
    pub fn new(schema: SchemaRef) -> Self {
        Self { schema, rows: Mutex::default() }
    }

    /// Puts the rows of an epoch in, replacing what was there.
    pub fn fill(&self, batches: Vec<RecordBatch>) {
        *self.rows.lock().unwrap_or_else(PoisonError::into_inner) = batches;
    }
}

#[async_trait]
impl TableProvider for EpochSlot {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let config = state.config();
        let runs = split(&rows, config.target_partitions(), config.batch_size());
        let schema = Arc::clone(&self.schema);
        Ok(MemorySourceConfig::try_new_exec(&runs, schema, projection.cloned())?)
    }
}

/// Cuts `rows` into at most `runs` contiguous runs of about the same length, and those into
/// batches of at most `batch_rows`.
fn split(rows: &[RecordBatch], runs: usize, batch_rows: usize) -> Vec<Vec<RecordBatch>> {
    let total: usize = rows.iter().map(RecordBatch::num_rows).sum();
    let per_run = total.div_ceil(runs.max(1)).max(batch_rows.min(4096)).max(1);
    let mut cut = vec![Vec::new()];
    let mut in_run = 0;
    for batch in rows {
        let mut from = 0;
        while from < batch.num_rows() {
            if in_run == per_run {
                cut.push(Vec::new());
                in_run = 0;
            }
            let length = (batch.num_rows() - from).min(per_run - in_run).min(batch_rows.max(1));
            if let Some(run) = cut.last_mut() {
                run.push(batch.slice(from, length));
            }
            from += length;
            in_run += length;
        }
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Int64Array;

    #[test]
    fn rows_are_cut_into_contiguous_runs_and_none_is_lost() {
        let column = |range| Arc::new(Int64Array::from_iter_values(range)) as _;
        let batch = |range| RecordBatch::try_from_iter([("n", column(range))]).unwrap();
        let rows = [batch(0..3), batch(3..10_000), batch(10_000..10_001)];
        for (runs, batch_rows) in [(1, 8192), (2, 100), (4, 7), (3, 100_000)] {
            let cut = split(&rows, runs, batch_rows);
            assert!(cut.len() <= runs);
            let mut next = 0;
            for batch in cut.iter().flatten() {
                assert!(batch.num_rows() <= batch_rows);
                let expected = self::batch(batch, next);
                assert_eq!(*batch, expected);
                next += batch.num_rows() as i64;
            }
            assert_eq!(next, 10_001);
        }
        assert_eq!(split(&[], 4, 10), [Vec::new()]);
    }

    fn batch(like: &RecordBatch, from: i64) -> RecordBatch {
        let column = Int64Array::from_iter_values(from..from + like.num_rows() as i64);
        RecordBatch::try_from_iter([("n", Arc::new(column) as _)]).unwrap()
    }
}
