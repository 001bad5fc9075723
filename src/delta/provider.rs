//! The table as DataFusion sees it.

use super::DeltaError;
use super::files::LiveFile;
use super::lookup::Rows;
use super::partition::value_of;
use super::prune::prune;
use super::sink::UpsertSink;
use super::table::{DeltaTable, TableView};
use super::travel::TableTime;
use crate::store::Location;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use chrono::DateTime;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::config::TableParquetOptions;
use datafusion::common::stats::Precision;
use datafusion::common::{DFSchema, Result, Statistics};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::{
    CachedParquetFileReaderFactory, ParquetRowSelection,
};
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::provider_as_source;
use datafusion::datasource::sink::DataSinkExec;
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::DataFusionError;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{
    Expr, LogicalPlan, LogicalPlanBuilder, TableProviderFilterPushDown, TableType,
};
use datafusion::parquet::arrow::arrow_reader::RowSelection;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use object_store::ObjectMeta;
use std::borrow::Cow;
use std::fmt;
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
        let kept = StoredColumns { table: self.shared()?, time: None };
        let scan = LogicalPlanBuilder::scan(self.name(), provider_as_source(Arc::new(kept)), None);
        Some(Cow::Owned(scan.ok()?.build().ok()?))
    }

    fn table_type(&self) -> TableType {
        if self.view.is_some() { TableType::View } else { TableType::Base }
    }

    fn get_table_definition(&self) -> Option<&str> {
        self.view.as_ref().map(|own| own.statement.as_str())
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
        let scan = ViewScan::try_new(self, &self.shape.schema, state, projection, filters)?;
        let view = self.view();
        let rows = self.rows_of_keys(&view, filters)?;
        ViewScan { limit, rows, ..scan }.plan(&view, state.runtime_env())
    }

    async fn insert_into(
        &self,
        _: &dyn Session,
        input: Arc<dyn ExecutionPlan>,
        operation: InsertOp,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if operation != InsertOp::Append {
            return Err(outside(&operation.to_string()));
        }
        self.refuse_view("INSERT")?;
        let sink = UpsertSink::new(self);
        Ok(Arc::new(DataSinkExec::new(input, Arc::new(sink), None)))
    }

    async fn delete_from(&self, _: &dyn Session, _: Vec<Expr>) -> Result<Arc<dyn ExecutionPlan>> {
        Err(outside("DELETE"))
    }

    async fn update(
        &self,
        _: &dyn Session,
        _: Vec<(String, Expr)>,
        _: Vec<Expr>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Err(outside("UPDATE"))
    }

    async fn truncate(&self, _: &dyn Session) -> Result<Arc<dyn ExecutionPlan>> {
        Err(outside("TRUNCATE"))
    }
}

/// In a session with our rules statements never come here: their WHERE could have been lost.
fn outside(what: &str) -> DataFusionError {
    let what = format!("{what} in a session made without `with_onefold`");
    DeltaError::Unsupported { what }.into()
}

/// What a table keeps, of the columns that INSERT takes: now, or as it was.
#[derive(Debug)]
pub struct StoredColumns {
    pub(super) table: Arc<DeltaTable>,
    /// `None` is now.
    pub(super) time: Option<TableTime>,
}

impl StoredColumns {
    /// The table.
    #[must_use]
    pub fn table(&self) -> &DeltaTable {
        &self.table
    }
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
        let Some(time) = self.time else {
            return self.table.scan(state, projection, filters, limit).await;
        };
        let version = self.table.version_at(time).await?;
        let view = self.table.view_at(version).await?;
        let scan = ViewScan::try_new(&self.table, &self.schema(), state, projection, filters)?;
        ViewScan { limit, ..scan }.plan(&view, state.runtime_env())
    }
}

impl DeltaTable {
    /// The table as it was at `time`; reading it finds the version.
    #[must_use]
    pub fn at(self: Arc<Self>, time: TableTime) -> Arc<dyn TableProvider> {
        Arc::new(StoredColumns { table: self, time: Some(time) })
    }

    /// The table as queries see it.
    #[must_use]
    pub fn now(self: Arc<Self>) -> Arc<dyn TableProvider> {
        Arc::new(StoredColumns { table: self, time: None })
    }
}

/// A scan of the table at a version that is not known yet.
#[derive(Debug)]
pub(super) struct ViewScan {
    location: Location,
    /// Those that files hold, and then those that partition them.
    columns: TableSchema,
    shown: SchemaRef,
    /// The columns shown, among `columns`.
    projection: Vec<usize>,
    predicate: Option<Arc<dyn PhysicalExpr>>,
    options: TableParquetOptions,
    partitions: usize,
    limit: Option<usize>,
    /// The only rows that can be asked for, where they are known.
    rows: Option<Rows>,
}

