//! `DeltaTable`: one table, with the one writer that this process has for it.

use super::DeltaError;
use super::checks::{CHECKS, CheckDefinition, Checks, foreign_checks};
use super::files::Files;
use super::index::KeyIndex;
use super::ledger::Words;
use super::log::{DeltaLog, property, table_id};
use super::memory::{Memory, STATE_DOMAIN};
use super::metadata::TableWords;
use super::others::Others;
use super::partition::Partitioning;
use super::patch::Owed;
use super::rewrite::Rewrite;
use super::rules::{OPTIONS, TableRules, canonical, option_differences};
use super::saved::Saving;
use super::schema::{HASH_KEY, INPUT, PRIMARY_KEY, differences, from_kernel, normalise, to_kernel};
use super::stage::RowShape;
use super::view::{VIEW, ViewWords};
use crate::commit::CommitError;
use crate::key::KeyHasher;
use crate::store::{Location, probe_put_if_absent};
use crate::types::{Clock, Entropy};
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::runtime::SpawnedTask;
use delta_kernel::schema::StructType;
use delta_kernel::snapshot::SnapshotRef;
use roaring::RoaringTreemap;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

/// What a statement says about a table.
#[derive(Clone, Debug)]
pub struct TableDefinition {
    /// The columns, as SQL declares them.
    pub schema: SchemaRef,
    /// The columns of the primary key, in its order; at least one.
    pub primary_key: Vec<String>,
    /// The columns that partition it, in the order of its folders; none in most tables.
    pub partition_by: Vec<String>,
    /// Options of the table, without those of its store.
    pub options: HashMap<String, String>,
    /// Conditions that every row meets.
    pub checks: Vec<CheckDefinition>,
    /// The query of a materialized view.
    pub view: Option<String>,
}

/// When a table is maintained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeltaSettings {
    /// Commits between two Delta checkpoints; at least 1.
    pub checkpoint_interval: u64,
    /// Rows below which a data file is small; 0 never compacts.
    pub compact_rows_min: u64,
    /// How many small or worn files make a table compaction worth its while.
    pub compact_files_min: u64,
    /// Keys from which on the key index is saved: with fewer, reading the table is as fast.
    pub index_keys_min: usize,
    /// Most bytes of memory that the key index takes; what is more is kept on local disk, in the
    /// folder for temporary files. The filters of what is there always stay: 1.5 bytes a key.
    pub index_bytes_max: usize,
    /// How long old versions can be read; zero never deletes anything.
    pub retention: Duration,
}

impl Default for DeltaSettings {
    fn default() -> Self {
        Self {
            checkpoint_interval: 100,
            compact_rows_min: 262_144,
            compact_files_min: 32,
            index_keys_min: 100_000,
            index_bytes_max: 4 << 30,
            retention: Duration::from_hours(48),
        }
    }
}

/// An upsert table; one per location and process.
pub struct DeltaTable {
    pub(super) location: Location,
    pub(super) settings: DeltaSettings,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) log: DeltaLog,
    pub(super) shape: RowShape,
    /// What the log said of it when it was opened.
    words: TableWords,
    /// As they were declared.
    pub(super) options: BTreeMap<String, String>,
    pub(super) view: Option<ViewWords>,
    /// Whether its rows are the groups of a pipeline.
    pub(super) holds_groups: AtomicBool,
    pub(super) writer: tokio::sync::Mutex<Writer>,
    shown: RwLock<Arc<TableView>>,
    /// For the sink of a plan, which may outlive the statement.
    pub(super) this: Weak<Self>,
}

/// What readers see.
#[derive(Debug)]
pub(super) struct TableView {
    pub(super) version: u64,
    pub(super) files: Files,
}

