//! `LocalRollupExec`: the rows of one partition to partial states.

use super::cascade::{Step, cascade, order};
use super::expand::Expansion;
use super::fold::{Fold, Rows};
use super::hop::HopColumn;
use super::near::{group_columns, rising};
use super::session;
use super::shape::{GroupingSet, RollupShape, end_or_open};
use super::window::NO_END;
use crate::operator::time::to_micros;
use crate::state::Judged;
use crate::types::{EventTime, LateRows, Position};
use arrow::array::cast::AsArray;
use arrow::array::types::{Int64Type, UInt64Type};
use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, UInt64Array};
use arrow::compute::{filter, filter_record_batch, max};
use arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{CardinalityEffect, EmissionType};
use datafusion::physical_plan::metrics::{
    Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties,
    PlanProperties, ReplaceChildrenOptions, apply_expression_roots,
};
use futures::{StreamExt, TryStreamExt};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

/// Folds the rows of each partition into states of their groups, before any shuffle.
#[derive(Debug)]
pub struct LocalRollupExec {
    input: Arc<dyn ExecutionPlan>,
    shape: Arc<RollupShape>,
    steps: Arc<[Step]>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl LocalRollupExec {
    pub(super) fn new(input: Arc<dyn ExecutionPlan>, shape: Arc<RollupShape>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&shape.rows)),
            Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            EmissionType::Final,
            input.boundedness(),
        );
        let steps = order(&shape.expressions.sets).into();
        let metrics = ExecutionPlanMetricsSet::new();
        Self { input, shape, steps, properties: Arc::new(properties), metrics }
    }

    /// The tree of grouping sets, as text.
    fn tree(&self) -> String {
        let names: Vec<String> =
            self.shape.expressions.groups.iter().map(ToString::to_string).collect();
        let shown = |(set, from): &Step| {
            let own: Vec<&str> = names
                .iter()
                .zip(&set.present)
                .filter_map(|(name, is_present)| is_present.then_some(name.as_str()))
                .collect();
            let from = from.map_or_else(|| "rows".to_owned(), |from| format!("#{}", from + 1));
            format!("({}) from {from}", own.join(", "))
        };
        let sets: Vec<String> = self.steps.iter().map(shown).collect();
        sets.join("; ")
    }
}

impl DisplayAs for LocalRollupExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (groups, aggregates) = self.shape.names();
        write!(f, "LocalRollupExec: gby=[{groups}], aggr=[{aggregates}]")?;
        if self.steps.len() > 1 {
            write!(f, ", sets=[{}]", self.tree())?;
        }
        Ok(())
    }
}

impl ExecutionPlan for LocalRollupExec {
    fn name(&self) -> &'static str {
        "LocalRollupExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Unknown
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        let own = &self.shape.expressions;
        apply_expression_roots(own.groups.iter().chain(&own.hidden).chain(&own.time), f)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(children.swap_remove(0), Arc::clone(&self.shape))))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        self.replace_children(children, options)
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, Arc::clone(&context))?;
        let (shape, steps) = (Arc::clone(&self.shape), Arc::clone(&self.steps));
        let metrics = self.metrics.clone();
        let count = |name| MetricBuilder::new(&metrics).counter(name, partition);
        let (rows_in, states_out) = (count("rows_in"), count("states_out"));
        let rising = rising(&shape.expressions, &self.input.schema());
        let local = Local::new(shape, steps, rising, &context, count("rows_passed"));
        let rows = futures::stream::try_unfold((local, Some(input)), move |rest| {
            let (rows_in, states_out) = (rows_in.clone(), states_out.clone());
            async move {
                let (mut local, mut input) = rest;
                let states = match (local.expand_some().await?, &mut input) {
                    (Some(states), _) => states,
                    (None, None) => return Ok(None),
                    (None, Some(rows)) => {
                        if !local.fold_some(rows, &rows_in).await? {
                            input = None;
                        }
                        local.take()?
                    }
                };
                states_out.add(states.iter().map(RecordBatch::num_rows).sum());
                Ok::<_, DataFusionError>(Some((
                    futures::stream::iter(states.into_iter().map(Ok)),
                    (local, input),
                )))
            }
        });
        let rows = rows.try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.shape.rows), rows)))
    }
}

