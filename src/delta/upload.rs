//! Writes that go on while other work is done.

use datafusion::common::runtime::SpawnedTask;
use object_store::{Error, Result};
use tokio::sync::Mutex;

/// A write that was begun; dropping it gives it up.
#[derive(Debug)]
pub(super) struct Upload(Mutex<State>);

#[derive(Debug)]
enum State {
    Running(SpawnedTask<Result<()>>),
    Done,
    Failed,
}

impl Upload {
    pub(super) fn begin(write: impl Future<Output = Result<()>> + Send + 'static) -> Self {
        Self(Mutex::new(State::Running(SpawnedTask::spawn(write))))
    }

    /// Waits until the object is there.
    ///
    /// # Cancellation
    ///
    /// The write is given up, and counts as failed.
    pub(super) async fn done(&self) -> Result<()> {
        let mut state = self.0.lock().await;
        match std::mem::replace(&mut *state, State::Failed) {
            State::Running(task) => task.join().await.map_err(failed)??,
            State::Done => {}
            State::Failed => return Err(failed("an upload failed before")),
        }
        *state = State::Done;
        Ok(())
    }
}

fn failed(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Generic { store: "upload", source: source.into() }
}
