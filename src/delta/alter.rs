//! Changes of a table's schema.

use super::DeltaError;
use super::apply::{Vectors, busy};
use super::ledger::RACES_MAX;
use super::log::Change;
use super::metadata::with_times;
use super::schema::{normalise, to_kernel};
use super::table::{DeltaSettings, DeltaTable, Writer};
use arrow::datatypes::{Field, Schema, SchemaRef};
use std::sync::Arc;
use tokio::sync::MutexGuard;

/// One change of a schema that needs no row to be written again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SchemaChange {
    /// A new column at the end, NULL in all rows that are there.
    Add(Field),
    /// A column may be NULL from now on.
    DropNotNull(String),
}

impl DeltaTable {
    /// The columns that INSERT takes.
    #[must_use]
    pub fn columns(&self) -> SchemaRef {
        Arc::clone(&self.shape.input)
    }

    /// Commits `changes`, and opens the table as it then is. Who holds this one sees its old
    /// columns, and can no longer commit.
    ///
    /// # Errors
    ///
    /// A column that is there already, or is not, or is in the primary key; a type that Delta does
    /// not keep. Nothing is changed then.
    pub async fn alter(
        &self,
        changes: Vec<SchemaChange>,
        settings: DeltaSettings,
    ) -> Result<Arc<Self>, DeltaError> {
        let changes = self.checked(changes)?;
        let mut writer = self.writer.lock().await;
        for _ in 0..RACES_MAX {
            self.catch_up(&mut writer).await?;
            self.prepare(&mut writer).await?;
            let raw = with_times(&writer.snapshot, &changes)?;
            let change = if raw.is_empty() {
                Change { schema: changes.clone(), ..Change::default() }
            } else {
                Change { raw, operation: Some("ADD COLUMNS"), ..Change::default() }
            };
            if self.send(&mut writer, change, &Vectors::new()).await? {
                return self.altered(writer, settings).await;
            }
        }
        Err(busy().into())
    }

    /// Opens the table as it is after a commit that altered it.
    pub(super) async fn altered(
        &self,
        mut writer: MutexGuard<'_, Writer>,
        settings: DeltaSettings,
    ) -> Result<Arc<Self>, DeltaError> {
        writer.is_altered = true;
        // From which checksums go on: the kernel cannot tell them past such a commit.
        if let Err(error) = self.log.checkpoint(Arc::clone(&writer.snapshot)).await {
            tracing::warn!(table = self.name(), %error, "no checkpoint"); // readers do without
        }
        drop(writer);
        let ports = (Arc::clone(&self.entropy), Arc::clone(&self.clock));
        Self::create_or_open(self.name(), self.location.clone(), None, settings, ports).await
    }

    fn checked(&self, changes: Vec<SchemaChange>) -> Result<Vec<SchemaChange>, DeltaError> {
        let wrong =
            |reason: String| DeltaError::Definition { table: self.name().to_owned(), reason };
        let mut checked = Vec::with_capacity(changes.len());
        for change in changes {
            checked.push(match change {
                SchemaChange::Add(field) => {
                    let name = field.name();
                    let is_it = |own: &&Arc<Field>| own.name().eq_ignore_ascii_case(name);
                    if self.shape.input.fields().iter().any(|own| is_it(&own)) {
                        return Err(wrong(format!("there is a column {name} already")));
                    }
                    let mut fields = self.shape.input.fields().to_vec();
                    fields.push(Arc::new(field));
                    let stored = normalise(self.name(), &Schema::new(fields), self.primary_key())?;
                    to_kernel(&stored)?;
                    SchemaChange::Add(stored.field(stored.fields().len() - 1).clone())
                }
                SchemaChange::DropNotNull(name) => {
                    if self.shape.schema.field_with_name(&name).is_err() {
                        return Err(wrong(format!("there is no column {name}")));
                    }
                    if self.primary_key().contains(&name) {
                        return Err(wrong(format!("{name} is in the PRIMARY KEY")));
                    }
                    SchemaChange::DropNotNull(name)
                }
            });
        }
        Ok(checked)
    }
}
