//! The one conditional PUT: a commit is serialised once, and its bytes are sent until it is known
//! what became of them.
//!
//! ```text
//!   case   answer of PUT          N.json now      outcome
//!   A      OK                     -               Committed
//!   B      anything else          ours            Committed
//!   C      anything else          another's       Lost
//!   D      anything else          absent          the same bytes again, to the same N
//!   E      anything else, often   absent          unknown: an error
//! ```

use super::actions::Actions;
use super::actions::Descriptor;
use super::log::Change;
use super::stats::widened;
use crate::store::Location;
use crate::types::Clock;
use bytes::Bytes;
use delta_kernel::committer::{CommitMetadata, CommitResponse, Committer, PublishMetadata};
use delta_kernel::engine::to_json_bytes;
use delta_kernel::{
    Engine, FileMeta, FilteredEngineData, KernelError, KernelResult, KernelResultIterator,
};
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode};
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;

const TRIES: u32 = 8;
/// How a line that adds a file begins.
const ADD: &[u8] = b"{\"add\":{";

/// Sends one commit; called by the kernel on a blocking thread.
#[derive(Clone, Debug)]
pub(super) struct OnceCommitter {
    location: Location,
    clock: Arc<dyn Clock>,
    runtime: Handle,
    /// Whose uploads are awaited, and whose raw lines are sent behind those of the kernel.
    change: Arc<Change>,
    /// What was sent, and what became of it.
    sent: Arc<Mutex<Sent>>,
}

#[derive(Debug, Default)]
pub(super) struct Sent {
    pub(super) actions: Actions,
    /// Why nobody knows whether it is committed.
    pub(super) unknown: Option<Error>,
}

enum Found {
    Committed,
    Lost,
}

impl OnceCommitter {
    pub(super) fn new(location: Location, clock: Arc<dyn Clock>, runtime: Handle) -> Self {
        Self { location, clock, runtime, change: Arc::default(), sent: Arc::default() }
    }

    /// The same, for `change`.
    pub(super) fn with_change(self, change: Arc<Change>) -> Self {
        Self { change, ..self }
    }

    /// Takes what was sent.
    pub(super) fn take(&self) -> Sent {
        std::mem::take(&mut *self.sent())
    }

    fn sent(&self) -> MutexGuard<'_, Sent> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends `bytes`, once all that they name is there.
    async fn send(&self, version: u64, bytes: &Bytes) -> Result<Found, Error> {
        let path = self.location.path(&format!("_delta_log/{version:020}.json"));
        let unreadable = |error| Error::Generic { store: "log", source: Box::new(error) };
        self.sent().actions = Actions::parse(version, bytes).map_err(unreadable)?;
        self.uploaded().await?;
        let store = &self.location.store_once;
        let mut wait = Duration::from_millis(50);
        let mut tries = 0;
        loop {
            tries += 1;
            let sent = store.put_opts(&path, bytes.clone().into(), PutMode::Create.into()).await;
            let Err(error) = sent else { return Ok(Found::Committed) }; // A
            tracing::debug!(version, %error, "a commit was not answered with OK");
            let last = tries == TRIES;
            match self.look(&path, bytes).await {
                Ok(Some(found)) => return Ok(found),            // B, C
                Ok(None) | Err(_) if last => return Err(error), // E
                Ok(None) | Err(_) => {}                         // D
            }
            self.clock.sleep(wait).await;
            wait = (wait * 2).min(Duration::from_secs(5));
        }
    }

    /// Waits until all that the commit names is there.
    async fn uploaded(&self) -> Result<(), Error> {
        for file in &self.change.adds {
            file.upload.done().await?;
        }
        for upload in &self.change.uploads {
            upload.done().await?;
        }
        Ok(())
    }

