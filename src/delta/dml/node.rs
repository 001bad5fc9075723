//! The node of a statement that changes a table, and how it is planned.

use super::exec::{DmlExec, Statement};
use super::pinned::Pin;
use super::planning::Planning;
use crate::delta::table::DeltaTable;
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::{DFSchemaRef, Result};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{
    Expr, LogicalPlan, UserDefinedLogicalNode, UserDefinedLogicalNodeCore,
};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{ExtensionPlanner, PhysicalPlanner};
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// What a statement does; its input has the columns that `rows` reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Verb {
    Update,
    Delete,
    Merge,
    Replace,
    Overwrite,
    Truncate,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Merge => "MERGE INTO",
            Self::Replace => "REPLACE INTO",
            Self::Overwrite => "INSERT OVERWRITE",
            Self::Truncate => "TRUNCATE",
        })
    }
}

/// A change of a table; yields one row, the count of rows it changed.
#[derive(Clone, Debug)]
pub(super) struct DmlNode {
    pub(super) table: Arc<DeltaTable>,
    pub(super) pin: Arc<Pin>,
    pub(super) verb: Verb,
    pub(super) input: LogicalPlan,
    pub(super) schema: DFSchemaRef,
}

impl PartialEq for DmlNode {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.pin, &other.pin) && self.verb == other.verb && self.input == other.input
    }
}

impl Eq for DmlNode {}

impl Hash for DmlNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.verb.hash(state);
        self.input.hash(state);
    }
}

impl PartialOrd for DmlNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        let order = self.verb.cmp(&other.verb).then(self.input.partial_cmp(&other.input)?);
        (order != Ordering::Equal || self == other).then_some(order)
    }
}

impl UserDefinedLogicalNodeCore for DmlNode {
    fn name(&self) -> &'static str {
        "Dml"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dml: {} {}", self.verb, self.table.name())
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        Ok(Self { input: inputs.swap_remove(0), ..self.clone() })
    }
}

/// Plans statements that change upsert tables.
#[derive(Clone, Copy, Debug, Default)]
pub struct DmlExtensionPlanner;

#[async_trait]
impl ExtensionPlanner for DmlExtensionPlanner {
    async fn plan_extension(
        &self,
        _: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _: &[&LogicalPlan],
        inputs: &[Arc<dyn ExecutionPlan>],
        session: &dyn Session,
        _: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let Some(dml) = node.as_any().downcast_ref::<DmlNode>() else { return Ok(None) };
        let statement = Statement {
            table: Arc::clone(&dml.table),
            pin: Arc::clone(&dml.pin),
            verb: dml.verb,
            planning: Planning::new(dml.input.clone(), session),
        };
        let (input, schema) = (Arc::clone(&inputs[0]), Arc::clone(dml.schema.inner()));
        Ok(Some(Arc::new(DmlExec::new(Arc::new(statement), input, schema))))
    }
}