/// The fold of one partition.
struct Local {
    shape: Arc<RollupShape>,
    steps: Arc<[Step]>,
    /// Which columns of the group never fall as event time rises.
    rising: Vec<bool>,
    /// One for each set that is folded from rows, while it is.
    folds: Vec<Fold>,
    passed: Vec<Vec<RecordBatch>>,
    /// Counts the rows that passed through as states of their own.
    rows_passed: Count,
    /// Panes that are being expanded into windows, by set and in this order.
    expansions: VecDeque<(usize, Expansion)>,
    folded: BTreeMap<u64, u64>,
    judged: BTreeMap<u64, Judged>,
    reservation: MemoryReservation,
}

impl Local {
    fn new(
        shape: Arc<RollupShape>,
        steps: Arc<[Step]>,
        rising: Vec<bool>,
        context: &TaskContext,
        rows_passed: Count,
    ) -> Self {
        let reservation =
            MemoryConsumer::new("onefold local rollup").register(context.memory_pool());
        Self {
            rows_passed,
            rising,
            passed: vec![Vec::new(); steps.iter().filter(|(_, from)| from.is_none()).count()],
            shape,
            steps,
            folds: Vec::new(),
            expansions: VecDeque::new(),
            folded: BTreeMap::new(),
            judged: BTreeMap::new(),
            reservation,
        }
    }

    /// Folds rows until there are no more; true if before that there is no more memory for states.
    async fn fold_some(
        &mut self,
        input: &mut SendableRecordBatchStream,
        rows_in: &Count,
    ) -> Result<bool> {
        let roots = self.steps.iter().filter(|(_, from)| from.is_none());
        self.folds = roots.map(|_| Fold::new(&self.shape, &self.rising)).collect::<Result<_>>()?;
        while let Some(batch) = input.next().await.transpose()? {
            if batch.num_rows() > 0 {
                rows_in.add(batch.num_rows());
                self.fold(&batch)?;
                let passed = self.passed.iter().flatten().map(RecordBatch::get_array_memory_size);
                let held =
                    self.folds.iter().map(Fold::bytes).sum::<usize>() + passed.sum::<usize>();
                // What is folded into panes needs room to be expanded.
                let held = if self.shape.expressions.hop.is_some() { 2 * held } else { held };
                if self.reservation.try_resize(held).is_err() {
                    return Ok(true);
                }
            }
            // Rows that are in memory would be read without a pause, and whoever was woken by this
            // thread waits for one.
            tokio::task::yield_now().await;
        }
        Ok(false)
    }

    /// Takes the states of all sets. More of the same groups may follow. Those of
    /// windows that overlap are not in it: [`Self::expand_some`] has them.
    fn take(&mut self) -> Result<Vec<RecordBatch>> {
        let mut folded: Vec<Vec<RecordBatch>> =
            self.passed.iter_mut().map(std::mem::take).collect();
        for (rows, fold) in folded.iter_mut().zip(std::mem::take(&mut self.folds)) {
            rows.extend(fold.finish()?);
        }
        let (counted, judged) = (&mut self.folded, &mut self.judged);
        self.shape.memory.record(std::mem::take(counted), std::mem::take(judged));
        if let Some(hop) = self.shape.expressions.hop {
            let panes = folded.into_iter().map(|panes| Expansion::new(hop, panes));
            self.expansions.extend(panes.enumerate());
            return Ok(Vec::new());
        }
        self.reservation.free();
        if let Some(session) = self.shape.options.session {
            for rows in folded.iter_mut().flatten() {
                *rows = session::by_key(session, &self.shape, rows)?;
            }
        }
        cascade(&self.shape, &self.steps, folded)
    }