impl ViewScan {
    /// A scan of the columns of `schema` that the files of `table` hold.
    pub(super) fn try_new(
        table: &DeltaTable,
        schema: &SchemaRef,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
    ) -> Result<Self> {
        let partitioning = &table.shape.partitioning;
        let columns = TableSchema::builder(partitioning.held(schema))
            .with_table_partition_cols(partitioning.fields().clone())
            .build();
        let whole = columns.table_schema();
        let predicate = match conjunction(filters.iter().cloned()) {
            Some(filter) => {
                let named = DFSchema::try_from(Arc::clone(whole))?;
                Some(state.create_physical_expr(filter, &named)?)
            }
            None => None,
        };
        let shown = match projection {
            Some(projection) => Arc::new(schema.project(projection)?),
            None => Arc::clone(schema),
        };
        let mut projection = Vec::with_capacity(shown.fields().len());
        for field in shown.fields() {
            projection.push(whole.index_of(field.name())?);
        }
        let mut options = TableParquetOptions::default();
        options.global.clone_from(&state.config().options().execution.parquet);
        Ok(Self {
            location: table.location.clone(),
            columns,
            shown,
            projection,
            predicate,
            options,
            partitions: state.config().target_partitions(),
            limit: None,
            rows: None,
        })
    }

    /// The columns of its rows.
    pub(super) fn shown(&self) -> SchemaRef {
        Arc::clone(&self.shown)
    }

    /// Most partitions its plan has.
    pub(super) const fn partitions(&self) -> usize {
        self.partitions
    }

    /// The plan of the scan at the version of `view`.
    pub(super) fn plan(
        &self,
        view: &TableView,
        runtime: &RuntimeEnv,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let url = &self.location.object_store_url;
        if runtime.object_store(url).is_err() {
            runtime.register_object_store(url.as_ref(), Arc::clone(&self.location.store));
        }
        let files: Vec<Arc<LiveFile>> = view.files.iter().cloned().collect();
        let files = match &self.rows {
            Some(rows) => files.into_iter().filter(|own| rows.contains_key(&own.ordinal)).collect(),
            None => prune(files, self.predicate.as_ref(), &self.columns),
        };
        let rows: u64 = match &self.rows {
            Some(rows) => rows.values().map(|rows| rows.len() as u64).sum(),
            None => files.iter().map(|file| file.live_rows()).sum(),
        };
        if files.is_empty() {
            return Ok(Arc::new(EmptyExec::new(self.shown())));
        }
        let mut source = ParquetSource::new(self.columns.clone())
            .with_table_parquet_options(self.options.clone())
            .with_parquet_file_reader_factory(readers(runtime, url)?);
        if let Some(predicate) = &self.predicate {
            source = source.with_predicate(Arc::clone(predicate));
        }
        let mut statistics = Statistics::new_unknown(self.columns.table_schema());
        statistics.num_rows = Precision::Exact(rows as usize);
        let config = FileScanConfigBuilder::new(url.clone(), Arc::new(source))
            .with_file_groups(self.groups(files)?)
            .with_statistics(statistics)
            .with_projection_indices(Some(self.projection.clone()))?
            .with_limit(self.limit)
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }

    /// Files in at most as many groups as the plan has partitions, of about the same number of rows.
    fn groups(&self, mut files: Vec<Arc<LiveFile>>) -> Result<Vec<FileGroup>> {
        files.sort_by_key(|file| std::cmp::Reverse(file.live_rows()));
        let mut groups: Vec<(u64, Vec<PartitionedFile>)> =
            vec![(0, Vec::new()); self.partitions.clamp(1, files.len().max(1))];
        for file in files {
            let mut part = self.part(&file)?;
            let selection = match self.rows.as_ref().and_then(|rows| rows.get(&file.ordinal)) {
                Some(rows) => {
                    let ranges = rows.iter().map(|row| *row as usize..*row as usize + 1);
                    Some(RowSelection::from_consecutive_ranges(ranges, file.rows as usize))
                }
                None => file.selection(),
            };
            if let Some(selection) = selection {
                part = part.with_extension(ParquetRowSelection::new(selection));
            }
            if let Some(group) = groups.iter_mut().min_by_key(|(rows, _)| *rows) {
                group.0 += file.live_rows().max(1);
                group.1.push(part);
            }
        }
        Ok(groups.into_iter().map(|(_, files)| FileGroup::new(files)).collect())
    }

    /// A file with the values that its partition has.
    fn part(&self, file: &LiveFile) -> Result<PartitionedFile> {
        let object = ObjectMeta {
            location: LiveFile::object(&self.location, &file.path),
            last_modified: DateTime::UNIX_EPOCH,
            size: file.size_bytes.unsigned_abs(),
            e_tag: None,
            version: None,
        };
        let fields = self.columns.table_partition_cols().iter();
        let values = fields.map(|field| value_of(&file.partition, field));
        let values = values.collect::<Result<Vec<_>, DeltaError>>()?;
        Ok(PartitionedFile::new_from_meta(object).with_partition_values(values))
    }
}

impl fmt::Display for ViewScan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.shown.fields().iter().map(|own| own.name().as_str()).collect();
        write!(f, "{}, columns=[{}]", self.location.url, names.join(", "))?;
        match &self.predicate {
            Some(predicate) => write!(f, ", predicate={predicate}"),
            None => Ok(()),
        }
    }
}

/// Readers that keep the footers of files, which never change, in the cache of the session.
fn readers(
    runtime: &RuntimeEnv,
    url: &ObjectStoreUrl,
) -> Result<Arc<CachedParquetFileReaderFactory>> {
    let store = runtime.object_store(url)?;
    let cache = runtime.cache_manager.get_file_metadata_cache();
    Ok(Arc::new(CachedParquetFileReaderFactory::new(store, cache)))
}
