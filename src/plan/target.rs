//! Whether the primary key of a rollup's target tells its groups apart.
//!
//! ```text
//!   PRIMARY KEY (post, hour)      GROUP BY post, hour             each, bare
//!   PRIMARY KEY (post, hour, g)   GROUP BY post, ROLLUP(hour)     post is in every set: bare;
//!                                 hour is not: coalesce(hour, ..), and grouping(hour)
//! ```

use super::PlanError;
use super::micros::is_kept_whole;
use super::nulls::{is_given, is_left_out};
use super::rollup::{sets_of, top_aggregate};
use super::trace::below;
use super::written::{filled, written};
use crate::operator::GroupingSet;
use arrow::array::{ArrayRef, UInt64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, TimeUnit};
use arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Aggregate, Expr, ExprSchemable, LogicalPlan, lit};
use datafusion::physical_expr::create_physical_expr;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// What a column of the primary key is made of.
enum Part {
    /// This column of the group.
    Group(usize),
    /// A column made of `grouping()`.
    Sets(Expr),
    /// The same for all groups.
    Constant,
}

/// Refuses a rollup into a table in which rows of two groups could have one key, or one group's row
/// another key from epoch to epoch. `query` has the table's columns in their order.
///
/// # Errors
///
/// The column of the key, or of GROUP BY, and what to write.
pub fn refuse_keys(query: &LogicalPlan, primary_key: &[(usize, String)]) -> Result<()> {
    let Some(aggregate) = top_aggregate(query) else { return Ok(()) };
    let (groups, sets) = sets_of(aggregate)?;
    let has_sets = sets.len() > 1
        || groups.len() + aggregate.aggr_expr.len() < aggregate.schema.fields().len();
    let grouped = Grouped { query, aggregate, groups: &groups, sets: &sets };
    let (mut covered, mut by_sets) = (BTreeSet::new(), Vec::new());
    for (index, name) in primary_key {
        match grouped.part(*index).map_err(|own| own.of(name))? {
            Part::Group(group) => {
                covered.insert(group);
            }
            Part::Sets(expr) => by_sets.push(expr),
            Part::Constant => {}
        }
    }
    let is_missing = |group: &usize| !covered.contains(group) && !grouped.follows(*group, &covered);
    if let Some(missing) = (0..groups.len()).find(is_missing) {
        let what = format!(
            "GROUP BY {} into a table whose primary key does not hold that column",
            written(&groups[missing])
        );
        return Err(PlanError::incremental(&what, "put it into the primary key").into());
    }
    if !has_sets {
        return Ok(());
    }
    if !tells_apart(aggregate, &by_sets, &sets.iter().map(|set| set.id).collect::<Vec<_>>())? {
        let what = "GROUP BY with several grouping sets into a table whose primary key does not tell them apart";
        let instead = "add a column grouping(...) of the columns that some sets do not have";
        return Err(PlanError::incremental(what, instead).into());
    }
    match covered.into_iter().find(|group| !is_given(aggregate, *group)) {
        Some(group) => Err(grouped.refuse_null(group)),
        None => Ok(()),
    }
}

/// Why a column of the key does not fit.
struct Misfit {
    /// What the column does, behind its name.
    what: String,
    instead: String,
}

impl Misfit {
    fn new(what: impl Into<String>, instead: impl Into<String>) -> Self {
        Self { what: what.into(), instead: instead.into() }
    }

    /// It, of the column `name`.
    fn of(self, name: &str) -> PlanError {
        let what = format!("GROUP BY into a table whose key column {name} {}", self.what);
        PlanError::incremental(&what, &self.instead)
    }
}

/// A query whose rows are groups.
struct Grouped<'a> {
    query: &'a LogicalPlan,
    aggregate: &'a Aggregate,
    groups: &'a [Expr],
    sets: &'a [GroupingSet],
}

