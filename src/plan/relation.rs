//! Reads the carrier of a clause into a `DedupNode`, with every name resolved and every option
//! checked.

use super::expressions::{fixed_us, refuse_key, refuse_time};
use super::positions::watermark_column;
use super::{DedupNode, PlanError};
use crate::sql::{Carrier, read_carrier};
use crate::types::{DedupOptions, Within};
use datafusion::common::Result;
use datafusion::logical_expr::expr_rewriter::normalize_col;
use datafusion::logical_expr::planner::{
    PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning,
};
use datafusion::logical_expr::{Expr, ExprSchemable, Extension, LogicalPlan};
use datafusion::sql::sqlparser::ast::{self, TableFactor};
use std::sync::Arc;

/// Plans DEDUP clauses; leaves every other table factor to DataFusion.
#[derive(Clone, Copy, Debug, Default)]
pub struct DedupRelationPlanner;

impl RelationPlanner for DedupRelationPlanner {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        match read_carrier(relation) {
            Ok(carrier) => plan_carrier(carrier, context),
            Err(other) => Ok(RelationPlanning::Original(Box::new(other))),
        }
    }
}

fn plan_carrier(
    carrier: Carrier,
    context: &mut dyn RelationPlannerContext,
) -> Result<RelationPlanning> {
    let at = carrier.line_column;
    let wrong = |reason: String| PlanError::clause(at, reason);
    let input = context.plan(carrier.input)?;
    let mut plan = |expr: ast::Expr| -> Result<Expr> {
        let expr = context.sql_to_expr(expr, input.schema())?;
        normalize_col(expr, &input)
    };
    let keys = carrier.keys.into_iter().map(&mut plan).collect::<Result<Vec<Expr>>>()?;
    let mut time = carrier.time.map(&mut plan).transpose()?;
    let within = carrier.within.map(&mut plan).transpose()?;
    let lateness = carrier.lateness.map(&mut plan).transpose()?;
    if let Some(reason) = keys.iter().find_map(refuse_key) {
        return Err(wrong(reason).into());
    }
    if let Some(time) = &time {
        let data_type = time.get_type(input.schema())?;
        if let Some(reason) = refuse_time(time, &data_type) {
            return Err(wrong(reason).into());
        }
    }
    if time.is_none() && within.is_some() {
        time = watermark_column(&input).map(Expr::Column);
    }
    let within = match (within, &time) {
        (None, _) => Within::Unbounded,
        (Some(_), None) => {
            let reason = "WITHIN an interval needs a time, and the table has no watermark; write OF and \
                          a timestamp column, or WITHIN UNBOUNDED";
            return Err(wrong(reason.to_owned()).into());
        }
        (Some(within), Some(_)) => {
            let width = fixed_us(&within, "WITHIN").map_err(wrong)?;
            match u64::try_from(width) {
                Ok(width_us) if width_us > 0 => Within::Interval { width_us },
                _ => return Err(wrong("WITHIN must be longer than nothing".to_owned()).into()),
            }
        }
    };
    let lateness_us = match lateness {
        Some(lateness) => fixed_us(&lateness, "ALLOWED LATENESS").map_err(wrong)?,
        None => 0,
    };
    if lateness_us < 0 {
        return Err(wrong("ALLOWED LATENESS must not be negative".to_owned()).into());
    }
    let (late, nulls) = (carrier.late, carrier.nulls);
    // UNBOUNDED compares keys only: a time would just decide nothing.
    let time = if within == Within::Unbounded { None } else { time };
    let options = DedupOptions { within, lateness_us, late, nulls };
    let node = DedupNode { input, keys, time, hidden: None, operator: None, options };
    let plan = LogicalPlan::Extension(Extension { node: Arc::new(node) });
    Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, carrier.alias))))
}
