//! `RollupNode`: GROUP BY in the plan of a pipeline.
//!
//! ```text
//!   Projection                Projection, and the hidden columns
//!     Filter (HAVING)    ->     Projection: __onefold_delete = the group does not qualify
//!       Aggregate                 RollupNode
//!         input                     input, with its hidden columns
//! ```

use super::PlanError;
use super::aggregates::order_free;
use super::hop::HopSpec;
use super::lower_windows::{WindowKind, call_among};
use super::positions::{Exposed, ReplaceScan, expose};
use super::signed::{Signed, fields_of};
use super::windows::windows_of;
use super::written::written;
use crate::operator::{GroupingSet, HopColumn, WindowColumn};
use crate::types::{DELETE_COLUMN, Emit, RollupOptions, SessionOptions};
use crate::types::{hidden_fields, with_intervals};
use arrow::datatypes::{DataType, Field};
use datafusion::common::TableReference;
use datafusion::common::{Column, DFSchema, DFSchemaRef, Result};
use datafusion::functions_aggregate::expr_fn::{max, min};
use datafusion::logical_expr::utils::{enumerate_grouping_sets, grouping_set_to_exprlist};
use datafusion::logical_expr::{
    Aggregate, Expr, Extension, GroupingSet as Sets, LogicalPlan, LogicalPlanBuilder,
    SubqueryAlias, UserDefinedLogicalNodeCore,
};
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// Folds rows into groups, epoch by epoch; its columns are those of the aggregate, and the hidden
/// ones.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RollupNode {
    /// What is grouped.
    pub input: LogicalPlan,
    /// The columns that rows are grouped by.
    pub groups: Vec<Expr>,
    /// The sets of them; one that has all where there are no grouping sets.
    pub sets: Vec<GroupingSet>,
    /// Whether a column tells the sets apart.
    pub has_sets: bool,
    /// Which columns hold windows on event time.
    pub windows: Vec<WindowColumn>,
    /// Which column holds windows that overlap.
    pub hop: Option<HopColumn>,
    /// The aggregates.
    pub aggregates: Vec<Expr>,
    /// The hidden position and watermark columns of the input.
    pub hidden: [Expr; 2],
    /// The event time of the input, where there are windows on it.
    pub time: Option<Expr>,
    /// Its name in the pipeline.
    pub operator: String,
    /// How long it waits, and when it hands out what it has.
    pub options: RollupOptions,
    /// Its columns.
    pub schema: DFSchemaRef,
}

impl PartialOrd for RollupNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        let by_parts = self
            .groups
            .partial_cmp(&other.groups)?
            .then(self.sets.cmp(&other.sets))
            .then(self.aggregates.partial_cmp(&other.aggregates)?)
            .then(self.hidden.partial_cmp(&other.hidden)?)
            .then(self.operator.cmp(&other.operator))
            .then(self.options.cmp(&other.options))
            .then(self.input.partial_cmp(&other.input)?);
        (by_parts != Ordering::Equal || self == other).then_some(by_parts)
    }
}

impl UserDefinedLogicalNodeCore for RollupNode {
    fn name(&self) -> &'static str {
        "Rollup"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        let own = self.groups.iter().chain(&self.aggregates);
        own.chain(&self.hidden).chain(&self.time).cloned().collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |all: &[Expr]| {
            let all: Vec<String> = all.iter().map(ToString::to_string).collect();
            with_intervals(&all.join(", "))
        };
        // The last two of sessions are their first and last time.
        let shown = self.aggregates.len() - self.options.session.map_or(0, |_| 2);
        let (groups, aggregates) = (text(&self.groups), text(&self.aggregates[..shown]));
        let emit = self.options.emit;
        write!(f, "Rollup: groupBy=[[{groups}]], aggr=[[{aggregates}]], emit={emit}")
    }

    fn with_exprs_and_inputs(
        &self,
        mut exprs: Vec<Expr>,
        mut inputs: Vec<LogicalPlan>,
    ) -> Result<Self> {
        let mut rest = exprs.split_off(self.groups.len());
        let mut hidden = rest.split_off(self.aggregates.len());
        let time = hidden.split_off(self.hidden.len()).pop();
        let hidden = <[Expr; 2]>::try_from(hidden).unwrap_or_else(|_| self.hidden.clone());
        let input = inputs.swap_remove(0);
        Ok(Self { input, groups: exprs, aggregates: rest, hidden, time, ..self.clone() })
    }

    fn necessary_children_exprs(&self, _: &[usize]) -> Option<Vec<Vec<usize>>> {
        Some(vec![Vec::new()]) // what the expressions read, and nothing else
    }
}

