//! Materialized views: a table, and the pipeline into it.
//!
//! ```text
//!   CREATE MATERIALIZED VIEW v LOCATION 'url' AS query
//!     =  CREATE EXTERNAL TABLE v (columns of the query, PRIMARY KEY (its key))
//!        STORED AS DELTA LOCATION 'url'
//!      + INSERT INTO v query
//!   DROP MATERIALIZED VIEW v            the session forgets both; files stay
//!   SHOW MATERIALIZED VIEWS             one row each
//!   INSERT, UPDATE, .. , DROP TABLE v   refused
//! ```

use super::alter::name_of;
use super::answers::{explained, show, texts};
use super::checks::spelled;
use super::plan::{Target, analysed, pipeline_into, plan_query};
use super::registry::Registry;
use super::statement::planned;
use super::tables::options_of;
use crate::commit::Ledger;
use crate::delta::{DeltaError, DeltaTable, stored_type, view_property};
use crate::error::Error;
use crate::plan::{EmitNode, PlanError, key_of, streams};
use crate::sql::{ParsedStatement, ViewClause};
use crate::types::{Emit, PipelineId};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Constraint, Constraints, DFSchema, TableReference};
use datafusion::dataframe::DataFrame;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{
    CreateExternalTable, DdlStatement, Explain, Expr, ExprSchemable, LogicalPlan,
    LogicalPlanBuilder,
};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement;
use datafusion::sql::planner::object_name_to_table_reference;
use datafusion::sql::sqlparser::ast::{Ident, ObjectName, ObjectType, Statement as SqlStatement};
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

/// The option that holds the query of a view.
pub(super) const VIEW_OPTION: &str = "onefold.view";

/// Characters that the name of a column in a Delta table cannot have.
const NOT_IN_NAMES: [char; 9] = [' ', ',', ';', '{', '}', '(', ')', '\n', '\t'];

/// Runs a statement about materialized views; `None` if `parsed` is another.
pub(super) async fn run(
    context: &SessionContext,
    registry: &Registry,
    parsed: &ParsedStatement,
) -> Result<Option<DataFrame>, Error> {
    if let Some(clause) = &parsed.view {
        return Box::pin(create(context, registry, parsed, clause)).await.map(Some);
    }
    let Statement::Statement(statement) = &parsed.statement else { return Ok(None) };
    match statement.as_ref() {
        SqlStatement::Drop { object_type, if_exists, names, .. } => match object_type {
            ObjectType::MaterializedView => {
                drop_views(context, registry, names, *if_exists)?;
                Ok(Some(context.read_empty()?))
            }
            ObjectType::Table | ObjectType::View => {
                let is_view = |name: &String| registry.views().contains_key(name);
                match names.iter().map(name_of).find(is_view) {
                    Some(name) => {
                        let reason = format!("write DROP MATERIALIZED VIEW {name}");
                        Err(refused(&name, reason))
                    }
                    None => Ok(None),
                }
            }
            _ => Ok(None),
        },
        show @ SqlStatement::ShowViews { materialized: true, .. } => {
            if show.to_string() != "SHOW MATERIALIZED VIEWS" {
                return Err(refused("*", "write SHOW MATERIALIZED VIEWS, and nothing behind it"));
            }
            show_views(context, registry).map(Some)
        }
        _ => Ok(None),
    }
}

