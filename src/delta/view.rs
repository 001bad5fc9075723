//! Materialized views: tables whose rows are what a query says, written by its pipeline only.

use super::DeltaError;
use super::table::DeltaTable;
use datafusion::common::TableReference;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

/// The property that holds the query of a materialized view, as it was first written.
pub(super) const VIEW: &str = "onefold.view";

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
        query: String,
        partition_by: &[String],
        options: &BTreeMap<String, String>,
    ) -> Self {
        let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
        let name = TableReference::from(name).to_quoted_string();
        let place = quoted(url.trim_end_matches('/'));
        let mut words = vec![format!("CREATE MATERIALIZED VIEW {name} LOCATION {place}")];
        if !partition_by.is_empty() {
            let columns =
                partition_by.iter().map(|own| format!("\"{}\"", own.replace('"', "\"\"")));
            words.push(format!("PARTITIONED BY ({})", columns.collect::<Vec<_>>().join(", ")));
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
