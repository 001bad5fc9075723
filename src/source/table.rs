//! Stub.
use super::*;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use std::sync::Arc;
#[derive(Clone, Debug)]
pub struct SourceTableOptions {
    pub watermark: Option<WatermarkSpec>,
    pub is_unbounded: bool,
}
#[derive(Clone, Debug)]
pub struct SourceTable {}
impl SourceTable {
    pub fn try_new(
        _: &str,
        _: Arc<dyn Source>,
        _: SourceTableOptions,
    ) -> Result<Self, SourceError> {
        unimplemented!()
    }
    pub fn name(&self) -> &str {
        unimplemented!()
    }
    pub fn source(&self) -> &Arc<dyn Source> {
        unimplemented!()
    }
    pub fn options(&self) -> &SourceTableOptions {
        unimplemented!()
    }
    pub fn positioned(&self) -> Arc<SourceTable> {
        unimplemented!()
    }
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
#[derive(Debug)]
pub struct EpochSlot {}
impl EpochSlot {
    pub fn new(_: SchemaRef) -> Self {
        unimplemented!()
    }
    pub fn fill(&self, _: Vec<RecordBatch>) {
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
