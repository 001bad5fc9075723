//! The `EpochPlanner` port: turns the rows in the slots into a plan, once per epoch.

use super::PipelineError;
use async_trait::async_trait;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use std::fmt::Debug;
use std::sync::Arc;

/// Plans one epoch over what the source slots hold now. Each plan is executed at most once.
#[async_trait]
pub trait EpochPlanner: Debug + Send + Sync {
    /// The plan whose output columns are the table's columns, in order, and the hidden position
    /// last; with the task context to run it in.
    async fn plan_epoch(&self) -> Result<EpochPlan, PipelineError>;
}

/// One epoch's plan.
#[derive(Debug, Clone)]
pub struct EpochPlan {
    /// The plan.
    pub plan: Arc<dyn ExecutionPlan>,
    /// The context to execute it in.
    pub context: Arc<TaskContext>,
    /// Whether every output row stems from exactly one source row and every source row gives at
    /// most one: then what was dropped by filters can be checked, row by row.
    pub is_one_to_one: bool,
}
