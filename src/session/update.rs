//! UPDATE of tables that take columns which they do not keep.
//!
//! DataFusion plans an UPDATE as whole rows of what INSERT takes, and reads every column that is
//! not assigned; columns in `unstored` cannot be read. Those that a statement does not assign are
//! assigned [`KEPT`] here, which the table's own rule takes for what the row has.

use super::alter::name_of;
use super::registry::Registry;
use crate::delta::KEPT;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    Assignment, AssignmentTarget, Expr, Ident, ObjectName, ObjectNamePart,
    Statement as SqlStatement, TableFactor, Value,
};

/// Makes an UPDATE, explained or not, one that DataFusion can plan.
pub(super) fn keep_unstored(registry: &Registry, statement: &mut Statement) {
    match statement {
        Statement::Explain(explained) => keep_unstored(registry, &mut explained.statement),
        Statement::Statement(inner) => {
            let SqlStatement::Update(update) = inner.as_mut() else { return };
            let TableFactor::Table { name, .. } = &update.table.relation else { return };
            let Some(table) = registry.table_named(&name_of(name)) else { return };
            for column in table.unstored() {
                if !update.assignments.iter().any(|own| is_of(own, column)) {
                    update.assignments.push(kept(column));
                }
            }
        }
        _ => {}
    }
}

fn is_of(assignment: &Assignment, column: &str) -> bool {
    let AssignmentTarget::ColumnName(name) = &assignment.target else { return false };
    let last = name.0.last().and_then(ObjectNamePart::as_ident);
    last.is_some_and(|ident| ident.value == column)
}

fn kept(column: &str) -> Assignment {
    let name = ObjectName(vec![ObjectNamePart::Identifier(Ident::new(column))]);
    let value = Expr::Value(Value::Placeholder(KEPT.to_owned()).into());
    Assignment { target: AssignmentTarget::ColumnName(name), value }
}
