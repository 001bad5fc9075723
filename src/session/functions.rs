//! Table functions over upsert tables: their past, their changes, and their upkeep.
//!
//! ```text
//!   onefold_at('t', 12)              onefold_at('t', '2026-03-01T12:00:00')
//!   onefold_changes('t', from, to)   what the commits after `from`, up to `to`, changed
//!   onefold_optimize('t')            onefold_vacuum('t' [, '7 days'])
//!   onefold_checkpoint('t')          onefold_restore('t', 12)
//! ```

use super::registry::Registry;
use super::upkeep::{Upkeep, Work};
use crate::delta::{DeltaTable, TableTime};
use crate::types::parse_duration_us;
use arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

/// A table function by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    At,
    Changes,
    Optimize,
    Vacuum,
    Checkpoint,
    Restore,
}

impl Function {
    pub(super) const ALL: [(&'static str, Self); 6] = [
        ("onefold_at", Self::At),
        ("onefold_changes", Self::Changes),
        ("onefold_optimize", Self::Optimize),
        ("onefold_vacuum", Self::Vacuum),
        ("onefold_checkpoint", Self::Checkpoint),
        ("onefold_restore", Self::Restore),
    ];

    const fn usage(self) -> &'static str {
        match self {
            Self::At => "onefold_at('table', version or timestamp)",
            Self::Changes => "onefold_changes('table', from_version, to_version)",
            Self::Optimize => "onefold_optimize('table')",
            Self::Vacuum => "onefold_vacuum('table' [, 'retention'])",
            Self::Checkpoint => "onefold_checkpoint('table')",
            Self::Restore => "onefold_restore('table', version)",
        }
    }
}

/// A table function of a session.
#[derive(Debug)]
pub(super) struct TableFunction {
    pub(super) function: Function,
    pub(super) registry: Arc<Registry>,
}

impl TableFunctionImpl for TableFunction {
    fn call_with_args(&self, arguments: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let usage = self.function.usage();
        let Some((name, rest)) = arguments.exprs().split_first() else {
            return plan_err!("write {usage}");
        };
        let Some(name) = text(name) else { return plan_err!("write {usage}") };
        let Some(table) = self.registry.table_named(&name) else {
            return plan_err!("{usage}: there is no upsert table '{name}' in this session");
        };
        let clock = Arc::clone(&self.registry.clock);
        let upkeep = |work| Upkeep { table: Arc::clone(&table), clock, work }.provider();
        match (self.function, rest) {
            (Function::At, [time]) => match (table_time(time), text(time)) {
                (Some(time), _) => Ok(table.at(time)),
                (None, Some(text)) => {
                    plan_err!("'{text}' is no time; write {usage}, such as '2026-03-01T12:00:00'")
                }
                (None, None) => plan_err!("write {usage}"),
            },
            (Function::Changes, [from, to]) => match (number(from), number(to)) {
                (Some(from), Some(to)) if from <= to => computed(Changes { table, from, to }),
                _ => plan_err!("write {usage}, the older version first"),
            },
            (Function::Optimize, []) => upkeep(Work::Optimize),
            (Function::Checkpoint, []) => upkeep(Work::Checkpoint),
            (Function::Restore, [version]) => match number(version) {
                Some(version) => upkeep(Work::Restore(version)),
                None => plan_err!("write {usage}"),
            },
            (Function::Vacuum, []) => upkeep(Work::Vacuum(None)),
            (Function::Vacuum, [retention]) => {
                let Some(retention) = text(retention) else { return plan_err!("write {usage}") };
                match parse_duration_us(&retention) {
                    Ok(us) => {
                        let retention = Duration::from_micros(us.unsigned_abs());
                        upkeep(Work::Vacuum(Some(retention)))
                    }
                    Err(reason) => plan_err!("{usage}: {reason}"),
                }
            }
            _ => plan_err!("write {usage}"),
        }
    }
}

/// One batch that is computed when it is asked for.
#[async_trait]
pub(super) trait Computed: Debug + Send + Sync + 'static {
    fn schema(&self) -> SchemaRef;
    async fn compute(&self) -> Result<RecordBatch>;
}

/// A table that `source` computes each time it is read.
pub(super) fn computed(source: impl Computed) -> Result<Arc<dyn TableProvider>> {
    let schema = source.schema();
    let stream = Lazy { source: Arc::new(source), schema: Arc::clone(&schema) };
    Ok(Arc::new(StreamingTable::try_new(schema, vec![Arc::new(stream)])?))
}

#[derive(Debug)]
struct Lazy {
    source: Arc<dyn Computed>,
    schema: SchemaRef,
}

impl PartitionStream for Lazy {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let source = Arc::clone(&self.source);
        let batch = futures::stream::once(async move { source.compute().await });
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), batch))
    }
}

#[derive(Debug)]
struct Changes {
    table: Arc<DeltaTable>,
    from: u64,
    to: u64,
}

#[async_trait]
impl Computed for Changes {
    fn schema(&self) -> SchemaRef {
        self.table.changes_schema()
    }

    async fn compute(&self) -> Result<RecordBatch> {
        Ok(self.table.changes(self.from, self.to).await?)
    }
}

fn literal(expr: &Expr) -> Option<&ScalarValue> {
    match expr {
        Expr::Literal(value, _) => Some(value),
        Expr::Cast(cast) => literal(&cast.expr),
        _ => None,
    }
}

fn text(expr: &Expr) -> Option<String> {
    literal(expr)?.try_as_str()?.map(str::to_owned)
}

fn number(expr: &Expr) -> Option<u64> {
    match literal(expr)? {
        ScalarValue::Int64(Some(number)) => u64::try_from(*number).ok(),
        ScalarValue::UInt64(Some(number)) => Some(*number),
        _ => None,
    }
}

fn table_time(expr: &Expr) -> Option<TableTime> {
    if let Some(version) = number(expr) {
        return Some(TableTime::Version(version));
    }
    if let Some(value) = literal(expr).filter(|value| value.data_type().is_temporal()) {
        let us = value.cast_to(&DataType::Timestamp(TimeUnit::Microsecond, None)).ok()?;
        let ScalarValue::TimestampMicrosecond(at_us, _) = us else { return None };
        return at_us.map(TableTime::AtUs);
    }
    let time = arrow::compute::kernels::cast_utils::string_to_datetime(&chrono::Utc, &text(expr)?);
    time.ok().map(|at| TableTime::AtUs(at.timestamp_micros()))
}