async fn create(
    context: &SessionContext,
    registry: &Registry,
    parsed: &ParsedStatement,
    clause: &ViewClause,
) -> Result<DataFrame, Error> {
    let state = context.state();
    let folds = state.config_options().sql_parser.enable_ident_normalization;
    let name = object_name_to_table_reference(clause.name.clone(), folds)?;
    let wrong = |reason: &str| refused(&name.to_string(), reason);
    if clause.or_replace {
        return Err(wrong(
            "OR REPLACE is refused: what is there are rows of the old query; write DROP \
             MATERIALIZED VIEW, and give the new one another LOCATION",
        ));
    }
    let (query, explain) = match planned(&state, parsed.statement.clone()).await? {
        LogicalPlan::Explain(explain) => (explain.plan.as_ref().clone(), Some(explain)),
        LogicalPlan::Analyze(_) => {
            return Err(wrong("EXPLAIN ANALYZE would run it; write EXPLAIN"));
        }
        query => (query, None),
    };
    if let LogicalPlan::Dml(_) | LogicalPlan::Ddl(_) | LogicalPlan::Copy(_) = query {
        return Err(wrong("behind AS stands a query"));
    }
    if explain.is_none() && context.table_exist(name.clone())? {
        if clause.if_not_exists {
            return Ok(context.read_empty()?);
        }
        return Err(wrong("there is a table or view of this name; write IF NOT EXISTS"));
    }
    if !streams(&query) {
        return Err(wrong(&finite(registry, &query)?));
    }
    let columns: Vec<String> = clause.columns.iter().map(|own| folded(own, folds)).collect();
    let query = named(&name, query, &columns)?;
    let view = View::try_new(&state, name.clone(), clause, &query)?;
    let inserted = view.inserted(query, parsed.emit)?;
    if let Some(explain) = explain {
        return view.explained(context, &explain, &inserted).await;
    }
    drop(plan_query(&state, &inserted, Target::Key(&view.named_key()))?); // what cannot run leaves no table behind
    let create = DdlStatement::CreateExternalTable(Box::new(view.command(clause, &columns)));
    context.execute_logical_plan(LogicalPlan::Ddl(create)).await?;
    let table = registry.table_named(&name.to_string());
    let table = table.ok_or_else(|| PlanError::NoTable { name: name.to_string() })?;
    let pipeline =
        pipeline_into(&state, registry, &inserted, Arc::clone(&table), &name.to_string())?;
    if let Some(owner) = other_owner(table.as_ref(), pipeline.id()).await? {
        registry.forget(&name.to_string());
        context.deregister_table(name.clone())?;
        return Err(wrong(&format!(
            "the pipeline {owner} writes it; SET onefold.pipeline = '{owner}' goes on with it"
        )));
    }
    let shown = show(context, &pipeline);
    registry.add_pipeline(pipeline);
    shown
}

/// Why a query is no view that only reads what is finite.
fn finite(registry: &Registry, query: &LogicalPlan) -> Result<String, Error> {
    let mut followed = String::new();
    query.apply(|plan| {
        let LogicalPlan::TableScan(scan) = plan else { return Ok(TreeNodeRecursion::Continue) };
        let name = scan.table_name.to_string();
        let Some(table) = registry.table_named(&name) else {
            return Ok(TreeNodeRecursion::Continue);
        };
        let place = table.location().url.as_str().trim_end_matches('/');
        followed = format!(
            "to follow how {name} changes, CREATE UNBOUNDED EXTERNAL TABLE {name}_changes STORED AS \
             DELTA LOCATION '{place}', and read that in its place; else "
        );
        Ok(TreeNodeRecursion::Stop)
    })?;
    Ok(format!(
        "it reads no unbounded table, so it would be full at once and never change; {followed}write \
         CREATE TABLE ... AS, or INSERT INTO a table"
    ))
}

/// `query` with columns called `columns`, if any are given.
fn named(
    view: &TableReference,
    query: LogicalPlan,
    columns: &[String],
) -> Result<LogicalPlan, Error> {
    let found = query.schema().fields().len();
    if columns.is_empty() {
        return Ok(query);
    }
    if columns.len() != found {
        let reason = format!("it names {} columns, and its query has {found}", columns.len());
        return Err(refused(&view.to_string(), reason));
    }
    if let Some(own) = (0..found).find(|index| columns[..*index].contains(&columns[*index])) {
        let reason = format!("two columns are called {}", columns[own]);
        return Err(refused(&view.to_string(), reason));
    }
    let shown = query.schema().columns().into_iter().zip(columns);
    let shown: Vec<Expr> = shown.map(|(own, name)| Expr::Column(own).alias(name)).collect();
    Ok(LogicalPlanBuilder::from(query).project(shown)?.build()?)
}

/// A name as it is looked up.
fn folded(own: &Ident, folds: bool) -> String {
    if folds && own.quote_style.is_none() { own.value.to_lowercase() } else { own.value.clone() }
}

/// Another pipeline than `own` that has written rows into the table of `ledger`.
async fn other_owner(
    ledger: &dyn Ledger,
    own: &PipelineId,
) -> Result<Option<PipelineId>, DeltaError> {
    let written = ledger.manifests().await?;
    Ok(written.into_iter().map(|(id, _)| id).find(|id| id != own))
}

