//! `SessionContext` with DEDUP BY.

use crate::error::Error;
use crate::plan::{DedupRelationPlanner, KeepVolatileAboveDedup, OnefoldQueryPlanner, PlanError};
use crate::sql::{ParsedStatement, parse_script};
use async_trait::async_trait;
use datafusion::dataframe::DataFrame;
use datafusion::execution::SessionStateBuilder;
use datafusion::logical_expr::{DdlStatement, LogicalPlan};
use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::dialect::{Dialect, dialect_from_str};
use std::sync::Arc;

/// Adds our SQL to a session that may already hold tables, views and functions.
#[async_trait]
pub trait OnefoldContextExt: Sized {
    /// The same session, now able to plan DEDUP BY. Tables, functions and the session's id stay;
    /// prepared statements do not, so call it at the start. A second call changes nothing.
    ///
    /// # Errors
    ///
    /// A session that has a query planner of its own is refused.
    fn with_onefold(self) -> Result<Self, Error>;

    /// Runs a script: statements separated by semicolons, in DataFusion's SQL and ours.
    ///
    /// Returns one [`DataFrame`] per statement. DDL, DML and COPY have run to their end before the
    /// next statement begins; queries run when their frame is collected.
    ///
    /// # Errors
    ///
    /// The first statement that fails ends the script; what ran before it stays.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves the statements that had finished.
    async fn run_sql(&self, script: &str) -> Result<Vec<DataFrame>, Error>;
}

#[async_trait]
impl OnefoldContextExt for SessionContext {
    fn with_onefold(self) -> Result<Self, Error> {
        let shared = self.state_ref();
        let mut state = shared.write();
        let planner = format!("{:?}", state.query_planner());
        if planner.starts_with("OnefoldQueryPlanner") {
            drop(state);
            return Ok(self);
        }
        if !planner.starts_with("DefaultQueryPlanner") {
            return Err(Error::from(PlanError::ForeignPlanner { planner }));
        }
        let id = state.session_id().to_owned();
        let mut extended = SessionStateBuilder::new_from_existing(state.clone())
            .with_session_id(id)
            .with_query_planner(Arc::new(OnefoldQueryPlanner))
            .build();
        extended.register_relation_planner(Arc::new(DedupRelationPlanner))?;
        *state = extended;
        drop(state);
        self.add_analyzer_rule(Arc::new(KeepVolatileAboveDedup));
        Ok(self)
    }

    async fn run_sql(&self, script: &str) -> Result<Vec<DataFrame>, Error> {
        let mut frames = Vec::new();
        let statements = parse_script(script, dialect(self).as_ref())?;
        for statement in statements {
            frames.push(Box::pin(run_statement(self, statement)).await?);
        }
        Ok(frames)
    }
}

async fn run_statement(
    context: &SessionContext,
    parsed: ParsedStatement,
) -> Result<DataFrame, Error> {
    let mut plan = context.state().statement_to_plan(parsed.statement).await?;
    if let LogicalPlan::Ddl(DdlStatement::CreateView(view)) = &mut plan {
        view.definition = Some(parsed.text); // what the user wrote, not the carrier
    }
    let changes = matches!(plan, LogicalPlan::Dml(_) | LogicalPlan::Copy(_));
    let frame = context.execute_logical_plan(plan).await?;
    if !changes {
        return Ok(frame);
    }
    let batches = frame.collect().await?;
    Ok(context.read_batches(batches)?)
}

/// The dialect of the session's settings.
fn dialect(context: &SessionContext) -> Box<dyn Dialect> {
    let state = context.state();
    let name = state.config_options().sql_parser.dialect.to_string();
    dialect_from_str(name)
        .unwrap_or_else(|| Box::new(datafusion::sql::sqlparser::dialect::GenericDialect {}))
}
