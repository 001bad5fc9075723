//! ALTER TABLE of upsert tables.
//!
//! ```text
//!   ADD COLUMN c type              rows that are there have NULL
//!   ALTER COLUMN c DROP NOT NULL
//!   ALTER COLUMN c TYPE type       a wider one; all files are written again
//!   ADD CONSTRAINT n CHECK (..)    rows that are there are judged first
//!   DROP CONSTRAINT n
//!   anything else                  refused, with the reason
//! ```

use super::checks::{definition, is_enforced, spelled};
use super::registry::Registry;
use super::tables::options_of;
use crate::delta::{CheckChange, DeltaError, DeltaTable, SchemaChange};
use crate::error::Error;
use arrow::datatypes::Field;
use datafusion::common::TableReference;
use datafusion::logical_expr::{DdlStatement, LogicalPlan};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::sqlparser::ast::{
    AlterColumnOperation, AlterTable, AlterTableOperation, ColumnOption, ColumnOptionDef,
    ObjectName, Statement as SqlStatement, TableConstraint,
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

/// What an ALTER TABLE asks for.
enum Asked {
    Columns(SchemaChange),
    Checks(CheckChange),
    /// The column in its new type.
    Type(Field),
}

/// Changes an upsert table, in one commit. Pipelines that write into it stop with a conflict; one
/// whose query is then another is refused as any changed query is.
pub(super) async fn alter(
    context: &SessionContext,
    registry: &Registry,
    statement: &AlterTable,
) -> Result<(), Error> {
    let name = name_of(&statement.name);
    let Some(table) = registry.table_named(&name) else {
        return Err(refused(&name, "ALTER TABLE is for upsert tables of this session").into());
    };
    table.refuse_view("ALTER TABLE")?;
    let (mut columns, mut checks, mut types) = (Vec::new(), Vec::new(), Vec::new());
    for operation in &statement.operations {
        match change(context, &table, operation).await? {
            Some(Asked::Columns(own)) => columns.push(own),
            Some(Asked::Checks(own)) => checks.push(own),
            Some(Asked::Type(own)) => types.push(own),
            None => {}
        }
    }
    let settings = options_of(&context.state()).delta();
    let next = match (columns.is_empty(), checks.is_empty(), types.is_empty()) {
        (true, true, true) => return Ok(()),
        (false, true, true) => table.alter(columns, settings).await?,
        (true, false, true) => table.alter_checks(&checks, settings).await?,
        (true, true, false) => table.widen(&types, settings).await?,
        _ => {
            let reason =
                "one ALTER TABLE changes columns, their types or constraints; write one for each";
            return Err(refused(&name, reason).into());
        }
    };
    registry.replace_table(&next);
    let reference = TableReference::from(name.as_str());
    context.deregister_table(reference.clone())?;
    context.register_table(reference, next)?;
    Ok(())
}

async fn change(
    context: &SessionContext,
    table: &Arc<DeltaTable>,
    operation: &AlterTableOperation,
) -> Result<Option<Asked>, Error> {
    let name = table.name();
    Ok(Some(match operation {
        AlterTableOperation::AddColumn { if_not_exists, column_def, .. } => {
            let known = table.columns().field_with_name(&column_def.name.value).is_ok();
            if *if_not_exists && known {
                return Ok(None);
            }
            let is_kept = |own: &&ColumnOptionDef| {
                matches!(own.option, ColumnOption::Null | ColumnOption::NotNull)
            };
            if let Some(lost) = column_def.options.iter().find(|own| !is_kept(own)) {
                let reason = format!(
                    "{lost} of a new column is not kept: leave it out; rows that are there have \
                     NULL, and a CHECK is added by ADD CONSTRAINT"
                );
                return Err(refused(name, &reason).into());
            }
            let field = column(context, name, &column_def.to_string()).await?;
            if !field.is_nullable() {
                let reason = "a new column cannot be NOT NULL: rows that are there have none";
                return Err(refused(name, reason).into());
            }
            Asked::Columns(SchemaChange::Add(field))
        }
        AlterTableOperation::AlterColumn { column_name, op: AlterColumnOperation::DropNotNull } => {
            Asked::Columns(SchemaChange::DropNotNull(spelled(column_name)))
        }
        AlterTableOperation::AlterColumn {
            column_name,
            op: AlterColumnOperation::SetDataType { data_type, using: None, .. },
        } => {
            let typed = column(context, name, &format!("{column_name} {data_type}")).await?;
            Asked::Type(typed)
        }
        AlterTableOperation::AddConstraint {
            constraint: TableConstraint::Check(check),
            not_valid: false,
        } if is_enforced(check) => Asked::Checks(CheckChange::Add(definition(check, None))),
        AlterTableOperation::DropConstraint { if_exists, name, .. } => {
            Asked::Checks(CheckChange::Drop { name: spelled(name), if_exists: *if_exists })
        }
        other => {
            let reason = format!(
                "{other}: an upsert table knows ADD COLUMN, ALTER COLUMN ... DROP NOT NULL, ALTER \
                 COLUMN ... TYPE, ADD CONSTRAINT ... CHECK and DROP CONSTRAINT; for anything else \
                 write its rows into a new one"
            );
            return Err(refused(name, &reason).into());
        }
    }))
}

/// The column that `definition` declares; DataFusion knows what its types are called.
async fn column(context: &SessionContext, table: &str, definition: &str) -> Result<Field, Error> {
    let parsed = DFParser::parse_sql(&format!("CREATE TABLE one ({definition})"))?.pop_front();
    let parsed = parsed.ok_or_else(|| refused(table, "no column is named"))?;
    let plan = context.state().statement_to_plan(parsed).await?;
    let LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(create)) = plan else {
        return Err(refused(table, "this is no column").into());
    };
    Ok(create.input.schema().field(0).as_ref().clone())
}

fn refused(table: &str, reason: &str) -> DeltaError {
    DeltaError::Definition { table: table.to_owned(), reason: reason.to_owned() }
}

/// A name as tables of this session are called.
pub(super) fn name_of(name: &ObjectName) -> String {
    let parts = name.0.iter().filter_map(|part| part.as_ident()).map(spelled);
    parts.collect::<Vec<_>>().join(".")
}