/// The table that a query asks for.
struct View {
    name: TableReference,
    location: String,
    fields: Vec<Field>,
    /// The positions of the key's columns.
    key: Vec<usize>,
}

impl View {
    fn try_new(
        state: &SessionState,
        name: TableReference,
        clause: &ViewClause,
        query: &LogicalPlan,
    ) -> Result<Self, Error> {
        let wrong = |reason: String| refused(&name.to_string(), reason);
        let key = key_of(query).map_err(wrong)?;
        let merges = |option: &str| {
            ["merge", "sequence_", "op_", "tombstone_horizon", "unstored"]
                .iter()
                .any(|start| option.starts_with(start))
        };
        let stray = clause.options.iter().find(|(option, _)| key.is_whole && merges(option));
        if let Some((option, _)) = stray {
            return Err(wrong(format!(
                "option '{option}' is refused: its rows are written whole each time, and nothing is \
                 left to merge"
            )));
        }
        let location = location(state, &name, clause)?;
        let mut fields: Vec<Field> = Vec::new();
        for (index, field) in analysed(state, query)?.schema().fields().iter().enumerate() {
            let own = field.name();
            if own.contains(NOT_IN_NAMES) || own.is_empty() {
                return Err(wrong(format!("column {own} needs a name; write {own} AS name")));
            }
            if fields.iter().any(|known| known.name().eq_ignore_ascii_case(own)) {
                return Err(wrong(format!("two columns are called {own}; name one with AS")));
            }
            let data_type = column_type(field.data_type()).ok_or_else(|| {
                let data_type = field.data_type();
                wrong(format!("column {own}: Delta has no type for {data_type}; CAST it to one"))
            })?;
            let is_nullable = field.is_nullable() && !key.columns.contains(&index);
            fields.push(Field::new(own, data_type, is_nullable));
        }
        Ok(Self { name, location, fields, key: key.columns.into_iter().collect() })
    }

    /// The columns of the key by their numbers and names.
    fn named_key(&self) -> Vec<(usize, String)> {
        self.key.iter().map(|index| (*index, self.fields[*index].name().clone())).collect()
    }

    /// What INSERT makes of the query.
    fn inserted(&self, query: LogicalPlan, emit: Option<Emit>) -> Result<LogicalPlan, Error> {
        let mut shown = Vec::with_capacity(self.fields.len());
        for (index, field) in self.fields.iter().enumerate() {
            let own = Expr::Column(Column::from(query.schema().qualified_field(index)));
            shown.push(own.cast_to(field.data_type(), query.schema())?.alias(field.name()));
        }
        let inserted = LogicalPlanBuilder::from(query).project(shown)?.build()?;
        match emit {
            Some(emit) => Ok(EmitNode::above(&inserted, emit)?),
            None => Ok(inserted),
        }
    }

    fn command(&self, clause: &ViewClause, columns: &[String]) -> CreateExternalTable {
        let schema = DFSchema::try_from(Schema::new(self.fields.clone()));
        let schema = Arc::new(schema.unwrap_or_else(|_| DFSchema::empty()));
        // As DataFusion writes them, for which an option without a dot is one of a file format.
        let spelled_out = |(option, value): &(String, String)| {
            let prefix = if option.contains('.') { "" } else { "format." };
            (format!("{prefix}{option}"), value.clone())
        };
        let mut options: HashMap<String, String> = clause.options.iter().map(spelled_out).collect();
        options.insert(VIEW_OPTION.to_owned(), view_property(&clause.query, columns));
        let key = Constraint::PrimaryKey(self.key.clone());
        let (name, location) = (self.name.clone(), self.location.clone());
        CreateExternalTable::builder(name, location, "DELTA".to_owned(), schema)
            .with_partition_cols(clause.partition_by.iter().map(ToString::to_string).collect())
            .with_options(options)
            .with_constraints(Constraints::new_unverified(vec![key]))
            .build()
    }

    async fn explained(
        &self,
        context: &SessionContext,
        explain: &Explain,
        inserted: &LogicalPlan,
    ) -> Result<DataFrame, Error> {
        let table = self.to_string();
        let first = texts(context, &[("plan_type", &["table"]), ("plan", &[table.as_str()])])?;
        let mut batches = first.collect().await?;
        let key = self.named_key();
        let plan = explained(&context.state(), explain, inserted, Target::Key(&key))?;
        batches.extend(plan.collect().await?);
        Ok(context.read_batches(batches)?)
    }
}