    /// The states of some more windows that overlap, and of coarser groups made of those; `None` once
    /// all panes are expanded.
    async fn expand_some(&mut self) -> Result<Option<Vec<RecordBatch>>> {
        let held: usize = self.expansions.iter().map(|(_, own)| own.bytes()).sum();
        let roots = self.steps.iter().filter(|(_, from)| from.is_none());
        let sets: Vec<&GroupingSet> = roots.map(|(set, _)| set).collect();
        while let Some((root, panes)) = self.expansions.front_mut() {
            let (root, set) = (*root, sets[*root]);
            let Some(windows) = panes.next(&self.shape, set, held, &self.reservation)? else {
                self.expansions.pop_front();
                continue;
            };
            let mut folded = vec![Vec::new(); sets.len()];
            folded[root].push(windows);
            let states = cascade(&self.shape, &self.steps, folded)?;
            tokio::task::yield_now().await; // as between batches of rows
            return Ok(Some(states));
        }
        self.reservation.free();
        Ok(None)
    }

    fn fold(&mut self, batch: &RecordBatch) -> Result<()> {
        let shape = Arc::clone(&self.shape);
        let own = &shape.expressions;
        let (groups, same) = group_columns(own, &self.rising, batch)?;
        let finest = GroupingSet { present: vec![true; groups.len()], id: 0 };
        let ends = if own.windows.iter().all(|window| same[window.column]) {
            let first: Vec<ArrayRef> = groups.iter().map(|column| column.slice(0, 1)).collect();
            vec![shape.ends(&finest, &first, 1)?[0]; batch.num_rows()]
        } else {
            shape.ends(&finest, &groups, batch.num_rows())?
        };
        let hidden = evaluated(&own.hidden, batch)?;
        let keep = self.judge(&hidden, &ends);
        if let Some(keep) = &keep {
            self.note_late(batch, keep, &hidden, &ends)?;
        }
        let (batch, groups, ends, watermarks) = match &keep {
            Some(keep) => {
                let kept = groups.iter().map(|column| filter(column, keep));
                let watermarks = filter(&hidden[1], keep)?;
                let ends = ends.into_iter().zip(keep.values()).filter(|(_, keep)| *keep);
                let ends: Vec<i64> = ends.map(|(end, _)| end).collect();
                let kept = kept.collect::<Result<Vec<_>, _>>()?;
                (filter_record_batch(batch, keep)?, kept, ends, watermarks)
            }
            None => (batch.clone(), groups, ends, Arc::clone(&hidden[1])),
        };
        let rows = batch.num_rows();
        if rows == 0 {
            return Ok(());
        }
        let mut arguments = Vec::with_capacity(own.aggregates.len());
        for aggregate in &own.aggregates {
            let values = evaluated(&aggregate.aggregate.all_expressions().args, &batch)?;
            let order_by = aggregate.order_bys.iter().map(|own| Arc::clone(&own.expr));
            let order_by = evaluated(&order_by.collect::<Vec<_>>(), &batch)?;
            let values = values.into_iter().chain(order_by).collect();
            let lets_through = match &aggregate.filter {
                Some(own) => Some(own.evaluate(&batch)?.into_array(rows)?.as_boolean().clone()),
                None => None,
            };
            arguments.push((values, lets_through));
        }
        let mut groups = groups;
        if let Some(session) = shape.options.session {
            groups[session.column] = session::panes(session, &groups[session.column])?;
        }
        let first_ends =
            own.hop.map(|hop| self.first_ends(hop, &groups, &watermarks)).transpose()?;
        let roots = self.steps.iter().filter(|(_, from)| from.is_none());
        for ((set, _), (fold, passed)) in roots.zip(self.folds.iter_mut().zip(&mut self.passed)) {
            let groups = shape.columns_of(set, &groups, rows)?;
            let mut hashes = Vec::new();
            let ends = match (own.hop, &first_ends) {
                (Some(hop), Some(ends)) => {
                    shape.hasher.hash(&groups, &mut hashes)?;
                    hop.tell_apart(&mut hashes, &groups[hop.column], ends)?;
                    ends.clone()
                }
                _ if *set.present == *finest.present => ends.clone(),
                _ => end_or_open(shape.ends(set, &groups, rows)?),
            };
            let hashes = own.hop.map(|_| hashes.as_slice());
            let own = Rows { hashes, ends: &ends, groups: &groups, arguments: &arguments };
            let through = fold.fold(&own)?;
            self.rows_passed.add(through.as_ref().map_or(0, RecordBatch::num_rows));
            passed.extend(through);
        }
        Ok(())
    }

