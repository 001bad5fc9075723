//! Upserts against a model, lost races, lost answers, and fences.

use super::{DeltaSettings, DeltaTable, TableDefinition};
use crate::commit::{EpochRows, Ledger, ManifestRef, Outcome, Proposal};
use crate::store::Location;
pub(super) use crate::testing::{AgedStore, Fault, FaultyStore, SimulatedClock};
use crate::types::{
    Clock, Entropy, Epoch, Incarnation, POSITION_COLUMN, PipelineId, SystemClock, SystemEntropy,
};
use arrow::array::cast::AsArray;
use arrow::array::types::Int64Type;
use arrow::array::{Array, ArrayRef, Int64Array, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use datafusion::prelude::{SessionConfig, SessionContext, col, lit};
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) type Model = BTreeMap<i64, i64>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_row_of_a_key_stays_within_and_across_epochs() {
    let location = memory();
    let table = open(&location, settings()).await.unwrap();
    let mut run = Run::start(&table, "p").await;
    run.epoch(&[(1, 10), (2, 20), (1, 11)]).await;
    assert_eq!(scan(&table).await, Model::from([(1, 11), (2, 20)]));
    run.epoch(&[(2, 21), (3, 30)]).await;
    let expected = Model::from([(1, 11), (2, 21), (3, 30)]);
    assert_eq!(scan(&table).await, expected);
    let again = open(&location, settings()).await.unwrap();
    assert_eq!(scan(&again).await, expected);
    assert_eq!(again.version(), table.version());
    assert_eq!(again.rows(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_filter_project_limit_and_count() {
    let location = memory();
    let table = open(&location, settings()).await.unwrap();
    let mut run = Run::start(&table, "p").await;
    let rows: Vec<(i64, i64)> = (0..20_000).map(|key| (key, key * 2)).collect();
    run.epoch(&rows).await;
    let changed: Vec<(i64, i64)> = (0..20_000).step_by(3).map(|key| (key, -1)).collect();
    run.epoch(&changed).await;
    for partitions in [1, 4] {
        let context = session(&table, partitions);
        let one = |sql: &'static str| {
            let context = context.clone();
            async move {
                let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
                let first = batches.iter().find(|batch| batch.num_rows() > 0);
                first.map(|batch| batch.column(0).as_primitive::<Int64Type>().value(0))
            }
        };
        assert_eq!(one("SELECT count(*) FROM t").await, Some(20_000));
        assert_eq!(one("SELECT count(*) FROM t WHERE v = -1").await, Some(6_667));
        assert_eq!(one("SELECT v FROM t WHERE k = 4").await, Some(8));
        assert_eq!(one("SELECT v FROM t WHERE k = 6").await, Some(-1));
        assert_eq!(one("SELECT v FROM t WHERE k = 60000").await, None);
        assert_eq!(one("SELECT count(*) FROM t WHERE k IN (1, 3, 60000, 6)").await, Some(3));
        assert_eq!(one("SELECT sum(v) FROM t WHERE k IN (6, 4, 4) AND v > 0").await, Some(8));
        assert_eq!(
            one("SELECT sum(v) FROM t WHERE (k = 6 OR 5 = k) AND s IS NOT NULL").await,
            Some(10)
        );
        let plan = context.sql("SELECT v FROM t WHERE k = 6").await.unwrap();
        let plan = plan.create_physical_plan().await.unwrap();
        let files = datafusion::physical_plan::displayable(plan.as_ref()).indent(true).to_string();
        assert_eq!(files.matches(".parquet").count(), 1, "{files}");
        let (before, wanted) = (table.view(), [col("k").eq(lit(6_i64))]);
        run.epoch(&[(6, -1)]).await;
        let rows = |view: &super::table::TableView| table.rows_of_keys(view, &wanted).unwrap();
        assert!(rows(&before).is_none(), "the index is of a later version");
        assert!(rows(&table.view()).is_some());
        let few = context.sql("SELECT k FROM t LIMIT 7").await.unwrap().collect().await.unwrap();
        assert_eq!(few.iter().map(RecordBatch::num_rows).sum::<usize>(), 7);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_insert_of_a_plain_query_is_one_commit() {
    let location = memory();
    let table = open(&location, settings()).await.unwrap();
    let context = session(&table, 2);
    let before = table.version();
    let insert = "INSERT INTO t VALUES (1, 1, 'a'), (2, 2, NULL), (1, 3, 'b')";
    context.sql(insert).await.unwrap().collect().await.unwrap();
    assert_eq!(table.version(), before + 1);
    assert_eq!(scan(&table).await, Model::from([(1, 3), (2, 2)]));
    let refused = context
        .sql("INSERT INTO t SELECT NULLIF(n, 2), n, 'x' FROM (SELECT 1 AS n UNION ALL SELECT 2)")
        .await
        .unwrap();
    let error = refused.collect().await.unwrap_err().to_string();
    assert!(error.contains("column k is NULL in row {"), "{error}");
    assert_eq!(scan(&table).await, Model::from([(1, 3), (2, 2)]));
    context.sql("EXPLAIN INSERT INTO t VALUES (9, 9, '')").await.unwrap().collect().await.unwrap();
    assert_eq!(table.rows(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_writer_cannot_commit_after_its_successor() {
    let location = memory();
    let old_table = open(&location, settings()).await.unwrap();
    let mut old = Run::start(&old_table, "p").await;
    old.epoch(&[(1, 1)]).await;
    let new_table = open(&location, settings()).await.unwrap();
    let mut new = Run::start(&new_table, "p").await;
    assert_eq!(new.incarnation, old.incarnation.next());
    assert_eq!(new.epoch, 1);
    let fenced = Outcome::Fenced { by: new.incarnation };
    assert_eq!(old.try_epoch(&[(1, 2)]).await.unwrap(), fenced);
    new.epoch(&[(1, 3)]).await;
    assert_eq!(old.try_epoch(&[(1, 4)]).await.unwrap(), fenced);
    assert_eq!(scan(&new_table).await, Model::from([(1, 3)]));
    old_table.refresh().await.unwrap();
    assert_eq!(scan(&old_table).await, Model::from([(1, 3)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_writers_of_one_table_lose_races_and_no_rows() {
    let location = memory();
    let (one, two) =
        (open(&location, settings()).await.unwrap(), open(&location, settings()).await.unwrap());
    let (mut first, mut second) = (Run::start(&one, "p").await, Run::start(&two, "q").await);
    let mut model = Model::new();
    for round in 0..6 {
        first.epoch(&[(round, 1), (100, round)]).await;
        second.epoch(&[(round, 2), (200, round)]).await;
        model.extend([(round, 2), (100, round), (200, round)]);
    }
    one.refresh().await.unwrap();
    assert_eq!(scan(&one).await, model);
    assert_eq!(scan(&two).await, model);
    assert_eq!(one.manifests().await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compactions_of_another_process_at_any_moment_keep_the_key_unique() {
    let location = memory();
    let busy = DeltaSettings { compact_files_min: 2, checkpoint_interval: 3, ..settings() };
    let (one, two) = (open(&location, busy).await.unwrap(), open(&location, busy).await.unwrap());
    let (mut first, mut second) = (Run::start(&one, "p").await, Run::start(&two, "q").await);
    let mut model = Model::new();
    for round in 0..12 {
        let own: Vec<(i64, i64)> = (0..9).map(|n| ((round * 5 + n) % 23, round)).collect();
        first.epoch(&own).await;
        model.extend(own);
        if round % 3 == 0 {
            second.epoch(&[(round, -1), (round + 100, -1)]).await;
            model.extend([(round, -1), (round + 100, -1)]);
        }
        one.refresh().await.unwrap();
        assert_eq!(scan(&one).await, model);
    }
    assert!(one.view().files.iter().count() < 6, "nothing was compacted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_by_another_engine_is_noticed_by_who_runs_and_by_who_opens() {
    let location = memory();
    let table = open(&location, settings()).await.unwrap();
    let mut run = Run::start(&table, "p").await;
    run.epoch(&[(1, 1)]).await;
    let version = table.version() + 1;
    let path = location.path(&format!("_delta_log/{version:020}.json"));
    let restore = r#"{"commitInfo":{"timestamp":4102444800000,"inCommitTimestamp":4102444800000,"operation":"RESTORE","txnId":"x"}}"#;
    location.store.put(&path, restore.into()).await.unwrap();
    let running = run.try_epoch(&[(2, 2)]).await.unwrap_err().to_string();
    assert!(running.contains("it restored an older version"), "{running}");
    let again = open(&location, settings()).await.unwrap();
    let opening = again.open(&run.pipeline).await.unwrap_err().to_string();
    assert!(opening.contains("pipeline p remembers a newer one"), "{opening}");
    assert!(again.open(&PipelineId::try_new("new").unwrap()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_race_lost_to_a_fence_is_run_again_with_the_same_index() {
    let location = memory();
    let (one, two) =
        (open(&location, settings()).await.unwrap(), open(&location, settings()).await.unwrap());
    let mut first = Run::start(&one, "p").await;
    first.epoch(&[(1, 1), (2, 2)]).await;
    Run::start(&two, "q").await;
    first.epoch(&[(2, 3), (3, 3)]).await; // the fence of q has its version
    Run::start(&two, "q").await;
    first.epoch(&[(3, 4), (4, 4)]).await;
    assert_eq!(scan(&one).await, Model::from([(1, 1), (2, 3), (3, 4), (4, 4)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_epoch_that_does_not_follow_is_refused() {
    let table = open(&memory(), settings()).await.unwrap();
    let mut run = Run::start(&table, "p").await;
    run.epoch(&[(1, 1)]).await;
    run.epoch += 1;
    let error = run.try_epoch(&[(1, 2)]).await.unwrap_err().to_string();
    assert!(error.contains("the ledger expects 2"), "{error}");
    run.epoch -= 2;
    assert!(run.try_epoch(&[(1, 2)]).await.is_err(), "an epoch cannot be committed twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_definition_is_refused_with_the_differences() {
    let location = memory();
    open(&location, settings()).await.unwrap();
    let fields =
        vec![Field::new("k", DataType::Int64, false), Field::new("w", DataType::Utf8, true)];
    let other = TableDefinition {
        schema: Arc::new(Schema::new(fields)),
        primary_key: vec!["k".to_owned()],
        partition_by: Vec::new(),
        options: std::collections::HashMap::new(),
        checks: Vec::new(),
        view: None,
    };
    let error = open_as(&location, Some(other), settings()).await.unwrap_err().to_string();
    assert!(error.contains("it has no column w; it has a column v too"), "{error}");
    let found = open_as(&location, None, settings()).await.unwrap();
    assert_eq!(found.primary_key(), ["k"]);
    let missing = open_as(&memory(), None, settings()).await.unwrap_err().to_string();
    assert!(missing.contains("no Delta table"), "{missing}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn the_table_equals_a_map_whatever_is_compacted_checkpointed_or_reopened(
        epochs in proptest::collection::vec(
            (proptest::collection::vec((0..60_i64, 0..1000_i64), 0..40), any::<bool>()), 1..14),
        fits in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.unwrap().block_on(async {
            let location = memory();
            let busy = DeltaSettings {
                checkpoint_interval: 4,
                compact_files_min: 3,
                index_keys_min: 1,
                index_bytes_max: if fits { usize::MAX } else { 60 << 10 },
                ..settings()
            };
            let mut table = open(&location, busy).await.unwrap();
            let mut run = Run::start(&table, "p").await;
            let mut model = Model::new();
            for (rows, reopens) in epochs {
                run.epoch(&rows).await;
                model.extend(rows);
                assert_eq!(scan(&table).await, model);
                assert_eq!(table.rows(), model.len() as u64);
                index_is_what_a_scan_finds(&table).await;
                if reopens {
                    table.rest().await;
                    table = open(&location, busy).await.unwrap();
                    let epoch = run.epoch;
                    run = Run::start(&table, "p").await;
                    assert_eq!(run.epoch, epoch);
                }
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_saved_index_is_used_and_one_that_is_damaged_foreign_or_lost_is_not() {
    let location = memory();
    let own = DeltaSettings { index_keys_min: 1, ..settings() };
    let table = open(&location, own).await.unwrap();
    let mut run = Run::start(&table, "p").await;
    let rows: Vec<(i64, i64)> = (0..500).map(|key| (key, key)).collect();
    run.epoch(&rows).await;
    run.epoch(&rows[..300]).await;
    table.rest().await;
    run.epoch(&[(1, 7), (600, 7)]).await; // after it was saved
    let load = async || {
        let again = open(&location, own).await.unwrap();
        let mut owed = super::patch::Owed::new();
        let (files, version) = (again.view().files.clone(), again.version());
        let id = super::log::table_id(&again.writer.lock().await.snapshot);
        let index = again.load_index(&files, version, &id, &mut owed).await;
        index.map(|index| index.len())
    };
    assert_eq!(load().await, Some(501));
    index_is_what_a_scan_finds(&open(&location, own).await.unwrap()).await;
    let saved: Vec<_> = location
        .store
        .list(Some(&location.path(super::saved::INDEX_FOLDER)))
        .try_collect()
        .await
        .unwrap();
    let named = |end: &str| {
        let is_it = |object: &&object_store::ObjectMeta| object.location.as_ref().ends_with(end);
        saved.iter().filter(is_it).map(|object| object.location.clone()).collect::<Vec<_>>()
    };
    let (mut runs, paths) = (Vec::new(), named("-3.run"));
    for path in &paths {
        let bytes = location.store.get(path).await.unwrap().bytes().await.unwrap();
        let mut damaged = bytes.to_vec();
        damaged[40] ^= 1;
        location.store.put(path, damaged.into()).await.unwrap();
        runs.push(bytes);
    }
    assert_eq!(load().await, None, "one bit is wrong");
    for path in &paths {
        location.store.delete(path).await.unwrap();
    }
    assert_eq!(load().await, None, "a run is missing");
    for (path, bytes) in paths.iter().zip(runs) {
        location.store.put(path, bytes.into()).await.unwrap();
    }
    assert_eq!(load().await, Some(501));
    for path in named(".json") {
        let head = location.store.get(&path).await.unwrap().bytes().await.unwrap();
        let other =
            String::from_utf8(head.to_vec()).unwrap().replace("\"proof\":\"", "\"proof\":\"0");
        location.store.put(&path, other.into()).await.unwrap();
    }
    assert_eq!(load().await, None, "of another table");
    index_is_what_a_scan_finds(&open(&location, own).await.unwrap()).await;
}

/// I9: the index of the writer has every live row at its place, and no other.
pub(super) async fn index_is_what_a_scan_finds(table: &Arc<DeltaTable>) {
    let mut writer = table.writer.lock().await;
    table.catch_up(&mut writer).await.unwrap();
    table.prepare(&mut writer).await.unwrap();
    let mut owed = super::patch::Owed::new();
    let files = &writer.files;
    let found =
        super::index::KeyIndex::build(&table.location, files, &table.shape, usize::MAX, &mut owed);
    let found = found.await.unwrap();
    let index = writer.index.as_ref().unwrap();
    assert_eq!(index.len(), found.len());
    for file in writer.files.iter() {
        let keys = super::index::read_keys(&table.location, file, &table.shape).await.unwrap();
        for (hash, ..) in keys {
            assert_eq!(index.get(hash).unwrap(), found.get(hash).unwrap());
        }
    }
}

/// A pipeline's side of the protocol.
pub(super) struct Run {
    pub(super) table: Arc<DeltaTable>,
    pipeline: PipelineId,
    incarnation: Incarnation,
    epoch: u64,
}

impl Run {
    pub(super) async fn start(table: &Arc<DeltaTable>, name: &str) -> Self {
        let pipeline = PipelineId::try_new(name).unwrap();
        let opened = table.open(&pipeline).await.unwrap();
        Self {
            table: Arc::clone(table),
            pipeline,
            incarnation: opened.incarnation,
            epoch: opened.manifest.map_or(0, |named| named.epoch.0),
        }
    }

    pub(super) async fn epoch(&mut self, rows: &[(i64, i64)]) {
        let outcome = self.try_epoch(rows).await.unwrap();
        assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
    }

    async fn try_epoch(
        &mut self,
        rows: &[(i64, i64)],
    ) -> Result<Outcome, crate::commit::CommitError> {
        let partitions =
            rows.chunks(7).enumerate().map(|(at, rows)| vec![batch(at as u64 * 7, rows)]);
        let staged = self.table.stage(EpochRows { partitions: partitions.collect() }).await?;
        let epoch = Epoch(self.epoch + 1);
        let named = ManifestRef {
            epoch,
            path: format!("m{epoch}"),
            sha256: String::new(),
            owns_rows: false,
        };
        let (pipeline, incarnation) = (self.pipeline.clone(), self.incarnation);
        let outcome = self
            .table
            .commit(Proposal { pipeline, incarnation, epoch, manifest: named, staged })
            .await?;
        if matches!(outcome, Outcome::Committed { .. }) {
            self.epoch += 1;
        }
        Ok(outcome)
    }
}

pub(super) fn batch(first: u64, rows: &[(i64, i64)]) -> RecordBatch {
    let text = rows.iter().map(|(key, value)| (value % 2 == 0).then(|| format!("{key}")));
    let columns: [(&str, ArrayRef, bool); 4] = [
        ("k", Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0))), false),
        ("v", Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1))), true),
        ("s", Arc::new(text.collect::<StringArray>()), true),
        (
            POSITION_COLUMN,
            Arc::new(UInt64Array::from_iter_values(first..first + rows.len() as u64)),
            false,
        ),
    ];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

pub(super) fn memory() -> Location {
    Location::from_store("memory:///t", Arc::new(InMemory::new())).unwrap()
}

pub(super) fn settings() -> DeltaSettings {
    DeltaSettings::default()
}

pub(super) async fn open(
    location: &Location,
    settings: DeltaSettings,
) -> Result<Arc<DeltaTable>, super::DeltaError> {
    open_as(location, Some(definition()), settings).await
}

pub(super) fn definition() -> TableDefinition {
    let fields = vec![
        Field::new("k", DataType::Int64, false),
        Field::new("v", DataType::Int64, true),
        Field::new("s", DataType::Utf8View, true),
    ];
    TableDefinition {
        schema: Arc::new(Schema::new(fields)),
        primary_key: vec!["k".to_owned()],
        partition_by: Vec::new(),
        options: std::collections::HashMap::new(),
        checks: Vec::new(),
        view: None,
    }
}

pub(super) async fn open_as(
    location: &Location,
    definition: Option<TableDefinition>,
    settings: DeltaSettings,
) -> Result<Arc<DeltaTable>, super::DeltaError> {
    let ports: (Arc<dyn Entropy>, Arc<dyn Clock>) =
        (Arc::new(SystemEntropy), Arc::new(SystemClock));
    DeltaTable::create_or_open("t", location.clone(), definition, settings, ports).await
}

fn session(table: &Arc<DeltaTable>, partitions: usize) -> SessionContext {
    let config = SessionConfig::new().with_target_partitions(partitions);
    let context = SessionContext::new_with_config(config);
    let store = Arc::clone(&table.location().store);
    let url = table.location().object_store_url.clone();
    context.runtime_env().register_object_store(url.as_ref(), store);
    context.register_table("t", Arc::clone(table) as _).unwrap();
    context
}

pub(super) async fn scan(table: &Arc<DeltaTable>) -> Model {
    let context = session(table, 2);
    let batches = context.sql("SELECT k, v FROM t").await.unwrap().collect().await.unwrap();
    let mut model = Model::new();
    for batch in batches {
        let (keys, values) = (
            batch.column(0).as_primitive::<Int64Type>(),
            batch.column(1).as_primitive::<Int64Type>(),
        );
        for row in 0..batch.num_rows() {
            assert!(values.is_valid(row));
            let twice = model.insert(keys.value(row), values.value(row));
            assert_eq!(twice, None, "key {} is there twice", keys.value(row));
        }
    }
    model
}
