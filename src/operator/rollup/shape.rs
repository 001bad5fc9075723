//! What both halves of a rollup know: its groups, its aggregates, and the layout between them.

use super::hop::HopColumn;
use super::window::{NO_END, WindowColumn, ends};
use super::{GlobalRollupExec, LocalRollupExec, ShardExchangeExec};
use crate::key::KeyHasher;
use crate::operator::DedupError;
use crate::state::{
    Aggregates, GROUP_COLUMNS, OPEN_END, RollupMemory, SESSIONS, TAKES_BACK, hash_array,
};
use crate::types::{RollupOptions, with_intervals};
use arrow::array::{ArrayRef, Int64Array, UInt64Array, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::common::{Result, ScalarValue, not_impl_err};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::LoweredAggregate;
use datafusion::physical_plan::ExecutionPlan;
use std::collections::HashMap;
use std::sync::Arc;

/// The memories of the pipeline whose epoch is being planned, by operator name; an extension of
/// the session's configuration.
#[derive(Debug, Default)]
pub struct RollupMemories(pub HashMap<String, Arc<RollupMemory>>);

impl RollupMemories {
    /// The memory of `operator`.
    pub fn find(&self, operator: &str) -> Result<Arc<RollupMemory>, DedupError> {
        let missing = || DedupError::NoMemory { operator: operator.to_owned() };
        self.0.get(operator).map(Arc::clone).ok_or_else(missing)
    }
}

/// One of the sets of columns that rows are grouped by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupingSet {
    /// Whether each column is in it.
    pub present: Vec<bool>,
    /// Its number in the column that tells sets apart.
    pub id: u64,
}

impl GroupingSet {
    /// Whether its groups can be made of those of `other`.
    pub(super) fn is_within(&self, other: &Self) -> bool {
        self.present.iter().zip(&other.present).all(|(own, other)| !own || *other)
    }
}

/// What a rollup computes.
#[derive(Clone, Debug)]
pub struct RollupExpressions {
    /// The columns that rows are grouped by.
    pub groups: Vec<Arc<dyn PhysicalExpr>>,
    /// The sets of them; one that has all where there are no grouping sets.
    pub sets: Vec<GroupingSet>,
    /// The type of the column that tells sets apart, where there is one.
    pub set_type: Option<DataType>,
    /// Which columns hold windows on event time.
    pub windows: Vec<WindowColumn>,
    /// Which column holds windows that overlap; each set has it.
    pub hop: Option<HopColumn>,
    /// The aggregates.
    pub aggregates: Vec<LoweredAggregate>,
    /// The hidden position and watermark columns.
    pub hidden: [Arc<dyn PhysicalExpr>; 2],
    /// The event time, where there are windows on it.
    pub time: Option<Arc<dyn PhysicalExpr>>,
}

/// A rollup of an epoch.
#[derive(Debug)]
pub(super) struct RollupShape {
    pub(super) expressions: RollupExpressions,
    pub(super) options: RollupOptions,
    pub(super) aggregates: Aggregates,
    pub(super) memory: Arc<RollupMemory>,
    pub(super) hasher: KeyHasher,
    /// Hash, end, groups, states.
    pub(super) rows: SchemaRef,
    /// Groups, values, and the hidden columns.
    pub(super) output: SchemaRef,
}

