//! From `INSERT INTO t SELECT ... FROM <unbounded>` to the plan of a pipeline: sources replaced by
//! slots that hold the rows of one epoch, operators named, and all that cannot be kept
//! incrementally refused.

use super::changes::{came, copy, reads_changes, refused_change};
use super::positions::{as_dedup, expose, source_of};
use super::rollup::{ExposedRollup, as_rollup, expose_rollup, top_aggregate};
use super::written::written;
use super::{DedupNode, PlanError, RollupNode};
use crate::source::{EpochSlot, SourceTable, stamped_schema};
use crate::types::{DELETE_COLUMN, DedupOptions, Emit, POSITION_COLUMN, RollupOptions};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, TableReference};
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::{
    Expr, Extension, LogicalPlan, LogicalPlanBuilder, TableScan, TableScanBuilder, Volatility,
};
use std::sync::Arc;

/// The plan of a pipeline.
#[derive(Clone, Debug)]
pub struct PipelinePlan {
    /// The query over the slots; its columns are those of the INSERT, and the position last.
    pub query: LogicalPlan,
    /// What it reads; each source once.
    pub sources: Vec<PipelineSource>,
    /// The operators in it that remember, from the sources up.
    pub operators: Vec<PipelineOperator>,
    /// Whether each source row gives at most one row of the table.
    pub is_one_to_one: bool,
    /// What the pipeline computes, as text: another text is another pipeline.
    pub fingerprint: String,
}

/// A source of a pipeline.
#[derive(Clone, Debug)]
pub struct PipelineSource {
    /// Its table's name in the query.
    pub name: String,
    /// The same, in parts.
    table_name: TableReference,
    /// The table.
    pub table: SourceTable,
    /// Where the rows of an epoch go.
    pub slot: Arc<EpochSlot>,
}

impl PipelinePlan {
    /// Whether its rows are groups, and not rows of its sources.
    #[must_use]
    pub fn is_rollup(&self) -> bool {
        self.operators.iter().any(|own| matches!(own.kind, OperatorKind::Rollup(_)))
    }

    /// Whether a source of it shows the changes of a table.
    #[must_use]
    pub fn reads_changes(&self) -> bool {
        self.sources.iter().any(|own| own.table.feed().is_some())
    }
}

/// An operator of a pipeline that remembers.
#[derive(Clone, Debug)]
pub struct PipelineOperator {
    /// Its name: `dedup-0`, `rollup-0` and so on.
    pub name: String,
    /// What it is.
    pub kind: OperatorKind,
}

/// What an operator is, with its options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperatorKind {
    /// A DEDUP.
    Dedup(DedupOptions),
    /// A GROUP BY.
    Rollup(RollupOptions),
}

/// Whether `plan` reads an unbounded table.
#[must_use]
pub fn streams(plan: &LogicalPlan) -> bool {
    let is_stream =
        |plan: &LogicalPlan| Ok(source_of(plan).is_some_and(|table| table.options().is_unbounded));
    plan.exists(is_stream).unwrap_or(false)
}

/// Plans a pipeline from the analysed query of an INSERT into a table whose primary key is `key`:
/// its columns by their numbers and names. Only a query that is not grouped needs it.
///
/// # Errors
///
/// What cannot be kept incrementally and exactly, with the reason and the way out.
pub fn plan_pipeline(
    query: &LogicalPlan,
    options: RollupOptions,
    key: &[(usize, String)],
) -> Result<PipelinePlan> {
    let top = top_aggregate(query).filter(|own| streams(&own.input));
    if options.emit == Emit::Final && top.is_none() {
        let what = "EMIT FINAL of a query without windows";
        let instead = "write GROUP BY date_bin(...) of the watermark column, or EMIT CHANGES";
        return Err(PlanError::incremental(what, instead).into());
    }
    query.apply(|plan| {
        if streams(plan) {
            let is_top = |own| top.is_some_and(|top| std::ptr::eq(top, own));
            let is_rollup = matches!(plan, LogicalPlan::Aggregate(own) if is_top(own));
            let refused = refused(plan, is_rollup).or_else(|| refused_change(plan, top.is_some()));
            if let Some((what, instead)) = refused {
                return Err(PlanError::NotIncremental { what, instead }.into());
            }
            return Ok(TreeNodeRecursion::Continue);
        }
        Ok(TreeNodeRecursion::Jump)
    })?;
    let fingerprint = fingerprint(query)?;
    let copies = top.is_none() && reads_changes(query);
    let mut slots = Slots { sources: Vec::new(), copies };
    let mut replace = |scan: &TableScan, table: &SourceTable| slots.replace(scan, table);
    let exposed = match top {
        Some(_) => expose_rollup(query, options, &mut replace)?,
        None => expose(query, &mut replace)?.map(ExposedRollup::rows),
    };
    let Some(ExposedRollup { exposed, delete }) = exposed else {
        return Err(PlanError::NotIncremental {
            what: "a query whose rows do not come from one unbounded table each".to_owned(),
            instead: "join an unbounded table with finite tables only".to_owned(),
        }
        .into());
    };
    let sources = slots.sources;
    let query = match sources.first().filter(|_| copies) {
        Some(source) => copy(query, exposed, &source.scan()?, key)?,
        None => {
            let shown = query.schema().columns().into_iter().map(Expr::Column);
            let position = Expr::Column(exposed.position).alias(POSITION_COLUMN);
            let delete = delete.map(|own| Expr::Column(own).alias(DELETE_COLUMN));
            let shown = shown.chain(delete).chain([position]);
            LogicalPlanBuilder::from(exposed.plan).project(shown)?.build()?
        }
    };
    let (query, operators) = name_operators(query)?;
    let is_one_to_one = !query.exists(|plan| Ok(matches!(plan, LogicalPlan::Join(_))))?;
    Ok(PipelinePlan { query, sources, operators, is_one_to_one, fingerprint })
}

