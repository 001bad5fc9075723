//! The Delta log, through `delta_kernel`: all calls of that library are here.

use super::DeltaError;
use super::actions::{Actions, Add, Descriptor};
use super::alter::SchemaChange;
use super::committer::OnceCommitter;
use super::files::LiveFile;
use super::kernel::{Kernel, kernel_for, runtime};
use super::partition::{Values, scalar_of};
use super::scan_rows::{adds_of, scan_rows};
use super::schema::kernel_field;
use super::stage::{StagedFile, join};
use super::stats::{statistics, widened};
use super::upload::Upload;
use crate::commit::{CommitError, RowsChanged};
use crate::store::Location;
use crate::types::Clock;
use datafusion::common::runtime::SpawnedTask;
use delta_kernel::actions::deletion_vector::{DeletionVectorDescriptor, DeletionVectorStorageType};
use delta_kernel::engine::arrow_data::EngineDataArrowExt;
use delta_kernel::expressions::ColumnName;
use delta_kernel::schema::StructType;
use delta_kernel::snapshot::{Snapshot, SnapshotRef};
use delta_kernel::transaction::create_table::create_table;
use delta_kernel::transaction::data_layout::DataLayout;
use delta_kernel::transaction::{
    BoundWriteContext, CommitResult, UpdateTableOperation, WriteState,
};
use delta_kernel::{FileMeta, KernelError};
use delta_kernel_default_engine::build_add_file_metadata;
use delta_kernel_default_engine::parquet::DataFileMetadata;
use object_store::{Error, ObjectStoreExt};
use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, spawn_blocking};

/// Names and configurations.
pub(super) type Domains = Vec<(String, String)>;

/// Checksums that are written beside commits before one of them is waited for.
const CHECKSUMS_MAX: usize = 4;

const ENGINE: &str = concat!("onefold/", env!("CARGO_PKG_VERSION"));

/// The log of one table.
#[derive(Clone)]
pub(super) struct DeltaLog {
    location: Location,
    clock: Arc<dyn Clock>,
    /// Where the kernel's I/O is done, and the commits are sent.
    runtime: Handle,
    kernel: Arc<Kernel>,
    /// What is written beside the work that follows a commit, oldest first.
    checksums: Arc<Mutex<VecDeque<Checksum>>>,
}

/// It is written also if nobody waits for it.
struct Checksum {
    version: u64,
    task: JoinHandle<Result<SnapshotRef, DeltaError>>,
}

impl fmt::Debug for DeltaLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeltaLog").field("location", &self.location.url).finish_non_exhaustive()
    }
}

/// What a commit does.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// Whether it only rewrites rows.
    pub(super) is_compaction: bool,
    pub(super) txns: Vec<(String, i64)>,
    pub(super) domains: Vec<(String, String)>,
    /// The idempotency token of a batch write; it goes into the table's state.
    pub(super) token: Option<String>,
    /// What the commit says it did.
    pub(super) metrics: Option<RowsChanged>,
    /// Actions that the kernel cannot be asked for, as lines of JSON.
    pub(super) raw: Vec<String>,
    /// Changes of the schema; then nothing else is changed.
    pub(super) schema: Vec<SchemaChange>,
    /// The name of an operation with `raw` actions.
    pub(super) operation: Option<&'static str>,
    pub(super) adds: Vec<Arc<StagedFile>>,
    /// Vectors of `adds`, by path.
    pub(super) add_vectors: HashMap<String, Descriptor>,
    /// Writes that must be done before the commit is sent, beside those of `adds`.
    pub(super) uploads: Vec<Upload>,
    /// Files with their new vectors.
    pub(super) masks: Vec<(Arc<LiveFile>, Descriptor)>,
    pub(super) removes: Vec<Arc<LiveFile>>,
}

/// What became of a commit.
#[derive(Debug)]
pub(super) enum Answer {
    /// It is true, durable and ours.
    Committed { snapshot: SnapshotRef, actions: Actions },
    /// Another commit has its version.
    Lost,
}

