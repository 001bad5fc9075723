//! Runs a statement that changes a table: one version is read, and one commit follows it.

use super::node::Verb;
use super::pinned::Pin;
use crate::delta::DeltaError;
use crate::delta::apply::{StagedRows, Written, busy, token_of};
use crate::delta::compact::Pace;
use crate::delta::ledger::RACES_MAX;
use crate::delta::log::Change;
use crate::delta::table::DeltaTable;
use arrow::array::UInt64Array;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties, collect,
};
use std::fmt;
use std::sync::Arc;

/// Yields one row: how many rows were changed.
#[derive(Debug)]
pub(super) struct DmlExec {
    table: Arc<DeltaTable>,
    pin: Arc<Pin>,
    verb: Verb,
    input: Arc<dyn ExecutionPlan>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl DmlExec {
    pub(super) fn new(
        table: Arc<DeltaTable>,
        pin: Arc<Pin>,
        verb: Verb,
        input: Arc<dyn ExecutionPlan>,
        schema: SchemaRef,
    ) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Self { table, pin, verb, input, schema, properties: Arc::new(properties) }
    }
}

impl DisplayAs for DmlExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DmlExec: {} {}", self.verb, self.table.name())
    }
}

impl ExecutionPlan for DmlExec {
    fn name(&self) -> &'static str {
        "DmlExec"
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
        vec![&self.input]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let input = children.swap_remove(0);
        let (table, pin) = (Arc::clone(&self.table), Arc::clone(&self.pin));
        Ok(Arc::new(Self::new(table, pin, self.verb, input, Arc::clone(&self.schema))))
    }

    fn execute(&self, _: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let (table, pin) = (Arc::clone(&self.table), Arc::clone(&self.pin));
        let (verb, input, schema) = (self.verb, Arc::clone(&self.input), Arc::clone(&self.schema));
        let shown = Arc::clone(&schema);
        let rows = futures::stream::once(async move {
            let changed = run(&table, &pin, verb, input, context).await;
            pin.clear();
            let count = changed?;
            let column = Arc::new(UInt64Array::from(vec![count]));
            Ok(RecordBatch::try_new(shown, vec![column])?)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }
}

/// Reads at the head, and commits on it; what another process commits meanwhile is either no
/// change of rows, or an error. Returns how many rows were changed.
async fn run(
    table: &DeltaTable,
    pin: &Pin,
    verb: Verb,
    input: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
) -> Result<u64> {
    let token = token_of(context.session_config().options());
    let mut writer = table.writer.lock().await;
    table.catch_up(&mut writer).await?;
    table.prepare(&mut writer).await?;
    if table.used_before(&writer, token.as_deref()).is_some() {
        return Ok(0);
    }
    let read = pin.view(table);
    if !read.files.is_same(&writer.files) {
        return Err(DeltaError::Changed { version: read.version + 1 }.into());
    }
    let batches = collect(input, context).await?;
    let (staged, count) = table.shape.statement_rows(verb, &batches, writer.index.as_ref())?;
    if staged.rows() == 0 && !matches!(staged, StagedRows::Whole(_)) && token.is_none() {
        return Ok(0);
    }
    for _ in 0..RACES_MAX {
        let change = Change { token: token.clone(), ..Change::default() };
        if let Some(Written { changed, .. }) = table.apply(&mut writer, &staged, change).await? {
            table.maintain(&mut writer, Pace::Now).await;
            return Ok(if verb == Verb::Truncate { changed.rows_deleted } else { count });
        }
        table.after_lost_race(&mut writer).await?;
        if !read.files.is_same(&writer.files) {
            return Err(DeltaError::Changed { version: read.version + 1 }.into());
        }
        table.prepare(&mut writer).await?;
    }
    Err(DeltaError::from(busy()).into())
}
