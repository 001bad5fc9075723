//! `onefold_history('table')`: the conservation ledger as a table.

use super::registry::Registry;
use crate::commit::Ledger;
use crate::delta::DeltaTable;
use crate::pipeline::{HistoryEntry, history};
use arrow::array::{ArrayRef, Int64Array, StringArray, TimestampMicrosecondArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use std::sync::Arc;

/// Epochs shown of each pipeline at most, newest first.
const EPOCHS_MAX: usize = 10_000;

/// The table function.
#[derive(Debug)]
pub(super) struct History {
    pub(super) registry: Arc<Registry>,
}

#[derive(Debug)]
struct HistoryTable {
    table: Arc<DeltaTable>,
    schema: SchemaRef,
}

impl TableFunctionImpl for History {
    fn call_with_args(&self, arguments: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let [Expr::Literal(ScalarValue::Utf8(Some(name)) | ScalarValue::Utf8View(Some(name)), _)] =
            arguments.exprs()
        else {
            return plan_err!("onefold_history takes the name of one table, as text");
        };
        match self.registry.table_named(name) {
            Some(table) => Ok(Arc::new(HistoryTable { table, schema: schema() })),
            None => plan_err!("onefold_history: there is no upsert table '{name}' in this session"),
        }
    }
}

#[async_trait]
impl TableProvider for HistoryTable {
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
        let rows = rows(&history(ledger, EPOCHS_MAX).await?, &self.schema)?;
        let schema = Arc::clone(&self.schema);
        Ok(MemorySourceConfig::try_new_exec(&[vec![rows]], schema, projection.cloned())?)
    }
}

fn schema() -> SchemaRef {
    let field = |name, data_type| Field::new(name, data_type, false);
    let number = |name| field(name, DataType::UInt64);
    Arc::new(Schema::new(vec![
        field("pipeline", DataType::Utf8),
        number("epoch"),
        number("incarnation"),
        field("written_at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))),
        field("source", DataType::Utf8),
        field("partition", DataType::Utf8),
        number("offset_from"),
        number("offset_to"),
        number("rows_read"),
        number("rows_emitted"),
        number("rows_duplicate"),
        number("rows_late"),
        field("rows_filtered", DataType::Int64),
        number("rows_malformed"),
        field("digest", DataType::Utf8),
    ]))
}

fn rows(entries: &[HistoryEntry], schema: &SchemaRef) -> Result<RecordBatch> {
    let all: Vec<_> = entries
        .iter()
        .flat_map(|entry| entry.manifest.ledger.iter().map(move |row| (&entry.manifest, row)))
        .collect();
    let text = |get: &dyn Fn(usize) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values((0..all.len()).map(get)))
    };
    let number = |get: &dyn Fn(usize) -> u64| -> ArrayRef {
        Arc::new(UInt64Array::from_iter_values((0..all.len()).map(get)))
    };
    let written = all.iter().map(|(manifest, _)| manifest.written_at_us);
    let filtered = all.iter().map(|(_, row)| row.rows_filtered);
    let columns = vec![
        text(&|at| all[at].0.pipeline.to_string()),
        number(&|at| all[at].0.epoch.0),
        number(&|at| all[at].0.incarnation.0),
        Arc::new(TimestampMicrosecondArray::from_iter_values(written).with_timezone("UTC")),
        text(&|at| all[at].1.source.clone()),
        text(&|at| all[at].1.partition.to_string()),
        number(&|at| all[at].1.offsets.start.0),
        number(&|at| all[at].1.offsets.end.0),
        number(&|at| all[at].1.rows_read),
        number(&|at| all[at].1.rows_emitted),
        number(&|at| all[at].1.rows_duplicate),
        number(&|at| all[at].1.rows_late),
        Arc::new(Int64Array::from_iter_values(filtered)),
        number(&|at| all[at].1.rows_malformed),
        text(&|at| all[at].1.digest.clone()),
    ];
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}