impl DeltaLog {
    pub(super) fn try_new(location: Location, clock: Arc<dyn Clock>) -> Result<Self, DeltaError> {
        let (kernel, runtime) = (kernel_for(&location)?, runtime()?);
        Ok(Self { location, clock, runtime, kernel, checksums: Arc::default() })
    }

    /// The newest snapshot; `None` if there is no table.
    pub(super) async fn load(&self) -> Result<Option<SnapshotRef>, DeltaError> {
        use futures::TryStreamExt;
        use object_store::ObjectStore;
        let mut log = self.location.store.list(Some(&self.location.path("_delta_log")));
        if log.try_next().await?.is_none() {
            return Ok(None);
        }
        drop(log);
        let (kernel, url) = (Arc::clone(&self.kernel), self.location.url.clone());
        self.blocking(move || Ok(Snapshot::builder_for(url.as_str()).build(kernel.as_ref())?))
            .await
            .map(Some)
    }

    /// The snapshot of `version`.
    pub(super) async fn at(&self, version: u64) -> Result<SnapshotRef, DeltaError> {
        let (kernel, url) = (Arc::clone(&self.kernel), self.location.url.clone());
        self.blocking(move || {
            Ok(Snapshot::builder_for(url.as_str()).at_version(version).build(kernel.as_ref())?)
        })
        .await
    }

    /// The newest snapshot after `known`.
    pub(super) async fn reload(&self, known: &SnapshotRef) -> Result<SnapshotRef, DeltaError> {
        let (kernel, known) = (Arc::clone(&self.kernel), Arc::clone(known));
        self.blocking(move || Ok(Snapshot::builder_from(known).build(kernel.as_ref())?)).await
    }

    /// Creates version 0; somebody else may have done so first.
    pub(super) async fn create(
        &self,
        schema: StructType,
        partition_by: &[String],
        properties: Vec<(String, String)>,
    ) -> Result<(), DeltaError> {
        let layout = match partition_by {
            [] => DataLayout::None,
            columns => DataLayout::partitioned(columns),
        };
        let (kernel, url, committer) =
            (Arc::clone(&self.kernel), self.location.url.clone(), self.committer());
        self.blocking(move || {
            if let Ok(folder) = url.to_file_path() {
                // The kernel wants a local folder to be there.
                std::fs::create_dir_all(&folder).map_err(|error| DeltaError::Damaged {
                    reason: format!("{} cannot be made: {error}", folder.display()),
                })?;
            }
            let built = create_table(url.as_str(), Arc::new(schema), ENGINE, false)
                .with_table_properties(properties)
                .with_data_layout(layout)
                .build(kernel.as_ref(), Box::new(committer.clone()))?;
            match built.commit(kernel.as_ref()) {
                Ok(CommitResult::Committed(done)) => {
                    done.post_commit_snapshot().map(|own| summed(Arc::clone(own), &kernel));
                    Ok(())
                }
                Ok(CommitResult::Conflicted(_)) => Ok(()),
                Ok(CommitResult::Retryable(failed)) => Err(unknown(&committer, failed.error)),
                Err(error) => Err(unknown(&committer, error)),
            }
        })
        .await
    }

    /// Commits `change` as the version after `snapshot`.
    ///
    /// # Cancellation
    ///
    /// Whether it is committed is unknown, as after an error.
    pub(super) async fn commit(
        &self,
        snapshot: SnapshotRef,
        change: Arc<Change>,
    ) -> Result<Answer, DeltaError> {
        let snapshot = self.known_sums(snapshot).await;
        let kernel = Arc::clone(&self.kernel);
        let committer = self.committer().with_change(Arc::clone(&change));
        let url = self.location.url.clone();
        // Else the kernel cannot tell its checksum, but from a checkpoint of it.
        let is_named = change.operation.is_some();
        let is_plain = change.raw.is_empty() && change.schema.is_empty() && !is_named;
        self.blocking(move || {
            let sent = send(&snapshot, &kernel, &change, &committer);
            let sent = sent.map_err(|error| match error {
                DeltaError::Log(error) => unknown(&committer, error),
                other => other,
            })?;
            let Some(next) = sent else { return Ok(Answer::Lost) };
            let actions = committer.take().actions;
            if !is_plain {
                // What the kernel knows of these actions is not enough: it must read them.
                let version = next.version();
                let snapshot = Snapshot::builder_for(url.as_str())
                    .at_version(version)
                    .build(kernel.as_ref())?;
                return Ok(Answer::Committed { snapshot, actions });
            }
            Ok(Answer::Committed { snapshot: next, actions })
        })
        .await
        .inspect(|answer| {
            if is_plain {
                self.begin_checksum(answer);
            }
        })
    }

