//! CREATE EXTERNAL TABLE for sources and upsert tables.

use super::checks::OPTION;
use super::config::OnefoldOptions;
use super::feed::feed_table;
use super::registry::Registry;
use super::views::VIEW_OPTION;
use crate::delta::{DeltaError, DeltaTable, TableDefinition};
use crate::source::{
    SourceDefinition, SourceError, SourceTable, SourceTableOptions, WatermarkSpec, create_source,
};
use crate::sql::WatermarkClause;
use crate::store::{Location, is_store_option, open_location};
use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider, TableProviderFactory};
use datafusion::common::{Column, Constraint, Result};
use datafusion::logical_expr::CreateExternalTable;
use std::collections::HashMap;
use std::sync::Arc;

/// Makes tables STORED AS DELTA.
#[derive(Debug)]
pub(super) struct DeltaFactory {
    pub(super) registry: Arc<Registry>,
}

/// Makes tables STORED AS GENERATOR.
#[derive(Debug)]
pub(super) struct GeneratorFactory;

#[async_trait]
impl TableProviderFactory for DeltaFactory {
    async fn create(
        &self,
        session: &dyn Session,
        command: &CreateExternalTable,
    ) -> Result<Arc<dyn TableProvider>> {
        if command.unbounded {
            return Ok(Arc::new(open_feed(session, &self.registry, command).await?));
        }
        let table = open_delta(session, &self.registry, command).await?;
        Ok(table)
    }
}

#[async_trait]
impl TableProviderFactory for GeneratorFactory {
    async fn create(
        &self,
        session: &dyn Session,
        command: &CreateExternalTable,
    ) -> Result<Arc<dyn TableProvider>> {
        Ok(Arc::new(open_source(session, command, None).await?))
    }
}

/// Opens or creates the upsert table that `command` describes.
async fn open_delta(
    session: &dyn Session,
    registry: &Registry,
    command: &CreateExternalTable,
) -> Result<Arc<DeltaTable>> {
    let name = command.name.to_string();
    let definition =
        |reason: &str| DeltaError::Definition { table: name.clone(), reason: reason.to_owned() };
    if let Some(reason) = unkept(command) {
        return Err(definition(&reason).into());
    }
    let partition_by = partition_columns(session, command);
    if !partition_by.is_empty() && command.schema.fields().is_empty() {
        let reason =
            "PARTITIONED BY needs the table's columns; leave it out to open a table as it is";
        return Err(definition(reason).into());
    }
    let location = one_location(&name, command)?;
    let (store, mut options): (HashMap<_, _>, HashMap<_, _>) = command
        .options
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .partition(|(key, _)| is_store_option(location, key));
    let opened =
        open_location(location, &store, session.runtime_env()).map_err(DeltaError::from)?;
    let schema: SchemaRef = Arc::new(plain(command.schema.as_arrow()));
    let primary_key: Vec<String> = command
        .constraints
        .iter()
        .find_map(|constraint| match constraint {
            Constraint::PrimaryKey(columns) => Some(columns),
            Constraint::Unique(_) => None,
        })
        .map(|columns| columns.iter().map(|column| schema.field(*column).name().clone()).collect())
        .unwrap_or_default();
    let checks = match options.remove(OPTION) {
        Some(checks) => serde_json::from_str(&checks)
            .map_err(|error| definition(&format!("option '{OPTION}' cannot be read: {error}")))?,
        None => Vec::new(),
    };
    let view = options.remove(VIEW_OPTION);
    let declared = TableDefinition { schema, primary_key, partition_by, options, checks, view };
    let declared = (!declared.schema.fields().is_empty()).then_some(declared);
    let table = opened_table(session, registry, (&name, opened), declared).await?;
    registry.add_table(&name, &table);
    Ok(table)
}

/// Which clause of `command` would be lost, and what to write.
fn unkept(command: &CreateExternalTable) -> Option<String> {
    if let Some(column) = command.column_defaults.keys().min() {
        return Some(format!(
            "DEFAULT of column {column} is not kept: leave it out, and write the value in each \
             INSERT, or coalesce({column}, value) in queries"
        ));
    }
    let unique = command.constraints.iter().find_map(|constraint| match constraint {
        Constraint::Unique(columns) => Some(columns),
        Constraint::PrimaryKey(_) => None,
    });
    if let Some(columns) = unique {
        let names = columns.iter().map(|column| command.schema.field(*column).name().as_str());
        let names = names.collect::<Vec<_>>().join(", ");
        return Some(format!(
            "UNIQUE ({names}) is not kept: leave it out, only the PRIMARY KEY is unique; where \
             these columns name a row, make them the PRIMARY KEY"
        ));
    }
    let is_ordered = !command.order_exprs.is_empty();
    is_ordered.then(|| "WITH ORDER is for files; leave it out, and write ORDER BY".to_owned())
}

