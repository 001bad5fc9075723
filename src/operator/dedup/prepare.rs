//! Adds to each row what DEDUP sorts and judges by.

use super::DedupExpressions;
use super::facts::{Facts, facts};
use crate::key::KeyHasher;
use crate::types::DedupOptions;
use arrow::array::{BooleanArray, UInt64Array};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties,
    PlanProperties, ReplaceChildrenOptions, apply_expression_roots,
};
use futures::StreamExt;
use std::fmt;
use std::sync::Arc;

/// The columns added, in order, after those of the input.
pub(super) const ADDED: [&str; 5] = [
    "__onefold_hash_high",
    "__onefold_hash_low",
    "__onefold_time",
    "__onefold_distinct",
    "__onefold_order",
];

/// Adds the key's hash, the time in microseconds (NULL: undecidable), whether the key is never a
/// duplicate, and the position (0 where the input has none).
#[derive(Clone, Debug)]
pub(super) struct DedupPrepareExec {
    input: Arc<dyn ExecutionPlan>,
    expressions: DedupExpressions,
    options: DedupOptions,
    hasher: KeyHasher,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl DedupPrepareExec {
    pub(super) fn try_new(
        input: Arc<dyn ExecutionPlan>,
        expressions: DedupExpressions,
        options: DedupOptions,
    ) -> Result<Self> {
        // The order of hashes never reaches the answer, so a plain query needs no secret.
        let hasher = expressions.hasher([0; 16], &input.schema())?;
        let mut fields: Vec<_> = input.schema().fields().iter().cloned().collect();
        let types = [
            DataType::UInt64,
            DataType::UInt64,
            DataType::Int64,
            DataType::Boolean,
            DataType::UInt64,
        ];
        for (name, data_type) in ADDED.into_iter().zip(types) {
            fields.push(Arc::new(Field::new(name, data_type, name == ADDED[2])));
        }
        let schema = Arc::new(Schema::new(fields));
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            input.output_partitioning().clone(),
            input.pipeline_behavior(),
            input.boundedness(),
        );
        Ok(Self { input, expressions, options, hasher, schema, properties: Arc::new(properties) })
    }
}

impl DisplayAs for DedupPrepareExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<String> = self.expressions.keys.iter().map(ToString::to_string).collect();
        write!(f, "DedupPrepareExec: by=[{}]", keys.join(", "))?;
        match &self.expressions.time {
            Some(time) => write!(f, ", of={time}"),
            None => Ok(()),
        }
    }
}

impl ExecutionPlan for DedupPrepareExec {
    fn name(&self) -> &'static str {
        "DedupPrepareExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        apply_expression_roots(
            self.expressions
                .keys
                .iter()
                .chain(&self.expressions.time)
                .chain(self.expressions.hidden.iter().flatten()),
            f,
        )
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::try_new(
            children.swap_remove(0),
            self.expressions.clone(),
            self.options,
        )?))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        self.replace_children(children, options)
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context)?;
        let schema = Arc::clone(&self.schema);
        let (expressions, options) = (self.expressions.clone(), self.options);
        let hasher = self.hasher.clone();
        let rows = input.map(move |batch| {
            let batch = batch?;
            let facts = facts(&batch, &expressions, options, &hasher)?;
            prepare(&batch, facts, &schema)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows)))
    }
}

fn prepare(batch: &RecordBatch, facts: Facts, schema: &SchemaRef) -> Result<RecordBatch> {
    let rows = batch.num_rows();
    let Facts { hashes, distinct, times, positions, .. } = facts;
    let distinct = match distinct {
        Some(nulls) => BooleanArray::new(!nulls.inner(), None),
        None => BooleanArray::new(BooleanBuffer::new_unset(rows), None),
    };
    let positions = positions.unwrap_or_else(|| vec![0; rows].into());
    let mut columns = batch.columns().to_vec();
    columns.push(Arc::new(UInt64Array::from_iter_values(hashes.iter().map(|h| (h >> 64) as u64))));
    columns.push(Arc::new(UInt64Array::from_iter_values(hashes.iter().map(|h| *h as u64))));
    columns.push(Arc::new(times));
    columns.push(Arc::new(distinct));
    columns.push(Arc::new(UInt64Array::new(positions, None)));
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}