impl Grouped<'_> {
    /// What the column of the query at `index` is made of.
    fn part(&self, index: usize) -> Result<Part, Misfit> {
        const INSTEAD: &str = "make each column of the key of one column of GROUP BY, bare, or of \
                               grouping(...)";
        let mut plan = self.query;
        let mut expr = Expr::Column(plan.schema().qualified_field(index).into());
        while !matches!(plan, LogicalPlan::Aggregate(_)) {
            (plan, expr) = below(plan, &expr).ok_or_else(|| {
                Misfit::new("cannot be followed to a column of GROUP BY,", INSTEAD)
            })?;
        }
        let uncast = |expr: &Expr| {
            let instead =
                "let the table's column have the type of the query's, or GROUP BY the CAST";
            without_casts(plan, expr).map_err(|reason| Misfit::new(reason + ",", instead))
        };
        let expr = uncast(&expr)?;
        if let Some(group) = self.group(&expr) {
            return self.bare(group);
        }
        match &expr {
            _ if is_literal(&expr) => Ok(Part::Constant),
            Expr::ScalarFunction(call) if call.func.name() == "coalesce" => {
                let [own, other] = call.args.as_slice() else {
                    return Err(Misfit::new("is no coalesce(column, literal),", INSTEAD));
                };
                match self.group(&uncast(own)?) {
                    Some(group) if is_literal(other) => self.filled(group),
                    Some(_) => Err(Misfit::new("is no coalesce(column, literal),", INSTEAD)),
                    None => Err(Misfit::new("is no column of GROUP BY,", INSTEAD)),
                }
            }
            _ if is_of_sets(&expr) => Ok(Part::Sets(expr)),
            _ => Err(Misfit::new("is no column of GROUP BY,", INSTEAD)),
        }
    }

    /// The number of the group column that `expr` is.
    fn group(&self, expr: &Expr) -> Option<usize> {
        let Expr::Column(column) = expr else { return None };
        let index = self.aggregate.schema.maybe_index_of_column(column)?;
        (index < self.groups.len()).then_some(index)
    }

    /// A group column as it is.
    fn bare(&self, group: usize) -> Result<Part, Misfit> {
        if !is_left_out(self.aggregate, group) {
            return Ok(Part::Group(group));
        }
        let own = &self.groups[group];
        let (name, filled) = (written(own), filled(&self.aggregate.input, own));
        Err(Misfit::new(
            format!("is {name}, which is NULL in the groups of sets that leave it out,"),
            format!(
                "write {filled} in its place, and grouping({name}) in another column of the \
                 primary key"
            ),
        ))
    }

    /// A group column with another value in the place of NULL.
    fn filled(&self, group: usize) -> Result<Part, Misfit> {
        if is_left_out(self.aggregate, group) || is_given(self.aggregate, group) {
            return Ok(Part::Group(group)); // a column that some set has is asked for NULL later
        }
        let own = &self.groups[group];
        let name = written(own);
        Err(Misfit::new(
            format!("gives the groups of {name} that are NULL the key of others,"),
            format!("GROUP BY the coalesce, or write WHERE {name} IS NOT NULL"),
        ))
    }

    /// Whether a group column is made of others, which are `covered` by the key, in each set that has
    /// it: the end of a window of its start.
    fn follows(&self, group: usize, covered: &BTreeSet<usize>) -> bool {
        let is_beside =
            |other: &usize| self.sets.iter().all(|set| !set.present[group] || set.present[*other]);
        let bare = |group: usize| self.groups[group].clone().unalias_nested().data;
        let known: Vec<Expr> =
            covered.iter().filter(|own| is_beside(own)).map(|own| bare(*own)).collect();
        let rest = bare(group).transform_down(|own| {
            if known.contains(&own) {
                return Ok(Transformed::new(lit(true), true, TreeNodeRecursion::Jump));
            }
            Ok(Transformed::no(own))
        });
        rest.is_ok_and(|rest| rest.data.column_refs().is_empty())
    }

    fn refuse_null(&self, group: usize) -> DataFusionError {
        let own = &self.groups[group];
        let (name, filled) = (written(own), filled(&self.aggregate.input, own));
        let what = format!(
            "GROUP BY with several grouping sets of {name}, which may be NULL of its own, while a \
             key cannot, or then is that of another group,"
        );
        let instead = format!("write WHERE {name} IS NOT NULL, or GROUP BY {filled} in its place");
        PlanError::incremental(&what, &instead).into()
    }
}