    /// For each row, the end of the first of its windows that still takes it.
    fn first_ends(
        &self,
        hop: HopColumn,
        groups: &[ArrayRef],
        watermarks: &ArrayRef,
    ) -> Result<Vec<i64>> {
        let windows = &self.shape.expressions.windows;
        let is_timed = windows.iter().any(|own| own.column == hop.column);
        let options = &self.shape.options;
        let closed = |watermark: Option<i64>| match watermark.filter(|_| is_timed) {
            Some(own) => own.saturating_sub(options.lateness_us).saturating_sub(options.delay_us),
            None => i64::MIN,
        };
        let closed: Vec<i64> = watermarks.as_primitive::<Int64Type>().iter().map(closed).collect();
        hop.first_ends(&groups[hop.column], &closed)
    }

    /// Counts the rows by partition; returns which are not too late, if any is.
    fn judge(&mut self, hidden: &[ArrayRef], ends: &[i64]) -> Option<BooleanArray> {
        let positions = hidden[0].as_primitive::<UInt64Type>();
        let watermarks = hidden[1].as_primitive::<Int64Type>();
        if let Some(ordinal) = self.all_in_time(positions, watermarks, ends) {
            *self.folded.entry(ordinal).or_default() += ends.len() as u64;
            return None;
        }
        let mut keep: Option<Vec<bool>> = None;
        let mut run = (0, 0);
        for (row, end) in ends.iter().enumerate() {
            let ordinal = Position(positions.value(row)).partition();
            let watermark = watermarks.is_valid(row).then(|| watermarks.value(row));
            if self.is_late(*end, watermark) {
                keep.get_or_insert_with(|| vec![true; ends.len()])[row] = false;
                self.judged.entry(ordinal).or_default().rows_late += 1;
                continue;
            }
            if run.0 != ordinal {
                *self.folded.entry(run.0).or_default() += run.1;
                run = (ordinal, 0);
            }
            run.1 += 1;
        }
        *self.folded.entry(run.0).or_default() += run.1;
        keep.map(BooleanArray::from)
    }

    /// Takes note of how late the rows were that are not kept.
    fn note_late(
        &mut self,
        batch: &RecordBatch,
        keep: &BooleanArray,
        hidden: &[ArrayRef],
        ends: &[i64],
    ) -> Result<()> {
        let shape = Arc::clone(&self.shape);
        let Some(time) = &shape.expressions.time else { return Ok(()) };
        let times = to_micros(&time.evaluate(batch)?.into_array(batch.num_rows())?)?;
        let positions = hidden[0].as_primitive::<UInt64Type>();
        let watermarks = hidden[1].as_primitive::<Int64Type>();
        let late = |row: &usize| !keep.value(*row) && ends[*row] != NO_END && times.is_valid(*row);
        for row in (0..batch.num_rows()).filter(late) {
            let passed = watermarks.value(row).saturating_sub(shape.options.delay_us);
            let behind_us = passed.abs_diff(ends[row]);
            let own = LateRows { oldest: EventTime(times.value(row)), behind_us };
            let counts = self.judged.entry(Position(positions.value(row)).partition()).or_default();
            counts.late = Some(own.and(counts.late));
        }
        Ok(())
    }

    /// The partition of all rows, if they are of one, and none can be too late.
    fn all_in_time(
        &self,
        positions: &UInt64Array,
        watermarks: &Int64Array,
        ends: &[i64],
    ) -> Option<u64> {
        let first = *positions.values().first()?;
        let differing = positions.values().iter().fold(0, |all, own| all | (own ^ first));
        let earliest = ends.iter().copied().min()?;
        let is_late = self.is_late(earliest, max(watermarks));
        (!is_late && Position(differing).partition() == 0).then(|| Position(first).partition())
    }

    /// Whether a row has no window, for want of a time, or came after its window was closed.
    fn is_late(&self, end: i64, watermark: Option<i64>) -> bool {
        let options = &self.shape.options;
        let closes = end.saturating_add(options.lateness_us).saturating_add(options.delay_us);
        end == NO_END || watermark.is_some_and(|watermark| closes <= watermark)
    }
}

fn evaluated(expressions: &[Arc<dyn PhysicalExpr>], batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
    expressions.iter().map(|own| own.evaluate(batch)?.into_array(batch.num_rows())).collect()
}
