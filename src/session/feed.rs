//! An upsert table as a source: its changes, from version to version.
//!
//! ```text
//!   CREATE UNBOUNDED EXTERNAL TABLE t_changes STORED AS DELTA LOCATION 'where t is'
//!
//!   partition `version 4`            the rows of version 4: where a pipeline begins
//!   partition `versions 4 to 9`      what version 9 has and 4 has not, and the other way round
//! ```
//!
//! A partition is read once, rows that went before rows that came; an epoch ends within one only if
//! it is larger than an epoch may be. The position is the last version that was read to its end,
//! and the one being read. Commits that leave the files as they are do not move it at once, lest
//! two tables that follow each other never rest; but it moves before its version is forgotten.

use crate::delta::{DeltaError, DeltaTable, Difference, TableVersion};
use crate::source::{
    ChangeFeed, Chunk, Poll, PollLimits, Source, SourceError, SourcePosition, SourceReader,
    SourceStart, SourceTable,
};
use crate::types::{Offset, PartitionId};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::error::Error as StdError;
use std::sync::Arc;

/// How much younger in milliseconds a version with the same files is to which the position moves.
const QUIET_MS: i64 = 3_600_000;

/// The table `name` of the changes of `table`.
pub(super) async fn feed_table(name: &str, table: &Arc<DeltaTable>) -> SourceTable {
    let id = table.id().await;
    let source = FeedSource { name: name.to_owned(), id, table: Arc::clone(table) };
    let primary_key = table.primary_key().to_vec();
    let feed = ChangeFeed { rows: Arc::clone(table).now(), primary_key };
    SourceTable::of_changes(name, Arc::new(source), feed)
}

/// The changes of a table.
#[derive(Clone, Debug)]
struct FeedSource {
    name: String,
    id: String,
    table: Arc<DeltaTable>,
}

#[async_trait]
impl Source for FeedSource {
    fn schema(&self) -> SchemaRef {
        self.table.feed_schema()
    }

    fn fingerprint(&self) -> String {
        format!("changes of the Delta table with the id {}", self.id)
    }

    async fn open(&self, start: SourceStart) -> Result<Box<dyn SourceReader>, SourceError> {
        let position = start.position.unwrap_or_default();
        let wrong =
            |reason: String| SourceError::Position { source_name: self.name.clone(), reason };
        let cursor: Cursor = match &position.cursor {
            serde_json::Value::Null => Cursor::default(),
            value => serde_json::from_value(value.clone()).map_err(|e| wrong(e.to_string()))?,
        };
        let mut reader = FeedReader { source: self.clone(), at: None, open: None, quiet: None };
        if let Some(version) = cursor.version {
            reader.at = Some(self.version(version).await?);
        }
        if let Some(version) = cursor.reading {
            let to = self.version(version).await?;
            let difference = self.difference(reader.at.as_ref(), &to).await?;
            let row = position.partitions.values().next().map_or(0, |offset| offset.0);
            if row > difference.rows() {
                return Err(wrong(format!("{row} of {} rows were read", difference.rows())));
            }
            reader.open = Some(Open { difference, row });
        }
        Ok(Box::new(reader))
    }

    async fn position_at(&self, _: i64) -> Result<SourceStart, SourceError> {
        Ok(SourceStart::default()) // of older rows it is not known when they came
    }
}

impl FeedSource {
    async fn version(&self, version: u64) -> Result<TableVersion, SourceError> {
        self.table.version_of(version).await.map_err(|error| self.failed(version, error))
    }

    async fn difference(
        &self,
        from: Option<&TableVersion>,
        to: &TableVersion,
    ) -> Result<Difference, SourceError> {
        let version = from.unwrap_or(to).number();
        self.table.changed_between(from, to).await.map_err(|error| self.failed(version, error))
    }

    /// Why the table cannot be read from `version` on.
    fn failed(&self, version: u64, error: DeltaError) -> SourceError {
        match gone(&error) {
            Some(reason) => {
                SourceError::VersionGone { source_name: self.name.clone(), version, reason }
            }
            None => self.unread(error),
        }
    }

    fn unread(&self, error: DeltaError) -> SourceError {
        let (source_name, kind) = (self.name.clone(), error.kind());
        SourceError::Table { source_name, kind, cause: Box::new(error) }
    }
}

