//! `FaultyStore`: a store that misbehaves at one call.

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call has no effect and times out.
    Lost,
    /// The call is applied, and then times out.
    AppliedThenTimeout,
    /// A write is applied, and then answered with 409 Conflict: already there.
    AppliedThenConflict,
    /// A write is applied, and then answered with 412 Precondition Failed.
    AppliedThenPrecondition,
    /// A write is applied, and then answered with 503 Service Unavailable.
    AppliedThenUnavailable,
    /// A write times out, and is applied only when ten more calls were made, perhaps by another
    /// process.
    AppliedLate,
}

impl Fault {
    /// Every fault there is.
    pub const ALL: [Self; 6] = [
        Self::Lost,
        Self::AppliedThenTimeout,
        Self::AppliedThenConflict,
        Self::AppliedThenPrecondition,
        Self::AppliedThenUnavailable,
        Self::AppliedLate,
    ];
}

/// A store in front of another: from one call on, counted from 1, everything goes wrong as in a
/// process that is cut off; before it, nothing does. A fault of a single call is
/// [`FaultyStore::once`].
#[derive(Clone, Debug)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    calls: AtomicU64,
    at: u64,
    fault: Fault,
    is_once: bool,
    late: Mutex<Option<Late>>,
    puts: Mutex<Vec<(String, Vec<u8>)>>,
    hit: Mutex<Option<String>>,
}

#[derive(Debug)]
struct Late {
    due: u64,
    path: Path,
    payload: PutPayload,
    options: PutOptions,
}

const LATE_CALLS: u64 = 10;

impl FaultyStore {
    /// The store does `fault` at call `at`, and all later calls are lost: the process is cut off.
    #[must_use]
    pub fn cut_off(inner: Arc<dyn ObjectStore>, at: u64, fault: Fault) -> Self {
        Self::new(inner, at, fault, false)
    }

    /// The store does `fault` at call `at`, and works again.
    #[must_use]
    pub fn once(inner: Arc<dyn ObjectStore>, at: u64, fault: Fault) -> Self {
        Self::new(inner, at, fault, true)
    }

    /// Calls made so far.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.state.calls.load(Ordering::SeqCst)
    }

    /// Every write of a `.json` that was sent: its path and its bytes, whatever became of it.
    #[must_use]
    pub fn puts(&self) -> Vec<(String, Vec<u8>)> {
        self.state.puts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The path of the first write that went wrong, if a write did.
    #[must_use]
    pub fn hit(&self) -> Option<String> {
        self.state.hit.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn new(inner: Arc<dyn ObjectStore>, at: u64, fault: Fault, is_once: bool) -> Self {
        let (late, puts, hit) = (Mutex::default(), Mutex::default(), Mutex::default());
        let calls = AtomicU64::new(0);
        Self { inner, state: Arc::new(State { calls, at, fault, is_once, late, puts, hit }) }
    }

    /// Counts a call; says what goes wrong with it.
    async fn begin(&self) -> Option<Fault> {
        let call = self.state.calls.fetch_add(1, Ordering::SeqCst) + 1;
        self.apply_late(call).await;
        if call == self.state.at {
            return Some(self.state.fault);
        }
        (call > self.state.at && !self.state.is_once).then_some(Fault::Lost)
    }

    /// Applies the write that was held back, if it is time or if `call` is the last.
    pub async fn apply_late(&self, call: u64) {
        let due = {
            let mut late = self.state.late.lock().unwrap_or_else(PoisonError::into_inner);
            late.take_if(|late| late.due <= call)
        };
        if let Some(Late { path, payload, options, .. }) = due {
            drop(self.inner.put_opts(&path, payload, options).await); // nobody waits for it
        }
    }
}

fn timeout() -> Error {
    Error::Generic { store: "FaultyStore", source: "timed out".into() }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyStore({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let answer = |error: &str, fault| {
            let (path, source) = (path.to_string(), error.to_owned().into());
            match fault {
                Fault::AppliedThenConflict => Error::AlreadyExists { path, source },
                Fault::AppliedThenPrecondition => Error::Precondition { path, source },
                Fault::AppliedThenUnavailable => {
                    Error::Generic { store: "FaultyStore", source: "503 Slow Down".into() }
                }
                _ => timeout(),
            }
        };
        if path.extension() == Some("json") {
            let bytes: Vec<u8> = payload.iter().flat_map(|part| part.to_vec()).collect();
            let mut puts = self.state.puts.lock().unwrap_or_else(PoisonError::into_inner);
            puts.push((path.to_string(), bytes));
        }
        let fault = self.begin().await;
        if fault.is_some() {
            let mut hit = self.state.hit.lock().unwrap_or_else(PoisonError::into_inner);
            hit.get_or_insert_with(|| path.to_string());
        }
        match fault {
            None => self.inner.put_opts(path, payload, options).await,
            Some(Fault::Lost) => Err(timeout()),
            Some(Fault::AppliedLate) => {
                let due = self.calls() + LATE_CALLS;
                let held = Late { due, path: path.clone(), payload, options };
                *self.state.late.lock().unwrap_or_else(PoisonError::into_inner) = Some(held);
                Err(timeout())
            }
            Some(fault) => {
                self.inner.put_opts(path, payload, options).await?;
                Err(answer("the answer was lost", fault))
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        match self.begin().await {
            None => self.inner.put_multipart_opts(path, options).await,
            Some(_) => Err(timeout()),
        }
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        match self.begin().await {
            None => self.inner.get_opts(path, options).await,
            Some(_) => Err(timeout()),
        }
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let deleted = paths.then(move |path| {
            let store = store.clone();
            async move {
                let path = path?;
                match store.begin().await {
                    None => {}
                    Some(Fault::Lost) => return Err(timeout()),
                    Some(_) => {
                        let one = futures::stream::once(async move { Ok(path) }).boxed();
                        drop(store.inner.delete_stream(one).collect::<Vec<_>>().await);
                        return Err(timeout());
                    }
                }
                let one = path.clone();
                let one = futures::stream::once(async move { Ok(one) }).boxed();
                for deleted in store.inner.delete_stream(one).collect::<Vec<_>>().await {
                    deleted?;
                }
                Ok(path)
            }
        });
        deleted.boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.cloned());
        let listed = async move {
            match store.begin().await {
                None => store.inner.list(prefix.as_ref()),
                Some(_) => futures::stream::once(async { Err(timeout()) }).boxed(),
            }
        };
        futures::stream::once(listed).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        match self.begin().await {
            None => self.inner.list_with_delimiter(prefix).await,
            Some(_) => Err(timeout()),
        }
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        match self.begin().await {
            None => self.inner.copy_opts(from, to, options).await,
            Some(_) => Err(timeout()),
        }
    }
}
