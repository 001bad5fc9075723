//! Materialized views: tables whose rows are what a query says, written by its pipeline only.

use super::DeltaError;
use super::table::DeltaTable;
use datafusion::common::TableReference;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

/// The property that holds the query of a materialized view, as it was first written.
pub(super) const VIEW: &str = "onefold.view";

/// What the property holds where the columns were named; else it holds the query alone.
#[derive(Serialize, Deserialize)]
struct Named {
    columns: Vec<String>,
    query: String,
}

/// What the property holds of a view of `query`, whose columns are called `columns`, if not as those
/// of the query.
#[must_use]
pub fn view_property(query: &str, columns: &[String]) -> String {
    if columns.is_empty() {
        return query.to_owned();
    }
    let named = Named { columns: columns.to_vec(), query: query.to_owned() };
    serde_json::to_string(&named).unwrap_or_default()
}

/// What a materialized view says of itself.
#[derive(Debug)]
pub(super) struct ViewWords {
    query: String,
    /// The statement that makes it again.
    pub(super) statement: String,
}

impl ViewWords {
    /// The words of the view `name` at `url`. Options of its store are not among them: they may be
    /// secrets.
    pub(super) fn new(
        (name, url): (&str, &str),
        stored: String,
        partition_by: &[String],
        options: &BTreeMap<String, String>,
    ) -> Self {
        let own: Named = serde_json::from_str(&stored)
            .unwrap_or_else(|_| Named { columns: Vec::new(), query: stored });
        let Named { columns, query } = own;
        let listed = |columns: &[String]| {
            let columns = columns.iter().map(|own| format!("\"{}\"", own.replace('"', "\"\"")));
            columns.collect::<Vec<_>>().join(", ")
        };
        let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
        let name = TableReference::from(name).to_quoted_string();
        let place = quoted(url.trim_end_matches('/'));
        let mut words = vec![format!("CREATE MATERIALIZED VIEW {name}")];
        if !columns.is_empty() {
            words.push(format!("({})", listed(&columns)));
        }
        words.push(format!("LOCATION {place}"));
        if !partition_by.is_empty() {
            words.push(format!("PARTITIONED BY ({})", listed(partition_by)));
        }
        if !options.is_empty() {
            let own = options.iter().map(|(name, value)| [quoted(name), quoted(value)].join(" "));
            words.push(format!("OPTIONS ({})", own.collect::<Vec<_>>().join(", ")));
        }
        words.push(format!("AS {query}"));
        let statement = words.join(" ");
        Self { query, statement }
    }
}

impl DeltaTable {
    /// The query whose rows it holds, if it is a materialized view.
    #[must_use]
    pub fn view_query(&self) -> Option<&str> {
        self.view.as_ref().map(|own| own.query.as_str())
    }

    /// Refuses changes of a materialized view by anything but its pipeline.
    ///
    /// # Errors
    ///
    /// [`DeltaError::Definition`] if it is one, or the target of a GROUP BY.
    pub fn refuse_view(&self, what: &str) -> Result<(), DeltaError> {
        let own = match (&self.view, self.holds_groups.load(Ordering::Relaxed)) {
            (Some(_), _) => "a materialized view",
            (None, true) => "the target of a GROUP BY",
            (None, false) => return Ok(()),
        };
        let reason = format!(
            "it is {own}, which holds what its query says, so {what} is refused; \
             change what the query reads, or write into a table made by CREATE EXTERNAL TABLE"
        );
        Err(DeltaError::Definition { table: self.name().to_owned(), reason })
    }

    /// Lets nothing but pipelines write from now on, as the rows are the groups of one.
    pub fn hold_groups(&self) {
        self.holds_groups.store(true, Ordering::Relaxed);
    }

    /// Finds out whether the rows are the groups of a pipeline.
    pub(super) async fn learn_groups(&self) -> Result<(), DeltaError> {
        let writer = self.writer.lock().await;
        let named = self.named(&writer.snapshot).await?;
        if named.iter().any(|(_, manifest)| manifest.owns_rows) {
            self.hold_groups();
        }
        Ok(())
    }

    /// How a definition differs in being a view, in words.
    pub(super) fn view_difference(&self, is_declared: bool) -> Option<String> {
        match (is_declared, self.view.is_some()) {
            (true, false) => Some("it is no materialized view".to_owned()),
            (false, true) => Some("it is a materialized view".to_owned()),
            _ => None,
        }
    }
}
