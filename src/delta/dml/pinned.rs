//! The table inside a statement that changes it: read at the version that the statement pins.

use crate::delta::provider::ViewScan;
use crate::delta::table::{DeltaTable, TableView};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::EmptyRecordBatchStream;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
};
use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// The version that a running statement reads: whatever reads first, decides. Scalar subqueries
/// are run before the statement itself.
#[derive(Debug, Default)]
pub(super) struct Pin(Mutex<Option<Arc<TableView>>>);

impl Pin {
    pub(super) fn view(&self, table: &DeltaTable) -> Arc<TableView> {
        let mut pinned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(pinned.get_or_insert_with(|| table.view()))
    }

    pub(super) fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// The table with all columns that its files hold.
#[derive(Debug)]
pub(super) struct PinnedTable {
    pub(super) table: Arc<DeltaTable>,
    pub(super) pin: Arc<Pin>,
}

#[async_trait]
impl TableProvider for PinnedTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.table.shape.file)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = &self.table.shape.file;
        let scan = ViewScan::try_new(&self.table, schema, state, projection, filters)?;
        let (table, pin) = (Arc::clone(&self.table), Arc::clone(&self.pin));
        Ok(Arc::new(PinnedScanExec::new(table, scan, pin)))
    }
}

#[derive(Debug)]
struct PinnedScanExec {
    table: Arc<DeltaTable>,
    scan: ViewScan,
    running: Mutex<Option<Running>>,
    pin: Arc<Pin>,
    properties: Arc<PlanProperties>,
}

/// A scan that was planned, all partitions of which must be run on one plan: they share its files.
#[derive(Debug)]
struct Running {
    view: Arc<TableView>,
    plan: Arc<dyn ExecutionPlan>,
    begun: HashSet<usize>,
}

impl PinnedScanExec {
    fn new(table: Arc<DeltaTable>, scan: ViewScan, pin: Arc<Pin>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(scan.shown()),
            Partitioning::UnknownPartitioning(scan.partitions()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self { table, scan, running: Mutex::default(), pin, properties: Arc::new(properties) }
    }

    /// The plan for `partition`, at the version of the statement.
    fn plan(&self, partition: usize, context: &TaskContext) -> Result<Arc<dyn ExecutionPlan>> {
        let view = self.pin.view(&self.table);
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = running.as_mut()
            && Arc::ptr_eq(&own.view, &view)
            && own.begun.insert(partition)
        {
            return Ok(Arc::clone(&own.plan));
        }
        let plan = self.scan.plan(&view, context.runtime_env().as_ref())?;
        let begun = HashSet::from([partition]);
        *running = Some(Running { view, plan: Arc::clone(&plan), begun });
        Ok(plan)
    }
}

impl DisplayAs for PinnedScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PinnedScanExec: {}", self.scan)
    }
}

impl ExecutionPlan for PinnedScanExec {
    fn name(&self) -> &'static str {
        "PinnedScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn with_new_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let plan = self.plan(partition, &context)?;
        let partitions = plan.properties().partitioning.partition_count();
        if partition < partitions {
            return plan.execute(partition, context);
        }
        Ok(Box::pin(EmptyRecordBatchStream::new(self.scan.shown())))
    }
}
