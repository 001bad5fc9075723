//! `SessionContext` with our SQL.

use super::PipelineHandle;
use super::alter::{alter, as_alter};
use super::answers::{explained, show};
use super::checks::keep_checks;
use super::config::OnefoldOptions;
use super::functions::{Function, TableFunction};
use super::history::History;
use super::plan::{Target, pipeline_of};
use super::registry::{Ports, Registry};
use super::sketches::register_sketches;
use super::state::State;
use super::statement::planned;
use super::tables::{DeltaFactory, GeneratorFactory, open_source};
use super::update::keep_unstored;
use super::views;
use crate::commit::Ledger;
use crate::delta::{DmlExtensionPlanner, LowerDml, WriteReport};
use crate::error::Error;
use crate::plan::{
    DedupRelationPlanner, EmitNode, ExposePositions, KeepVolatileAboveDedup, LowerTumble,
    LowerWindows, OnefoldQueryPlanner, PlanError, hop_function, session_function, streams,
    tumble_functions,
};
use crate::source::{Source, SourceTable, SourceTableOptions};
use crate::sql::{ParsedStatement, WatermarkClause, parse_script};
use crate::types::{Emit, Settings};
use async_trait::async_trait;
use datafusion::common::TableReference;
use datafusion::dataframe::DataFrame;
use datafusion::execution::{FunctionRegistry, SessionState, SessionStateBuilder};
use datafusion::logical_expr::{
    CreateExternalTable, DdlStatement, DmlStatement, LogicalPlan, Statement, WriteOp,
};
use datafusion::optimizer::AnalyzerRule;
use datafusion::optimizer::analyzer::type_coercion::TypeCoercion;
use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::dialect::{Dialect, dialect_from_str};
use std::sync::Arc;

/// Adds our SQL to a session that may already hold tables, views and functions.
#[async_trait]
pub trait OnefoldContextExt: Sized {
    /// The same session, now with our SQL. Tables, functions and the session's id stay; prepared
    /// statements do not, so call it at the start. A second call changes the settings only.
    ///
    /// # Errors
    ///
    /// A session that has a query planner of its own is refused.
    fn with_onefold(self, settings: Settings) -> Result<Self, Error>;

    /// Runs a script: statements separated by semicolons, in DataFusion's SQL and ours.
    ///
    /// Returns one [`DataFrame`] per statement. DDL, DML and COPY have run to their end before the
    /// next statement begins; queries run when their frame is collected. An INSERT that reads an
    /// unbounded table becomes a pipeline, which runs when [`Self::pipeline`] is told to.
    ///
    /// # Errors
    ///
    /// The first statement that fails ends the script; what ran before it stays.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves the statements that had finished.
    async fn run_sql(&self, script: &str) -> Result<Vec<DataFrame>, Error>;

    /// The pipeline of this name, or the one that writes into the table of this name.
    ///
    /// # Errors
    ///
    /// None, or several, are called so.
    fn pipeline(&self, name: &str) -> Result<PipelineHandle, Error>;

    /// All pipelines of this session, in the order of their INSERTs.
    fn pipelines(&self) -> Vec<PipelineHandle>;

    /// Writes `rows` into the upsert table `table` in one commit, unless a write under the same
    /// `token` did before: then it does nothing, and says so. Columns go by name; those of the
    /// table that `rows` does not have are NULL.
    ///
    /// # Errors
    ///
    /// No such table, a column it does not have, or a row that breaks its rules; nothing is written.
    async fn write_once(
        &self,
        table: &str,
        rows: DataFrame,
        token: &str,
    ) -> Result<WriteReport, Error>;

    /// Waits for what goes on beside commits in all upsert tables of this session: checksums of
    /// versions, table compaction, vacuum. A program that ends calls it last; one that does not
    /// loses no row, and what was not done is done by a later one.
    async fn rest(&self);

    /// The newest version of the upsert table `table` that this session knows; `None` if there is
    /// no such table.
    fn table_version(&self, table: &str) -> Option<u64>;

