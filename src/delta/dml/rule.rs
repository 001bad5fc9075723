//! The rule that takes statements over before anything is lost of them.

use super::merge::merge_rows;
use super::node::{DmlNode, Verb};
use super::pinned::{Pin, PinnedTable};
use super::rows::{DELETE, KIND, OLD_PREFIX, SET};
use super::values::with_nullable_values;
use crate::delta::DeltaError;
use crate::delta::provider::StoredColumns;
use crate::delta::stage::SEQUENCE_PREFIX;
use crate::delta::table::DeltaTable;
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, DFSchema, DFSchemaRef, Result};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{
    Analyze, DmlStatement, Expr, Extension, LogicalPlan, LogicalPlanBuilder, Projection, TableScan,
    WriteOp, lit,
};
use datafusion::optimizer::AnalyzerRule;
use std::sync::Arc;

/// The placeholder that UPDATE assigns to a column which is to stay as it is, and cannot be read.
pub const KEPT: &str = "$__onefold_kept";

/// Plans changes of upsert tables from what the user wrote; must be the first analyzer rule.
#[derive(Clone, Copy, Debug, Default)]
pub struct LowerDml;

impl AnalyzerRule for LowerDml {
    fn name(&self) -> &'static str {
        "lower_dml"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        match plan {
            LogicalPlan::Dml(dml) => lowered(dml),
            LogicalPlan::Analyze(analyze) => {
                let input = match Arc::unwrap_or_clone(analyze.input) {
                    LogicalPlan::Dml(dml) => lowered(dml)?,
                    other => other,
                };
                Ok(LogicalPlan::Analyze(Analyze { input: Arc::new(input), ..analyze }))
            }
            other => Ok(other),
        }
    }
}

fn lowered(dml: DmlStatement) -> Result<LogicalPlan> {
    let provider = source_as_provider(&dml.target)?;
    let Some(table) = provider.downcast_ref::<DeltaTable>().and_then(DeltaTable::shared) else {
        return Ok(LogicalPlan::Dml(dml));
    };
    let dml = match dml.op {
        WriteOp::Insert(_) => {
            let input = with_nullable_values(&table, Arc::unwrap_or_clone(dml.input))?;
            DmlStatement { input: Arc::new(input), ..dml }
        }
        _ => dml,
    };
    let verb = match &dml.op {
        WriteOp::Update => Verb::Update,
        WriteOp::Delete => Verb::Delete,
        WriteOp::Truncate => Verb::Truncate,
        WriteOp::MergeInto(_) => Verb::Merge,
        WriteOp::Insert(InsertOp::Replace) => Verb::Replace,
        WriteOp::Insert(InsertOp::Overwrite) => Verb::Overwrite,
        _ => return Ok(LogicalPlan::Dml(dml)),
    };
    table.refuse_view(&verb.to_string())?;
    let pin = Arc::new(Pin::default());
    let target = Target { table: Arc::clone(&table), pin: Arc::clone(&pin) };
    let input = target.rows(verb, &dml)?;
    let count = Schema::new(vec![Field::new("count", DataType::UInt64, false)]);
    let schema: DFSchemaRef = Arc::new(DFSchema::try_from(count)?);
    let node = Arc::new(DmlNode { table, pin, verb, input, schema });
    Ok(LogicalPlan::Extension(Extension { node }))
}

/// The table of a statement.
pub(super) struct Target {
    pub(super) table: Arc<DeltaTable>,
    pub(super) pin: Arc<Pin>,
}

impl Target {
    /// The plan of the rows that `dml` sets, adds and deletes.
    fn rows(&self, verb: Verb, dml: &DmlStatement) -> Result<LogicalPlan> {
        if verb == Verb::Truncate {
            return LogicalPlanBuilder::empty(false).build();
        }
        let input = self.pinned(dml.input.as_ref().clone())?;
        match (&dml.op, input) {
            (WriteOp::MergeInto(merge), source) => merge_rows(self, &dml.table_name, merge, source),
            (WriteOp::Update, LogicalPlan::Projection(projection)) => self.updated(&projection),
            (WriteOp::Delete, input) => {
                let mut shown = vec![lit(DELETE).alias(KIND)];
                for field in self.table.shape.file.fields() {
                    shown.push(column(input.schema(), field.name())?.alias(field.name()));
                }
                LogicalPlanBuilder::from(input).project(shown)?.build()
            }
            (_, input) => {
                let taken = &self.table.shape.input;
                let shown = self.table.shape.file.fields().iter().map(|field| {
                    let name = field.name();
                    let index =
                        taken.index_of(name.strip_prefix(SEQUENCE_PREFIX).unwrap_or(name))?;
                    let (qualifier, own) = input.schema().qualified_field(index);
                    Ok(Expr::Column(Column::from((qualifier, own))).alias(name))
                });
                let shown = shown.collect::<Result<Vec<_>>>()?;
                LogicalPlanBuilder::from(input).project(shown)?.build()
            }
        }
    }