/// The table as CREATE EXTERNAL TABLE would declare it.
impl std::fmt::Display for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut columns = String::new();
        for field in &self.fields {
            let null = if field.is_nullable() { "" } else { " NOT NULL" };
            write!(columns, "{} {}{null}, ", field.name(), field.data_type())?;
        }
        let key = self.key.iter().map(|index| self.fields[*index].name().as_str());
        let key = key.collect::<Vec<_>>().join(", ");
        write!(f, "{}: {columns}PRIMARY KEY ({key}), LOCATION '{}'", self.name, self.location)
    }
}

fn location(
    state: &SessionState,
    name: &TableReference,
    clause: &ViewClause,
) -> Result<String, Error> {
    if let Some(location) = &clause.location {
        return Ok(location.clone());
    }
    let parts: Vec<String> =
        clause.name.0.iter().filter_map(|part| part.as_ident()).map(spelled).collect();
    let is_folder = |part: &String| {
        part.chars().all(|own| own.is_ascii_alphanumeric() || own == '_' || own == '-')
    };
    let warehouse = options_of(state).settings.warehouse;
    let warehouse = warehouse.trim_end_matches('/');
    if warehouse.is_empty() {
        let reason = "it has no place; write LOCATION 'url' before AS, or SET onefold.warehouse = \
                      'url' for all views";
        return Err(refused(&name.to_string(), reason));
    }
    if !parts.iter().all(is_folder) {
        return Err(refused(&name.to_string(), "its name names no folder; write LOCATION 'url'"));
    }
    Ok(format!("{warehouse}/{}", parts.join("/")))
}

/// The type of a column of type `data_type`.
fn column_type(data_type: &DataType) -> Option<DataType> {
    match data_type {
        DataType::UInt64 => Some(DataType::Int64), // what does not fit is an error, and no other value
        DataType::Float16 => Some(DataType::Float32),
        DataType::Dictionary(_, value) => column_type(value),
        other => stored_type(other),
    }
}

fn drop_views(
    context: &SessionContext,
    registry: &Registry,
    names: &[ObjectName],
    if_exists: bool,
) -> Result<(), Error> {
    let views = registry.views();
    let folds = context.state().config_options().sql_parser.enable_ident_normalization;
    let mut found = Vec::new();
    for name in names {
        let reference = object_name_to_table_reference(name.clone(), folds)?;
        match views.get(&reference.to_string()) {
            Some(table) => found.push((reference, table)),
            None if context.table_exist(reference.clone())? => {
                let reason = "it is no materialized view; write DROP TABLE or DROP VIEW";
                return Err(refused(&reference.to_string(), reason));
            }
            None if if_exists => {}
            None => return Err(refused(&reference.to_string(), "there is none of this name")),
        }
    }
    for (name, table) in found {
        registry.forget(&name.to_string());
        context.deregister_table(name.clone())?;
        let location = table.location().url.as_str();
        tracing::info!(view = %name, location, "the session forgets the view; its files stay");
    }
    Ok(())
}

fn show_views(context: &SessionContext, registry: &Registry) -> Result<DataFrame, Error> {
    let (views, pipelines) = (registry.views(), registry.pipelines());
    let pipeline = |name: &str| {
        let own = pipelines.iter().find(|own| own.table() == name);
        own.map_or("", |own| own.id().as_str())
    };
    let names: Vec<&str> = views.keys().map(String::as_str).collect();
    let location =
        |own: &Arc<DeltaTable>| own.location().url.as_str().trim_end_matches('/').to_owned();
    let locations: Vec<String> = views.values().map(location).collect();
    let locations: Vec<&str> = locations.iter().map(String::as_str).collect();
    let ids: Vec<&str> = names.iter().map(|name| pipeline(name)).collect();
    let queries: Vec<&str> = views.values().filter_map(|own| own.view_query()).collect();
    texts(
        context,
        &[("name", &names), ("location", &locations), ("pipeline", &ids), ("query", &queries)],
    )
}

fn refused(name: &str, reason: impl Into<String>) -> Error {
    PlanError::View { name: name.to_owned(), reason: reason.into() }.into()
}