/// Opens the changes of the upsert table that `command` tells the place of.
async fn open_feed(
    session: &dyn Session,
    registry: &Registry,
    command: &CreateExternalTable,
) -> Result<SourceTable> {
    let name = command.name.to_string();
    let location = one_location(&name, command)?;
    let own = command.options.iter().find(|(key, _)| !is_store_option(location, key));
    let says = match own {
        Some((key, _)) => Some(format!("option '{key}'")),
        None if !command.table_partition_cols.is_empty() => Some("PARTITIONED BY".to_owned()),
        None if !command.schema.fields().is_empty() => {
            Some("columns and WATERMARK FOR (a row is taken back however old it is)".to_owned())
        }
        None => None,
    };
    if let Some(says) = says {
        let reason = format!(
            "UNBOUNDED STORED AS DELTA is how an upsert table changes, with the columns of that \
             table; leave out {says}, and create the table itself without UNBOUNDED"
        );
        return Err(DeltaError::Definition { table: name, reason }.into());
    }
    let store: HashMap<_, _> = command.options.clone();
    let opened =
        open_location(location, &store, session.runtime_env()).map_err(DeltaError::from)?;
    let table = opened_table(session, registry, (&name, opened), None).await?;
    registry.add_unnamed(&table);
    Ok(feed_table(&name, &table).await)
}

/// The table at a location: the one that is open, or one that is opened or created now.
async fn opened_table(
    session: &dyn Session,
    registry: &Registry,
    (name, location): (&str, Location),
    declared: Option<TableDefinition>,
) -> Result<Arc<DeltaTable>> {
    let known = registry.table_at(location.url.as_str());
    if let Some(known) = &known {
        known.refresh().await?;
        if !known.is_altered().await {
            // One writer per table and process; what is declared must fit all the same.
            if let Some(declared) = &declared {
                known.check(declared)?;
            }
            return Ok(Arc::clone(known));
        }
    }
    let ports = (Arc::clone(&registry.entropy), Arc::clone(&registry.clock));
    let settings = options_of(session).delta();
    let table = DeltaTable::create_or_open(name, location, declared, settings, ports).await?;
    if known.is_some() {
        registry.replace_table(&table); // another process altered it
    }
    Ok(table)
}

/// Opens the source that `command` describes, with its watermark.
pub(super) async fn open_source(
    session: &dyn Session,
    command: &CreateExternalTable,
    watermark: Option<WatermarkClause>,
) -> Result<SourceTable> {
    let name = command.name.to_string();
    let location = one_location(&name, command)?.to_owned();
    if let Some(reason) = unkept(command) {
        return Err(SourceError::Invalid { source_name: name, reason }.into());
    }
    if !command.table_partition_cols.is_empty() {
        let reason = "PARTITIONED BY is not supported yet on a source".to_owned();
        return Err(SourceError::Invalid { source_name: name, reason }.into());
    }
    let declared = plain(command.schema.as_arrow());
    let definition = SourceDefinition {
        name: name.clone(),
        kind: command.file_type.clone(),
        location,
        schema: (!declared.fields().is_empty()).then(|| Arc::new(declared)),
        options: command.options.clone(),
    };
    let (source, max_future_us) = create_source(definition, session).await?;
    let watermark = watermark.map(|clause| WatermarkSpec {
        column: clause.column,
        delay_us: clause.delay_us,
        max_future_us,
    });
    let options = SourceTableOptions { watermark, is_unbounded: command.unbounded };
    Ok(SourceTable::try_new(&name, source, options)?)
}

/// The columns of PARTITIONED BY: the statement has them as they were written.
fn partition_columns(session: &dyn Session, command: &CreateExternalTable) -> Vec<String> {
    let folds = session.config().options().sql_parser.enable_ident_normalization;
    let written = command.table_partition_cols.iter();
    let column = |name: &String| {
        if folds {
            Column::from_qualified_name(name).name
        } else {
            Column::from_qualified_name_ignore_case(name).name
        }
    };
    written.map(column).collect()
}

/// The settings of `session`.
pub(super) fn options_of(session: &dyn Session) -> OnefoldOptions {
    session.config().options().extensions.get::<OnefoldOptions>().cloned().unwrap_or_default()
}

fn one_location<'a>(name: &str, command: &'a CreateExternalTable) -> Result<&'a str> {
    match command.locations.as_slice() {
        [one] => Ok(one),
        _ => {
            let reason = "one LOCATION is needed; write a pattern for several files".to_owned();
            Err(SourceError::Invalid { source_name: name.to_owned(), reason }.into())
        }
    }
}

/// Without the metadata of the statement.
fn plain(schema: &Schema) -> Schema {
    Schema::new(schema.fields().clone())
}
