//! MERGE INTO as a join: which clause each pair of rows falls under, and what becomes of the row.
//!
//! ```text
//!   WHEN MATCHED                      inner        both sides are there
//!   WHEN NOT MATCHED [BY TARGET]      + source     the table's side is missing
//!   WHEN NOT MATCHED BY SOURCE        + table      the source's side is missing
//! ```
//!
//! The first clause whose condition holds decides; a row under none stays as it is.

use super::rows::{ADD, DELETE, KIND, OLD_PREFIX, SET};
use super::rule::Target;
use crate::delta::stage::SEQUENCE_PREFIX;
use arrow::datatypes::{DataType, Field};
use datafusion::common::{Column, Result, ScalarValue, TableReference, plan_err};
use datafusion::logical_expr::dml::{
    MergeIntoAction, MergeIntoClause, MergeIntoClauseKind, MergeIntoOp,
};
use datafusion::logical_expr::{
    Case, Expr, ExprSchemable, JoinType, LogicalPlan, LogicalPlanBuilder, cast, lit,
};

const IN_TABLE: &str = "__onefold_in_table";
const IN_SOURCE: &str = "__onefold_in_source";
const CLAUSE: &str = "__onefold_clause";

/// The plan of the rows that a MERGE sets, adds and deletes.
pub(super) fn merge_rows(
    target: &Target,
    name: &TableReference,
    merge: &MergeIntoOp,
    source: LogicalPlan,
) -> Result<LogicalPlan> {
    let table = marked(target.scan(name.clone())?, IN_TABLE)?;
    let source = marked(source, IN_SOURCE)?;
    let has = |wanted: MergeIntoClauseKind| {
        merge.clauses.iter().any(|clause| clause.kind.canonical() == wanted)
    };
    let adds = has(MergeIntoClauseKind::NotMatchedByTarget);
    let join = match (has(MergeIntoClauseKind::NotMatchedBySource), adds) {
        (true, true) => JoinType::Full,
        (true, false) => JoinType::Left,
        (false, true) => JoinType::Right,
        (false, false) => JoinType::Inner,
    };
    let joined =
        LogicalPlanBuilder::from(table).join_on(source, join, Some(merge.on.clone()))?.build()?;
    let mut chosen: Vec<(Expr, i8)> = Vec::new();
    for (clause, number) in merge.clauses.iter().zip(0..) {
        chosen.push((condition(clause), number));
    }
    let clause = case(chosen.into_iter().map(|(when, number)| (when, lit(number))), None);
    let mut shown: Vec<Expr> = joined.schema().columns().into_iter().map(Expr::Column).collect();
    shown.push(clause.alias(CLAUSE));
    let decided = LogicalPlanBuilder::from(joined)
        .project(shown)?
        .filter(own(CLAUSE).is_not_null())?
        .build()?;
    let mut rows = vec![kinds(merge).alias(KIND)];
    if let Some(operation) = &target.table.shape.rules.operation {
        let is_set = merge.clauses.iter().any(|clause| match &clause.action {
            MergeIntoAction::Update(set) => set.iter().any(|(name, _)| *name == operation.name),
            _ => false,
        });
        target.refuse_operation(&operation.name, is_set)?;
    }
    for field in target.table.shape.file.fields() {
        rows.push(value(target, name, merge, field, &decided)?.alias(field.name()));
    }
    for column in target.old_columns() {
        let old = Expr::Column(Column::new(Some(name.clone()), column.clone()));
        rows.push(old.alias(format!("{OLD_PREFIX}{column}")));
    }
    LogicalPlanBuilder::from(decided).project(rows)?.build()
}

/// `plan` with a column that is NULL only where a join found no row of it.
fn marked(plan: LogicalPlan, name: &str) -> Result<LogicalPlan> {
    let mut shown: Vec<Expr> = plan.schema().columns().into_iter().map(Expr::Column).collect();
    shown.push(lit(true).alias(name));
    LogicalPlanBuilder::from(plan).project(shown)?.build()
}

fn own(name: &str) -> Expr {
    Expr::Column(Column::new_unqualified(name))
}

/// Whether a pair of rows falls under `clause`.
fn condition(clause: &MergeIntoClause) -> Expr {
    let (in_table, in_source) = (own(IN_TABLE), own(IN_SOURCE));
    let sides = match clause.kind.canonical() {
        MergeIntoClauseKind::Matched => in_table.is_not_null().and(in_source.is_not_null()),
        MergeIntoClauseKind::NotMatchedBySource => in_source.is_null(),
        _ => in_table.is_null(),
    };
    match &clause.predicate {
        Some(predicate) => sides.and(predicate.clone()),
        None => sides,
    }
}

fn kinds(merge: &MergeIntoOp) -> Expr {
    let cases = merge.clauses.iter().zip(0..).map(|(clause, number): (_, i8)| {
        let kind = match &clause.action {
            MergeIntoAction::Update(_) => SET,
            MergeIntoAction::Insert { .. } => ADD,
            MergeIntoAction::Delete => DELETE,
        };
        (own(CLAUSE).eq(lit(number)), lit(kind))
    });
    case(cases, None)
}

/// What a column of the file will hold.
fn value(
    target: &Target,
    name: &TableReference,
    merge: &MergeIntoOp,
    field: &Field,
    decided: &LogicalPlan,
) -> Result<Expr> {
    let column = field.name().strip_prefix(SEQUENCE_PREFIX).unwrap_or(field.name());
    let data_type = field.data_type();
    let mut cases = Vec::new();
    for (clause, number) in merge.clauses.iter().zip(0_i8..) {
        let assigned = match &clause.action {
            MergeIntoAction::Update(assigned) => {
                assigned.iter().find(|(name, _)| name == column).map(|(_, value)| value.clone())
            }
            MergeIntoAction::Insert { columns, values } => {
                let place = match columns.as_slice() {
                    [] => target.table.shape.input.index_of(column).ok(),
                    columns => columns.iter().position(|name| name == column),
                };
                if columns.is_empty() && values.len() != target.table.shape.input.fields().len() {
                    return plan_err!("MERGE INTO {name}: INSERT needs a value for every column");
                }
                let missing = || null(data_type);
                Some(match place.and_then(|place| values.get(place)) {
                    Some(value) => value.clone(),
                    None => missing()?,
                })
            }
            MergeIntoAction::Delete => None,
        };
        if let Some(assigned) = assigned {
            let assigned = if assigned.get_type(decided.schema()).ok().as_ref() == Some(data_type) {
                assigned
            } else {
                cast(assigned, data_type.clone())
            };
            cases.push((own(CLAUSE).eq(lit(number)), assigned));
        }
    }
    let kept = Expr::Column(Column::new(Some(name.clone()), field.name().clone()));
    Ok(case(cases.into_iter(), Some(kept)))
}

fn null(data_type: &DataType) -> Result<Expr> {
    Ok(lit(ScalarValue::try_from(data_type)?))
}

fn case(cases: impl Iterator<Item = (Expr, Expr)>, otherwise: Option<Expr>) -> Expr {
    let cases: Vec<_> = cases.map(|(when, then)| (Box::new(when), Box::new(then))).collect();
    match (cases.is_empty(), otherwise) {
        (true, Some(otherwise)) => otherwise,
        (_, otherwise) => Expr::Case(Case::new(None, cases, otherwise.map(Box::new))),
    }
}