/// Whether `expr` is a constant that is not NULL.
pub(super) fn is_literal(expr: &Expr) -> bool {
    match expr {
        Expr::Cast(own) => is_literal(&own.expr),
        other => matches!(other, Expr::Literal(value, _) if !value.is_null()),
    }
}

/// Whether `expr` is made of the column that tells sets apart, and of nothing else.
fn is_of_sets(expr: &Expr) -> bool {
    let columns = expr.column_refs();
    columns.len() == 1 && columns.iter().all(|own| own.name == Aggregate::INTERNAL_GROUPING_ID)
}

/// `expr` without casts that give different values for different ones.
pub(super) fn without_casts(plan: &LogicalPlan, expr: &Expr) -> Result<Expr, String> {
    match expr {
        Expr::Alias(own) => without_casts(plan, &own.expr),
        Expr::Cast(own) if !is_of_sets(expr) && !is_literal(expr) => {
            let from = own.expr.get_type(plan.schema()).map_err(|error| error.to_string())?;
            let to = own.field.data_type();
            if !is_one_to_one(&from, to) && !drops_nothing(plan, &own.expr, &from, to) {
                return Err(format!("is cast from {from} to {to}, which can make two groups one"));
            }
            without_casts(plan, &own.expr)
        }
        other => Ok(other.clone()),
    }
}

fn is_one_to_one(from: &DataType, to: &DataType) -> bool {
    let is_text =
        |own: &DataType| matches!(own, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    match (from, to) {
        (from, to) if from == to => true,
        (from, to) if is_text(from) && is_text(to) => true,
        (DataType::Dictionary(_, from), to) => is_one_to_one(from, to),
        // A value that does not fit is an error.
        (from, to) if from.is_integer() && to.is_integer() => true,
        (DataType::Date32, DataType::Timestamp(..)) => true,
        (DataType::Timestamp(from, _), DataType::Timestamp(to, _)) => unit(*from) <= unit(*to),
        _ => false,
    }
}

const fn unit(unit: TimeUnit) -> u8 {
    match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 1,
        TimeUnit::Microsecond => 2,
        TimeUnit::Nanosecond => 3,
    }
}

/// Whether a cast only drops digits below a microsecond that `expr`, over `plan`, does not have.
fn drops_nothing(plan: &LogicalPlan, expr: &Expr, from: &DataType, to: &DataType) -> bool {
    use TimeUnit::{Microsecond, Nanosecond};
    let types = (from, to);
    matches!(types, (DataType::Timestamp(Nanosecond, _), DataType::Timestamp(Microsecond, _)))
        && is_kept_whole(plan, expr)
}

/// Whether the values of `exprs` differ between any two of the sets with these numbers.
fn tells_apart(aggregate: &Aggregate, exprs: &[Expr], ids: &[u64]) -> Result<bool> {
    let column = Aggregate::INTERNAL_GROUPING_ID;
    let Ok(field) = aggregate.schema.field_with_unqualified_name(column) else { return Ok(true) };
    let ids: ArrayRef = cast(&UInt64Array::from(ids.to_vec()), field.data_type())?;
    let rows = RecordBatch::try_from_iter([(column, Arc::clone(&ids))])?;
    let known = vec![Field::new(column, field.data_type().clone(), false)];
    let schema = DFSchema::from_unqualified_fields(known.into(), HashMap::new())?;
    let mut seen: BTreeSet<Vec<String>> = BTreeSet::new();
    let mut columns = Vec::with_capacity(exprs.len());
    let nothing = PhysicalPlanningContext::default();
    for expr in exprs {
        let expr = create_physical_expr(expr, &schema, &ExecutionProps::new(), &nothing)?;
        columns.push(expr.evaluate(&rows)?.into_array(rows.num_rows())?);
    }
    for row in 0..rows.num_rows() {
        let values = columns.iter().map(|own| ScalarValue::try_from_array(own, row));
        let values = values.collect::<Result<Vec<_>>>()?;
        if !seen.insert(values.iter().map(ToString::to_string).collect()) {
            return Ok(false);
        }
    }
    Ok(true)
}
