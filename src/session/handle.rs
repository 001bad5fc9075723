//! `PipelineHandle`: a pipeline as a program holds it.

use crate::delta::DeltaTable;
use crate::error::Error;
use crate::pipeline::{
    EpochOutcome, HistoryEntry, Pipeline, PipelineError, PipelineParts, PipelineStatus, history_of,
};
use crate::types::{Incarnation, PipelineId};
use std::future::Future;
use std::sync::Arc;
use tokio::sync::{Mutex, watch};

/// A pipeline that an INSERT made. It is opened, and takes its fence, when it first runs; after an
/// error it is opened again by the next call, which then reads what is true.
///
/// A clone is the same pipeline.
#[derive(Clone, Debug)]
pub struct PipelineHandle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    parts: PipelineParts,
    table: String,
    location: String,
    open: Mutex<State>,
    status: watch::Sender<PipelineStatus>,
}

#[derive(Debug, Default)]
struct State {
    pipeline: Option<Pipeline>,
    /// Who owns the pipeline, once it was taken from us: never to be taken back by itself.
    fenced: Option<Incarnation>,
}

impl PipelineHandle {
    pub(super) fn new(parts: PipelineParts, table: &str, location: &str) -> Self {
        let (status, _) = watch::channel(PipelineStatus::default());
        let inner = Inner {
            parts,
            table: table.to_owned(),
            location: location.to_owned(),
            open: Mutex::default(),
            status,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The same pipeline, not yet opened, into `table`, which takes the same columns.
    pub(super) fn for_table(&self, table: &Arc<DeltaTable>) -> Self {
        let parts = PipelineParts { ledger: Arc::clone(table) as _, ..self.inner.parts.clone() };
        Self::new(parts, self.table(), self.location())
    }

    /// Its name in the table.
    #[must_use]
    pub fn id(&self) -> &PipelineId {
        &self.inner.parts.id
    }

    /// The table it writes into, as SQL calls it.
    #[must_use]
    pub fn table(&self) -> &str {
        &self.inner.table
    }

    /// Where that table is.
    #[must_use]
    pub fn location(&self) -> &str {
        &self.inner.location
    }

    /// What it has done since it was last opened; changes after each committed epoch.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<PipelineStatus> {
        self.inner.status.subscribe()
    }

    /// Its newest `limit` committed epochs, newest first: offsets, watermarks, the ledger and the
    /// state files of each. None before its first commit. Does not open the pipeline.
    ///
    /// # Errors
    ///
    /// A manifest that is lost or damaged, or a store that does not answer.
    pub async fn epochs(&self, limit: usize) -> Result<Vec<HistoryEntry>, Error> {
        let ledger = self.inner.parts.ledger.as_ref();
        Ok(history_of(ledger, self.id(), limit).await?)
    }

    /// Reads what the sources hold, up to the limits of one epoch, and commits it.
    ///
    /// # Errors
    ///
    /// Nothing of the epoch is then committed, or all of it; the next call finds out.
    pub async fn run_epoch(&self) -> Result<EpochOutcome, Error> {
        let mut state = self.inner.open.lock().await;
        let pipeline = self.opened(&mut state).await?;
        let outcome = pipeline.run_epoch().await;
        self.done(&mut state, outcome)
    }

    /// Commits epochs until the sources hold nothing more.
    ///
    /// # Errors
    ///
    /// Epochs before the one that failed stay committed.
    pub async fn run_until_idle(&self) -> Result<PipelineStatus, Error> {
        self.drain(std::future::pending()).await
    }

    /// As [`Self::run_until_idle`], and stops early when `shutdown` completes: the epoch being
    /// committed is finished, and the one being read is dropped.
    ///
    /// # Errors
    ///
    /// Epochs before the one that failed stay committed.
    pub async fn drain(
        &self,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<PipelineStatus, Error> {
        let mut state = self.inner.open.lock().await;
        let pipeline = self.opened(&mut state).await?;
        let outcome = self.forward(pipeline.status(), pipeline.drain(shutdown)).await;
        self.done(&mut state, outcome)
    }

    /// Commits epochs until `shutdown` completes.
    ///
    /// # Errors
    ///
    /// Epochs before the one that failed stay committed.
    pub async fn run(
        &self,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<PipelineStatus, Error> {
        let mut state = self.inner.open.lock().await;
        let pipeline = self.opened(&mut state).await?;
        let outcome = self.forward(pipeline.status(), pipeline.run(shutdown)).await;
        self.done(&mut state, outcome)
    }

    async fn opened<'a>(&self, state: &'a mut State) -> Result<&'a mut Pipeline, Error> {
        if let Some(by) = state.fenced {
            let pipeline = self.id().clone();
            return Err(PipelineError::Fenced { pipeline, by }.into());
        }
        let is_open = state.pipeline.as_ref().is_some_and(Pipeline::is_open);
        if !is_open {
            let pipeline = Pipeline::open(self.inner.parts.clone()).await?;
            self.inner.status.send_replace(pipeline.status().borrow().clone());
            state.pipeline = Some(pipeline);
        }
        state.pipeline.as_mut().ok_or_else(|| PipelineError::Stopped.into())
    }

    /// Shows the status of the opened pipeline to those who watch the handle.
    async fn forward<T>(
        &self,
        mut own: watch::Receiver<PipelineStatus>,
        work: impl Future<Output = T>,
    ) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                Ok(()) = own.changed() => {
                    self.inner.status.send_replace(own.borrow_and_update().clone());
                }
            }
        }
    }

    fn done<T>(&self, state: &mut State, outcome: Result<T, PipelineError>) -> Result<T, Error> {
        if let Some(pipeline) = &state.pipeline {
            self.inner.status.send_replace(pipeline.status().borrow().clone());
        }
        if let Err(PipelineError::Fenced { by, .. }) = &outcome {
            state.fenced = Some(*by);
        }
        outcome.map_err(Error::from)
    }
}
