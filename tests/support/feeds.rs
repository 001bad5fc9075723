//! Pipelines over the changes of a small table.

use super::tables::{World, rows, run};
use onefold::datafusion::prelude::SessionContext;
use onefold::prelude::*;

pub(crate) const COPY: &str =
    "CREATE EXTERNAL TABLE c (k BIGINT NOT NULL, n BIGINT, PRIMARY KEY (k))
    STORED AS DELTA LOCATION 'memory:///c'; INSERT INTO c SELECT k, n FROM t_changes";

/// A table with two rows, its changes, and what `script` makes of them.
pub(crate) async fn small(world: &World, script: &str) -> SessionContext {
    let context = world.session();
    let table = "CREATE EXTERNAL TABLE t (k BIGINT NOT NULL, g VARCHAR, n BIGINT, f DOUBLE,
           PRIMARY KEY (k)) STORED AS DELTA LOCATION 'memory:///t';
         CREATE UNBOUNDED EXTERNAL TABLE t_changes STORED AS DELTA LOCATION 'memory:///t'";
    run(&context, table).await.unwrap();
    if context.table_version("t") == Some(0) {
        run(&context, "INSERT INTO t VALUES (1, 'a', 10, 1), (2, 'b', 20, 2)").await.unwrap();
    }
    run(&context, script).await.unwrap();
    context
}

pub(crate) async fn drain(context: &SessionContext, name: &str) {
    let done = context.pipeline(name).unwrap().run_until_idle().await;
    assert!(done.is_ok(), "{name}: {done:?}");
}

pub(crate) async fn sorted(context: &SessionContext, sql: &str) -> Vec<String> {
    let mut found = rows(context, sql).await;
    found.sort();
    found
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}
