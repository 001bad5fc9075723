//! `BusyStore`: a store in which something else happens just before a call.

use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use onefold::object_store::path::Path;
use onefold::object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::fmt;
use std::sync::{Arc, Mutex};

/// What is done before a call; it may itself use the inner store.
type Deed = Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// Any store, with deeds that are done before calls for certain objects.
#[derive(Clone)]
pub(crate) struct BusyStore {
    inner: Arc<dyn ObjectStore>,
    waiting: Arc<Mutex<Vec<Waiting>>>,
}

struct Waiting {
    is_put: bool,
    /// What the path of the object contains.
    part: String,
    times: usize,
    deed: Arc<Deed>,
}

impl BusyStore {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner, waiting: Arc::default() }
    }

    /// Does `deed` before each of the next `times` writes of objects with `part` in their path.
    pub(crate) fn before_put<F>(&self, part: &str, times: usize, deed: F)
    where
        F: Fn() -> BoxFuture<'static, ()> + Send + Sync + 'static,
    {
        self.wait(true, part, times, deed);
    }

    /// The same, before reads.
    pub(crate) fn before_get<F>(&self, part: &str, times: usize, deed: F)
    where
        F: Fn() -> BoxFuture<'static, ()> + Send + Sync + 'static,
    {
        self.wait(false, part, times, deed);
    }

    /// How many deeds are left to do.
    pub(crate) fn left(&self) -> usize {
        self.waiting.lock().unwrap().iter().map(|own| own.times).sum()
    }

    fn wait<F>(&self, is_put: bool, part: &str, times: usize, deed: F)
    where
        F: Fn() -> BoxFuture<'static, ()> + Send + Sync + 'static,
    {
        let (part, deed): (_, Arc<Deed>) = (part.to_owned(), Arc::new(Box::new(deed)));
        self.waiting.lock().unwrap().push(Waiting { is_put, part, times, deed });
    }

    async fn before(&self, is_put: bool, path: &Path) {
        let is_beside = path.extension() == Some("crc"); // written when there is time
        let deed = {
            let mut waiting = self.waiting.lock().unwrap();
            let is_it = |own: &&mut Waiting| {
                let is_asked = !is_beside || own.part.ends_with("crc");
                let is_named = path.as_ref().contains(&own.part) && is_asked;
                own.times > 0 && own.is_put == is_put && is_named
            };
            waiting.iter_mut().find(is_it).map(|own| {
                own.times -= 1;
                Arc::clone(&own.deed)
            })
        };
        if let Some(deed) = deed {
            deed().await;
        }
    }
}

impl fmt::Debug for BusyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BusyStore({})", self.inner)
    }
}

impl fmt::Display for BusyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BusyStore({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for BusyStore {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.before(true, path).await;
        self.inner.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.before(true, path).await;
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.before(false, path).await;
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