    /// Begins to write the version checksum of what was committed.
    fn begin_checksum(&self, answer: &Answer) {
        let Answer::Committed { snapshot, .. } = answer else { return };
        let (kernel, next) = (Arc::clone(&self.kernel), Arc::clone(snapshot));
        let task = spawn_blocking(move || {
            Ok(next.write_checksum(kernel.as_ref()).map(|(_, with_checksum)| with_checksum)?)
        });
        let begun = Checksum { version: snapshot.version(), task };
        self.checksums().push_back(begun);
    }

    /// `snapshot`, with what the next checksum can be told from. Where it knows that already,
    /// checksums that are on their way are not waited for, unless there are many.
    async fn known_sums(&self, snapshot: SnapshotRef) -> SnapshotRef {
        if snapshot.get_file_stats_if_present().is_none() {
            return self.with_checksum(snapshot).await;
        }
        let oldest = {
            let mut all = self.checksums();
            if all.len() < CHECKSUMS_MAX { None } else { all.pop_front() }
        };
        match oldest {
            Some(oldest) => oldest.written(snapshot).await,
            None => snapshot,
        }
    }

    /// `snapshot` with its checksum, once all that were begun are written.
    pub(super) async fn with_checksum(&self, mut snapshot: SnapshotRef) -> SnapshotRef {
        let begun = std::mem::take(&mut *self.checksums());
        for checksum in begun {
            snapshot = checksum.written(snapshot).await;
        }
        snapshot
    }

    fn checksums(&self) -> MutexGuard<'_, VecDeque<Checksum>> {
        self.checksums.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a checkpoint of `snapshot`, and a checksum where only a checkpoint lets the kernel
    /// tell it.
    pub(super) async fn checkpoint(
        &self,
        snapshot: SnapshotRef,
    ) -> Result<SnapshotRef, DeltaError> {
        let snapshot = self.with_checksum(snapshot).await;
        let kernel = Arc::clone(&self.kernel);
        self.blocking(move || {
            let snapshot = snapshot.checkpoint(kernel.as_ref(), None)?.1;
            Ok(summed(snapshot, &kernel))
        })
        .await
    }

    /// The files of `snapshot`, by replay of the log.
    pub(super) async fn files(&self, snapshot: SnapshotRef) -> Result<Vec<Add>, DeltaError> {
        let kernel = Arc::clone(&self.kernel);
        self.blocking(move || {
            let scan = snapshot.scan_builder().build()?;
            let mut adds = Vec::new();
            for metadata in scan.scan_metadata(kernel.as_ref())? {
                let (data, selected) = metadata?.scan_files.into_parts();
                let batch = data.try_into_record_batch()?;
                adds_of(&batch, &selected, &mut adds)?;
            }
            Ok(adds)
        })
        .await
    }

    /// The version of `app` at `snapshot`.
    pub(super) async fn txn(
        &self,
        snapshot: &SnapshotRef,
        app: String,
    ) -> Result<Option<i64>, DeltaError> {
        let (kernel, snapshot) = (Arc::clone(&self.kernel), Arc::clone(snapshot));
        self.blocking(move || Ok(snapshot.get_app_id_version(&app, kernel.as_ref())?)).await
    }

    /// The domains of `snapshot` that are not Delta's own.
    pub(super) async fn domains(&self, snapshot: &SnapshotRef) -> Result<Domains, DeltaError> {
        Ok(self.words(snapshot, []).await?.1)
    }