    async fn look(
        &self,
        path: &object_store::path::Path,
        bytes: &Bytes,
    ) -> Result<Option<Found>, Error> {
        let found = match self.location.store.get(path).await {
            Ok(found) => found.bytes().await?,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let id = |json: &[u8]| Actions::parse(0, json).ok().and_then(|actions| actions.txn_id);
        let is_ours = id(bytes).is_some_and(|ours| id(&found).is_some_and(|there| there == ours));
        Ok(Some(if is_ours { Found::Committed } else { Found::Lost }))
    }
}

#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    path: Cow<'a, str>,
    #[serde(borrow)]
    stats: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct NamedLine<'a> {
    #[serde(borrow)]
    add: Option<Named<'a>>,
    #[serde(borrow)]
    remove: Option<Named<'a>>,
}

/// Dates removes by our own clock, and takes the deletion time from those whose file is added again
/// with another vector: a remove without one is expired at once, so replaced vectors never fill
/// checkpoints with tombstones. The file itself stays named by its add, and old vectors are kept by
/// our own vacuum. Adds get their vectors, which the kernel only knows for files that were there.
/// `None` if one of these files is not added.
fn tidy(json: &[u8], now_ms: i64, add_vectors: &HashMap<String, Descriptor>) -> Option<Vec<u8>> {
    let mut masked = 0;
    let lines: Vec<&[u8]> = json.split(|byte| *byte == b'\n').collect();
    let named: Vec<Option<NamedLine<'_>>> = lines.iter().map(|line| named(line)).collect();
    let add = |line: &'_ Option<NamedLine<'_>>| Some(line.as_ref()?.add.as_ref()?.path.to_string());
    let added: HashSet<String> = named.iter().filter_map(add).collect();
    let is_swap = |line: &Option<NamedLine<'_>>| {
        let removed = line.as_ref().and_then(|line| line.remove.as_ref());
        removed.is_some_and(|removed| added.contains(removed.path.as_ref()))
    };
    let mut tidied = Vec::with_capacity(json.len());
    for (index, (line, named)) in lines.iter().zip(&named).enumerate() {
        if index > 0 {
            tidied.push(b'\n');
        }
        if !add_vectors.is_empty()
            && let Some(vector) = add(named).and_then(|path| add_vectors.get(&path))
            && let Ok(vector) = serde_json::to_string(vector)
        {
            masked += 1;
            tidied.extend_from_slice(ADD);
            tidied.extend_from_slice(format!("\"deletionVector\":{vector},").as_bytes());
            tidied.extend_from_slice(&with_wide_bounds(&line[ADD.len()..], named.as_ref()));
            continue;
        }
        let is_remove = named.as_ref().is_some_and(|line| line.remove.is_some());
        let Some(field) = deletion_time(line).filter(|_| is_remove) else {
            tidied.extend_from_slice(line);
            continue;
        };
        tidied.extend_from_slice(&line[..field.start]);
        if !is_swap(named) {
            tidied.extend_from_slice(format!("\"deletionTimestamp\":{now_ms},").as_bytes());
        }
        tidied.extend_from_slice(&line[field.end..]);
    }
    (masked == add_vectors.len()).then_some(tidied)
}

/// What follows in a line that adds a file: its bounds are those of rows that are masked, too.
fn with_wide_bounds<'a>(rest: &'a [u8], named: Option<&NamedLine<'_>>) -> Cow<'a, [u8]> {
    let stats = named.and_then(|line| line.add.as_ref()?.stats.as_deref());
    let text = |stats: &str| serde_json::to_string(stats).ok();
    let parts = stats.and_then(|stats| Some((text(stats)?, text(&widened(stats))?)));
    match (parts, std::str::from_utf8(rest)) {
        (Some((tight, wide)), Ok(rest)) => Cow::Owned(rest.replacen(&tight, &wide, 1).into_bytes()),
        _ => Cow::Borrowed(rest),
    }
}

fn named(line: &[u8]) -> Option<NamedLine<'_>> {
    let is_file = line.starts_with(b"{\"remove\"") || line.starts_with(ADD);
    if is_file { serde_json::from_slice(line).ok() } else { None }
}

