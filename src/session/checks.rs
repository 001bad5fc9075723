//! CHECK in statements: taken out of CREATE EXTERNAL TABLE before DataFusion plans it, which has no
//! such constraint, and handed to the table as an option.

use crate::delta::CheckDefinition;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    CheckConstraint, ColumnOption, Ident, TableConstraint, Value,
};

/// The option that holds the conditions, as JSON.
pub(super) const OPTION: &str = "onefold.checks";

/// Moves the CHECKs of a table that is STORED AS DELTA into its options; any other is left to
/// DataFusion, which refuses it.
pub(super) fn keep_checks(statement: &mut Statement) {
    let Statement::CreateExternalTable(create) = statement else { return };
    if !create.file_type.eq_ignore_ascii_case("DELTA") {
        return;
    }
    let mut checks = Vec::new();
    for column in &mut create.columns {
        column.options.retain(|own| match &own.option {
            ColumnOption::Check(check) if is_enforced(check) => {
                checks.push(definition(check, own.name.as_ref()));
                false
            }
            _ => true,
        });
    }
    create.constraints.retain(|own| match own {
        TableConstraint::Check(check) if is_enforced(check) => {
            checks.push(definition(check, None));
            false
        }
        _ => true,
    });
    if let (false, Ok(json)) = (checks.is_empty(), serde_json::to_string(&checks)) {
        create.options.push((OPTION.to_owned(), Value::SingleQuotedString(json)));
    }
}

/// What a CHECK says; in a column its name stands before it.
pub(super) fn definition(check: &CheckConstraint, name: Option<&Ident>) -> CheckDefinition {
    let name = check.name.as_ref().or(name).map(spelled);
    CheckDefinition { name, condition: check.expr.to_string() }
}

pub(super) fn is_enforced(check: &CheckConstraint) -> bool {
    check.enforced != Some(false)
}

/// Unquoted names are lower case in DataFusion.
pub(super) fn spelled(name: &Ident) -> String {
    match name.quote_style {
        Some(_) => name.value.clone(),
        None => name.value.to_ascii_lowercase(),
    }
}