/// Plans GROUP BY of one epoch over `input`. The columns of the plan are those of `groups`, which
/// name and type the columns of the group, of the aggregates, and the hidden ones. Groups are merged
/// in so many `partitions`.
///
/// # Errors
///
/// A group of a type without equality, or an aggregate whose states grow with their rows.
pub fn plan_epoch_rollup(
    input: Arc<dyn ExecutionPlan>,
    expressions: RollupExpressions,
    options: RollupOptions,
    output: SchemaRef,
    (memory, partitions): (Arc<RollupMemory>, usize),
) -> Result<Arc<dyn ExecutionPlan>> {
    let functions = expressions.aggregates.iter().map(|own| Arc::clone(&own.aggregate));
    let functions: Vec<_> = functions.collect();
    if let Some(own) = functions.iter().find(|own| !crate::state::is_bounded(own)) {
        return not_impl_err!("{} keeps every value of a group", own.name());
    }
    let aggregates = Aggregates::try_new(functions)?;
    let columns = expressions.groups.len() + usize::from(expressions.set_type.is_some());
    let groups: Vec<Field> = output.fields()[..columns]
        .iter()
        .map(|own| own.as_ref().clone().with_nullable(true))
        .collect();
    let types: Vec<DataType> = groups.iter().map(|own| own.data_type().clone()).collect();
    let hasher = KeyHasher::try_new(memory.hash_key(), &types)?;
    let fixed = [
        Field::new("__onefold_hash", DataType::FixedSizeBinary(16), false),
        Field::new("__onefold_end", DataType::Int64, false),
    ];
    let states = aggregates.state_fields().iter();
    let states = states.map(|own| own.as_ref().clone().with_nullable(true));
    let fields: Vec<Field> = fixed.into_iter().chain(groups).chain(states).collect();
    let mut about = HashMap::from([(GROUP_COLUMNS.to_owned(), columns.to_string())]);
    if options.session.is_some() {
        about.insert(SESSIONS.to_owned(), String::new());
    }
    if options.takes_back {
        about.insert(TAKES_BACK.to_owned(), String::new());
    }
    let rows = Arc::new(Schema::new_with_metadata(fields, about));
    let shape = RollupShape { expressions, options, aggregates, memory, hasher, rows, output };
    let shape = Arc::new(shape);
    let local = Arc::new(LocalRollupExec::new(input, Arc::clone(&shape)));
    let exchange = Arc::new(ShardExchangeExec::new(local, partitions));
    Ok(Arc::new(GlobalRollupExec::new(exchange, shape)))
}

impl RollupShape {
    /// The columns of groups of `set`, from those of all columns; the others are NULL.
    pub(super) fn columns_of(
        &self,
        set: &GroupingSet,
        groups: &[ArrayRef],
        rows: usize,
    ) -> Result<Vec<ArrayRef>> {
        let columns = groups.iter().zip(&set.present).map(|(column, is_present)| {
            if *is_present { Arc::clone(column) } else { new_null_array(column.data_type(), rows) }
        });
        let mut columns: Vec<ArrayRef> = columns.collect();
        if let Some(data_type) = &self.expressions.set_type {
            let id = ScalarValue::UInt64(Some(set.id)).to_array_of_size(rows)?;
            columns.push(cast(&id, data_type)?);
        }
        Ok(columns)
    }

    /// The end of the window of each group of `set`.
    pub(super) fn ends(
        &self,
        set: &GroupingSet,
        groups: &[ArrayRef],
        rows: usize,
    ) -> Result<Vec<i64>> {
        let windows = self.expressions.windows.iter().copied();
        ends(groups, windows.filter(|window| set.present[window.column]), rows)
    }

    /// Groups and states as rows.
    pub(super) fn rows(
        &self,
        (hashes, ends): (&[u128], Vec<i64>),
        groups: Vec<ArrayRef>,
        states: Vec<ArrayRef>,
    ) -> Result<RecordBatch> {
        let fixed: [ArrayRef; 2] = [hash_array(hashes), Arc::new(Int64Array::from(ends))];
        let columns = fixed.into_iter().chain(groups).chain(states).collect();
        Ok(RecordBatch::try_new(Arc::clone(&self.rows), columns)?)
    }

    /// How many columns a group has.
    pub(super) fn group_columns(&self) -> usize {
        self.expressions.groups.len() + usize::from(self.expressions.set_type.is_some())
    }

    /// How many of the aggregates are shown: the last two of sessions are their first and last time.
    pub(super) fn shown_aggregates(&self) -> usize {
        let all = self.aggregates.functions().len();
        if self.options.session.is_some() { all - 2 } else { all }
    }

    /// The names of the group's columns and of the aggregates, for EXPLAIN.
    pub(super) fn names(&self) -> (String, String) {
        let groups: Vec<String> = self.expressions.groups.iter().map(ToString::to_string).collect();
        let aggregates: Vec<&str> = self
            .aggregates
            .functions()
            .take(self.shown_aggregates())
            .map(|own| own.name())
            .collect();
        (with_intervals(&groups.join(", ")), with_intervals(&aggregates.join(", ")))
    }
}

/// The end of a window, where a group may have none.
pub(super) fn end_or_open(mut ends: Vec<i64>) -> Vec<i64> {
    let missing = ends.iter_mut().filter(|end| **end == NO_END);
    missing.for_each(|end| *end = OPEN_END);
    ends
}

/// The hidden columns that a rollup shows above itself.
pub(super) fn hidden(rows: usize, first: u64) -> [ArrayRef; 2] {
    let positions = UInt64Array::from_iter_values(first..first + rows as u64);
    [Arc::new(positions), new_null_array(&DataType::Int64, rows)]
}