    /// Makes a source a table of this session.
    ///
    /// # Errors
    ///
    /// A watermark on a column that is no time, or a name that is taken.
    fn register_source(
        &self,
        name: &str,
        source: Arc<dyn Source>,
        options: SourceTableOptions,
    ) -> Result<(), Error>;
}

/// Adds our SQL to a session that is being built.
pub trait OnefoldBuilderExt: Sized {
    /// The same builder, with our planners, functions, tables and settings.
    #[must_use]
    fn with_onefold(self, settings: Settings) -> Self {
        self.with_onefold_ports(settings, Ports::default())
    }

    /// As [`Self::with_onefold`], with a time and a chance of the caller's.
    #[must_use]
    fn with_onefold_ports(self, settings: Settings, ports: Ports) -> Self;
}

impl OnefoldBuilderExt for SessionStateBuilder {
    fn with_onefold_ports(mut self, settings: Settings, ports: Ports) -> Self {
        let registry = Arc::new(Registry::new(ports));
        let config = self.config().get_or_insert_default();
        let options = OnefoldOptions { settings, ..OnefoldOptions::default() };
        config.set_extension(Arc::clone(&options.used));
        config.options_mut().extensions.insert(options);
        config.set_extension(Arc::clone(&registry));
        let planner = OnefoldQueryPlanner::new(vec![Arc::new(DmlExtensionPlanner)]);
        let mut state = self.with_query_planner(Arc::new(planner)).build();
        if let Err(error) = state.register_relation_planner(Arc::new(DedupRelationPlanner)) {
            tracing::error!(%error, "the session takes no relation planner");
        }
        let history = History { registry: Arc::clone(&registry) };
        state.register_udtf("onefold_history", Arc::new(history));
        let remembered = State { registry: Arc::clone(&registry) };
        state.register_udtf("onefold_state", Arc::new(remembered));
        for (name, function) in Function::ALL {
            let registry = Arc::clone(&registry);
            state.register_udtf(name, Arc::new(TableFunction { function, registry }));
        }
        if let Err(error) = register_sketches(&mut state) {
            tracing::error!(%error, "the session takes no functions of sketches");
        }
        let delta = DeltaFactory { registry };
        let factories = state.table_factories_mut();
        factories.insert("DELTA".to_owned(), Arc::new(delta));
        factories.insert("GENERATOR".to_owned(), Arc::new(GeneratorFactory));
        register_functions(&mut state);
        let mut rules: Vec<Arc<dyn AnalyzerRule + Send + Sync>> = vec![Arc::new(LowerDml)];
        rules.extend(state.analyzer().rules.iter().map(Arc::clone));
        // After grouping(x) was found among what is grouped by, and before types are made to fit.
        let fit = rules.iter().position(|rule| rule.name() == TypeCoercion::new().name());
        let lower: [Arc<dyn AnalyzerRule + Send + Sync>; 2] =
            [Arc::new(LowerTumble), Arc::new(LowerWindows::default())];
        let fit = fit.unwrap_or(rules.len());
        rules.splice(fit..fit, lower);
        SessionStateBuilder::new_from_existing(state)
            .with_analyzer_rules(rules)
            .with_analyzer_rule(Arc::new(KeepVolatileAboveDedup))
            .with_analyzer_rule(Arc::new(ExposePositions))
    }
}

