//! Sessions over upsert tables, and what a query of them says.

use onefold::arrow::util::display::{ArrayFormatter, FormatOptions};
use onefold::datafusion::execution::SessionStateBuilder;
use onefold::datafusion::prelude::{SessionConfig, SessionContext};
use onefold::object_store::ObjectStore;
use onefold::object_store::memory::InMemory;
use onefold::prelude::*;
use onefold::session::Ports;
use onefold::testing::SimulatedClock;
use std::sync::Arc;

/// A store, a clock, and sessions over both.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) clock: Arc<SimulatedClock>,
    pub(crate) settings: Settings,
}

impl World {
    pub(crate) fn new() -> Self {
        let mut settings = Settings::default();
        settings.compact_files_min = 3;
        settings.checkpoint_interval = 5;
        Self {
            store: Arc::new(InMemory::new()),
            clock: Arc::new(SimulatedClock::default()),
            settings,
        }
    }

    /// A new session, as of a new process, for `memory:///` locations.
    pub(crate) fn session(&self) -> SessionContext {
        let config = SessionConfig::new().with_target_partitions(2);
        let ports = Ports { clock: Arc::clone(&self.clock) as _, ..Ports::default() };
        let state = SessionStateBuilder::new().with_default_features().with_config(config);
        let state = state.with_onefold_ports(self.settings.clone(), ports).build();
        let context = SessionContext::new_with_state(state);
        let url = "memory:///".parse().unwrap();
        context.runtime_env().register_object_store(&url, Arc::clone(&self.store));
        context
    }
}

/// Runs a script to its end.
pub(crate) async fn run(context: &SessionContext, script: &str) -> Result<(), Error> {
    for frame in context.run_sql(script).await? {
        frame.collect().await?;
    }
    Ok(())
}

/// Why a script cannot be run.
pub(crate) async fn refusal(context: &SessionContext, script: &str) -> String {
    match run(context, script).await {
        Ok(()) => panic!("not refused: {script}"),
        Err(error) => {
            std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source())
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(": ")
        }
    }
}

/// The rows of one query as text, columns separated by a space.
pub(crate) async fn rows(context: &SessionContext, query: &str) -> Vec<String> {
    let frames = context.run_sql(query).await.unwrap_or_else(|error| panic!("{query}: {error}"));
    let batches = frames.into_iter().next_back().unwrap().collect().await;
    let options = FormatOptions::default().with_null("NULL");
    let mut rows = Vec::new();
    for batch in batches.unwrap_or_else(|error| panic!("{query}: {error}")) {
        let columns: Vec<_> = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column, &options).unwrap())
            .collect();
        for row in 0..batch.num_rows() {
            let cells: Vec<String> =
                columns.iter().map(|column| column.value(row).to_string()).collect();
            rows.push(cells.join(" "));
        }
    }
    rows
}
