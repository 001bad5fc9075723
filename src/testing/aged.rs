//! `AgedStore`: a store whose objects are as old as a simulated clock says.

use super::SimulatedClock;
use crate::types::Clock;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Any store, whose objects were last modified when the clock says they were written.
#[derive(Clone, Debug)]
pub struct AgedStore {
    inner: Arc<dyn ObjectStore>,
    clock: SimulatedClock,
    written: Arc<Mutex<HashMap<Path, i64>>>,
}

impl AgedStore {
    /// The store `inner`, by the time of `clock`.
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>, clock: SimulatedClock) -> Self {
        Self { inner, clock, written: Arc::default() }
    }

    fn note(&self, path: &Path) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.insert(path.clone(), self.clock.now_us());
    }

    fn aged(&self, mut meta: ObjectMeta) -> ObjectMeta {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let at_us = written.get(&meta.location).copied().unwrap_or_default();
        meta.last_modified = DateTime::<Utc>::from_timestamp_micros(at_us).unwrap_or_default();
        meta
    }
}

impl fmt::Display for AgedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AgedStore({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for AgedStore {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let put = self.inner.put_opts(path, payload, options).await?;
        self.note(path);
        Ok(put)
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.note(path);
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let mut found = self.inner.get_opts(path, options).await?;
        found.meta = self.aged(found.meta);
        Ok(found)
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let store = self.clone();
        self.inner.list(prefix).map(move |meta| Ok(store.aged(meta?))).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut listed = self.inner.list_with_delimiter(prefix).await?;
        listed.objects = listed.objects.into_iter().map(|meta| self.aged(meta)).collect();
        Ok(listed)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await?;
        self.note(to);
        Ok(())
    }
}
