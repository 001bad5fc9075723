//! Files as tables by their path: `SELECT * FROM 'clicks/today.parquet'`.

use async_trait::async_trait;
use onefold::datafusion::catalog::{DynamicFileCatalog, TableProvider, UrlTableFactory};
use onefold::datafusion::datasource::dynamic_file::DynamicListTableFactory;
use onefold::datafusion::error::{DataFusionError, Result};
use onefold::datafusion::prelude::SessionContext;
use std::path::Path;
use std::sync::Arc;

/// A name without a slash or a dot is a table's, also where a folder is called so; and a Delta table
/// is never read as its files, some of whose rows are masked.
#[derive(Debug)]
struct PathsOnly(DynamicListTableFactory);

#[async_trait]
impl UrlTableFactory for PathsOnly {
    async fn try_new(&self, url: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        if !url.contains(['/', '.']) {
            return Ok(None);
        }
        if Path::new(url).join("_delta_log").is_dir() {
            let reason = format!(
                "{url} is a Delta table: CREATE EXTERNAL TABLE t STORED AS DELTA LOCATION '{url}'"
            );
            return Err(DataFusionError::Plan(reason));
        }
        self.0.try_new(url).await
    }
}

/// The same session, in which a path is a table.
pub(crate) fn with_paths(context: SessionContext) -> SessionContext {
    let list = Arc::clone(context.state().catalog_list());
    let factory = Arc::new(PathsOnly(DynamicListTableFactory::default()));
    let catalogs = DynamicFileCatalog::new(list, Arc::clone(&factory) as Arc<dyn UrlTableFactory>);
    let id = context.session_id();
    let builder = context.into_state_builder().with_session_id(id);
    let context: SessionContext = builder.with_catalog_list(Arc::new(catalogs)).build().into();
    factory.0.session_store().with_state(context.state_weak_ref());
    context
}
