//! CHECK: conditions that every row of a table meets.
//!
//! ```text
//!   the row makes the condition    outcome
//!   true, or NULL                  the row is written
//!   false                          nothing of the write is; the row is named
//! ```
//!
//! NULL passes, as the SQL standard has it. What is judged are rows as the table will hold them: of
//! rows with the same key the one that counts, folded by the table's rules.
//!
//! # Where they are kept
//!
//! In a property of ours, and not in `delta.constraints.*`: these need the writer feature
//! checkConstraints, and `delta_kernel` 0.30 commits to no table that has it. Other writers are kept
//! out by the domains and vectors of our tables, not by these conditions. A table in which another
//! engine set `delta.constraints.*` is read, and every write is refused with the reason.
//!
//! # Invariants
//!
//! 1. A condition gives the same answer for the same row, in every process and at any time: it is
//!    made of the row's columns and of functions of `DataFusion` that depend on nothing else.

use super::DeltaError;
use super::stage::{RowShape, show};
use arrow::array::cast::AsArray;
use arrow::array::{Array, BooleanArray};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::common::{Column, DFSchema};
use datafusion::error::DataFusionError;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::{Expr, Volatility};
use datafusion::physical_expr::PhysicalExpr;
use delta_kernel::snapshot::SnapshotRef;
use delta_kernel::table_features::TableFeature;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The property that holds the conditions: a JSON map of names to SQL.
pub(super) const CHECKS: &str = "onefold.constraints";
/// Begins the properties in which other engines keep theirs; they do not mind its case.
const FOREIGN: &str = "delta.constraints.";

/// A condition, as a statement declares it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckDefinition {
    /// Its name; one without gets that of its columns, and `_check`.
    pub name: Option<String>,
    /// The condition, in SQL.
    pub condition: String,
}

/// The conditions of one table, planned against its columns.
#[derive(Clone, Debug, Default)]
pub(super) struct Checks {
    all: Vec<Check>,
}

/// One condition.
#[derive(Clone, Debug)]
struct Check {
    name: String,
    condition: String,
    /// The columns it looks at, in the order of the table.
    columns: Vec<usize>,
    planned: Arc<dyn PhysicalExpr>,
}

impl Checks {
    /// Plans `declared` for the rows of `schema`, and names those that have no name.
    ///
    /// # Errors
    ///
    /// [`DeltaError::Definition`] for a name that is there twice, and for a condition that is none,
    /// or depends on more than its row.
    pub(super) fn try_new(
        table: &str,
        schema: &SchemaRef,
        declared: &[CheckDefinition],
    ) -> Result<Self, DeltaError> {
        let mut checks = Self::default();
        if declared.is_empty() {
            return Ok(checks);
        }
        let state = SessionStateBuilder::new_with_default_features().build();
        for own in declared {
            let wrong = |reason: String| DeltaError::Definition {
                table: table.to_owned(),
                reason: format!("CHECK ({}): {reason}", own.condition),
            };
            let (planned, columns) = plan(&state, schema, &own.condition).map_err(wrong)?;
            let name = match &own.name {
                Some(name) if checks.find(name).is_some() => {
                    return Err(wrong(format!("there is a constraint {name} already")));
                }
                Some(name) => name.clone(),
                None => checks.free_name(schema, &columns),
            };
            let condition = own.condition.clone();
            checks.all.push(Check { name, condition, columns, planned });
        }
        Ok(checks)
    }

    /// As [`Self::try_new`], of what a table keeps.
    pub(super) fn of_property(
        table: &str,
        schema: &SchemaRef,
        kept: BTreeMap<String, String>,
    ) -> Result<Self, DeltaError> {
        let own = |(name, condition)| CheckDefinition { name: Some(name), condition };
        Self::try_new(table, schema, &kept.into_iter().map(own).collect::<Vec<_>>())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// What a table keeps: conditions by name.
    pub(super) fn to_property(&self) -> BTreeMap<String, String> {
        self.all.iter().map(|own| (own.name.clone(), own.condition.clone())).collect()
    }

    /// How `self`, as declared, differs from what was `found`, in words.
    pub(super) fn differences(&self, found: &Self) -> Vec<String> {
        let (declared, found) = (self.to_property(), found.to_property());
        let mut all = Vec::new();
        for (name, condition) in &declared {
            match found.get(name) {
                Some(other) if other == condition => {}
                Some(other) => {
                    all.push(format!("constraint {name} is CHECK ({other}), not ({condition})"));
                }
                None => all.push(format!("it has no constraint {name} CHECK ({condition})")),
            }
        }
        let undeclared = found.iter().filter(|(name, _)| !declared.contains_key(*name));
        all.extend(undeclared.map(|(name, condition)| {
            format!("it has a constraint {name} CHECK ({condition}) too")
        }));
        all
    }

    fn find(&self, name: &str) -> Option<&Check> {
        self.all.iter().find(|own| own.name.eq_ignore_ascii_case(name))
    }

    fn free_name(&self, schema: &Schema, columns: &[usize]) -> String {
        let columns = columns.iter().map(|index| schema.field(*index).name().as_str());
        let stem = columns.chain(["check"]).collect::<Vec<_>>().join("_");
        let numbered = (2..).map(|number| format!("{stem}_{number}"));
        let mut names = std::iter::once(stem.clone()).chain(numbered);
        names.find(|name| self.find(name).is_none()).unwrap_or(stem)
    }
}

impl RowShape {
    /// Refuses rows that do not meet the table's conditions. They are in the columns of the table,
    /// or of its files.
    pub(super) fn refuse_violations(&self, rows: &RecordBatch) -> Result<(), DeltaError> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        for check in &self.checks.all {
            let unusable = |source: DataFusionError| DeltaError::Unchecked {
                table: self.table.clone(),
                constraint: check.name.clone(),
                condition: check.condition.clone(),
                source: Box::new(source),
            };
            let answers = check.planned.evaluate(rows).map_err(unusable)?;
            let answers = answers.into_array(rows.num_rows()).map_err(unusable)?;
            let Some(row) = first_false(answers.as_boolean()) else { continue };
            let key: Vec<usize> = self
                .primary_key
                .iter()
                .filter_map(|name| rows.schema().index_of(name).ok())
                .collect();
            return Err(DeltaError::Violation {
                table: self.table.clone(),
                constraint: check.name.clone(),
                condition: check.condition.clone(),
                key: show(&rows.project(&key)?, row),
                values: show(&rows.project(&check.columns)?, row),
            });
        }
        Ok(())
    }

