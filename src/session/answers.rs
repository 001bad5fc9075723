//! What statements about pipelines answer with.

use super::PipelineHandle;
use super::plan::{Planned, Target, plan_query};
use crate::error::Error;
use arrow::array::{ArrayRef, StringArray};
use arrow::record_batch::RecordBatch;
use datafusion::dataframe::DataFrame;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Explain, LogicalPlan};
use datafusion::prelude::SessionContext;
use std::sync::Arc;

/// One row that says which pipeline was made.
pub(super) fn show(
    context: &SessionContext,
    pipeline: &PipelineHandle,
) -> Result<DataFrame, Error> {
    texts(context, &[("pipeline", &[pipeline.id().as_str()]), ("into_table", &[pipeline.table()])])
}

/// Columns of text.
pub(super) fn texts(
    context: &SessionContext,
    columns: &[(&str, &[&str])],
) -> Result<DataFrame, Error> {
    let columns = columns.iter().map(|(name, values)| {
        let values: ArrayRef = Arc::new(StringArray::from(values.to_vec()));
        (*name, values)
    });
    let batch = RecordBatch::try_from_iter(columns).map_err(DataFusionError::from)?;
    Ok(context.read_batch(batch)?)
}

/// EXPLAIN of the query of a pipeline: the plan of an epoch.
pub(super) fn explained(
    state: &SessionState,
    explain: &Explain,
    inserted: &LogicalPlan,
    target: Target<'_>,
) -> Result<DataFrame, Error> {
    let Planned { epochs, .. } = plan_query(state, inserted, target)?;
    let explain = Explain { plan: Arc::new(epochs.query), ..explain.clone() };
    Ok(DataFrame::new(epochs.state, LogicalPlan::Explain(explain)))
}
