//! Runs a statement that changes a table: one version is read, and one commit follows it.
//!
//! ```text
//!   others committed since the version was read    outcome
//!   nothing, or no change of rows                  the same rows are sent again
//!   a change of rows                               planned again and run again, at the new head
//!   a change of schema or protocol, a restore      error: Conflict
//! ```

use super::node::Verb;
use super::pinned::Pin;
use super::planning::Planning;
use crate::delta::DeltaError;
use crate::delta::apply::{StagedRows, Written, busy};
use crate::delta::compact::Pace;
use crate::delta::ledger::RACES_MAX;
use crate::delta::log::Change;
use crate::delta::table::DeltaTable;
use crate::delta::token::{spend_token, token_of};
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

/// Runs of one statement at most: each but the last saw other writers change rows meanwhile.
const RUNS_MAX: u32 = 100;

/// Yields one row: how many rows were changed.
#[derive(Debug)]
pub(super) struct DmlExec {
    statement: Arc<Statement>,
    input: Arc<dyn ExecutionPlan>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

/// What is done to which table.
#[derive(Debug)]
pub(super) struct Statement {
    pub(super) table: Arc<DeltaTable>,
    pub(super) pin: Arc<Pin>,
    pub(super) verb: Verb,
    pub(super) planning: Planning,
}

/// What one run of a statement did.
enum Run {
    /// It is committed; so many rows were changed.
    Done(u64),
    /// Nothing: others changed rows after the version that it read.
    Overtaken(u64),
}

impl DmlExec {
    pub(super) fn new(
        statement: Arc<Statement>,
        input: Arc<dyn ExecutionPlan>,
        schema: SchemaRef,
    ) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Self { statement, input, schema, properties: Arc::new(properties) }
    }
}

impl DisplayAs for DmlExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DmlExec: {} {}", self.statement.verb, self.statement.table.name())
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
        Ok(Arc::new(Self::new(Arc::clone(&self.statement), input, Arc::clone(&self.schema))))
    }

    fn execute(&self, _: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let (statement, input) = (Arc::clone(&self.statement), Arc::clone(&self.input));
        let schema = Arc::clone(&self.schema);
        let rows = futures::stream::once(async move {
            let changed = statement.run(input, context).await;
            statement.pin.clear();
            let column = Arc::new(UInt64Array::from(vec![changed?]));
            Ok(RecordBatch::try_new(schema, vec![column])?)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows)))
    }
}

impl Statement {
    /// Reads at the head and commits on it, again if others changed rows meanwhile. Returns how
    /// many rows were changed.
    async fn run(
        &self,
        mut input: Arc<dyn ExecutionPlan>,
        context: Arc<TaskContext>,
    ) -> Result<u64> {
        let token = token_of(&context);
        let mut runs = 1;
        loop {
            let run = self.run_once(input, Arc::clone(&context), token.as_deref());
            let version = match run.await? {
                Run::Done(count) => {
                    spend_token(&context, token.as_deref());
                    return Ok(count);
                }
                Run::Overtaken(version) => version,
            };
            self.pin.clear();
            // Planned without the writer: what else the statement reads may ask for it.
            input = match self.planning.again().await? {
                Some(input) if runs < RUNS_MAX => input,
                _ => return Err(DeltaError::Changed { version, runs }.into()),
            };
            runs += 1;
            let (table, verb) = (self.table.name(), self.verb);
            tracing::info!(table, %verb, version, runs, "others changed rows: run again");
        }
    }

    async fn run_once(
        &self,
        input: Arc<dyn ExecutionPlan>,
        context: Arc<TaskContext>,
        token: Option<&str>,
    ) -> Result<Run> {
        let (table, verb) = (self.table.as_ref(), self.verb);
        let mut writer = table.writer.lock().await;
        table.catch_up(&mut writer).await?;
        table.prepare(&mut writer).await?;
        if table.used_before(&writer, token).is_some() {
            return Ok(Run::Done(0));
        }
        let read = self.pin.view(table);
        if !read.files.is_same(&writer.files) {
            return Ok(Run::Overtaken(writer.snapshot.version())); // subqueries ran before
        }
        let batches = collect(input, context).await?;
        let (staged, count) = table.shape.statement_rows(verb, &batches, writer.index.as_ref())?;
        if staged.rows() == 0 && !matches!(staged, StagedRows::Whole(_)) && token.is_none() {
            return Ok(Run::Done(0));
        }
        for _ in 0..RACES_MAX {
            let change = Change { token: token.map(str::to_owned), ..Change::default() };
            if let Some(Written { changed, .. }) = table.apply(&mut writer, &staged, change).await?
            {
                table.maintain(&mut writer, Pace::Now).await;
                let is_whole = verb == Verb::Truncate;
                return Ok(Run::Done(if is_whole { changed.rows_deleted } else { count }));
            }
            table.after_lost_race(&mut writer, false).await?;
            if !read.files.is_same(&writer.files) {
                return Ok(Run::Overtaken(writer.snapshot.version()));
            }
            table.prepare(&mut writer).await?;
        }
        Err(DeltaError::from(busy()).into())
    }
}
