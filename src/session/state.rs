//! `onefold_state('pipeline')`: what the rollups of a pipeline remember, as its last epoch saved it.

use super::registry::Registry;
use crate::commit::Ledger;
use crate::delta::DeltaTable;
use crate::pipeline::{SavedGroups, all_saved_groups};
use crate::state::{FIXED_COLUMNS, GROUP_COLUMNS, OPEN_END};
use crate::types::{PipelineId, with_intervals};
use arrow::array::cast::AsArray;
use arrow::array::types::Int64Type;
use arrow::array::{ArrayRef, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use std::ops::Range;
use std::sync::Arc;

/// The table function.
#[derive(Debug)]
pub(super) struct State {
    pub(super) registry: Arc<Registry>,
}

#[derive(Debug)]
struct StateTable {
    table: Arc<DeltaTable>,
    /// `None`: all pipelines of the table.
    pipeline: Option<PipelineId>,
    schema: SchemaRef,
}

impl TableFunctionImpl for State {
    fn call_with_args(&self, arguments: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let [Expr::Literal(ScalarValue::Utf8(Some(name)) | ScalarValue::Utf8View(Some(name)), _)] =
            arguments.exprs()
        else {
            return plan_err!(
                "onefold_state takes the name of a pipeline or of its table, as text"
            );
        };
        let schema = schema();
        if let Some(table) = self.registry.table_named(name) {
            return Ok(Arc::new(StateTable { table, pipeline: None, schema }));
        }
        let pipelines = self.registry.pipelines();
        let own = pipelines.iter().find(|own| own.id().to_string() == *name);
        let found = own.and_then(|own| Some((own, self.registry.table_named(own.table())?)));
        match found {
            Some((own, table)) => {
                let pipeline = Some(own.id().clone());
                Ok(Arc::new(StateTable { table, pipeline, schema }))
            }
            None => plan_err!("onefold_state: this session has no pipeline and no table '{name}'"),
        }
    }
}

#[async_trait]
impl TableProvider for StateTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let ledger: &dyn Ledger = self.table.as_ref();
        let saved = all_saved_groups(ledger).await?.into_iter();
        let own = saved.filter(|own| self.pipeline.as_ref().is_none_or(|id| *id == own.pipeline));
        let rows = own.map(|own| rows(&own, &self.schema)).collect::<Result<Vec<_>>>()?;
        let schema = Arc::clone(&self.schema);
        Ok(MemorySourceConfig::try_new_exec(&[rows], schema, projection.cloned())?)
    }
}

fn schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    Arc::new(Schema::new(vec![
        Field::new("pipeline", DataType::Utf8, false),
        Field::new("operator", DataType::Utf8, false),
        Field::new("group", DataType::Utf8, false),
        Field::new("window_end", time, true),
        Field::new("state", DataType::Utf8, false),
    ]))
}

fn rows(saved: &SavedGroups, schema: &SchemaRef) -> Result<RecordBatch> {
    let SavedGroups { pipeline, operator, groups } = saved;
    let count = groups.num_rows();
    let columns = groups.schema().metadata().get(GROUP_COLUMNS).cloned().unwrap_or_default();
    let states = FIXED_COLUMNS + columns.parse::<usize>().unwrap_or_default();
    let ends = groups.column(1).as_primitive::<Int64Type>();
    let ends = ends.iter().map(|end| end.filter(|end| *end != OPEN_END));
    let same = |text: &str| -> ArrayRef { Arc::new(StringArray::from(vec![text; count])) };
    let columns = vec![
        same(&pipeline.to_string()),
        same(operator),
        texts(groups, FIXED_COLUMNS..states)?,
        Arc::new(ends.collect::<TimestampMicrosecondArray>()),
        texts(groups, states..groups.num_columns() - 1)?,
    ];
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}

/// Some columns of each row as `name=value, ...`.
fn texts(rows: &RecordBatch, columns: Range<usize>) -> Result<ArrayRef> {
    let options = FormatOptions::default().with_null("NULL");
    let schema = rows.schema();
    let mut cells = Vec::with_capacity(columns.len());
    for column in columns {
        let formatter = ArrayFormatter::try_new(rows.column(column).as_ref(), &options)?;
        cells.push((with_intervals(schema.field(column).name()), formatter));
    }
    let text = |row: usize| {
        let cells = cells.iter().map(|(name, cell)| format!("{name}={}", cell.value(row)));
        cells.collect::<Vec<_>>().join(", ")
    };
    Ok(Arc::new(StringArray::from_iter_values((0..rows.num_rows()).map(text))))
}