impl PipelineSource {
    /// A scan of its slot.
    fn scan(&self) -> Result<LogicalPlan> {
        let source = provider_as_source(Arc::clone(&self.slot) as _);
        Ok(LogicalPlan::TableScan(TableScanBuilder::new(self.table_name.clone(), source).build()?))
    }
}

/// The slots that take the place of the sources in a query.
struct Slots {
    sources: Vec<PipelineSource>,
    /// Whether the query is of the rows that came, those that went being seen to elsewhere.
    copies: bool,
}

impl Slots {
    fn replace(&mut self, scan: &TableScan, table: &SourceTable) -> Result<Option<LogicalPlan>> {
        if !table.options().is_unbounded {
            return Ok(None);
        }
        let name = scan.table_name.to_string();
        let fingerprint = table.source().fingerprint();
        let is_it = |known: &PipelineSource| {
            known.name == name || known.table.source().fingerprint() == fingerprint
        };
        if self.sources.iter().any(is_it) {
            return Err(PlanError::NotIncremental {
                what: format!("reading {name} twice in one pipeline"),
                instead: "write two pipelines, or read it once and use CASE".to_owned(),
            }
            .into());
        }
        let slot = Arc::new(EpochSlot::new(stamped_schema(&table.source().schema())));
        let (table_name, table) = (scan.table_name.clone(), table.clone());
        let source = PipelineSource { name, table_name, table, slot };
        let scan = source.scan()?;
        self.sources.push(source);
        Ok(Some(if self.copies { came(scan)? } else { scan }))
    }
}

/// Names the operators from the leaves up.
fn name_operators(query: LogicalPlan) -> Result<(LogicalPlan, Vec<PipelineOperator>)> {
    let mut operators: Vec<PipelineOperator> = Vec::new();
    let query = query.transform_up(|plan| {
        if let Some(node) = as_rollup(&plan) {
            let lateness = operators.iter().map(|own| match own.kind {
                OperatorKind::Dedup(options) => options.lateness_us,
                OperatorKind::Rollup(_) => 0,
            });
            let options = RollupOptions { delay_us: lateness.sum(), ..node.options };
            let name = "rollup-0".to_owned();
            let node = RollupNode { operator: name.clone(), options, ..node.clone() };
            operators.push(PipelineOperator { name, kind: OperatorKind::Rollup(options) });
            return Ok(Transformed::yes(LogicalPlan::Extension(Extension {
                node: Arc::new(node),
            })));
        }
        let Some(node) = as_dedup(&plan).filter(|node| node.hidden.is_some()) else {
            return Ok(Transformed::no(plan));
        };
        let name = format!("dedup-{}", operators.len());
        let kind = OperatorKind::Dedup(node.options);
        operators.push(PipelineOperator { name: name.clone(), kind });
        let node = DedupNode { operator: Some(name), ..node.clone() };
        Ok(Transformed::yes(LogicalPlan::Extension(Extension { node: Arc::new(node) })))
    })?;
    Ok((query.data, operators))
}

/// The query without the casts to the types of the table's columns, which INSERT puts on top: a
/// column that became wider does not make it another query.
fn before_insert(query: &LogicalPlan) -> Result<LogicalPlan> {
    let LogicalPlan::Projection(top) = query else { return Ok(query.clone()) };
    let bare = |expr: &Expr| -> Option<Expr> {
        let Expr::Alias(alias) = expr else { return None };
        let Expr::Cast(cast) = alias.expr.as_ref() else { return None };
        let is_bare = matches!(cast.expr.as_ref(), Expr::Column(_) | Expr::Literal(..));
        is_bare.then(|| cast.expr.as_ref().clone().alias(&alias.name))
    };
    if top.expr.iter().all(|expr| bare(expr).is_none()) {
        return Ok(query.clone());
    }
    let plain = top.expr.iter().map(|expr| bare(expr).unwrap_or_else(|| expr.clone()));
    LogicalPlanBuilder::from(top.input.as_ref().clone()).project(plain)?.build()
}