#[async_trait]
impl OnefoldContextExt for SessionContext {
    fn with_onefold(self, settings: Settings) -> Result<Self, Error> {
        let shared = self.state_ref();
        let mut state = shared.write();
        let planner = format!("{:?}", state.query_planner());
        if planner.starts_with("OnefoldQueryPlanner") {
            let extensions = &mut state.config_mut().options_mut().extensions;
            if let Some(options) = extensions.get_mut::<OnefoldOptions>() {
                options.used.renew(&settings.idempotency_token);
                options.settings = settings;
            }
            drop(state);
            return Ok(self);
        }
        if !planner.starts_with("DefaultQueryPlanner") {
            return Err(Error::from(PlanError::ForeignPlanner { planner }));
        }
        let id = state.session_id().to_owned();
        *state = SessionStateBuilder::new_from_existing(state.clone())
            .with_onefold(settings)
            .with_session_id(id)
            .build();
        drop(state);
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

    fn pipeline(&self, name: &str) -> Result<PipelineHandle, Error> {
        let mut found = self.pipelines();
        found.retain(|own| own.table() == name || own.id().as_str() == name);
        match (found.pop(), found.len()) {
            (Some(one), 0) => Ok(one),
            (None, _) => Err(PlanError::NoPipeline { name: name.to_owned() }.into()),
            (Some(_), _) => Err(PlanError::ManyPipelines { name: name.to_owned() }.into()),
        }
    }

    fn pipelines(&self) -> Vec<PipelineHandle> {
        registry(&self.state()).map(|registry| registry.pipelines()).unwrap_or_default()
    }

    async fn write_once(
        &self,
        table: &str,
        rows: DataFrame,
        token: &str,
    ) -> Result<WriteReport, Error> {
        let found = registry(&self.state()).and_then(|registry| registry.table_named(table));
        let found = found.ok_or_else(|| PlanError::NoTable { name: table.to_owned() })?;
        Ok(found.write_once(rows.collect().await?, token).await?)
    }

    async fn rest(&self) {
        let registry = registry(&self.state());
        for table in registry.map(|registry| registry.tables()).unwrap_or_default() {
            table.rest().await;
        }
    }

    fn table_version(&self, table: &str) -> Option<u64> {
        Some(registry(&self.state())?.table_named(table)?.version())
    }

    fn register_source(
        &self,
        name: &str,
        source: Arc<dyn Source>,
        options: SourceTableOptions,
    ) -> Result<(), Error> {
        let table = SourceTable::try_new(name, source, options)?;
        self.register_table(name, Arc::new(table))?;
        Ok(())
    }
}

async fn run_statement(
    context: &SessionContext,
    mut parsed: ParsedStatement,
) -> Result<DataFrame, Error> {
    let state = context.state();
    if let Some(registry) = registry(&state) {
        if let Some(frame) = views::run(context, &registry, &parsed).await? {
            return Ok(frame);
        }
        keep_unstored(&registry, &mut parsed.statement);
    }
    if let Some(statement) = as_alter(&parsed.statement)
        && let Some(registry) = registry(&state)
    {
        alter(context, &registry, statement).await?;
        return Ok(context.read_empty()?);
    }
    keep_checks(&mut parsed.statement);
    let mut plan = planned(&state, parsed.statement).await?;
    match &mut plan {
        LogicalPlan::Ddl(DdlStatement::CreateView(view)) => {
            view.definition = Some(parsed.text); // what the user wrote, not the carrier
        }
        LogicalPlan::Ddl(DdlStatement::CreateExternalTable(command))
            if is_source(command, parsed.watermark.as_ref()) =>
        {
            return create_source_table(context, command, parsed.watermark).await;
        }
        LogicalPlan::Explain(explain) => {
            if let LogicalPlan::Dml(dml) = explain.plan.as_ref()
                && writes_stream(dml)
            {
                let name = dml.table_name.to_string();
                let target = registry(&state).and_then(|known| known.table_named(&name));
                let inserted = inserted(dml, parsed.emit)?;
                let target = target.as_deref().map_or(Target::Key(&[]), Target::Table);
                return explained(&state, explain, &inserted, target);
            }
        }
        LogicalPlan::Statement(Statement::ResetVariable(own)) => {
            if let Some(name) = own.variable.strip_prefix("onefold.") {
                return reset(context, name);
            }
        }
        LogicalPlan::Analyze(analyze) => refuse_analyzed_stream(&analyze.input)?,
        LogicalPlan::Dml(dml) => {
            if writes_stream(dml) {
                dml.input = Arc::new(inserted(dml, parsed.emit)?);
            }
            if let Some(registry) = registry(&state)
                && let Some(pipeline) = pipeline_of(&state, &registry, dml)?
            {
                let shown = show(context, &pipeline);
                registry.add_pipeline(pipeline);
                return shown;
            }
        }
        _ => {}
    }
    let changes = parsed.is_upkeep || changes(&plan);
    let frame = context.execute_logical_plan(plan).await?;
    if !changes {
        return Ok(frame);
    }
    let batches = frame.collect().await?;
    Ok(context.read_batches(batches)?)
}

/// Whether what `plan` does is done before the next statement.
fn changes(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Dml(_) | LogicalPlan::Copy(_) => true,
        LogicalPlan::Analyze(analyze) => changes(&analyze.input),
        _ => false,
    }
}

