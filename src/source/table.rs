//! `SourceTable`: a source as a table of a session.

use super::{Source, SourceError, SourceScanExec, WatermarkSpec, stamped_schema};
use arrow::datatypes::{DataType, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use std::sync::Arc;

/// What a table adds to its source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceTableOptions {
    /// The watermark, if the table has one.
    pub watermark: Option<WatermarkSpec>,
    /// Whether it was declared UNBOUNDED: an INSERT that reads it is a pipeline.
    pub is_unbounded: bool,
}

/// What a source of changes shows.
#[derive(Clone, Debug)]
pub struct ChangeFeed {
    /// The table that changes: what a plain query reads.
    pub rows: Arc<dyn TableProvider>,
    /// The columns of its primary key.
    pub primary_key: Vec<String>,
}

/// A source as a table. A plain query reads what the source holds now, from the beginning.
#[derive(Clone, Debug)]
pub struct SourceTable {
    name: String,
    source: Arc<dyn Source>,
    options: SourceTableOptions,
    /// With the hidden columns last, where the table is positioned.
    schema: SchemaRef,
    is_positioned: bool,
    feed: Option<ChangeFeed>,
}

impl SourceTable {
    /// A table over `source`; `name` is used in messages.
    ///
    /// # Errors
    ///
    /// The watermark column does not exist, or is neither timestamp nor date.
    pub fn try_new(
        name: &str,
        source: Arc<dyn Source>,
        options: SourceTableOptions,
    ) -> Result<Self, SourceError> {
        let schema = source.schema();
        if let Some(spec) = &options.watermark {
            let invalid =
                |reason: String| Err(SourceError::Invalid { source_name: name.to_owned(), reason });
            match schema.field_with_name(&spec.column).map(arrow::datatypes::Field::data_type) {
                Err(_) => {
                    return invalid(format!("WATERMARK FOR {}: no such column", spec.column));
                }
                Ok(DataType::Timestamp(..) | DataType::Date32 | DataType::Date64) => {}
                Ok(other) => {
                    let column = &spec.column;
                    return invalid(format!(
                        "WATERMARK FOR {column}: it is {other}, and not a TIMESTAMP or DATE"
                    ));
                }
            }
        }
        let name = name.to_owned();
        Ok(Self { name, source, options, schema, is_positioned: false, feed: None })
    }

    /// A table over `source`, which shows how the rows of another table change: as that table's
    /// own, and last [`CHANGE_COLUMN`](crate::types::CHANGE_COLUMN).
    #[must_use]
    pub fn of_changes(name: &str, source: Arc<dyn Source>, feed: ChangeFeed) -> Self {
        let options = SourceTableOptions { watermark: None, is_unbounded: true };
        let (name, schema) = (name.to_owned(), feed.rows.schema());
        Self { name, source, options, schema, is_positioned: false, feed: Some(feed) }
    }

    /// The name given.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The source.
    #[must_use]
    pub fn source(&self) -> &Arc<dyn Source> {
        &self.source
    }

    /// The table whose changes the source shows, if it is one of changes.
    #[must_use]
    pub fn feed(&self) -> Option<&ChangeFeed> {
        self.feed.as_ref()
    }

    /// The options given.
    #[must_use]
    pub fn options(&self) -> &SourceTableOptions {
        &self.options
    }

    /// The same table with the two hidden columns last.
    #[must_use]
    pub fn positioned(&self) -> Arc<Self> {
        let schema = stamped_schema(&self.source.schema());
        Arc::new(Self { schema, is_positioned: true, ..self.clone() })
    }

    /// Whether the hidden columns are in its schema.
    #[must_use]
    pub fn is_positioned(&self) -> bool {
        self.is_positioned
    }
}

#[async_trait]
impl TableProvider for SourceTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        match &self.feed {
            Some(feed) => feed.rows.supports_filters_pushdown(filters),
            None => Ok(vec![TableProviderFilterPushDown::Unsupported; filters.len()]),
        }
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if let Some(feed) = &self.feed {
            return feed.rows.scan(state, projection, filters, limit).await;
        }
        let projection: Vec<usize> = match projection {
            Some(projection) => projection.clone(),
            None => (0..self.schema.fields().len()).collect(),
        };
        let parts = if self.is_positioned || limit.is_some() {
            None // positions count the partitions of the whole source
        } else {
            self.source.split(state.config().target_partitions()).await?
        };
        let sources = parts.unwrap_or_else(|| vec![Arc::clone(&self.source)]);
        let scan = SourceScanExec::try_new(self.clone(), sources, projection, limit)?;
        Ok(Arc::new(scan))
    }
}