    /// The plan of rows as an UPDATE sets them.
    fn updated(&self, projection: &Projection) -> Result<LogicalPlan> {
        let assigned = |name: &str| {
            let is_it = |expr: &&Expr| expr.schema_name().to_string() == *name;
            let value = projection.expr.iter().find(is_it)?.clone().unalias_nested().data;
            (!is_kept(&value)).then_some(value)
        };
        let schema = projection.input.schema();
        let mut shown = vec![lit(SET).alias(KIND)];
        for field in self.table.shape.file.fields() {
            let name = field.name().strip_prefix(SEQUENCE_PREFIX).unwrap_or(field.name());
            let value = match assigned(name) {
                Some(value) => value,
                None => column(schema, field.name())?,
            };
            shown.push(value.alias(field.name()));
        }
        if let Some(operation) = &self.table.shape.rules.operation {
            self.refuse_operation(&operation.name, assigned(&operation.name).is_some())?;
        }
        let is_same =
            |key: &String| matches!(assigned(key), Some(Expr::Column(own)) if own.name == *key);
        if !self.table.primary_key().iter().all(is_same) {
            for name in self.old_columns() {
                shown.push(column(schema, &name)?.alias(format!("{OLD_PREFIX}{name}")));
            }
        }
        LogicalPlanBuilder::from(projection.input.as_ref().clone()).project(shown)?.build()
    }

    /// The columns of a file that tell which row it was before its key was changed.
    pub(super) fn old_columns(&self) -> Vec<String> {
        let shape = &self.table.shape;
        let sequence = shape.sequence_fields().into_iter().map(|field| field.name().clone());
        let mut names = shape.primary_key.clone();
        names.extend(sequence.filter(|name| !shape.primary_key.contains(name)));
        names
    }

    /// Refuses a statement that sets an operation which no row keeps.
    pub(super) fn refuse_operation(&self, name: &str, is_set: bool) -> Result<()> {
        if !is_set || !self.table.shape.rules.unstored.iter().any(|own| own == name) {
            return Ok(());
        }
        let reason = format!(
            "{name} says what an inserted row asks for, and is not kept: it cannot be set; to \
             delete rows write DELETE"
        );
        Err(DeltaError::Definition { table: self.table.name().to_owned(), reason }.into())
    }

    /// `plan` with the table read at the version of the statement, wherever it is read.
    fn pinned(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let pinned = plan.transform_up_with_subqueries(|plan| match &plan {
            LogicalPlan::TableScan(scan) if self.is_own(scan) => {
                let scan = self.scan(scan.table_name.clone())?;
                Ok(Transformed::yes(scan))
            }
            LogicalPlan::TableScan(_) => Ok(Transformed::no(plan)),
            _ => plan.recompute_schema().map(Transformed::yes),
        });
        pinned.map(|transformed| transformed.data)
    }

    pub(super) fn scan(
        &self,
        name: impl Into<datafusion::common::TableReference>,
    ) -> Result<LogicalPlan> {
        let (table, pin) = (Arc::clone(&self.table), Arc::clone(&self.pin));
        let source = provider_as_source(Arc::new(PinnedTable { table, pin }));
        LogicalPlanBuilder::scan(name, source, None)?.build()
    }

    fn is_own(&self, scan: &TableScan) -> bool {
        let Ok(provider) = source_as_provider(&scan.source) else { return false };
        let whole = provider.downcast_ref::<DeltaTable>().and_then(DeltaTable::shared);
        let stored = || {
            let own = provider.downcast_ref::<StoredColumns>().filter(|own| own.time.is_none());
            own.map(|own| Arc::clone(&own.table))
        };
        whole.or_else(stored).is_some_and(|own| Arc::ptr_eq(&own, &self.table))
    }
}

fn is_kept(value: &Expr) -> bool {
    match value {
        Expr::Placeholder(own) => own.id == KEPT,
        Expr::Cast(cast) => is_kept(&cast.expr),
        _ => false,
    }
}

/// The column of that name, whatever its relation is called.
fn column(schema: &DFSchema, name: &str) -> Result<Expr> {
    let (qualifier, field) = schema.qualified_field_with_unqualified_name(name)?;
    Ok(Expr::Column(Column::from((qualifier, field))))
}
