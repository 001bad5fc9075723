//! The table as DataFusion sees it.

use super::DeltaError;
use super::files::LiveFile;
use super::prune::prune;
use super::sink::UpsertSink;
use super::table::{DeltaTable, TableView};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::config::TableParquetOptions;
use datafusion::common::stats::Precision;
use datafusion::common::{DFSchema, Result, Statistics};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::ParquetRowSelection;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::provider_as_source;
use datafusion::datasource::sink::DataSinkExec;
use datafusion::datasource::source::DataSourceExec;
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{
    Expr, LogicalPlan, LogicalPlanBuilder, TableProviderFilterPushDown, TableType,
};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use std::borrow::Cow;
use std::sync::Arc;

#[async_trait]
impl TableProvider for DeltaTable {
    /// What INSERT takes. Where that is more than the table keeps, [`Self::get_logical_plan`] shows
    /// queries what it keeps.
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.shape.input)
    }

    fn get_logical_plan(&self) -> Option<Cow<'_, LogicalPlan>> {
        if self.shape.rules.unstored.is_empty() {
            return None;
        }
        let kept = StoredColumns { table: self.this.upgrade()? };
        let scan = LogicalPlanBuilder::scan(self.name(), provider_as_source(Arc::new(kept)), None);
        Some(Cow::Owned(scan.ok()?.build().ok()?))
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.scan_view(&self.view(), state, projection, filters, limit)
    }

    async fn insert_into(
        &self,
        _: &dyn Session,
        input: Arc<dyn ExecutionPlan>,
        operation: InsertOp,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if operation != InsertOp::Append {
            let what = format!("INSERT {operation}");
            return Err(DeltaError::Unsupported { what }.into());
        }
        let sink = UpsertSink::new(self);
        Ok(Arc::new(DataSinkExec::new(input, Arc::new(sink), None)))
    }
}

/// A table as queries see it whose INSERT takes more columns.
#[derive(Debug)]
struct StoredColumns {
    table: Arc<DeltaTable>,
}

#[async_trait]
impl TableProvider for StoredColumns {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.table.shape.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        self.table.supports_filters_pushdown(filters)
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.table.scan_view(&self.table.view(), state, projection, filters, limit)
    }
}

impl DeltaTable {
    /// Scans the files of `view`, in the columns that the table keeps.
    fn scan_view(
        &self,
        view: &TableView,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = Arc::clone(&self.shape.schema);
        let runtime = state.runtime_env();
        if runtime.object_store(&self.location.object_store_url).is_err() {
            let store = Arc::clone(&self.location.store);
            runtime.register_object_store(self.location.object_store_url.as_ref(), store);
        }
        let predicate = match conjunction(filters.iter().cloned()) {
            Some(filter) => {
                let columns = DFSchema::try_from(Arc::clone(&schema))?;
                Some(state.create_physical_expr(filter, &columns)?)
            }
            None => None,
        };
        let files: Vec<Arc<LiveFile>> = view.files.iter().cloned().collect();
        let files = prune(files, predicate.as_ref(), &schema);
        let rows: u64 = files.iter().map(|file| file.live_rows()).sum();
        if files.is_empty() {
            let shown = match projection {
                Some(projection) => Arc::new(schema.project(projection)?),
                None => schema,
            };
            return Ok(Arc::new(EmptyExec::new(shown)));
        }
        let mut options = TableParquetOptions::default();
        options.global.clone_from(&state.config().options().execution.parquet);
        let mut source =
            ParquetSource::new(Arc::clone(&schema)).with_table_parquet_options(options);
        if let Some(predicate) = predicate {
            source = source.with_predicate(predicate);
        }
        let groups = groups(self, files, state.config().target_partitions());
        let mut statistics = Statistics::new_unknown(&schema);
        statistics.num_rows = Precision::Exact(rows as usize);
        let url = self.location.object_store_url.clone();
        let config = FileScanConfigBuilder::new(url, Arc::new(source))
            .with_file_groups(groups)
            .with_statistics(statistics)
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}

/// Files in at most `count` groups of about the same number of rows.
fn groups(table: &DeltaTable, mut files: Vec<Arc<LiveFile>>, count: usize) -> Vec<FileGroup> {
    files.sort_by_key(|file| std::cmp::Reverse(file.live_rows()));
    let mut groups: Vec<(u64, Vec<PartitionedFile>)> =
        vec![(0, Vec::new()); count.clamp(1, files.len().max(1))];
    for file in files {
        let path = table.location.path(&file.path).to_string();
        let mut part = PartitionedFile::new(path, file.size_bytes.unsigned_abs());
        if let Some(selection) = file.selection() {
            part = part.with_extension(ParquetRowSelection::new(selection));
        }
        if let Some(group) = groups.iter_mut().min_by_key(|(rows, _)| *rows) {
            group.0 += file.live_rows().max(1);
            group.1.push(part);
        }
    }
    groups.into_iter().map(|(_, files)| FileGroup::new(files)).collect()
}
