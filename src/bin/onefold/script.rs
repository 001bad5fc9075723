//! Scripts on the command line.

use super::Failure;
use onefold::datafusion::sql::sqlparser::dialect::GenericDialect;
use onefold::prelude::Error;

/// The statements of a script, each as it is written and at its place.
pub(super) fn statements(script: &str) -> Result<Vec<String>, Failure> {
    let parsed = onefold::sql::parse_script(script, &GenericDialect {}).map_err(Error::from)?;
    Ok(parsed.into_iter().map(|statement| statement.text_in_place()).collect())
}