/// Where a line of JSON has its field of that name, with the comma behind it. Inside a text the
/// quotes of the name would be escaped.
fn deletion_time(line: &[u8]) -> Option<Range<usize>> {
    const FIELD: &[u8] = b"\"deletionTimestamp\":";
    let is_field = |at: &usize| line[*at..].starts_with(FIELD) && line[*at - 1] != b'\\';
    let start = (1..line.len().saturating_sub(FIELD.len())).find(is_field)?;
    let digits = line[start + FIELD.len()..].iter().take_while(|byte| **byte != b',').count();
    let end = start + FIELD.len() + digits + 1;
    (end < line.len()).then_some(start..end)
}

impl Committer for OnceCommitter {
    fn commit(
        &self,
        _: &dyn Engine,
        actions: KernelResultIterator<'_, FilteredEngineData>,
        metadata: CommitMetadata,
    ) -> KernelResult<CommitResponse> {
        let version = metadata.version();
        let now_ms = self.clock.now_us() / 1_000;
        let json = to_json_bytes(actions)?;
        let tidied = tidy(&json, now_ms, &self.change.add_vectors);
        let lost = || KernelError::generic("a new file would be added without its vector");
        let mut bytes = tidied.ok_or_else(lost)?;
        for line in &self.change.raw {
            bytes.extend_from_slice(line.as_bytes());
            bytes.push(b'\n');
        }
        let bytes = Bytes::from(bytes);

        let outcome = self.runtime.block_on(self.send(version, &bytes));
        let size = bytes.len() as u64;
        match outcome {
            Ok(Found::Committed) => {
                let path = metadata.published_commit_path()?;
                let file_meta = FileMeta::new(path, metadata.in_commit_timestamp(), size);
                Ok(CommitResponse::Committed { file_meta })
            }
            Ok(Found::Lost) => Ok(CommitResponse::Conflict { version }),
            Err(error) => {
                let text = error.to_string();
                self.sent().unknown = Some(error);
                Err(KernelError::generic(text))
            }
        }
    }

    fn is_catalog_committer(&self) -> bool {
        false
    }

    fn publish(&self, _: &dyn Engine, _: PublishMetadata) -> KernelResult<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_remove_whose_file_is_added_again_loses_its_deletion_time() {
        let lines = [
            r#"{"commitInfo":{"txnId":"x"}}"#,
            r#"{"remove":{"path":"a","deletionTimestamp":17,"dataChange":true}}"#,
            r#"{"remove":{"path":"b","deletionTimestamp":17,"dataChange":true}}"#,
            r#"{"add":{"path":"a","stats":"{\"deletionTimestamp\":1,\"n\":2}","size":3}}"#,
        ];
        let tidied = tidy(lines.join("\n").as_bytes(), 21, &HashMap::new()).unwrap();
        let dated = lines[2].replace("17", "21");
        let expected = [lines[0], r#"{"remove":{"path":"a","dataChange":true}}"#, &dated, lines[3]];
        assert_eq!(String::from_utf8(tidied).unwrap(), expected.join("\n"));
        let without = lines[..1].join("\n").into_bytes();
        assert_eq!(tidy(&without, 21, &HashMap::new()), Some(without));
    }

    #[test]
    fn a_new_file_gets_its_vector_or_nothing_is_sent() {
        let line = br#"{"add":{"path":"p=1/a","size":3,"modificationTime":4,"stats":"{\"numRecords\":3,\"minValues\":{\"x\":119.57142857142857},\"tightBounds\":true}"}}"#;
        let vector = Descriptor {
            storage_type: "u".to_owned(),
            path_or_inline_dv: "x".to_owned(),
            offset: Some(1),
            size_in_bytes: 2,
            cardinality: 1,
        };
        let of = |path: &str| HashMap::from([(path.to_owned(), vector.clone())]);
        let added = tidy(line, 21, &of("p=1/a")).unwrap();
        let added = Actions::parse(1, &added).unwrap().adds;
        assert_eq!(added[0].deletion_vector.as_ref(), Some(&vector));
        let wide = r#"{"numRecords":3,"minValues":{"x":119.57142857142857},"tightBounds":false}"#;
        assert_eq!(added[0].stats.as_deref(), Some(wide));
        assert_eq!(tidy(line, 21, &of("p=1/b")), None);
    }
}
