//! What a session knows of its upsert tables and pipelines.

use super::PipelineHandle;
use crate::delta::DeltaTable;
use crate::types::{Clock, Entropy, SystemClock, SystemEntropy};
use arrow::datatypes::Field;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Shared by all clones of a session.
#[derive(Debug)]
pub(super) struct Registry {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    /// By URL: one writer per table.
    tables: Mutex<HashMap<String, Arc<DeltaTable>>>,
    /// By the name in SQL.
    names: Mutex<HashMap<String, Arc<DeltaTable>>>,
    pipelines: Mutex<Vec<PipelineHandle>>,
}

/// The ways of a session to time and to chance.
#[derive(Clone, Debug)]
pub struct Ports {
    /// Time; by default that of the operating system.
    pub clock: Arc<dyn Clock>,
    /// Chance; by default that of the operating system.
    pub entropy: Arc<dyn Entropy>,
}

impl Default for Ports {
    fn default() -> Self {
        Self { clock: Arc::new(SystemClock), entropy: Arc::new(SystemEntropy) }
    }
}

impl Registry {
    pub(super) fn new(ports: Ports) -> Self {
        Self {
            clock: ports.clock,
            entropy: ports.entropy,
            tables: Mutex::default(),
            names: Mutex::default(),
            pipelines: Mutex::default(),
        }
    }

    /// The table at `url`, if it is open.
    pub(super) fn table_at(&self, url: &str) -> Option<Arc<DeltaTable>> {
        locked(&self.tables).get(url).cloned()
    }

    /// The table that SQL calls `name`.
    pub(super) fn table_named(&self, name: &str) -> Option<Arc<DeltaTable>> {
        locked(&self.names).get(name).cloned()
    }

    /// All tables that are open.
    pub(super) fn tables(&self) -> Vec<Arc<DeltaTable>> {
        locked(&self.tables).values().cloned().collect()
    }

    pub(super) fn add_table(&self, name: &str, table: &Arc<DeltaTable>) {
        let url = table.location().url.to_string();
        locked(&self.tables).entry(url).or_insert_with(|| Arc::clone(table));
        locked(&self.names).insert(name.to_owned(), Arc::clone(table));
    }

    /// Adds a table that SQL has no name for.
    pub(super) fn add_unnamed(&self, table: &Arc<DeltaTable>) {
        let url = table.location().url.to_string();
        locked(&self.tables).entry(url).or_insert_with(|| Arc::clone(table));
    }

    /// Puts the table as it is now in the place of the one it was; for pipelines too, if it has the
    /// columns that they were planned for.
    pub(super) fn replace_table(&self, table: &Arc<DeltaTable>) {
        let url = table.location().url.to_string();
        for known in locked(&self.names).values_mut() {
            if known.location().url.as_str() == url {
                *known = Arc::clone(table);
            }
        }
        let old = locked(&self.tables).insert(url.clone(), Arc::clone(table));
        if !old.is_some_and(|old| has_same_columns(&old, table)) {
            return;
        }
        for pipeline in locked(&self.pipelines).iter_mut().filter(|own| own.location() == url) {
            *pipeline = pipeline.for_table(table);
        }
    }

    /// Forgets the name `name`, and the pipelines into its table.
    pub(super) fn forget(&self, name: &str) {
        locked(&self.names).remove(name);
        locked(&self.pipelines).retain(|known| known.table() != name);
    }

    /// The materialized views, by name.
    pub(super) fn views(&self) -> BTreeMap<String, Arc<DeltaTable>> {
        let names = locked(&self.names);
        let views = names.iter().filter(|(_, table)| table.view_query().is_some());
        views.map(|(name, table)| (name.clone(), Arc::clone(table))).collect()
    }

    /// All pipelines, in the order of their INSERTs.
    pub(super) fn pipelines(&self) -> Vec<PipelineHandle> {
        locked(&self.pipelines).clone()
    }

    /// Adds a pipeline; one of the same name into the same table is replaced.
    pub(super) fn add_pipeline(&self, pipeline: PipelineHandle) {
        let mut all = locked(&self.pipelines);
        all.retain(|known| known.id() != pipeline.id() || known.table() != pipeline.table());
        all.push(pipeline);
    }
}

/// Whether a plan for the one fits the other: names and types are the same.
fn has_same_columns(one: &DeltaTable, two: &DeltaTable) -> bool {
    let (one, two) = (one.columns(), two.columns());
    let typed = |own: &Arc<Field>| (own.name().clone(), own.data_type().clone());
    one.fields().iter().map(typed).eq(two.fields().iter().map(typed))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
