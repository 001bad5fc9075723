//! Pipelines over the changes of a table.
//!
//! ```text
//!   INSERT INTO t SELECT f(row) FROM changes      rows that came: f(row), written
//!                                                 rows that went: the key of f(row), deleted
//!   INSERT INTO t SELECT .. GROUP BY ..           both, with a sign: see `signed`
//! ```
//!
//! A row that went leaves the target by its key alone, whatever the query would say of it now: a
//! table that it was joined with may have changed since.

use super::PlanError;
use super::positions::{Exposed, as_dedup, source_of};
use super::target::without_casts;
use super::trace::below;
use crate::source::ChangeFeed;
use crate::types::{CHANGE_COLUMN, DELETE_COLUMN, POSITION_COLUMN};
use datafusion::common::tree_node::TreeNode;
use datafusion::common::{Column, Result, ScalarValue};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Union, lit};
use std::sync::Arc;

/// Whether `plan` reads the changes of a table.
pub(super) fn reads_changes(plan: &LogicalPlan) -> bool {
    plan.exists(|plan| Ok(feed_of(plan).is_some())).unwrap_or(false)
}

pub(super) fn feed_of(plan: &LogicalPlan) -> Option<ChangeFeed> {
    source_of(plan)?.feed().cloned()
}

/// What of `plan` cannot take a row back: the thing, and what to write instead.
pub(super) fn refused_change(plan: &LogicalPlan, is_grouped: bool) -> Option<(String, String)> {
    if !reads_changes(plan) {
        return None;
    }
    let refuse = |what: &str, instead: &str| Some((what.to_owned(), instead.to_owned()));
    match plan {
        LogicalPlan::Extension(_) if as_dedup(plan).is_some() => refuse(
            "DEDUP BY over the changes of a table, whose rows have a key already,",
            "leave it out, or write it where the rows come from",
        ),
        LogicalPlan::Join(_) if is_grouped => refuse(
            "GROUP BY over a join of the changes of a table, which cannot take back what the other \
             table no longer says,",
            "write the join into a table of its own, and GROUP BY from its changes",
        ),
        LogicalPlan::Union(_) if !is_grouped => refuse(
            "UNION ALL with the changes of a table, which would delete rows of the other branch,",
            "write two pipelines into two tables, or GROUP BY above the union",
        ),
        _ => None,
    }
}

/// The rows of `scan` that came.
pub(super) fn came(scan: LogicalPlan) -> Result<LogicalPlan> {
    let came = hidden(&scan, CHANGE_COLUMN)?.gt(lit(0_i64));
    LogicalPlanBuilder::from(scan).filter(came)?.build()
}

/// `query` over the rows of `scan` that came, which is `added`, and the deletes of those that went.
pub(super) fn copy(
    query: &LogicalPlan,
    added: Exposed,
    scan: &LogicalPlan,
    key: &[(usize, String)],
) -> Result<LogicalPlan> {
    let keys = keys(query, key)?;
    let position = Expr::Column(added.position).alias(POSITION_COLUMN);
    let shown = query.schema().columns().into_iter().map(|own| {
        let name = own.name.clone();
        Expr::Column(own).alias(name)
    });
    let shown = shown.chain([lit(false).alias(DELETE_COLUMN), position]);
    let added = LogicalPlanBuilder::from(added.plan).project(shown)?.build()?;
    let mut gone = Vec::with_capacity(query.schema().fields().len() + 2);
    for (index, field) in query.schema().fields().iter().enumerate() {
        let own = match keys.iter().find(|(at, _)| *at == index) {
            Some((_, own)) => own.clone(),
            None => lit(ScalarValue::try_from(field.data_type())?),
        };
        gone.push(own.alias(field.name()));
    }
    gone.push(lit(true).alias(DELETE_COLUMN));
    gone.push(hidden(scan, POSITION_COLUMN)?.alias(POSITION_COLUMN));
    let went = hidden(scan, CHANGE_COLUMN)?.lt(lit(0_i64));
    let gone = LogicalPlanBuilder::from(scan.clone()).filter(went)?.project(gone)?.build()?;
    let both = vec![Arc::new(gone), Arc::new(added)];
    Ok(LogicalPlan::Union(Union::try_new_with_loose_types(both)?))
}

/// The hidden column `name` of `scan`.
fn hidden(scan: &LogicalPlan, name: &str) -> Result<Expr> {
    let found = scan.schema().qualified_field_with_unqualified_name(name)?;
    Ok(Expr::Column(Column::from(found)))
}

/// The columns of the key, as expressions over the changed table.
fn keys(query: &LogicalPlan, key: &[(usize, String)]) -> Result<Vec<(usize, Expr)>> {
    let mut missing: Vec<String> = Vec::new();
    let mut keys = Vec::with_capacity(key.len());
    let mut bare = Vec::with_capacity(key.len());
    for (index, name) in key {
        let (scan, expr) = followed(query, *index).ok_or_else(|| {
            let what = format!(
                "a copy of changes into a table whose key column {name} is not made of columns of \
                 the changed table"
            );
            let instead = "a row that goes must say which row of this table goes: make the key of \
                           the columns of its primary key";
            PlanError::incremental(&what, instead)
        })?;
        if let Some(feed) = feed_of(scan) {
            missing = feed.primary_key;
        }
        if let Ok(Expr::Column(column)) = without_casts(scan, &expr) {
            bare.push(column.name);
        }
        keys.push((*index, expr));
    }
    missing.retain(|own| !bare.contains(own));
    if keys.is_empty() || !missing.is_empty() {
        let what = format!(
            "a copy of changes into a table whose primary key does not hold {}, by which the rows \
             of the changed table are told apart,",
            missing.join(", ")
        );
        let instead = "put each column of the changed table's primary key into this one's, bare, \
                       or write GROUP BY";
        return Err(PlanError::incremental(&what, instead).into());
    }
    Ok(keys)
}

/// The column at `index` of `query` as an expression over the scan of the changed table.
fn followed(query: &LogicalPlan, index: usize) -> Option<(&LogicalPlan, Expr)> {
    let mut plan = query;
    let mut expr = Expr::Column(query.schema().qualified_field(index).into());
    loop {
        (plan, expr) = match plan {
            LogicalPlan::TableScan(_) => return Some((plan, expr)),
            LogicalPlan::Join(join) => {
                let side = [&join.left, &join.right].into_iter().find(|own| reads_changes(own))?;
                let is_of_side = expr.column_refs().iter().all(|own| side.schema().has_column(own));
                is_of_side.then_some((side.as_ref(), expr))?
            }
            _ => below(plan, &expr)?,
        };
    }
}
