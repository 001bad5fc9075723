//! `EpochSlot`: stands for a source in the plan of a pipeline.

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Statistics;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::config::ConfigOptions;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::source::{DataSource, DataSourceExec, OpenArgs};
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::SchedulingType;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayFormatType, ExecutionPlan};
use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Rows for which another partition is not worth it.
const PARTITION_ROWS_MIN: usize = 4096;

/// Holds the rows of one epoch, hidden columns last, in the order of their positions.
///
/// A scan hands out what the slot holds when it is planned, batch by batch to whichever partition
/// asks next: none is left alone with rows while others have nothing to do.
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
        let total: usize = rows.iter().map(RecordBatch::num_rows).sum();
        let worthwhile = total.div_ceil(PARTITION_ROWS_MIN.min(config.batch_size()));
        let partitions = config.target_partitions().min(worthwhile).max(1);
        let (schema, projection) = (Arc::clone(&self.schema), projection.cloned());
        let rows = [cut(&rows, config.batch_size())];
        let whole = MemorySourceConfig::try_new(&rows, schema, projection.clone())?;
        let [rows] = rows;
        let source = EpochRows { rows, projection, partitions, whole };
        Ok(DataSourceExec::from_data_source(source))
    }
}

/// The rows of an epoch as a source of its plan.
#[derive(Debug)]
struct EpochRows {
    rows: Vec<RecordBatch>,
    projection: Option<Vec<usize>>,
    partitions: usize,
    /// The same as one partition; what it says of itself holds for all.
    whole: MemorySourceConfig,
}

/// Rows that no partition has taken yet.
type Rest = Mutex<VecDeque<RecordBatch>>;

impl EpochRows {
    fn stream(&self, rest: Arc<Rest>) -> SendableRecordBatchStream {
        let projection = self.projection.clone();
        let next = move || {
            let batch = rest.lock().unwrap_or_else(PoisonError::into_inner).pop_front()?;
            Some(match &projection {
                Some(columns) => batch.project(columns).map_err(Into::into),
                None => Ok(batch),
            })
        };
        let schema = Arc::clone(self.whole.eq_properties().schema());
        let rows = futures::stream::iter(std::iter::from_fn(next));
        Box::pin(RecordBatchStreamAdapter::new(schema, rows))
    }
}

impl DataSource for EpochRows {
    fn create_sibling_state(&self, _: &ConfigOptions) -> Option<Arc<dyn Any + Send + Sync>> {
        let rest: Rest = Mutex::new(self.rows.iter().cloned().collect());
        Some(Arc::new(rest))
    }

    fn open_with_args(&self, args: OpenArgs) -> Result<SendableRecordBatchStream> {
        let shared = args.sibling_state.and_then(|shared| shared.downcast::<Rest>().ok());
        match shared {
            Some(rest) => Ok(self.stream(rest)),
            None => self.open(args.partition, args.context),
        }
    }

    fn open(&self, partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let own = self.rows.iter().skip(partition).step_by(self.partitions);
        Ok(self.stream(Arc::new(Mutex::new(own.cloned().collect()))))
    }

    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch, partitions={}", self.partitions)
    }

    fn output_partitioning(&self) -> Partitioning {
        Partitioning::UnknownPartitioning(self.partitions)
    }

    fn eq_properties(&self) -> EquivalenceProperties {
        self.whole.eq_properties()
    }

    fn scheduling_type(&self) -> SchedulingType {
        self.whole.scheduling_type()
    }

    fn partition_statistics(&self, partition: Option<usize>) -> Result<Arc<Statistics>> {
        match partition {
            Some(_) => Ok(Arc::new(Statistics::new_unknown(self.eq_properties().schema()))),
            None => self.whole.partition_statistics(None),
        }
    }

    fn with_fetch(&self, _: Option<usize>) -> Option<Arc<dyn DataSource>> {
        None
    }

    fn fetch(&self) -> Option<usize> {
        None
    }

    fn try_swapping_with_projection(
        &self,
        _: &ProjectionExprs,
    ) -> Result<Option<Arc<dyn DataSource>>> {
        Ok(None)
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }
}

/// Cuts `rows` into batches of at most `batch_rows`.
fn cut(rows: &[RecordBatch], batch_rows: usize) -> Vec<RecordBatch> {
    let slices = |batch: &RecordBatch| {
        let (batch, rows) = (batch.clone(), batch.num_rows());
        let starts = (0..rows).step_by(batch_rows.max(1));
        starts.map(move |from| batch.slice(from, batch_rows.max(1).min(rows - from)))
    };
    rows.iter().flat_map(slices).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::cast::AsArray;
    use arrow::array::types::Int64Type;
    use arrow::array::{ArrayRef, Int64Array};
    use datafusion::execution::context::SessionContext;
    use datafusion::physical_plan::ExecutionPlanProperties;
    use datafusion::prelude::SessionConfig;
    use futures::TryStreamExt;

    fn slot(lengths: &[i64]) -> EpochSlot {
        let mut next = 0;
        let mut batch = |length: &i64| {
            let column: ArrayRef = Arc::new(Int64Array::from_iter_values(next..next + length));
            next += length;
            RecordBatch::try_from_iter([("m", Arc::clone(&column)), ("n", column)]).unwrap()
        };
        let batches: Vec<RecordBatch> = lengths.iter().map(&mut batch).collect();
        let slot = EpochSlot::new(batch(&0).schema());
        slot.fill(batches);
        slot
    }

    fn numbers(batches: &[RecordBatch]) -> Vec<i64> {
        let values = batches.iter().map(|own| own.column(0).as_primitive::<Int64Type>().values());
        values.flatten().copied().collect()
    }

    #[tokio::test]
    async fn each_batch_goes_to_one_partition_whichever_asks_first() {
        let config = SessionConfig::new().with_target_partitions(2).with_batch_size(100);
        let context = SessionContext::new_with_config(config);
        let slot = slot(&[3, 9_997, 1]);
        let plan = slot.scan(&context.state(), Some(&vec![1]), &[], None).await.unwrap();
        assert_eq!(plan.output_partitioning().partition_count(), 2);
        let open = |partition| plan.execute(partition, context.task_ctx()).unwrap();
        let (mut first, second) = (open(0), open(1));
        let taken = first.try_next().await.unwrap().unwrap();
        assert_eq!(numbers(std::slice::from_ref(&taken)), [0, 1, 2]);
        let rest: Vec<RecordBatch> = second.try_collect().await.unwrap();
        assert!(first.try_next().await.unwrap().is_none(), "the other took what was left");
        assert!(rest.iter().all(|batch| batch.num_rows() <= 100 && batch.num_columns() == 1));
        assert_eq!(numbers(&rest), (3..10_001).collect::<Vec<i64>>());
    }

    #[tokio::test]
    async fn few_rows_are_one_partition_and_may_be_read_again_by_another_plan() {
        let context = SessionContext::new();
        let slot = slot(&[10, 20]);
        for _ in 0..2 {
            let plan = slot.scan(&context.state(), None, &[], None).await.unwrap();
            assert_eq!(plan.output_partitioning().partition_count(), 1);
            let stream = plan.execute(0, context.task_ctx()).unwrap();
            let all: Vec<RecordBatch> = stream.try_collect().await.unwrap();
            assert_eq!(numbers(&all), (0..30).collect::<Vec<i64>>());
        }
    }
}
