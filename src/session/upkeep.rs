//! Upkeep of upsert tables: what each command does, and the one row it answers with.

use super::functions::{Computed, computed};
use crate::commit::Ledger;
use crate::delta::DeltaTable;
use crate::pipeline::restore;
use crate::types::Clock;
use arrow::array::{ArrayRef, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use datafusion::common::Result;
use std::sync::Arc;
use std::time::Duration;

/// What is done to a table.
#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    Optimize,
    /// With the retention.
    Vacuum(Option<Duration>),
    Checkpoint,
    /// To the version.
    Restore(u64),
}

/// Work on a table, done when its row is read.
#[derive(Debug)]
pub(super) struct Upkeep {
    pub(super) table: Arc<DeltaTable>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) work: Work,
}

impl Upkeep {
    pub(super) fn provider(self) -> Result<Arc<dyn TableProvider>> {
        computed(self)
    }

    const fn columns(&self) -> &'static [&'static str] {
        match self.work {
            Work::Optimize => &["version", "files_removed", "files_added"],
            Work::Vacuum(_) => &["oldest_version", "log_files", "objects", "bytes"],
            Work::Checkpoint | Work::Restore(_) => &["version"],
        }
    }
}

#[async_trait]
impl Computed for Upkeep {
    fn schema(&self) -> SchemaRef {
        let fields = self.columns().iter().map(|name| Field::new(*name, DataType::UInt64, false));
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    async fn compute(&self) -> Result<RecordBatch> {
        let numbers = match self.work {
            Work::Optimize => {
                let (removed, added) = self.table.optimize().await?;
                vec![self.table.version(), removed, added]
            }
            Work::Vacuum(retention) => {
                let retention = retention.unwrap_or_else(|| self.table.retention());
                let done = self.table.vacuum(retention).await?;
                vec![done.oldest_version, done.log_files, done.objects, done.bytes]
            }
            Work::Checkpoint => vec![self.table.checkpoint().await?],
            Work::Restore(version) => {
                let ledger: &dyn Ledger = self.table.as_ref();
                vec![restore(ledger, version, self.clock.as_ref()).await?]
            }
        };
        let columns = numbers.into_iter().map(|number| {
            let column: ArrayRef = Arc::new(UInt64Array::from(vec![number]));
            column
        });
        Ok(RecordBatch::try_new(self.schema(), columns.collect())?)
    }
}
