//! `FilesReader`: reads one file after the other, and lists again when all are read.

use super::entries::{Entry, encode};
use super::parquet::ParquetFile;
use super::source::FilesSource;
use super::text::{Decoded, TextFile};
use super::{FileFormat, FileOrder};
use crate::source::{
    Chunk, Poll, PollLimits, SourceError, SourcePosition, SourceReader, SourceStart,
};
use crate::types::{Offset, PartitionId};
use async_trait::async_trait;
use object_store::ObjectStoreExt;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};

/// Where a reader stands among the files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cursor {
    /// Listings so far that found something.
    pub(super) generation: u32,
    /// Files of the last one that were read to their end.
    pub(super) next: u64,
}

#[derive(Debug)]
pub(super) struct FilesReader {
    source: FilesSource,
    /// Every file ever listed, by path.
    known: HashMap<String, Entry>,
    cursor: Cursor,
    /// Files of the last listing from the cursor on.
    pending: VecDeque<Entry>,
    /// Rows read of the first of them.
    offset: u64,
    open: Option<OpenFile>,
}

#[derive(Debug)]
enum OpenFile {
    Text(Box<TextFile>),
    Parquet(Box<ParquetFile>),
}

impl FilesReader {
    pub(super) fn open(source: FilesSource, start: SourceStart) -> Result<Self, SourceError> {
        let mut known = HashMap::new();
        let mut last = Vec::new();
        let wrong = |reason: String| SourceError::Position {
            source_name: source.listing.folder.url.to_string(),
            reason,
        };
        let position = start.position.unwrap_or_default();
        let cursor: Cursor = match &position.cursor {
            serde_json::Value::Null => Cursor::default(),
            value => serde_json::from_value(value.clone()).map_err(|e| wrong(e.to_string()))?,
        };
        for bytes in &start.entries {
            for entry in source.decode(bytes)? {
                if entry.generation == cursor.generation {
                    last.push(entry.clone());
                }
                known.insert(entry.path.clone(), entry);
            }
        }
        last.sort_by(|one, two| one.path.cmp(&two.path));
        if cursor.next > last.len() as u64 {
            return Err(wrong(format!("{} of {} files were read", cursor.next, last.len())));
        }
        let pending: VecDeque<Entry> = last.into_iter().skip(cursor.next as usize).collect();
        let offset = match (position.partitions.iter().next(), pending.front()) {
            (None, _) => 0,
            (Some((id, offset)), Some(first)) if id.0 == first.path => offset.0,
            (Some((id, _)), _) => return Err(wrong(format!("{id} is not the next file"))),
        };
        Ok(Self { source, known, cursor, pending, offset, open: None })
    }

    /// Looks for files that are new; false if there are none.
    async fn list(&mut self, poll: &mut Poll) -> Result<bool, SourceError> {
        let listed = match &self.source.part {
            Some(part) => part.to_vec(),
            None => self.source.listing.list().await?,
        };
        let mut new = Vec::new();
        for mut entry in listed {
            match self.known.get(&entry.path) {
                Some(known) if known.is_same(&entry) => {}
                Some(_) => {
                    return Err(SourceError::Changed { path: entry.path, what: "was changed" });
                }
                None => {
                    entry.generation = self.cursor.generation + 1;
                    new.push(entry);
                }
            }
        }
        if new.is_empty() {
            return Ok(false);
        }
        self.cursor = Cursor { generation: self.cursor.generation + 1, next: 0 };
        poll.entries = Some(encode(&new));
        self.known.extend(new.iter().map(|entry| (entry.path.clone(), entry.clone())));
        self.pending = new.into();
        Ok(true)
    }

    /// Opens the first pending file where it was left.
    async fn open_next(&mut self, entry: &Entry) -> Result<OpenFile, SourceError> {
        let FilesSource { listing, schema, options, .. } = &self.source;
        let path = listing.path(entry);
        let store = &listing.folder.store;
        let changed = |what| SourceError::Changed { path: entry.path.clone(), what };
        match store.head(&path).await {
            Ok(found) => {
                let is_same = listing.entry(&found).is_some_and(|found| found.is_same(entry));
                if !is_same {
                    return Err(changed("was changed"));
                }
            }
            Err(object_store::Error::NotFound { .. }) => return Err(changed("was removed")),
            Err(error) => {
                return Err(SourceError::Unavailable {
                    source_name: entry.path.clone(),
                    cause: Box::new(error),
                });
            }
        }
        let (place, how) = ((store, &path), (schema, options));
        Ok(match options.format {
            FileFormat::Parquet => OpenFile::Parquet(Box::new(
                ParquetFile::open(place, entry, how, self.offset).await?,
            )),
            FileFormat::Json | FileFormat::Csv(_) => {
                OpenFile::Text(Box::new(TextFile::open(place, entry, how, self.offset).await?))
            }
        })
    }

    fn position(&self) -> SourcePosition {
        let mut position = SourcePosition {
            cursor: serde_json::to_value(self.cursor).unwrap_or_default(),
            ..SourcePosition::default()
        };
        if let Some(first) = self.pending.front().filter(|_| self.offset > 0) {
            position.partitions.insert(PartitionId(first.path.clone()), Offset(self.offset));
        }
        position
    }
}

#[async_trait]
impl SourceReader for FilesReader {
    async fn poll(&mut self, limits: PollLimits) -> Result<Poll, SourceError> {
        let mut poll = Poll::default();
        let (mut rows, mut bytes) = (0, 0);
        while rows < limits.rows_max && bytes < limits.bytes_max {
            let Some(entry) = self.pending.front().cloned() else {
                if poll.entries.is_some() || !self.list(&mut poll).await? {
                    // One listing per poll: what it found is recorded with the rows read so far.
                    poll.is_at_end = poll.entries.is_none();
                    break;
                }
                continue;
            };
            let id = PartitionId(entry.path.clone());
            if self.open.is_none() {
                self.open = Some(self.open_next(&entry).await?);
                if self.offset == 0 {
                    poll.started.push(id.clone());
                }
            }
            let left = (limits.rows_max - rows) as usize;
            let decoded = match &mut self.open {
                Some(OpenFile::Text(file)) => file.next(left).await?,
                Some(OpenFile::Parquet(file)) => file.next(left).await?,
                None => None,
            };
            if let Some(Decoded { batch, records, malformed }) = decoded {
                let offsets = Offset(self.offset)..Offset(self.offset + records);
                self.offset += records;
                rows += records;
                bytes += batch.get_array_memory_size() as u64;
                let arrived_us = Some(entry.modified_us);
                poll.chunks.push(Chunk { partition: id, offsets, batch, malformed, arrived_us });
            } else {
                poll.finished.push(id);
                self.open = None;
                self.offset = 0;
                self.pending.pop_front();
                self.cursor.next += 1;
            }
        }
        poll.is_held = !self.pending.is_empty() && self.source.options.order == FileOrder::Any;
        poll.position = self.position();
        Ok(poll)
    }
}
