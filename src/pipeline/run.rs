//! `Pipeline`: what drives epochs one after the other.

use super::collect::Collected;
use super::compute::{Computed, compute};
use super::open::{OpenedPipeline, open};
use super::publish::{Committed, Published, commit, prepare};
use super::{PipelineError, PipelineParts, PipelineStatus};
use crate::types::{Epoch, LateRows, PipelineId, format_duration_us};
use datafusion::common::runtime::SpawnedTask;
use datafusion::error::DataFusionError;
use std::future::Future;
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// A pipeline that owns its name in its table.
///
/// Dropping it is safe at any await: the open epoch is not committed, or is and will be found.
#[derive(Debug)]
pub struct Pipeline {
    core: Core,
    /// `None` after an error.
    open: Option<OpenedPipeline>,
}

/// What does not change while a pipeline runs.
#[derive(Debug)]
struct Core {
    parts: PipelineParts,
    status: watch::Sender<PipelineStatus>,
}

/// What one call of [`Pipeline::run_epoch`] did.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochOutcome {
    /// An epoch was committed.
    Committed {
        /// The epoch.
        epoch: Epoch,
        /// The table version that holds it.
        version: u64,
        /// Rows read.
        rows: u64,
    },
    /// The sources hold nothing new.
    Idle,
}

/// When a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    /// The sources hold nothing more.
    Idle,
    /// It is told to.
    Told,
}

impl Pipeline {
    /// Takes the pipeline over from whoever ran it: commits a fence, and loads what it remembers.
    ///
    /// # Errors
    ///
    /// Another query or source than the table remembers; state that is lost or damaged; a store
    /// that ignores put-if-absent.
    pub async fn open(parts: PipelineParts) -> Result<Self, PipelineError> {
        let opened = open(&parts).await?;
        let (status, _) = watch::channel(PipelineStatus {
            epoch: opened.epoch,
            version: opened.version,
            ..PipelineStatus::default()
        });
        Ok(Self { core: Core { parts, status }, open: Some(opened) })
    }

    /// Its name in the table.
    #[must_use]
    pub fn id(&self) -> &PipelineId {
        &self.core.parts.id
    }

