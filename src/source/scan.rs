//! `SourceScanExec`: reads what a source holds now, for a plain query.

use super::{Poll, PollLimits, Source, SourceClock, SourceReader, SourceStart, SourceTable};
use crate::types::PartitionId;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// Rows of one poll of a plain query.
const LIMITS: PollLimits = PollLimits { rows_max: 65_536, bytes_max: 64 << 20 };

/// Reads sources from their beginning to where they end now, one partition per source.
#[derive(Debug)]
pub struct SourceScanExec {
    table: SourceTable,
    sources: Vec<Arc<dyn Source>>,
    projection: Vec<usize>,
    limit: Option<usize>,
    properties: Arc<PlanProperties>,
}

impl SourceScanExec {
    pub(super) fn try_new(
        table: SourceTable,
        sources: Vec<Arc<dyn Source>>,
        projection: Vec<usize>,
        limit: Option<usize>,
    ) -> Result<Self> {
        use datafusion::catalog::TableProvider;
        let schema: SchemaRef = Arc::new(table.schema().project(&projection)?);
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(sources.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Self { table, sources, projection, limit, properties: Arc::new(properties) })
    }
}

impl DisplayAs for SourceScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SourceScanExec: {}", self.table.name())?;
        match self.limit {
            Some(limit) => write!(f, ", limit={limit}"),
            None => Ok(()),
        }
    }
}

impl ExecutionPlan for SourceScanExec {
    fn name(&self) -> &'static str {
        "SourceScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let source = Arc::clone(&self.sources[partition]);
        let spec = self.table.options().watermark.clone();
        let stamp = self.table.is_positioned().then(|| Stamp {
            clock: SourceClock::new(spec, source.drained_delay_us()),
            ordinals: HashMap::new(),
            rows: Vec::new(),
        });
        let scan = Scan {
            source,
            reader: None,
            stamp,
            projection: self.projection.clone(),
            left: self.limit.unwrap_or(usize::MAX),
            ready: Vec::new().into_iter(),
            is_at_end: false,
        };
        let rows = futures::stream::try_unfold(scan, |mut scan| async move {
            Ok(scan.next().await?.map(|batch| (batch, scan)))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }
}

/// A scan under way.
struct Scan {
    source: Arc<dyn Source>,
    reader: Option<Box<dyn SourceReader>>,
    stamp: Option<Stamp>,
    projection: Vec<usize>,
    left: usize,
    ready: std::vec::IntoIter<RecordBatch>,
    is_at_end: bool,
}

/// Gives rows their hidden columns.
struct Stamp {
    clock: SourceClock,
    ordinals: HashMap<PartitionId, usize>,
    rows: Vec<u64>,
}

impl Scan {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if self.left == 0 {
                return Ok(None);
            }
            if let Some(batch) = self.ready.next() {
                let batch = batch.slice(0, batch.num_rows().min(self.left));
                self.left -= batch.num_rows();
                return Ok(Some(batch.project(&self.projection)?));
            }
            if self.is_at_end {
                return Ok(None);
            }
            let poll = self.poll().await?;
            self.is_at_end = poll.is_at_end;
            let mut ready = Vec::with_capacity(poll.chunks.len());
            if let Some(stamp) = &mut self.stamp {
                stamp.clock.start(&poll);
                for chunk in &poll.chunks {
                    let next = stamp.rows.len();
                    let ordinal = *stamp.ordinals.entry(chunk.partition.clone()).or_insert(next);
                    if ordinal == next {
                        stamp.rows.push(0);
                    }
                    ready.push(stamp.clock.stamp(chunk, ordinal as u64, stamp.rows[ordinal])?);
                    stamp.rows[ordinal] += chunk.batch.num_rows() as u64;
                }
                stamp.clock.end_poll(&poll);
            } else {
                ready.extend(poll.chunks.into_iter().map(|chunk| chunk.batch));
            }
            ready.retain(|batch| batch.num_rows() > 0);
            self.ready = ready.into_iter();
        }
    }

    async fn poll(&mut self) -> Result<Poll> {
        let reader = match &mut self.reader {
            Some(reader) => reader,
            empty => empty.insert(self.source.open(SourceStart::default()).await?),
        };
        Ok(reader.poll(LIMITS).await?)
    }
}