    /// This shape with only the columns that `checks` look at, and the key: what must be read to
    /// judge rows that are there.
    pub(super) fn to_judge(&self, checks: &Checks) -> Result<Self, DeltaError> {
        let is_used = |(index, name): (usize, &String)| {
            let looks = |check: &Check| check.columns.contains(&index);
            self.primary_key.contains(name) || checks.all.iter().any(looks)
        };
        let fields = self.schema.fields().iter().enumerate();
        let used = fields.filter(|(index, field)| is_used((*index, field.name())));
        let schema =
            Arc::new(Schema::new(used.map(|(_, field)| Arc::clone(field)).collect::<Vec<_>>()));
        let checks = Checks::of_property(&self.table, &schema, checks.to_property())?;
        let (checks, file) = (Arc::new(checks), Arc::clone(&schema));
        Ok(Self { schema, file, checks, ..self.clone() })
    }
}

/// Why no write can be made into the table of `snapshot`: the conditions of another engine.
pub(super) fn foreign_checks(snapshot: &SnapshotRef) -> Option<String> {
    let properties = snapshot.metadata_configuration();
    let mut foreign: Vec<String> = properties
        .iter()
        .filter(|(name, _)| name.to_ascii_lowercase().starts_with(FOREIGN))
        .map(|(name, condition)| format!("{name} = {condition}"))
        .collect();
    foreign.sort();
    let is_feature =
        snapshot.table_configuration().is_feature_supported(&TableFeature::CheckConstraints);
    match foreign.as_slice() {
        [] if !is_feature => None,
        [] => Some("the table feature checkConstraints".to_owned()),
        all => Some(all.join(", ")),
    }
}

/// A condition as it is evaluated, and the columns it looks at.
fn plan(
    state: &SessionState,
    schema: &SchemaRef,
    condition: &str,
) -> Result<(Arc<dyn PhysicalExpr>, Vec<usize>), String> {
    let said = |error: DataFusionError| error.strip_backtrace();
    let columns = DFSchema::try_from(Arc::clone(schema)).map_err(said)?;
    let parsed = state.create_logical_expr(condition, &columns).map_err(said)?;
    if let Some(reason) = depends_on_more(&parsed).map_err(said)? {
        return Err(reason);
    }
    let mut used: Vec<usize> =
        parsed.column_refs().iter().filter_map(|own| index_of(schema, own)).collect();
    used.sort_unstable();
    let planned = state.create_physical_expr(parsed, &columns).map_err(said)?;
    match planned.data_type(schema).map_err(said)? {
        DataType::Boolean => Ok((planned, used)),
        other => Err(format!("it is {other}, and a condition is BOOLEAN")),
    }
}

/// What a condition depends on besides the columns of its row.
fn depends_on_more(condition: &Expr) -> Result<Option<String>, DataFusionError> {
    use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
    let mut found = None;
    condition.apply(|expr| {
        found = match expr {
            Expr::ScalarSubquery(_)
            | Expr::InSubquery(_)
            | Expr::Exists(_)
            | Expr::SetComparison(_) => Some("a subquery looks at more than one row".to_owned()),
            Expr::AggregateFunction(_) | Expr::WindowFunction(_) => {
                Some("an aggregate looks at more than one row".to_owned())
            }
            Expr::Placeholder(_) | Expr::ScalarVariable(..) => {
                Some(format!("{expr} is no part of a row"))
            }
            Expr::ScalarFunction(own)
                if own.func.signature().volatility != Volatility::Immutable =>
            {
                Some(format!("{}() does not always give the same answer", own.func.name()))
            }
            _ => None,
        };
        let is_found = found.is_some();
        Ok(if is_found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

fn index_of(schema: &Schema, column: &Column) -> Option<usize> {
    schema.index_of(&column.name).ok()
}

fn first_false(answers: &BooleanArray) -> Option<usize> {
    if answers.true_count() + answers.null_count() == answers.len() {
        return None;
    }
    (0..answers.len()).find(|row| answers.is_valid(*row) && !answers.value(*row))
}