/// What says that a version, or a file of it, is no longer there.
fn gone(error: &DeltaError) -> Option<String> {
    if matches!(error, DeltaError::NotRetained { .. }) {
        return Some(error.to_string());
    }
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(object_store::Error::NotFound { path, .. }) = error.downcast_ref() {
            return Some(format!("there is no {path}"));
        }
        next = error.source();
    }
    None
}

/// Where a reader stands.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Cursor {
    /// The last version that was read to its end.
    version: Option<u64>,
    /// The version being read, of which some rows were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reading: Option<u64>,
}

/// A difference being read.
#[derive(Debug)]
struct Open {
    difference: Difference,
    /// The next row.
    row: u64,
}

#[derive(Debug)]
struct FeedReader {
    source: FeedSource,
    at: Option<TableVersion>,
    open: Option<Open>,
    /// A newer version with the same files.
    quiet: Option<u64>,
}

#[async_trait]
impl SourceReader for FeedReader {
    async fn poll(&mut self, limits: PollLimits) -> Result<Poll, SourceError> {
        let mut poll = Poll::default();
        if self.open.is_none() {
            self.open = self.next().await?;
        }
        let partition = self.partition();
        if self.open.as_ref().is_some_and(|open| open.row == 0) {
            poll.started.extend(partition.clone());
        }
        let (mut rows, mut bytes) = (0, 0);
        while let (Some(open), Some(partition)) = (&mut self.open, &partition)
            && rows < limits.rows_max
            && bytes < limits.bytes_max
        {
            let Open { difference, row: from } = open;
            let to = difference.rows().min(*from + (limits.rows_max - rows));
            if *from < to {
                let version = self.at.as_ref().unwrap_or(difference.to()).number();
                let read = difference.read(*from..to).await;
                let batch = read.map_err(|error| self.source.failed(version, error))?;
                let end = *from + batch.num_rows() as u64;
                rows += end - *from;
                bytes += batch.get_array_memory_size() as u64;
                let offsets = Offset(*from)..Offset(end);
                let (partition, malformed, arrived_us) = (partition.clone(), 0, None);
                poll.chunks.push(Chunk { partition, offsets, batch, malformed, arrived_us });
                *from = end;
            }
            if *from == difference.rows() {
                self.at = Some(difference.to().clone());
                self.open = None;
                poll.finished.push(partition.clone());
            }
        }
        // What was committed meanwhile is found by the next poll, and is of the next epoch.
        poll.is_at_end = self.open.is_none();
        poll.position = self.position();
        Ok(poll)
    }
}

impl FeedReader {
    /// What the newest version changed, if there is one that was not read.
    async fn next(&mut self) -> Result<Option<Open>, SourceError> {
        let source = &self.source;
        let newest = source.table.newest().await.map_err(|error| source.unread(error))?;
        if source.table.is_altered().await {
            return Err(SourceError::Invalid {
                source_name: source.name.clone(),
                reason: "its table was altered; in a new session, or after DROP TABLE, run its \
                         CREATE UNBOUNDED EXTERNAL TABLE and the INSERT of the pipeline again"
                    .to_owned(),
            });
        }
        if let Some(at) = &self.at {
            let (from, to) = (at.number(), newest.number());
            if from == to || self.quiet == Some(to) {
                return Ok(None);
            }
            if at.is_same(&newest) {
                let apart = source.table.time_between(from, to).await;
                let apart = apart.map_err(|error| source.unread(error))?;
                if apart.is_some_and(|apart| apart < QUIET_MS) {
                    self.quiet = Some(to);
                    return Ok(None);
                }
            }
        }
        let difference = source.difference(self.at.as_ref(), &newest).await?;
        Ok(Some(Open { difference, row: 0 }))
    }

    /// What the rows being read are of.
    fn partition(&self) -> Option<PartitionId> {
        let to = self.open.as_ref()?.difference.to().number();
        Some(PartitionId(match &self.at {
            Some(at) => format!("versions {} to {to}", at.number()),
            None => format!("version {to}"),
        }))
    }

    fn position(&self) -> SourcePosition {
        let open = self.open.as_ref().filter(|open| open.row > 0);
        let reading = open.map(|open| open.difference.to().number());
        let cursor = Cursor { version: self.at.as_ref().map(TableVersion::number), reading };
        let read = open.map(|open| Offset(open.row));
        SourcePosition {
            partitions: self.partition().zip(read).into_iter().collect(),
            cursor: serde_json::to_value(cursor).unwrap_or_default(),
        }
    }
}
