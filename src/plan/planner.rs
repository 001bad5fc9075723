//! From `DedupNode` to what runs.

use super::{DedupNode, PlanError, RollupNode};
use crate::operator::{
    DedupExpressions, DedupMemories, RollupExpressions, RollupMemories, plan_bounded_dedup,
    plan_epoch_dedup, plan_epoch_rollup,
};
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::Result;
use datafusion::error::DataFusionError;
use datafusion::execution::context::QueryPlanner;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNode};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::LoweredAggregateBuilder;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner};
use std::fmt;
use std::sync::Arc;

/// Plans our nodes inside any planner that takes extension planners.
#[derive(Clone, Copy, Debug, Default)]
pub struct DedupExtensionPlanner;

#[async_trait]
impl ExtensionPlanner for DedupExtensionPlanner {
    async fn plan_extension(
        &self,
        planner: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _: &[&LogicalPlan],
        inputs: &[Arc<dyn ExecutionPlan>],
        session: &dyn Session,
        context: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let input = Arc::clone(&inputs[0]);
        if let Some(rollup) = node.as_any().downcast_ref::<RollupNode>() {
            let lower = |expr: &Expr| {
                planner.create_physical_expr(expr, rollup.input.schema(), session, context)
            };
            return plan_rollup(rollup, input, session, &lower).map(Some);
        }
        let Some(dedup) = node.as_any().downcast_ref::<DedupNode>() else { return Ok(None) };
        if input.boundedness().is_unbounded() {
            return Err(PlanError::Unbounded.into());
        }
        let physical =
            |expr| planner.create_physical_expr(expr, dedup.input.schema(), session, context);
        let keys = dedup.keys.iter().map(physical).collect::<Result<Vec<_>>>()?;
        let time = dedup.time.as_ref().map(physical).transpose()?;
        let hidden = dedup.hidden.as_ref();
        let hidden =
            hidden.map(|[at, wm]| Ok::<_, DataFusionError>([physical(at)?, physical(wm)?]));
        let expressions = DedupExpressions { keys, time, hidden: hidden.transpose()? };
        let Some(operator) = &dedup.operator else {
            return plan_bounded_dedup(input, expressions, dedup.options).map(Some);
        };
        let memories = session.config().get_extension::<DedupMemories>().unwrap_or_default();
        let memory = memories.find(operator)?;
        plan_epoch_dedup(input, expressions, dedup.options, memory).map(Some)
    }
}

fn plan_rollup(
    node: &RollupNode,
    input: Arc<dyn ExecutionPlan>,
    session: &dyn Session,
    lower: &dyn Fn(&Expr) -> Result<Arc<dyn PhysicalExpr>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let (schema, physical) = (node.input.schema(), input.schema());
    let nothing = PhysicalPlanningContext::default();
    let aggregate = |expr: &Expr| {
        let props = session.execution_props();
        LoweredAggregateBuilder::new(expr, schema, &physical, props, &nothing).build()
    };
    let groups = node.groups.iter().map(lower).collect::<Result<Vec<_>>>()?;
    let set_type = node.has_sets.then(|| node.schema.field(groups.len()).data_type().clone());
    let [position, watermark] = &node.hidden;
    let expressions = RollupExpressions {
        groups,
        sets: node.sets.clone(),
        set_type,
        windows: node.windows.clone(),
        hop: node.hop,
        aggregates: node.aggregates.iter().map(aggregate).collect::<Result<Vec<_>>>()?,
        hidden: [lower(position)?, lower(watermark)?],
        time: node.time.as_ref().map(lower).transpose()?,
    };
    let memories = session.config().get_extension::<RollupMemories>().unwrap_or_default();
    let memory = memories.find(&node.operator)?;
    let output = Arc::clone(node.schema.inner());
    let partitions = session.config().target_partitions();
    plan_epoch_rollup(input, expressions, node.options, output, (memory, partitions))
}

/// DataFusion's default planner with ours inside.
#[derive(Clone, Default)]
pub struct OnefoldQueryPlanner {
    others: Vec<Arc<dyn ExtensionPlanner + Send + Sync>>,
}

impl OnefoldQueryPlanner {
    /// A planner of our nodes and of those that `others` plan.
    #[must_use]
    pub fn new(others: Vec<Arc<dyn ExtensionPlanner + Send + Sync>>) -> Self {
        Self { others }
    }
}

impl fmt::Debug for OnefoldQueryPlanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnefoldQueryPlanner").finish_non_exhaustive()
    }
}

#[async_trait]
impl QueryPlanner for OnefoldQueryPlanner {
    async fn create_physical_plan(
        &self,
        plan: &LogicalPlan,
        session: &dyn Session,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut planners = self.others.clone();
        planners.push(Arc::new(DedupExtensionPlanner));
        DefaultPhysicalPlanner::with_extension_planners(planners)
            .create_physical_plan(plan, session)
            .await
    }
}
