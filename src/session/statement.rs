//! From a statement to its plan.

use crate::sql::spell_ends;
use datafusion::common::Result;
use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::Statement;

/// Plans `statement`. One that DataFusion refuses is planned with the ends of windows in other words,
/// if it has any; what DataFusion plans stays as it is written.
///
/// # Errors
///
/// What DataFusion says of the words that it saw last.
pub(super) async fn planned(state: &SessionState, statement: Statement) -> Result<LogicalPlan> {
    let is_known =
        |name: &str| state.scalar_functions().contains_key(name) || state.udafs().contains(name);
    let spelled = spell_ends(statement.clone(), is_known);
    match (state.statement_to_plan(statement).await, spelled) {
        (Err(_), Some(spelled)) => state.statement_to_plan(spelled).await,
        (plan, _) => plan,
    }
}