/// The query as text, with the identity of the data behind each source instead of its name.
fn fingerprint(query: &LogicalPlan) -> Result<String> {
    let mut text = before_insert(query)?.display_indent().to_string();
    query.apply(|plan| {
        if let Some(table) = source_of(plan)
            && let Some(spec) = &table.options().watermark
        {
            use std::fmt::Write;
            let _ = write!(text, "\nwatermark: {} - {} us", spec.column, spec.delay_us);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(text)
}

/// What of `plan`, which reads an unbounded table, cannot be kept incrementally: the thing, and
/// what to write instead.
fn refused(plan: &LogicalPlan, is_rollup: bool) -> Option<(String, String)> {
    let refuse = |what: &str, instead: &str| Some((what.to_owned(), instead.to_owned()));
    match plan {
        LogicalPlan::Aggregate(own) if own.group_expr.is_empty() => refuse(
            "an aggregate without GROUP BY, on an unbounded table,",
            "write SELECT 'all' AS scope, ... GROUP BY 'all'",
        ),
        LogicalPlan::Aggregate(_) if is_rollup => refused_expression(plan),
        LogicalPlan::Aggregate(_) => refuse(
            "GROUP BY below another operator, on an unbounded table,",
            "write it into a table of its own, and read that",
        ),
        LogicalPlan::Distinct(_) => refuse(
            "DISTINCT on an unbounded table",
            "write DEDUP BY with the columns, WITHIN an interval",
        ),
        LogicalPlan::Sort(_) => {
            refuse("ORDER BY on an unbounded table", "order the rows when the table is read")
        }
        LogicalPlan::Limit(_) => {
            refuse("LIMIT on an unbounded table", "limit the rows when the table is read")
        }
        LogicalPlan::Window(_) => {
            refuse("a window function on an unbounded table", "compute it when the table is read")
        }
        LogicalPlan::Join(join) if streams(&join.left) && streams(&join.right) => refuse(
            "a join of two unbounded tables",
            "join an unbounded table with a finite one, or write two pipelines into two tables",
        ),
        LogicalPlan::Join(_) if plan.inputs().iter().any(|side| streams(side)) => {
            refused_join(plan)
        }
        LogicalPlan::Extension(_) => {
            let node = as_dedup(plan)?;
            let joined = node.input.exists(|plan| Ok(matches!(plan, LogicalPlan::Join(_))));
            joined.unwrap_or(true).then(|| {
                let instead = "write DEDUP BY after the unbounded table, inside the join";
                ("DEDUP BY over a join of an unbounded table".to_owned(), instead.to_owned())
            })
        }
        LogicalPlan::TableScan(_)
        | LogicalPlan::Projection(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Union(_) => refused_expression(plan),
        other => Some((
            format!("{} on an unbounded table", first_word(other)),
            "use projections, filters, unions, DEDUP BY and joins with finite tables".to_owned(),
        )),
    }
}

/// An outer join that keeps rows of the finite side would emit them again in each epoch.
fn refused_join(plan: &LogicalPlan) -> Option<(String, String)> {
    use datafusion::common::JoinType as J;
    let LogicalPlan::Join(join) = plan else { return None };
    let is_fine = match join.join_type {
        J::Inner => true,
        J::Left | J::LeftSemi | J::LeftAnti | J::LeftMark => streams(&join.left),
        J::Right | J::RightSemi | J::RightAnti | J::RightMark => streams(&join.right),
        J::Full => false,
    };
    if is_fine {
        return refused_expression(plan);
    }
    let what = format!("a {} join that keeps rows of the finite table", join.join_type);
    Some((what, "keep the rows of the unbounded table, or write an inner join".to_owned()))
}

fn refused_expression(plan: &LogicalPlan) -> Option<(String, String)> {
    let mut found = None;
    let visited = plan.apply_expressions(|expr| {
        expr.apply(|expr| {
            let reason = match expr {
                Expr::ScalarFunction(call)
                    if call.func.signature().volatility != Volatility::Immutable =>
                {
                    Some((
                        format!("{}, which gives another value each time,", written(expr)),
                        "use a column of the row, such as its event time".to_owned(),
                    ))
                }
                Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_) => Some((
                    "a subquery in an expression over an unbounded table".to_owned(),
                    "join the finite table".to_owned(),
                )),
                _ => None,
            };
            if reason.is_some() {
                found = reason;
                return Ok(TreeNodeRecursion::Stop);
            }
            Ok(TreeNodeRecursion::Continue)
        })
    });
    debug_assert!(visited.is_ok());
    found
}

fn first_word(plan: &LogicalPlan) -> String {
    let text = plan.display().to_string();
    text.split([':', ' ']).next().unwrap_or_default().to_owned()
}