/// What the writer knows.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) snapshot: SnapshotRef,
    pub(super) files: Files,
    /// Built when the table is first written.
    pub(super) index: Option<KeyIndex>,
    /// Loaded when the table is first written.
    pub(super) memory: Option<Memory>,
    /// What others committed.
    pub(super) others: Others,
    /// Rows of keys that are there twice, by another writer; our next commit masks them.
    pub(super) owed: Owed,
    /// What our last commit of an epoch says.
    pub(super) words: Option<Words>,
    /// Keys changed since the index was last saved.
    pub(super) changed: u64,
    /// Keys that the last commit of rows changed.
    pub(super) changed_last: u64,
    /// A save of the index that goes on beside commits.
    pub(super) saving: Option<Saving>,
    /// Adds and removes since the last checkpoint of this process.
    pub(super) actions: u64,
    /// A table compaction that goes on beside commits.
    pub(super) rewrite: Option<Rewrite>,
    pub(super) vacuum: Option<SpawnedTask<()>>,
    /// When this process last looked whether a vacuum is due.
    pub(super) vacuumed: Option<Duration>,
    pub(super) opened: Duration,
    /// When the log was last listed, or a commit of ours followed the head.
    pub(super) listed: Duration,
    /// Whether a commit was sent and its outcome was not seen.
    pub(super) is_unknown: bool,
    /// Whether the table is no longer the one that was opened: its schema or its rules changed.
    pub(super) is_altered: bool,
    is_probed: bool,
}

/// A snapshot older than this is listed again before a commit is sent.
pub(super) const STALE: Duration = Duration::from_mins(1);

impl fmt::Debug for DeltaTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeltaTable")
            .field("name", &self.shape.table)
            .field("location", &self.location.url.as_str())
            .finish_non_exhaustive()
    }
}

impl DeltaTable {
    /// Opens the table at `location`, or creates it from `definition`; `name` is used in messages.
    ///
    /// # Errors
    ///
    /// A definition that Delta cannot keep, or that is not the one of the table found.
    pub async fn create_or_open(
        name: &str,
        location: Location,
        definition: Option<TableDefinition>,
        settings: DeltaSettings,
        (entropy, clock): (Arc<dyn Entropy>, Arc<dyn Clock>),
    ) -> Result<Arc<Self>, DeltaError> {
        let log = DeltaLog::try_new(location.clone(), Arc::clone(&clock))?;
        let declared = definition.as_ref().map(|own| Declared::try_new(name, own)).transpose()?;
        let missing = || DeltaError::Missing { location: location.url.to_string() };
        let snapshot = match (log.load().await?, &definition, &declared) {
            (Some(snapshot), ..) => snapshot,
            (None, Some(definition), Some(declared)) => {
                let properties = properties(definition, declared, entropy.as_ref())?;
                let schema = to_kernel(&declared.stored())?;
                log.create(schema, &definition.partition_by, properties).await?;
                log.load().await?.ok_or_else(missing)?
            }
            (None, ..) => return Err(missing()),
        };
        let shape = shape_of(name, &location, &snapshot, entropy.as_ref())?;
        let files = Files::load(&location, log.files(Arc::clone(&snapshot)).await?).await?;
        let shown = TableView { version: snapshot.version(), files: files.clone() };
        let options = property(&snapshot, OPTIONS).unwrap_or_default();
        let words = TableWords::of(&snapshot);
        let view = snapshot.metadata_configuration().get(VIEW).cloned().map(|query| {
            let partition_by = snapshot.table_configuration().metadata().partition_columns();
            ViewWords::new((name, location.url.as_str()), query, partition_by, &options)
        });
        let writer = Writer {
            snapshot,
            files,
            index: None,
            memory: None,
            others: Others::default(),
            owed: Owed::new(),
            words: None,
            changed: 0,
            changed_last: 0,
            saving: None,
            actions: 0,
            rewrite: None,
            vacuum: None,
            vacuumed: None,
            opened: clock.monotonic(),
            listed: clock.monotonic(),
            is_unknown: false,
            is_altered: false,
            is_probed: false,
        };
        let opened = Arc::new_cyclic(|this| Self {
            location,
            settings,
            entropy,
            clock,
            log,
            shape,
            words,
            options,
            view,
            holds_groups: AtomicBool::new(false),
            writer: tokio::sync::Mutex::new(writer),
            shown: RwLock::new(Arc::new(shown)),
            this: Weak::clone(this),
        });
        if let Some(definition) = &definition {
            opened.check(definition)?;
        }
        opened.learn_groups().await?;
        Ok(opened)
    }