/// The rollup that `plan` is.
pub(super) fn as_rollup(plan: &LogicalPlan) -> Option<&RollupNode> {
    let LogicalPlan::Extension(extension) = plan else { return None };
    extension.node.as_any().downcast_ref::<RollupNode>()
}

/// A plan over a rollup: of its groups, or of its rows where it has none.
#[derive(Debug)]
pub(super) struct ExposedRollup {
    pub(super) exposed: Exposed,
    /// The column that is true where a group leaves the table, if HAVING makes one.
    pub(super) delete: Option<Column>,
}

/// The aggregate at the top of a query, below what shows its rows.
pub(super) fn top_aggregate(plan: &LogicalPlan) -> Option<&Aggregate> {
    match plan {
        LogicalPlan::Aggregate(aggregate) => Some(aggregate),
        LogicalPlan::Projection(own) => top_aggregate(&own.input),
        LogicalPlan::Filter(own) => top_aggregate(&own.input),
        LogicalPlan::SubqueryAlias(own) => top_aggregate(&own.input),
        _ => None,
    }
}

/// `plan`, which has an aggregate at its top, as a plan over a rollup.
pub(super) fn expose_rollup(
    plan: &LogicalPlan,
    options: RollupOptions,
    replace: &mut ReplaceScan<'_>,
) -> Result<Option<ExposedRollup>> {
    match plan {
        LogicalPlan::Aggregate(aggregate) => {
            let Some(input) = expose(&aggregate.input, replace)? else { return Ok(None) };
            rollup(aggregate, input, options).map(Some)
        }
        LogicalPlan::Projection(own) => {
            let Some(input) = expose_rollup(&own.input, options, replace)? else { return Ok(None) };
            let shown = own.expr.iter().cloned().chain(input.hidden());
            let plan =
                LogicalPlanBuilder::from(input.exposed.plan.clone()).project(shown)?.build()?;
            Ok(Some(input.with(plan)))
        }
        LogicalPlan::Filter(own) => {
            let Some(input) = expose_rollup(&own.input, options, replace)? else { return Ok(None) };
            Ok(Some(having(own.predicate.clone(), &own.input, input)?))
        }
        LogicalPlan::SubqueryAlias(own) => {
            let Some(input) = expose_rollup(&own.input, options, replace)? else { return Ok(None) };
            let plan = Arc::new(input.exposed.plan);
            let built = SubqueryAlias::try_new(plan, own.alias.clone())?;
            let alias: Option<&TableReference> = Some(&own.alias);
            let delete = input.delete.map(|own| Column::new(alias.cloned(), own.name));
            let exposed = Exposed::of(LogicalPlan::SubqueryAlias(built), alias);
            Ok(Some(ExposedRollup { exposed, delete }))
        }
        _ => Ok(None),
    }
}

impl ExposedRollup {
    /// A plan whose rows are those of its sources.
    pub(super) const fn rows(exposed: Exposed) -> Self {
        Self { exposed, delete: None }
    }

    /// Its hidden columns.
    fn hidden(&self) -> impl Iterator<Item = Expr> + use<> {
        self.exposed.hidden().chain(self.delete.clone().map(Expr::Column))
    }

    fn with(self, plan: LogicalPlan) -> Self {
        Self { exposed: Exposed { plan, ..self.exposed }, delete: self.delete }
    }
}