    /// The versions of `apps` at `snapshot`, and its domains.
    pub(super) async fn words<const N: usize>(
        &self,
        snapshot: &SnapshotRef,
        apps: [String; N],
    ) -> Result<([Option<i64>; N], Domains), DeltaError> {
        let (kernel, snapshot) = (Arc::clone(&self.kernel), Arc::clone(snapshot));
        self.blocking(move || {
            let mut versions = [None; N];
            for (version, app) in versions.iter_mut().zip(&apps) {
                *version = snapshot.get_app_id_version(app, kernel.as_ref())?;
            }
            let all = snapshot.get_all_domain_metadata(kernel.as_ref())?;
            let words = all.iter();
            let words = words.map(|own| (own.domain().to_owned(), own.configuration().to_owned()));
            Ok((versions, words.collect()))
        })
        .await
    }

    /// What version `version` did; `None` if its commit is no longer, or not yet, in the log.
    pub(super) async fn actions(&self, version: u64) -> Result<Option<Actions>, DeltaError> {
        let path = self.location.path(&format!("_delta_log/{version:020}.json"));
        match self.location.store.get(&path).await {
            Ok(found) => Actions::parse(version, &found.bytes().await?).map(Some),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes back a commit that turned out to follow nothing.
    pub(super) async fn void(&self, version: u64) -> Result<(), DeltaError> {
        let path = self.location.path(&format!("_delta_log/{version:020}.json"));
        Ok(self.location.store.delete(&path).await?)
    }

    fn committer(&self) -> OnceCommitter {
        OnceCommitter::new(self.location.clone(), Arc::clone(&self.clock), self.runtime.clone())
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, DeltaError> + Send + 'static,
    ) -> Result<T, DeltaError> {
        join(SpawnedTask::spawn_blocking(work)).await
    }
}

impl Checksum {
    /// Waits for it; `snapshot` then has it, if it is its own.
    async fn written(self, snapshot: SnapshotRef) -> SnapshotRef {
        let Self { version, task } = self;
        let failed = |error| DeltaError::Task(Box::new(error));
        match task.await.map_err(failed).flatten() {
            Ok(with_checksum) if version == snapshot.version() => with_checksum,
            Ok(_) => snapshot,
            Err(error) => {
                tracing::warn!(version, %error, "no version checksum");
                snapshot
            }
        }
    }
}

/// `snapshot` with its checksum, which is written if it is not there. Readers do without.
fn summed(snapshot: SnapshotRef, kernel: &Kernel) -> SnapshotRef {
    match snapshot.write_checksum(kernel) {
        Ok((_, with_checksum)) => with_checksum,
        Err(error) => {
            tracing::warn!(version = snapshot.version(), %error, "no version checksum");
            snapshot
        }
    }
}

/// The id that a table has had since it was created.
pub(super) fn table_id(snapshot: &SnapshotRef) -> String {
    snapshot.table_configuration().metadata().id().to_owned()
}

/// A property of ours in `snapshot`'s table, which is JSON.
pub(super) fn property<T: serde::de::DeserializeOwned>(
    snapshot: &SnapshotRef,
    name: &str,
) -> Option<T> {
    serde_json::from_str(snapshot.metadata_configuration().get(name)?).ok()
}

fn unknown(committer: &OnceCommitter, error: KernelError) -> DeltaError {
    match committer.take().unknown {
        Some(cause) => CommitError::Unavailable(Box::new(cause)).into(),
        None => error.into(),
    }
}

fn send(
    snapshot: &SnapshotRef,
    kernel: &Arc<Kernel>,
    change: &Change,
    committer: &OnceCommitter,
) -> Result<Option<SnapshotRef>, DeltaError> {
    let operation = match change.operation {
        Some(name) => UpdateTableOperation::Custom(name.to_owned()),
        None if !change.schema.is_empty() => UpdateTableOperation::AlterTable,
        None if change.is_compaction => UpdateTableOperation::Optimize,
        None => UpdateTableOperation::Merge,
    };
    let changes_rows = !change.is_compaction && change.schema.is_empty();
    let mut builder = Arc::clone(snapshot).update_table(operation, ENGINE, changes_rows);
    for own in &change.schema {
        builder = match own {
            SchemaChange::Add(field) => builder.add_column(kernel_field(field)?),
            SchemaChange::DropNotNull(name) => builder.set_nullable(ColumnName::new([name])),
        };
    }
    for (app, version) in &change.txns {
        builder = builder.with_transaction_id(app.clone(), *version);
    }
    for (domain, configuration) in &change.domains {
        builder = builder.with_domain_metadata(domain.clone(), configuration.clone());
    }
    if let Some(metrics) = &change.metrics {
        let metrics = [
            ("numTargetRowsInserted", metrics.rows_inserted),
            ("numTargetRowsUpdated", metrics.rows_updated),
            ("numTargetRowsDeleted", metrics.rows_deleted),
            ("numTargetRowsIgnored", metrics.rows_ignored),
            ("numTargetBytesAdded", metrics.bytes_written),
        ];
        let metrics = metrics.map(|(name, number)| (name, Some(number.to_string())));
        builder = builder.with_operation_metrics(metrics);
    }
    let mut transaction = builder.build(kernel.as_ref(), Box::new(committer.clone()))?;
    if let Some(first) = change.adds.first() {
        let state = transaction.write_state()?;
        let mut context = bind(snapshot, &state, &first.partition)?;
        let mut bound = &first.partition;
        let columns = (state.stats_columns(), Arc::clone(context.physical_data_schema()));
        for (add, stats) in change.adds.iter().zip(statistics(&change.adds, columns)) {
            if add.partition != *bound {
                context = bind(snapshot, &state, &add.partition)?;
                bound = &add.partition;
            }
            let url = snapshot.table_root().join(&add.path).map_err(KernelError::generic_err)?;
            let meta = FileMeta::new(url, add.modified_ms, add.size_bytes);
            let metadata = DataFileMetadata::new(meta, stats?);
            transaction.add_files(build_add_file_metadata(metadata, &context)?);
        }
    }
    if !change.masks.is_empty() {
        let mut vectors = HashMap::with_capacity(change.masks.len());
        let mut rows = Vec::with_capacity(change.masks.len());
        for (file, descriptor) in &change.masks {
            vectors.insert(file.path.clone(), kernel_descriptor(descriptor)?);
            rows.push(Arc::clone(file));
        }
        // The kernel would read the bounds as numbers to say that they are wide.
        let masked = scan_rows(&rows, |file| widened(&file.stats));
        transaction.update_deletion_vectors(vectors, std::iter::once(masked))?;
    }
    if !change.removes.is_empty() {
        transaction.remove_files(scan_rows(&change.removes, |file| Cow::Borrowed(&file.stats))?);
    }
    Ok(match transaction.commit(kernel.as_ref())? {
        CommitResult::Committed(done) => {
            let next = done.post_commit_snapshot().cloned();
            Some(next.ok_or_else(|| KernelError::generic("no snapshot after a commit"))?)
        }
        CommitResult::Conflicted(_) => None,
        CommitResult::Retryable(failed) => return Err(failed.error.into()),
    })
}

/// What files of one partition are added with.
fn bind(
    snapshot: &SnapshotRef,
    state: &Arc<WriteState>,
    partition: &Values,
) -> Result<BoundWriteContext, DeltaError> {
    let builder = state.write_context_builder();
    if partition.is_empty() {
        return Ok(builder.build()?);
    }
    let schema = snapshot.schema();
    let mut values = HashMap::with_capacity(partition.len());
    for (name, value) in partition {
        let field = schema.field(name).ok_or_else(|| DeltaError::Damaged {
            reason: format!("it has no partition column {name} any more"),
        })?;
        values.insert(name.clone(), scalar_of(value.as_deref(), field.data_type())?);
    }
    Ok(builder.with_partition_values(values).build()?)
}

fn kernel_descriptor(own: &Descriptor) -> Result<DeletionVectorDescriptor, DeltaError> {
    let storage = match own.storage_type.as_str() {
        "i" => DeletionVectorStorageType::Inline,
        "p" => DeletionVectorStorageType::PersistedAbsolute,
        _ => DeletionVectorStorageType::PersistedRelative,
    };
    let path = own.path_or_inline_dv.clone();
    let (size, count) = (own.size_in_bytes, own.cardinality);
    Ok(DeletionVectorDescriptor::try_new(storage, path, own.offset, size, count)?)
}