/// EXPLAIN ANALYZE runs its statement, and nothing but a pipeline may do this one.
fn refuse_analyzed_stream(plan: &LogicalPlan) -> Result<(), Error> {
    match plan {
        LogicalPlan::Dml(dml) if writes_stream(dml) => Err(PlanError::NotIncremental {
            what: "EXPLAIN ANALYZE of an INSERT that reads an unbounded table".to_owned(),
            instead: "write EXPLAIN, which shows the plan, or run the pipeline".to_owned(),
        }
        .into()),
        _ => Ok(()),
    }
}

/// Whether a pipeline does what `dml` says.
fn writes_stream(dml: &DmlStatement) -> bool {
    matches!(dml.op, WriteOp::Insert(_)) && streams(&dml.input)
}

/// What an INSERT takes, with the EMIT of its query.
fn inserted(dml: &DmlStatement, emit: Option<Emit>) -> Result<LogicalPlan, Error> {
    Ok(match emit {
        Some(emit) => EmitNode::above(&dml.input, emit)?,
        None => dml.input.as_ref().clone(),
    })
}

/// Functions of ours; those of the session's own that are called so stay.
fn register_functions(state: &mut SessionState) {
    for function in tumble_functions().into_iter().chain([hop_function(), session_function()]) {
        if state.scalar_functions().contains_key(function.name()) {
            continue;
        }
        if let Err(error) = state.register_udf(Arc::new(function)) {
            tracing::error!(%error, "the session takes no function");
        }
    }
}

/// RESET of a setting of ours, which DataFusion has only for its own.
fn reset(context: &SessionContext, name: &str) -> Result<DataFrame, Error> {
    let state = context.state_ref();
    let mut state = state.write();
    let extensions = &mut state.config_mut().options_mut().extensions;
    if let Some(options) = extensions.get_mut::<OnefoldOptions>() {
        options.reset(name)?;
    }
    drop(state);
    Ok(context.read_empty()?)
}

/// Whether a table is one of our sources: what DataFusion itself reads stays with it.
fn is_source(command: &CreateExternalTable, watermark: Option<&WatermarkClause>) -> bool {
    let kind = command.file_type.to_ascii_uppercase();
    kind == "GENERATOR" || (kind != "DELTA" && (command.unbounded || watermark.is_some()))
}

async fn create_source_table(
    context: &SessionContext,
    command: &CreateExternalTable,
    watermark: Option<WatermarkClause>,
) -> Result<DataFrame, Error> {
    let name: TableReference = command.name.clone();
    let exists = context.table_exist(name.clone())?;
    if exists && command.if_not_exists {
        return Ok(context.read_empty()?);
    }
    let table = open_source(&context.state(), command, watermark).await?;
    if exists && command.or_replace {
        context.deregister_table(name.clone())?;
    }
    context.register_table(name, Arc::new(table))?;
    Ok(context.read_empty()?)
}

fn registry(state: &SessionState) -> Option<Arc<Registry>> {
    state.config().get_extension::<Registry>()
}

/// The dialect of the session's settings.
fn dialect(context: &SessionContext) -> Box<dyn Dialect> {
    let state = context.state();
    let name = state.config_options().sql_parser.dialect.to_string();
    dialect_from_str(name)
        .unwrap_or_else(|| Box::new(datafusion::sql::sqlparser::dialect::GenericDialect {}))
}