/// Instead of dropping groups that do not qualify, marks them: they leave the table.
fn having(predicate: Expr, shown: &LogicalPlan, input: ExposedRollup) -> Result<ExposedRollup> {
    let qualifies = predicate.is_true();
    let leaves = match &input.delete {
        Some(own) => Expr::Column(own.clone()).or(Expr::Not(Box::new(qualifies))),
        None => Expr::Not(Box::new(qualifies)),
    };
    let columns = shown.schema().columns().into_iter().map(Expr::Column);
    let columns = columns.chain(input.exposed.hidden()).chain([leaves.alias(DELETE_COLUMN)]);
    let plan = LogicalPlanBuilder::from(input.exposed.plan.clone()).project(columns)?.build()?;
    let delete = Some(Column::new_unqualified(DELETE_COLUMN));
    Ok(ExposedRollup { exposed: Exposed { plan, ..input.exposed }, delete })
}

fn rollup(aggregate: &Aggregate, input: Exposed, options: RollupOptions) -> Result<ExposedRollup> {
    let (groups, sets) = sets_of(aggregate)?;
    let sign = input.change.clone().map(Expr::Column);
    let signed = sign.map(|sign| Signed::try_new(aggregate, &sets, sign)).transpose()?;
    for own in aggregate.aggr_expr.iter().filter(|_| signed.is_none()) {
        refuse_aggregate(own)?;
    }
    let (mut aggregates, folded) = match &signed {
        Some(own) => own.folded(aggregate, input.plan.schema())?,
        None => (order_free(aggregate, options.exact_float_sums)?, fields_of(&aggregate.schema)),
    };
    let mut windows = windows_of(&aggregate.input, &groups);
    let (mut hop, mut session) = (None, None);
    match call_among(&groups)? {
        Some(_) if signed.is_some() => {
            let what = "hop(...) or session(...) of a table's changes";
            let instead =
                "write date_bin(...), or group by it in the pipeline that writes that table";
            return Err(PlanError::incremental(what, instead).into());
        }
        Some((column, WindowKind::Hop(HopSpec { slide_us, size_us }))) => {
            hop = Some(HopColumn { column, slide_us, size_us });
        }
        Some((column, WindowKind::Session(gap_us))) => {
            session = Some(SessionOptions { column, gap_us });
            windows.retain(|window| window.column == column); // others only tell groups apart
            aggregates.extend(span(&groups[column]));
        }
        None => {}
    }
    refuse_endless(&sets, &windows, options.emit, session)?;
    let delete = session.map(|_| Field::new(DELETE_COLUMN, DataType::Boolean, false));
    let hidden = hidden_fields().into_iter().chain(delete).map(|field| (None, Arc::new(field)));
    let fields = folded.into_iter().chain(hidden).collect();
    let schema = DFSchema::new_with_metadata(fields, aggregate.schema.metadata().clone())?;
    let time = input.time.filter(|_| !windows.is_empty()).map(Expr::Column);
    let node = RollupNode {
        input: input.plan,
        groups,
        sets,
        has_sets: matches!(aggregate.group_expr.as_slice(), [Expr::GroupingSet(_)]),
        windows,
        hop,
        aggregates,
        hidden: [Expr::Column(input.position), Expr::Column(input.watermark)],
        time,
        operator: String::new(),
        options: RollupOptions { session, takes_back: signed.is_some(), ..options },
        schema: Arc::new(schema),
    };
    let plan = LogicalPlan::Extension(Extension { node: Arc::new(node) });
    if let Some(own) = signed {
        return own.shown(aggregate, plan);
    }
    let delete = session.map(|_| Column::new_unqualified(DELETE_COLUMN));
    Ok(ExposedRollup { exposed: Exposed::of(plan, None), delete })
}

/// The first and the last time of a session.
fn span(time: &Expr) -> [Expr; 2] {
    let time = time.clone().unalias_nested().data;
    [min(time.clone()).alias("__onefold_first"), max(time).alias("__onefold_last")]
}