    /// The name given.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shape.table
    }

    /// Where it is.
    #[must_use]
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// The columns of the primary key, in its order.
    #[must_use]
    pub fn primary_key(&self) -> &[String] {
        &self.shape.primary_key
    }

    /// Whether a row that comes takes the place of the one of its key, whole.
    #[must_use]
    pub fn replaces_rows(&self) -> bool {
        self.shape.rules.is_plain()
    }

    /// Columns that INSERT takes and the table does not keep.
    #[must_use]
    pub fn unstored(&self) -> &[String] {
        &self.shape.rules.unstored
    }

    /// The newest version this process knows.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.view().version
    }

    /// How long old versions can be read.
    #[must_use]
    pub fn retention(&self) -> Duration {
        self.settings.retention
    }

    /// Rows of the newest version this process knows.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.view().files.live_rows()
    }

    /// Refuses a definition that is not the one of this table.
    ///
    /// # Errors
    ///
    /// [`DeltaError::Mismatch`] with each difference.
    pub fn check(&self, definition: &TableDefinition) -> Result<(), DeltaError> {
        let TableDefinition { primary_key, partition_by, options, view, .. } = definition;
        let declared = Declared::try_new(self.name(), definition)?;
        let own = (declared.input.as_ref(), primary_key.as_slice());
        let found = (self.shape.input.as_ref(), self.primary_key());
        let mut all = differences(own, found);
        all.extend(self.shape.partitioning.difference(partition_by));
        all.extend(option_differences(&canonical(options), &self.options));
        all.extend(declared.checks.differences(&self.shape.checks));
        all.extend(self.view_difference(view.is_some()));
        let differences = all.join("; ");
        if differences.is_empty() {
            return Ok(());
        }
        let (table, location) = (self.name().to_owned(), self.location.url.to_string());
        Err(DeltaError::Mismatch { table, location, differences })
    }

    /// Picks up what others have committed.
    pub async fn refresh(&self) -> Result<(), DeltaError> {
        let mut writer = self.writer.lock().await;
        self.catch_up(&mut writer).await
    }

    /// Whether its schema or its rules are others than when it was opened, as far as is known: it
    /// must be opened again to be written.
    pub async fn is_altered(&self) -> bool {
        self.writer.lock().await.is_altered
    }

    /// The table as it is shared; `None` if it is being dropped.
    pub(super) fn shared(&self) -> Option<Arc<Self>> {
        self.this.upgrade()
    }

    pub(super) fn view(&self) -> Arc<TableView> {
        Arc::clone(&self.shown.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Shows readers what the writer knows.
    pub(super) fn publish(&self, writer: &Writer) {
        let view = TableView { version: writer.snapshot.version(), files: writer.files.clone() };
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
    }

    /// Brings the writer to the head of the log.
    pub(super) async fn catch_up(&self, writer: &mut Writer) -> Result<(), DeltaError> {
        let listed = self.clock.monotonic();
        let head = self.log.reload(&writer.snapshot).await?;
        if head.version() != writer.snapshot.version() || writer.is_unknown {
            writer.is_altered |= TableWords::of(&head) != self.words;
            writer.others.note(writer.snapshot.version() + 1..head.version() + 1);
            writer.memory = None;
            writer.words = None;
            if !writer.is_unknown && self.keeps_files(&writer.snapshot, &head).await? {
                writer.snapshot = head;
                writer.listed = listed;
                self.publish(writer);
                return Ok(());
            }
            let adds = self.log.files(Arc::clone(&head)).await?;
            let files = writer.files.next(&self.location, &adds).await?;
            writer.saving = None;
            let old = std::mem::replace(&mut writer.files, files);
            // After a commit whose fate was not seen the index may hold what was never true.
            let known = writer.index.take().filter(|_| !writer.is_unknown);
            if let Some(mut index) = known {
                let both = (&old, &writer.files);
                index.patch(&self.location, both, &self.shape, &mut writer.owed).await?;
                writer.index = Some(index);
            }
            writer.snapshot = head;
            writer.is_unknown = false;
            self.publish(writer);
        }
        writer.listed = listed;
        Ok(())
    }

    /// Whether the commits between two snapshots touched no file: fences, and words of others.
    async fn keeps_files(
        &self,
        base: &SnapshotRef,
        head: &SnapshotRef,
    ) -> Result<bool, DeltaError> {
        for version in base.version() + 1..=head.version() {
            match self.log.actions(version).await? {
                Some(actions) if actions.adds.is_empty() && actions.removes.is_empty() => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Makes the writer fit to commit: at a head that was seen lately, on a store that keeps its
    /// promises, with an index.
    pub(super) async fn prepare(&self, writer: &mut Writer) -> Result<(), DeltaError> {
        if !writer.is_probed {
            probe_put_if_absent(&self.location, self.entropy.as_ref()).await?;
            writer.is_probed = true;
        }
        let age = self.clock.monotonic().saturating_sub(writer.listed);
        if writer.is_unknown || age > STALE {
            self.catch_up(writer).await?;
        }
        self.refuse_altered(writer)?;
        if writer.index.is_none() {
            let mut owed = Owed::new();
            writer.saving = None;
            let (version, id) = (writer.snapshot.version(), table_id(&writer.snapshot));
            let saved = self.load_index(&writer.files, version, &id, &mut owed).await;
            let index = match saved {
                Some(index) => index,
                None => {
                    writer.changed = u64::MAX / 2; // it was not saved, or cannot be read
                    let files = &writer.files;
                    let most = self.settings.index_bytes_max;
                    KeyIndex::build(&self.location, files, &self.shape, most, &mut owed).await?
                }
            };
            let bytes = index.allocated_bytes();
            tracing::debug!(table = self.name(), keys = index.len(), bytes, "key index is there");
            if !owed.is_empty() {
                let rows: u64 = owed.values().map(RoaringTreemap::len).sum();
                tracing::warn!(
                    table = self.name(),
                    rows,
                    "another writer appended rows whose keys were there: the later rows count"
                );
            }
            writer.owed = owed;
            writer.index = Some(index);
        }
        if writer.memory.is_none() {
            let domains = self.log.domains(&writer.snapshot).await?;
            let named = domains.iter().find(|(domain, _)| domain == STATE_DOMAIN);
            let configuration = named.map(|(_, configuration)| configuration.as_str());
            writer.memory = Some(Memory::load(&self.location, configuration).await?);
        }
        Ok(())
    }

    /// Refuses to write what another writer's words about the table may forbid.
    fn refuse_altered(&self, writer: &Writer) -> Result<(), DeltaError> {
        if let Some(what) = foreign_checks(&writer.snapshot) {
            return Err(DeltaError::ForeignChecks { table: self.name().to_owned(), what });
        }
        if !writer.is_altered {
            return Ok(());
        }
        let reason = format!(
            "table {} is no longer as it was opened: it was altered, or restored; run CREATE \
             EXTERNAL TABLE and the INSERT of its pipeline again to go on",
            self.name()
        );
        Err(CommitError::Conflict { version: writer.snapshot.version(), reason }.into())
    }
}

/// What a definition says, once it is found to be sound.
struct Declared {
    input: SchemaRef,
    rules: TableRules,
    checks: Checks,
}

impl Declared {
    fn try_new(name: &str, definition: &TableDefinition) -> Result<Self, DeltaError> {
        let TableDefinition { schema, primary_key, partition_by, options, checks, .. } = definition;
        let input = normalise(name, schema, primary_key)?;
        let rules = TableRules::try_new(name, &input, primary_key, options)?;
        let kept = Arc::new(stored(&input, &rules));
        Partitioning::try_new(name, &kept, partition_by)?;
        let checks = Checks::try_new(name, &kept, checks)?;
        Ok(Self { input, rules, checks })
    }

    fn stored(&self) -> Schema {
        stored(&self.input, &self.rules)
    }
}

/// What a table found at `location` takes and holds.
fn shape_of(
    name: &str,
    location: &Location,
    snapshot: &SnapshotRef,
    entropy: &dyn Entropy,
) -> Result<RowShape, DeltaError> {
    let schema = from_kernel(&snapshot.schema())?;
    let primary_key: Vec<String> =
        property(snapshot, PRIMARY_KEY).ok_or_else(|| DeltaError::Mismatch {
            table: name.to_owned(),
            location: location.url.to_string(),
            differences: "it has no primary key, so it was not made by onefold".to_owned(),
        })?;
    let input = match property::<StructType>(snapshot, INPUT) {
        Some(input) => widened(from_kernel(&input)?.as_ref(), &schema),
        None => Arc::clone(&schema),
    };
    let options: HashMap<String, String> = property(snapshot, OPTIONS).unwrap_or_default();
    let rules = TableRules::try_new(name, &input, &primary_key, &options)?;
    let mut types = Vec::with_capacity(primary_key.len());
    for key in &primary_key {
        types.push(schema.field_with_name(key)?.data_type().clone());
    }
    let known = snapshot.metadata_configuration().get(HASH_KEY);
    let known = known.and_then(|digits| u128::from_str_radix(digits, 16).ok());
    let hasher =
        KeyHasher::try_new(known.map_or_else(|| entropy.bits(), u128::to_be_bytes), &types)?;
    let partition_by = snapshot.table_configuration().metadata().partition_columns();
    let partitioning = Partitioning::try_new(name, &schema, partition_by)?;
    let shape = RowShape::new(name.to_owned(), input, primary_key, hasher, rules);
    let mut shape = shape.with_partitioning(partitioning);
    if let Some(kept) = snapshot.metadata_configuration().get(CHECKS) {
        let kept = serde_json::from_str(kept).map_err(|error| DeltaError::Damaged {
            reason: format!("property {CHECKS} cannot be read: {error}"),
        })?;
        shape.checks = Arc::new(Checks::of_property(name, &shape.schema, kept)?);
    }
    Ok(shape)
}

/// What INSERT took when the table was created, and the columns that came since.
fn widened(input: &Schema, schema: &Schema) -> SchemaRef {
    let own = |field: &Arc<Field>| {
        schema
            .field_with_name(field.name())
            .map_or_else(|_| Arc::clone(field), |now| Arc::new(now.clone()))
    };
    let mut fields: Vec<Arc<Field>> = input.fields().iter().map(own).collect();
    let is_new = |field: &&Arc<Field>| input.field_with_name(field.name()).is_err();
    fields.extend(schema.fields().iter().filter(is_new).cloned());
    Arc::new(Schema::new(fields))
}

/// The columns of `input` that the table keeps.
fn stored(input: &Schema, rules: &TableRules) -> Schema {
    let kept = input.fields().iter().filter(|field| !rules.unstored.contains(field.name()));
    Schema::new(kept.cloned().collect::<Vec<_>>())
}

fn properties(
    definition: &TableDefinition,
    declared: &Declared,
    entropy: &dyn Entropy,
) -> Result<Vec<(String, String)>, DeltaError> {
    let damaged = |error: serde_json::Error| DeltaError::Damaged { reason: error.to_string() };
    let mut all = vec![
        ("delta.feature.deletionVectors", "supported".to_owned()),
        ("delta.enableDeletionVectors", "true".to_owned()),
        ("delta.feature.domainMetadata", "supported".to_owned()),
        ("delta.enableInCommitTimestamps", "true".to_owned()),
        ("delta.deletedFileRetentionDuration", "interval 1 hours".to_owned()),
        ("delta.logRetentionDuration", "interval 2 days".to_owned()),
        (PRIMARY_KEY, serde_json::to_string(&definition.primary_key).map_err(damaged)?),
        (HASH_KEY, format!("{:032x}", u128::from_be_bytes(entropy.bits()))),
    ];
    if !definition.options.is_empty() {
        let options = canonical(&definition.options);
        all.push((OPTIONS, serde_json::to_string(&options).map_err(damaged)?));
    }
    if !declared.rules.unstored.is_empty() {
        let input = to_kernel(&declared.input)?;
        all.push((INPUT, serde_json::to_string(&input).map_err(damaged)?));
    }
    if !declared.checks.is_empty() {
        let checks = declared.checks.to_property();
        all.push((CHECKS, serde_json::to_string(&checks).map_err(damaged)?));
    }
    all.extend(definition.view.clone().map(|query| (VIEW, query)));
    Ok(all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}
