//! What a pipeline is made of.

use crate::commit::Ledger;
use crate::source::{EpochSlot, Source, WatermarkSpec};
use crate::state::OperatorMemory;
use crate::types::{Clock, Entropy, PipelineId, Settings};
use async_trait::async_trait;
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use std::fmt::Debug;
use std::sync::Arc;

/// Everything a pipeline knows; it is opened from this.
#[derive(Clone, Debug)]
pub struct PipelineParts {
    /// Its name in the table.
    pub id: PipelineId,
    /// Where it commits.
    pub ledger: Arc<dyn Ledger>,
    /// Plans each epoch.
    pub planner: Arc<dyn EpochPlanner>,
    /// What it reads.
    pub sources: Vec<SourcePart>,
    /// What it remembers.
    pub operators: Vec<OperatorPart>,
    /// Whether the table's rows are its groups, so that nobody else may write them.
    pub owns_rows: bool,
    /// What it computes, as text; another text is another pipeline.
    pub fingerprint: String,
    /// Its limits.
    pub settings: Settings,
    /// Its time.
    pub clock: Arc<dyn Clock>,
    /// Its chance.
    pub entropy: Arc<dyn Entropy>,
}

/// A source of a pipeline.
#[derive(Clone, Debug)]
pub struct SourcePart {
    /// Its name in the query.
    pub name: String,
    /// The source.
    pub source: Arc<dyn Source>,
    /// Its watermark, if it has one.
    pub watermark: Option<WatermarkSpec>,
    /// Where the rows of an epoch go.
    pub slot: Arc<EpochSlot>,
}

/// An operator with a memory.
#[derive(Clone, Debug)]
pub struct OperatorPart {
    /// Its name in the query, such as `dedup-0`.
    pub name: String,
    /// Its memory.
    pub memory: Arc<dyn OperatorMemory>,
    /// How far in microseconds the watermark that reaches it lies behind that of the sources.
    pub delay_us: i64,
}

/// The `EpochPlanner` port: turns the rows in the slots into a plan, once per epoch.
#[async_trait]
pub trait EpochPlanner: Debug + Send + Sync {
    /// The plan whose output columns are the table's columns, in order, and the hidden position
    /// last. Each plan is executed at most once.
    async fn plan_epoch(&self) -> Result<EpochPlan>;
}

/// One epoch's plan.
#[derive(Debug, Clone)]
pub struct EpochPlan {
    /// The plan.
    pub plan: Arc<dyn ExecutionPlan>,
    /// The context to execute it in.
    pub context: Arc<TaskContext>,
    /// Whether every source row gives at most one row: then the counts of an epoch can be checked.
    pub is_one_to_one: bool,
}
