//! Adds to each row what DEDUP sorts and judges by.

use super::DedupError;
use super::time::{is_time, to_micros};
use crate::key::KeyHasher;
use arrow::array::{ArrayRef, BooleanArray, Int64Array, UInt64Array};
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

/// What a dedup reads of its input.
#[derive(Clone, Debug)]
pub struct DedupExpressions {
    /// The keys; at least one.
    pub keys: Vec<Arc<dyn PhysicalExpr>>,
    /// The event time, a timestamp or date; `None` only with WITHIN UNBOUNDED.
    pub time: Option<Arc<dyn PhysicalExpr>>,
}

/// The columns added, in order, after those of the input.
pub(super) const ADDED: [&str; 4] =
    ["__onefold_hash_high", "__onefold_hash_low", "__onefold_time", "__onefold_null_key"];

/// Adds the key's hash, the time in microseconds and whether the key has a NULL.
#[derive(Clone, Debug)]
pub(super) struct DedupPrepareExec {
    input: Arc<dyn ExecutionPlan>,
    expressions: DedupExpressions,
    hasher: KeyHasher,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl DedupPrepareExec {
    pub(super) fn try_new(
        input: Arc<dyn ExecutionPlan>,
        expressions: DedupExpressions,
    ) -> Result<Self> {
        let types = expressions
            .keys
            .iter()
            .map(|key| key.data_type(&input.schema()))
            .collect::<Result<Vec<_>>>()?;
        // The order of hashes never reaches the answer, so a plain query needs no secret.
        let hasher = KeyHasher::try_new([0; 16], &types)?;
        if let Some(time) = &expressions.time {
            let data_type = time.data_type(&input.schema())?;
            if !is_time(&data_type) {
                return Err(DedupError::TimeType { data_type }.into());
            }
        }
        let mut fields: Vec<_> = input.schema().fields().iter().cloned().collect();
        let types = [DataType::UInt64, DataType::UInt64, DataType::Int64, DataType::Boolean];
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
        Ok(Self { input, expressions, hasher, schema, properties: Arc::new(properties) })
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
        apply_expression_roots(self.expressions.keys.iter().chain(&self.expressions.time), f)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::try_new(children.swap_remove(0), self.expressions.clone())?))
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
        let (expressions, hasher) = (self.expressions.clone(), self.hasher.clone());
        let rows = input.map(move |batch| prepare(&batch?, &expressions, &hasher, &schema));
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows)))
    }
}

fn prepare(
    batch: &RecordBatch,
    expressions: &DedupExpressions,
    hasher: &KeyHasher,
    schema: &SchemaRef,
) -> Result<RecordBatch> {
    let rows = batch.num_rows();
    let keys = expressions
        .keys
        .iter()
        .map(|key| key.evaluate(batch)?.into_array(rows))
        .collect::<Result<Vec<ArrayRef>>>()?;
    let mut digests = Vec::with_capacity(rows);
    let nulls = hasher.hash(&keys, &mut digests)?;
    let time = match &expressions.time {
        Some(time) => to_micros(&time.evaluate(batch)?.into_array(rows)?)?,
        None => Int64Array::from(vec![0; rows]),
    };
    let null_keys: BooleanArray =
        (0..rows).map(|row| Some(nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)))).collect();
    let mut columns = batch.columns().to_vec();
    columns.push(Arc::new(UInt64Array::from_iter_values(digests.iter().map(|h| (h >> 64) as u64))));
    columns.push(Arc::new(UInt64Array::from_iter_values(digests.iter().map(|h| *h as u64))));
    columns.push(Arc::new(time));
    columns.push(Arc::new(null_keys));
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}
