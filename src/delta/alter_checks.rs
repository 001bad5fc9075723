//! ALTER TABLE of conditions: rows that are there are judged before one is taken up.

use super::DeltaError;
use super::apply::{Vectors, busy};
use super::checks::{CHECKS, CheckDefinition, Checks};
use super::data::read_file;
use super::files::LiveFile;
use super::ledger::RACES_MAX;
use super::log::Change;
use super::metadata::with_property;
use super::table::{DeltaSettings, DeltaTable};
use std::sync::Arc;

/// One change of the conditions of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckChange {
    /// A new condition, which all rows that are there must meet.
    Add(CheckDefinition),
    /// The condition of this name is given up.
    Drop {
        /// Its name.
        name: String,
        /// Whether it is no error if there is none.
        if_exists: bool,
    },
}

impl DeltaTable {
    /// Commits `changes` as one, and opens the table as it then is. Who holds this one can no
    /// longer commit.
    ///
    /// Costs a read of the key and of the columns that a new condition looks at, file by file.
    ///
    /// # Errors
    ///
    /// A condition that cannot be one, or a row that does not meet it, named. Nothing is changed
    /// then.
    pub async fn alter_checks(
        &self,
        changes: &[CheckChange],
        settings: DeltaSettings,
    ) -> Result<Arc<Self>, DeltaError> {
        let (next, new) = self.changed_checks(changes)?;
        let kept = serde_json::to_string(&next.to_property())
            .map_err(|error| DeltaError::Damaged { reason: error.to_string() })?;
        let kept = (!next.is_empty()).then_some(kept);
        let mut writer = self.writer.lock().await;
        for _ in 0..RACES_MAX {
            self.catch_up(&mut writer).await?;
            self.prepare(&mut writer).await?;
            self.judge(writer.files.iter(), &new).await?;
            let line = with_property(&writer.snapshot, CHECKS, kept.clone())?;
            let operation = if new.is_empty() { "DROP CONSTRAINT" } else { "ADD CONSTRAINT" };
            let change =
                Change { raw: vec![line], operation: Some(operation), ..Change::default() };
            if self.send(&mut writer, change, &Vectors::new()).await? {
                return self.altered(writer, settings).await;
            }
        }
        Err(busy().into())
    }

    /// Refuses if a live row of `files` does not meet `checks`.
    pub(super) async fn judge(
        &self,
        files: impl Iterator<Item = &Arc<LiveFile>>,
        checks: &Checks,
    ) -> Result<(), DeltaError> {
        if checks.is_empty() {
            return Ok(());
        }
        let shape = self.shape.to_judge(checks)?;
        for file in files {
            for (rows, _) in read_file(&self.location, file, &shape.file).await? {
                shape.refuse_violations(&rows)?;
            }
        }
        Ok(())
    }

    /// The conditions after `changes`, and those of them that are new.
    fn changed_checks(&self, changes: &[CheckChange]) -> Result<(Checks, Checks), DeltaError> {
        let own = |(name, condition)| CheckDefinition { name: Some(name), condition };
        let old = self.shape.checks.to_property();
        let mut all: Vec<CheckDefinition> = old.clone().into_iter().map(own).collect();
        for change in changes {
            match change {
                CheckChange::Add(definition) => all.push(definition.clone()),
                CheckChange::Drop { name, if_exists } => {
                    let count = all.len();
                    all.retain(|own| own.name.as_ref() != Some(name));
                    if all.len() == count && !if_exists {
                        return Err(DeltaError::Definition {
                            table: self.name().to_owned(),
                            reason: format!("there is no constraint {name}"),
                        });
                    }
                }
            }
        }
        let next = Checks::try_new(self.name(), &self.shape.schema, &all)?;
        let mut new = next.to_property();
        new.retain(|name, condition| old.get(name) != Some(condition));
        let new = Checks::of_property(self.name(), &self.shape.schema, new)?;
        Ok((next, new))
    }
}
