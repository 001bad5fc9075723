//! `FilesReader`: reads one file after the other, and lists again when all are read.

use super::FileOrder;
use super::ahead::{Ahead, FILES_AHEAD};
use super::entries::{Entry, encode};
use super::source::FilesSource;
use super::text::Decoded;
use crate::source::{
    Chunk, Poll, PollLimits, SourceError, SourcePosition, SourceReader, SourceStart,
};
use crate::types::{Offset, PartitionId};
use async_trait::async_trait;
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
    /// Whether the first of them was announced.
    is_started: bool,
    /// The first of them, being decoded.
    ahead: VecDeque<Ahead>,
    /// What the last poll left of a batch of the first of them.
    rest: Option<Decoded>,
}

/// Rows a poll must have room for before it looks at more than one file.
const ROWS_AHEAD: u64 = 65_536;

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
        let (ahead, rest, is_started) = (VecDeque::new(), None, offset > 0);
        Ok(Self { source, known, cursor, pending, offset, is_started, ahead, rest })
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

    /// Sees to it that the first pending files are being decoded: the one that is read, and while
    /// there is room for their rows in this poll those after it. A part of a source is read beside
    /// its other parts, and has no need of more.
    fn look_ahead(&mut self, rows_left: u64) {
        let is_alone = self.source.part.is_none();
        let wanted = if is_alone && rows_left > ROWS_AHEAD { *FILES_AHEAD } else { 1 };
        while self.ahead.len() < wanted.min(self.pending.len()) {
            let skipped = if self.ahead.is_empty() { self.offset } else { 0 };
            let entry = &self.pending[self.ahead.len()];
            self.ahead.push_back(Ahead::start(&self.source, entry, skipped));
        }
    }

    /// The next rows of the first pending file, at most `rows_max` unless some of them are
    /// malformed; `None` at its end.
    async fn next(&mut self, rows_max: u64) -> Result<Option<Decoded>, SourceError> {
        let next = match (self.rest.take(), self.ahead.front_mut()) {
            (Some(rest), _) => Some(rest),
            (None, Some(file)) => file.next().await?,
            (None, None) => None,
        };
        let Some(next) = next else { return Ok(None) };
        if next.records <= rows_max || next.malformed > 0 {
            return Ok(Some(next)); // which rows are malformed is not known any more
        }
        let (taken, all) = (rows_max as usize, next.batch.num_rows());
        let part = |from: usize, to: usize| Decoded {
            batch: next.batch.slice(from, to - from),
            records: (to - from) as u64,
            malformed: 0,
        };
        self.rest = Some(part(taken, all));
        Ok(Some(part(0, taken)))
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
            let left = limits.rows_max - rows;
            self.look_ahead(left);
            if !self.is_started {
                self.is_started = true;
                poll.started.push(id.clone());
            }
            if let Some(Decoded { batch, records, malformed }) = self.next(left).await? {
                let offsets = Offset(self.offset)..Offset(self.offset + records);
                self.offset += records;
                rows += records;
                bytes += batch.get_array_memory_size() as u64;
                let arrived_us = Some(entry.modified_us);
                poll.chunks.push(Chunk { partition: id, offsets, batch, malformed, arrived_us });
            } else {
                poll.finished.push(id);
                self.ahead.pop_front();
                self.is_started = false;
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
