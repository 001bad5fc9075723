//! Skeleton of the dedup operator.
use crate::state::DedupMemory;
use crate::types::DedupOptions;
use datafusion::error::Result;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use std::collections::HashMap;
use std::sync::Arc;

/// What a dedup reads of its input.
#[derive(Clone, Debug)]
pub struct DedupExpressions {
    /// The keys; at least one.
    pub keys: Vec<Arc<dyn PhysicalExpr>>,
    /// The event time, any timestamp or date type; `None` only with WITHIN UNBOUNDED.
    pub time: Option<Arc<dyn PhysicalExpr>>,
    /// Index of the hidden position column; `None`: rows are taken by (time, all columns).
    pub position: Option<usize>,
    /// Index of the hidden watermark column; `None`: no row is late.
    pub watermark: Option<usize>,
}

/// The memories of the pipeline whose epoch is being planned, by operator name; a session extension.
#[derive(Debug, Default)]
pub struct DedupMemories(pub HashMap<String, Arc<DedupMemory>>);

/// Dedup of a plain bounded query; output schema = input schema.
pub fn plan_bounded_dedup(
    _input: Arc<dyn ExecutionPlan>,
    _expressions: DedupExpressions,
    _options: DedupOptions,
) -> Result<Arc<dyn ExecutionPlan>> {
    unimplemented!()
}

/// Dedup of one epoch of a pipeline; output schema = input schema.
pub fn plan_epoch_dedup(
    _input: Arc<dyn ExecutionPlan>,
    _expressions: DedupExpressions,
    _options: DedupOptions,
    _memory: Arc<DedupMemory>,
) -> Result<Arc<dyn ExecutionPlan>> {
    unimplemented!()
}
