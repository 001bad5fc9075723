//! ALTER TABLE of upsert tables: what a schema can become without rewriting the table.
//!
//! ```text
//!   ADD COLUMN c type            rows that are there have NULL
//!   ALTER COLUMN c DROP NOT NULL
//!   anything else                refused, with the reason
//! ```

use super::registry::Registry;
use super::tables::options_of;
use crate::delta::{DeltaError, DeltaTable, SchemaChange};
use crate::error::Error;
use datafusion::common::TableReference;
use datafusion::logical_expr::{DdlStatement, LogicalPlan};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::sqlparser::ast::{
    AlterColumnOperation, AlterTable, AlterTableOperation, ObjectName, Statement as SqlStatement,
};
use std::sync::Arc;

/// The ALTER TABLE that `statement` is.
pub(super) fn as_alter(statement: &Statement) -> Option<&AlterTable> {
    match statement {
        Statement::Statement(inner) => match inner.as_ref() {
            SqlStatement::AlterTable(alter) => Some(alter),
            _ => None,
        },
        _ => None,
    }
}

/// Changes the schema of an upsert table, in one commit. Pipelines that write into it stop with a
/// conflict; one whose query is then another is refused as any changed query is.
pub(super) async fn alter(
    context: &SessionContext,
    registry: &Registry,
    statement: &AlterTable,
) -> Result<(), Error> {
    let name = name_of(&statement.name);
    let Some(table) = registry.table_named(&name) else {
        return Err(refused(&name, "ALTER TABLE is for upsert tables of this session").into());
    };
    let mut changes = Vec::with_capacity(statement.operations.len());
    for operation in &statement.operations {
        changes.extend(change(context, &table, operation).await?);
    }
    if changes.is_empty() {
        return Ok(());
    }
    let settings = options_of(&context.state()).delta();
    let next = table.alter(changes, settings).await?;
    registry.replace_table(&name, &next);
    let reference = TableReference::from(name.as_str());
    context.deregister_table(reference.clone())?;
    context.register_table(reference, next)?;
    Ok(())
}

async fn change(
    context: &SessionContext,
    table: &Arc<DeltaTable>,
    operation: &AlterTableOperation,
) -> Result<Option<SchemaChange>, Error> {
    let name = table.name();
    match operation {
        AlterTableOperation::AddColumn { if_not_exists, column_def, .. } => {
            let known = table.columns().field_with_name(&column_def.name.value).is_ok();
            if *if_not_exists && known {
                return Ok(None);
            }
            // DataFusion knows what its types are called.
            let create = format!("CREATE TABLE one ({column_def})");
            let parsed = DFParser::parse_sql(&create)?.pop_front();
            let parsed = parsed.ok_or_else(|| refused(name, "no column is named"))?;
            let plan = context.state().statement_to_plan(parsed).await?;
            let LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(create)) = plan else {
                return Err(refused(name, "this is no column").into());
            };
            let field = create.input.schema().field(0).as_ref().clone();
            if !field.is_nullable() {
                let reason = "a new column cannot be NOT NULL: rows that are there have none";
                return Err(refused(name, reason).into());
            }
            Ok(Some(SchemaChange::Add(field)))
        }
        AlterTableOperation::AlterColumn { column_name, op: AlterColumnOperation::DropNotNull } => {
            Ok(Some(SchemaChange::DropNotNull(column_name.value.clone())))
        }
        other => {
            let reason = format!(
                "{other}: only ADD COLUMN and ALTER COLUMN ... DROP NOT NULL change a table without \
                 rewriting it; for anything else write its rows into a new one"
            );
            Err(refused(name, &reason).into())
        }
    }
}

fn refused(table: &str, reason: &str) -> DeltaError {
    DeltaError::Definition { table: table.to_owned(), reason: reason.to_owned() }
}

/// A name as tables of this session are called.
pub(super) fn name_of(name: &ObjectName) -> String {
    let parts = name.0.iter().filter_map(|part| part.as_ident());
    let parts = parts.map(|part| match part.quote_style {
        Some(_) => part.value.clone(),
        None => part.value.to_ascii_lowercase(),
    });
    parts.collect::<Vec<_>>().join(".")
}
