//! How a statement is planned again: a physical plan runs once, as its dynamic filters fill.

use datafusion::catalog::Session;
use datafusion::common::Result;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use std::fmt;
use std::sync::Arc;

/// The optimized rows of a statement, and the session that plans them.
pub(super) struct Planning {
    rows: LogicalPlan,
    /// `None` in a session that is not DataFusion's own.
    session: Option<SessionState>,
}

impl Planning {
    pub(super) fn new(rows: LogicalPlan, session: &dyn Session) -> Self {
        Self { rows, session: session.as_any().downcast_ref::<SessionState>().cloned() }
    }

    /// A plan that was never run; it reads other tables as they are now.
    pub(super) async fn again(&self) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        match &self.session {
            Some(own) => own.query_planner().create_physical_plan(&self.rows, own).await.map(Some),
            None => Ok(None),
        }
    }
}

impl fmt::Debug for Planning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Planning").finish_non_exhaustive()
    }
}
