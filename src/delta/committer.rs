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
use crate::store::Location;
use crate::types::Clock;
use bytes::Bytes;
use delta_kernel::committer::{CommitMetadata, CommitResponse, Committer, PublishMetadata};
use delta_kernel::engine::to_json_bytes;
use delta_kernel::{
    Engine, FileMeta, FilteredEngineData, KernelError, KernelResult, KernelResultIterator,
};
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;

const TRIES: u32 = 8;

/// Sends one commit; called by the kernel on a blocking thread.
#[derive(Clone, Debug)]
pub(super) struct OnceCommitter {
    location: Location,
    clock: Arc<dyn Clock>,
    runtime: Handle,
    /// What was sent, and what became of it.
    sent: Arc<Mutex<Sent>>,
}

#[derive(Debug, Default)]
pub(super) struct Sent {
    pub(super) bytes: Bytes,
    /// Why nobody knows whether it is committed.
    pub(super) unknown: Option<Error>,
}

enum Found {
    Committed,
    Lost,
}

impl OnceCommitter {
    pub(super) fn new(location: Location, clock: Arc<dyn Clock>, runtime: Handle) -> Self {
        Self { location, clock, runtime, sent: Arc::default() }
    }

    /// Takes what was sent.
    pub(super) fn take(&self) -> Sent {
        std::mem::take(&mut *self.sent.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn send(&self, version: u64, bytes: &Bytes) -> Result<Found, Error> {
        let path = self.location.path(&format!("_delta_log/{version:020}.json"));
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

impl Committer for OnceCommitter {
    fn commit(
        &self,
        _: &dyn Engine,
        actions: KernelResultIterator<'_, FilteredEngineData>,
        metadata: CommitMetadata,
    ) -> KernelResult<CommitResponse> {
        let version = metadata.version();
        let bytes = Bytes::from(to_json_bytes(actions)?);
        let outcome = self.runtime.block_on(self.send(version, &bytes));
        let size = bytes.len() as u64;
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.bytes = bytes;
        match outcome {
            Ok(Found::Committed) => {
                let path = metadata.published_commit_path()?;
                let file_meta = FileMeta::new(path, metadata.in_commit_timestamp(), size);
                Ok(CommitResponse::Committed { file_meta })
            }
            Ok(Found::Lost) => Ok(CommitResponse::Conflict { version }),
            Err(error) => {
                let text = error.to_string();
                sent.unknown = Some(error);
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
