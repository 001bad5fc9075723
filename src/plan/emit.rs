//! `EmitNode`: EMIT in a logical plan.

use crate::types::Emit;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchemaRef, Result};
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore};
use std::fmt;
use std::sync::Arc;

/// A query of a pipeline, and when it shows what it has found. It stands right above the query,
/// under the columns that INSERT makes of it, and never runs: [`super::plan_pipeline`] takes it off.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Hash)]
pub struct EmitNode {
    /// The query.
    pub input: LogicalPlan,
    /// When it shows what.
    pub emit: Emit,
}

impl EmitNode {
    /// Puts `emit` above the query of an INSERT, whose plan `inserted` is.
    ///
    /// # Errors
    ///
    /// None that is known: the columns stay as they are.
    pub fn above(inserted: &LogicalPlan, emit: Emit) -> Result<LogicalPlan> {
        let wrap = |input: &LogicalPlan| {
            let node = Arc::new(Self { input: input.clone(), emit });
            LogicalPlan::Extension(Extension { node })
        };
        match inserted {
            LogicalPlan::Projection(columns) => {
                inserted.with_new_exprs(columns.expr.clone(), vec![wrap(&columns.input)])
            }
            query => Ok(wrap(query)),
        }
    }
}

impl UserDefinedLogicalNodeCore for EmitNode {
    fn name(&self) -> &'static str {
        "Emit"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Emit: {}", self.emit)
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        Ok(Self { input: inputs.swap_remove(0), emit: self.emit })
    }
}

/// `query` without its EMIT, and what that asks for.
///
/// # Errors
///
/// None that is known.
pub fn take_emit(query: &LogicalPlan) -> Result<(LogicalPlan, Emit)> {
    let mut emit = Emit::default();
    let plain = query.clone().transform_down(|plan| {
        let LogicalPlan::Extension(extension) = &plan else { return Ok(Transformed::no(plan)) };
        let Some(node) = extension.node.as_any().downcast_ref::<EmitNode>() else {
            return Ok(Transformed::no(plan));
        };
        emit = node.emit;
        Ok(Transformed::yes(node.input.clone()))
    })?;
    Ok((plain.data, emit))
}