    /// Whether it can go on; false after an error, or when a shutdown dropped rows it had read.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// What it has done; changes after each committed epoch.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<PipelineStatus> {
        self.core.status.subscribe()
    }

    /// Reads what the sources hold, up to the limits of one epoch, and commits it.
    ///
    /// # Errors
    ///
    /// After any error the pipeline must be opened again.
    pub async fn run_epoch(&mut self) -> Result<EpochOutcome, PipelineError> {
        let mut opened = self.open.take().ok_or(PipelineError::Stopped)?;
        let mut collected = Collected::new(opened.sources.len());
        let mut never = std::future::pending();
        let next = self.core.next(&mut opened, &mut collected, Pace::Drain, &mut never).await?;
        let Next::Epoch(computed) = next else {
            self.open = Some(opened);
            return Ok(EpochOutcome::Idle);
        };
        let rows = computed.ledger.iter().map(|row| row.rows_read).sum();
        let prepared = prepare(&self.core.parts, opened.published.clone(), *computed).await?;
        let committed = commit(&self.core.parts, prepared).await?;
        let (epoch, version) = self.core.settle(&mut opened, committed).await?;
        self.open = Some(opened);
        Ok(EpochOutcome::Committed { epoch, version, rows })
    }

    /// Commits epochs until the sources hold nothing more; returns what was done since opening.
    pub async fn run_until_idle(&mut self) -> Result<PipelineStatus, PipelineError> {
        self.drive(Until::Idle, std::future::pending()).await
    }

    /// Commits epochs until `shutdown` completes; the open epoch is then committed or dropped.
    pub async fn run(
        &mut self,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<PipelineStatus, PipelineError> {
        self.drive(Until::Told, shutdown).await
    }

    /// As [`Self::run_until_idle`], and stops early when `shutdown` completes.
    pub async fn drain(
        &mut self,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<PipelineStatus, PipelineError> {
        self.drive(Until::Idle, shutdown).await
    }

    async fn drive(
        &mut self,
        until: Until,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<PipelineStatus, PipelineError> {
        let mut opened = self.open.take().ok_or(PipelineError::Stopped)?;
        let mut told = Box::pin(shutdown);
        let mut flight: Option<Flight> = None;
        let mut collected = Collected::new(opened.sources.len());
        loop {
            let pace = match (until, &flight) {
                (Until::Idle, _) => Pace::Drain,
                (Until::Told, Some(_)) => Pace::Overlap,
                (Until::Told, None) => Pace::Wait,
            };
            let next = self.core.next(&mut opened, &mut collected, pace, &mut told).await;
            let launch = |computed: Box<Computed>| {
                self.core.launch(&opened.published, flight.as_mut(), *computed)
            };
            let next = next.map(|next| next.map(launch));
            if let Some(flight) = flight.take() {
                // An error of the epoch before comes first: what was computed after it is void.
                self.core.land(&mut opened, flight).await?;
            }
            match next? {
                Next::Epoch(launched) => flight = Some(launched.cleared()),
                Next::Nothing if pace == Pace::Overlap => {}
                // What was read and not committed is read again by the next opening.
                Next::Told if collected.has_moved => {
                    self.core.parts.ledger.rest().await;
                    return Ok(self.core.status.borrow().clone());
                }
                Next::Nothing | Next::Told => break,
            }
        }
        self.core.parts.ledger.rest().await;
        self.open = Some(opened);
        let status = self.core.status.borrow().clone();
        if let (rows @ 1.., Some(LateRows { oldest, behind_us })) = (status.rows_late, status.late)
        {
            let (pipeline, behind) = (&self.core.parts.id, format_duration_us(behind_us));
            tracing::warn!(%pipeline, rows, %oldest, behind, "rows were late: allow more lateness");
        }
        Ok(status)
    }
}

impl Core {
    /// Sends an epoch on its way. What it names is written while the one before is committed; it
    /// is itself committed when it is cleared.
    fn launch(
        &self,
        settled: &Published,
        before: Option<&mut Flight>,
        computed: Computed,
    ) -> Flight {
        let (parts, settled) = (self.parts.clone(), settled.clone());
        let before = before.and_then(|flight| flight.published.take());
        let (prepared_tx, prepared_rx) = oneshot::channel();
        let (cleared_tx, cleared_rx) = oneshot::channel();
        let task = SpawnedTask::spawn(async move {
            let published = match before {
                Some(before) => before.await.map_err(|_| PipelineError::Stopped)?,
                None => settled,
            };
            let prepared = prepare(&parts, published, computed).await?;
            drop(prepared_tx.send(prepared.published.clone()));
            cleared_rx.await.map_err(|_| PipelineError::Stopped)?;
            commit(&parts, prepared).await
        });
        Flight { published: Some(prepared_rx), clearance: Some(cleared_tx), task }
    }

    async fn land(&self, opened: &mut OpenedPipeline, flight: Flight) -> Result<(), PipelineError> {
        let committed = flight.task.join_unwind().await;
        let committed = committed.map_err(|error| DataFusionError::External(Box::new(error)))?;
        self.settle(opened, committed?).await.map(|_| ())
    }

    async fn settle(
        &self,
        opened: &mut OpenedPipeline,
        committed: Committed,
    ) -> Result<(Epoch, u64), PipelineError> {
        let Committed { published, version, progress, .. } = committed;
        opened.published = published;
        opened.version = version;
        opened.epoch = opened.epoch.next();
        for (source, position) in opened.sources.iter_mut().zip(&progress.positions) {
            if let Some(position) = position
                && let Err(error) = source.reader.acknowledge(position).await
            {
                tracing::warn!(source = %source.part.name, %error, "acknowledging failed");
            }
        }
        let epoch = opened.epoch;
        self.status.send_modify(|status| {
            status.epoch = epoch;
            status.version = version;
            status.epochs += 1;
            status.add(&committed.ledger);
            status.rows_inserted += committed.changed.rows_inserted;
            status.rows_updated += committed.changed.rows_updated;
            status.rows_deleted += committed.changed.rows_deleted;
            status.rows_ignored += committed.changed.rows_ignored;
            status.bytes_written += committed.changed.bytes_written;
            status.commit_us += committed.commit_us;
            status.watermark = progress.watermark;
            status.state_bytes = progress.state_bytes;
            status.keys_held = progress.keys_held;
            status.late = progress.late.map(|own| own.and(status.late)).or(status.late);
        });
        tracing::debug!(pipeline = %self.parts.id, %epoch, version, "epoch committed");
        Ok((epoch, version))
    }

    /// The next epoch, computed.
    async fn next(
        &self,
        opened: &mut OpenedPipeline,
        collected: &mut Collected,
        pace: Pace,
        told: &mut (impl Future<Output = ()> + Unpin + Send),
    ) -> Result<Next<Box<Computed>>, PipelineError> {
        let (settings, clock) = (&self.parts.settings, &self.parts.clock);
        loop {
            let polled = tokio::select! {
                biased;
                () = &mut *told => return Ok(Next::Told),
                polled = collected.poll(&mut opened.sources, settings) => polled,
            };
            polled?;
            if collected.has_moved {
                collected.began.get_or_insert_with(|| clock.monotonic());
            }
            if collected.is_full(settings) {
                break;
            }
            if !collected.is_at_end {
                continue;
            }
            let open_for = collected.began.map(|began| clock.monotonic().saturating_sub(began));
            let longest = Duration::from_millis(settings.epoch_time_max_ms);
            match (pace, open_for) {
                (Pace::Drain, Some(_)) => break,
                (_, Some(open_for)) if open_for >= longest => break,
                (Pace::Drain, None) | (Pace::Overlap, _) => return Ok(Next::Nothing),
                (Pace::Wait, _) => {}
            }
            tokio::select! {
                biased;
                () = &mut *told => return Ok(Next::Told),
                () = clock.sleep(Duration::from_millis(settings.poll_interval_ms)) => {}
            }
        }
        let (planner, operators) = (&self.parts.planner, &self.parts.operators);
        let ready = std::mem::replace(collected, Collected::new(opened.sources.len()));
        let computed = compute(planner, operators, &mut opened.sources, ready).await?;
        Ok(Next::Epoch(Box::new(computed)))
    }
}

/// What to do when the sources hold nothing more for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// Take what there is, or say that there is nothing.
    Drain,
    /// Wait for more, as long as an epoch may take.
    Wait,
    /// Say so: a commit is on its way and wants to be looked after.
    Overlap,
}

/// What came of looking for the next epoch.
#[derive(Debug)]
enum Next<T> {
    Epoch(T),
    Nothing,
    Told,
}

impl<T> Next<T> {
    fn map<U>(self, epoch: impl FnOnce(T) -> U) -> Next<U> {
        match self {
            Self::Epoch(own) => Next::Epoch(epoch(own)),
            Self::Nothing => Next::Nothing,
            Self::Told => Next::Told,
        }
    }
}

/// An epoch on its way.
#[derive(Debug)]
struct Flight {
    /// What the epoch after it builds on, once its files are written; taken by that one.
    published: Option<oneshot::Receiver<Published>>,
    /// Says that the epoch before is known to be committed.
    clearance: Option<oneshot::Sender<()>>,
    task: SpawnedTask<Result<Committed, PipelineError>>,
}

impl Flight {
    /// The same, told that the epoch before is known to be committed.
    fn cleared(mut self) -> Self {
        if let Some(clearance) = self.clearance.take() {
            clearance.send(()).ok();
        }
        self
    }
}