/// Refuses groups that are to be shown when they are closed and never are, and sessions without end.
fn refuse_endless(
    sets: &[GroupingSet],
    windows: &[WindowColumn],
    emit: Emit,
    session: Option<SessionOptions>,
) -> Result<()> {
    if session.is_some() && windows.is_empty() {
        let what = "session(...) of another column than that of the watermark";
        let instead = "declare WATERMARK FOR the column in CREATE UNBOUNDED EXTERNAL TABLE";
        return Err(PlanError::incremental(what, instead).into());
    }
    let has_window = |set: &GroupingSet| windows.iter().any(|window| set.present[window.column]);
    if emit == Emit::Final && !sets.iter().all(has_window) {
        let what = "EMIT FINAL of groups without a window";
        let instead =
            "put date_bin(...) of the watermark column into GROUP BY, or write EMIT CHANGES";
        return Err(PlanError::incremental(what, instead).into());
    }
    Ok(())
}

/// The columns that rows are grouped by, and the sets of them.
pub(super) fn sets_of(aggregate: &Aggregate) -> Result<(Vec<Expr>, Vec<GroupingSet>)> {
    if !aggregate.group_expr.iter().any(|own| matches!(own, Expr::GroupingSet(_))) {
        let groups = aggregate.group_expr.clone();
        let present = vec![true; groups.len()];
        return Ok((groups, vec![GroupingSet { present, id: 0 }]));
    }
    let groups: Vec<Expr> =
        grouping_set_to_exprlist(&aggregate.group_expr)?.into_iter().cloned().collect();
    let listed = enumerate_grouping_sets(aggregate.group_expr.clone())?;
    let lists: Vec<Vec<Expr>> = match listed.as_slice() {
        [Expr::GroupingSet(Sets::GroupingSets(lists))] => lists.clone(),
        [Expr::GroupingSet(Sets::Rollup(own))] => {
            (0..=own.len()).rev().map(|many| own[..many].to_vec()).collect()
        }
        [Expr::GroupingSet(Sets::Cube(own))] => (0..1_u64 << own.len())
            .map(|bits| {
                let is_in = |(index, _): &(usize, &Expr)| bits >> index & 1 == 0;
                own.iter().enumerate().filter(is_in).map(|(_, own)| own.clone()).collect()
            })
            .collect(),
        _ => {
            return Err(PlanError::incremental("these grouping sets", "write GROUPING SETS").into());
        }
    };
    let mut sets: Vec<GroupingSet> = Vec::with_capacity(lists.len());
    for list in lists {
        let present: Vec<bool> = groups.iter().map(|own| list.contains(own)).collect();
        let id = present.iter().fold(0, |id, present| id << 1 | u64::from(!present));
        let set = GroupingSet { present, id };
        if sets.contains(&set) {
            let what = "a grouping set that is there twice";
            return Err(PlanError::incremental(what, "write it once").into());
        }
        sets.push(set);
    }
    Ok((groups, sets))
}

/// Refuses aggregates whose states grow with their rows, or depend on the order of rows.
fn refuse_aggregate(aggregate: &Expr) -> Result<()> {
    let bare = aggregate.clone().unalias_nested().data;
    let Expr::AggregateFunction(own) = &bare else { return Ok(()) };
    let name = own.func.name();
    let refuse = |instead: &str| {
        let what = format!("{}, which keeps every value of a group,", written(&bare));
        Err(PlanError::incremental(&what, instead).into())
    };
    let refuse_any = |instead: &str| {
        let what = format!("{}, which depends on the order in which rows come,", written(&bare));
        Err(PlanError::incremental(&what, instead).into())
    };
    match name {
        "min" | "max" | "bool_and" | "bool_or" | "bit_and" | "bit_or" => Ok(()),
        "count" if own.params.distinct => {
            refuse("write hll_estimate(hll_state(...)), or bitmap_count(bitmap_state(...))")
        }
        _ if own.params.distinct => refuse("write DEDUP BY with the columns, WITHIN an interval"),
        "any_value" => refuse_any("write min or max"),
        "first_value" | "last_value" if own.params.order_by.is_empty() => {
            refuse_any(&format!("write {name}(... ORDER BY ...)"))
        }
        "array_agg" | "string_agg" | "nth_value" => {
            refuse("store the rows, and collect them when the table is read")
        }
        "median" | "percentile_cont" | "quantile_cont" => {
            refuse("write approx_percentile_cont, or quantile_state")
        }
        _ => Ok(()),
    }
}
