//! The engine of `delta_kernel`, on a runtime that lives as long as the process.
//!
//! The kernel waits for its I/O on blocking threads, and panics where the runtime that does the I/O
//! is gone. A program may drop its own runtime while such a thread is at work: a version checksum is
//! written beside whatever follows a commit. On a runtime of its own the I/O is done all the same,
//! and a runtime that is dropped waits for the threads that it began.

use super::DeltaError;
use crate::store::Location;
use delta_kernel_default_engine::executor::tokio::TokioMultiThreadExecutor;
use delta_kernel_default_engine::{DefaultEngine, DefaultEngineBuilder};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::{Builder, Handle, Runtime};

pub(super) type Kernel = DefaultEngine<TokioMultiThreadExecutor>;

/// Threads of the runtime: they only wait for I/O.
const THREADS: usize = 2;

/// Begun by the first table.
static RUNTIME: Mutex<Option<Runtime>> = Mutex::new(None);

/// The engine for a table at `location`.
///
/// # Errors
///
/// The system has no thread left.
pub(super) fn kernel_for(location: &Location) -> Result<Arc<Kernel>, DeltaError> {
    let executor = Arc::new(TokioMultiThreadExecutor::new(runtime()?));
    let engine = DefaultEngineBuilder::new(Arc::clone(&location.store));
    Ok(Arc::new(engine.with_task_executor(executor).build()))
}

/// The runtime of the kernel's I/O.
pub(super) fn runtime() -> Result<Handle, DeltaError> {
    let mut runtime = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(running) = runtime.as_ref() {
        return Ok(running.handle().clone());
    }
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(THREADS).thread_name("onefold-log").enable_all();
    let begun = builder.build().map_err(|error| DeltaError::Task(Box::new(error)))?;
    Ok(runtime.insert(begun).handle().clone())
}
