//! Skeleton of the tables over a source.
use super::Source;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use std::sync::Arc;

/// Joins entries.
pub fn merge_entries(_entries: &[Bytes]) -> Bytes {
    unimplemented!()
}

/// `WATERMARK FOR column AS column - delay`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatermarkSpec {
    /// The event-time column.
    pub column: String,
    /// The delay d in microseconds; at least 0.
    pub delay_us: i64,
}

/// What a table adds to its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceTableOptions {
    /// The watermark, if the table has one.
    pub watermark: Option<WatermarkSpec>,
    /// Whether it was declared UNBOUNDED.
    pub is_unbounded: bool,
    /// How far in microseconds a row's event time may lie after its arrival and still push the watermark.
    pub max_future_us: i64,
}

/// A source as a table.
#[derive(Debug)]
pub struct SourceTable {}

impl SourceTable {
    /// New; `name` is used in messages.
    pub fn new(_name: &str, _source: Arc<dyn Source>, _options: SourceTableOptions) -> Self {
        unimplemented!()
    }
    /// The source.
    pub fn source(&self) -> &Arc<dyn Source> {
        unimplemented!()
    }
    /// The options.
    pub fn options(&self) -> &SourceTableOptions {
        unimplemented!()
    }
    /// The same table with the two hidden columns last.
    pub fn positioned(&self) -> Arc<SourceTable> {
        unimplemented!()
    }
    /// Whether the hidden columns are in its schema.
    pub fn is_positioned(&self) -> bool {
        unimplemented!()
    }
}

#[async_trait]
impl TableProvider for SourceTable {
    fn schema(&self) -> SchemaRef {
        unimplemented!()
    }
    fn table_type(&self) -> TableType {
        TableType::Base
    }
    async fn scan(
        &self,
        _: &dyn Session,
        _: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        unimplemented!()
    }
}

/// Stands for a source in a pipeline's plan and holds the rows of one epoch, hidden columns last.
#[derive(Debug)]
pub struct EpochSlot {}

impl EpochSlot {
    /// An empty slot for rows of `schema`, hidden columns included.
    pub fn new(_schema: SchemaRef) -> Self {
        unimplemented!()
    }
    /// Puts the rows of an epoch in, in position order, replacing what was there.
    pub fn fill(&self, _batches: Vec<RecordBatch>) {
        unimplemented!()
    }
}

#[async_trait]
impl TableProvider for EpochSlot {
    fn schema(&self) -> SchemaRef {
        unimplemented!()
    }
    fn table_type(&self) -> TableType {
        TableType::Base
    }
    async fn scan(
        &self,
        _: &dyn Session,
        _: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        unimplemented!()
    }
}
