//! What goes on beside commits: table compaction, saves of the index, and its move to disk.

use super::DeltaSettings;
use super::compact::Pace;
use super::patch::Owed;
use super::tests::{
    Model, Run, definition, index_is_what_a_scan_finds, memory, open, open_as, scan, settings,
};
use super::{DeltaTable, TableDefinition, foreign};
use crate::commit::Ledger;
use proptest::prelude::*;
use std::sync::Arc;

/// Keys 0 to 100 in two files, and a compaction of both that was begun.
async fn begun(table: &Arc<DeltaTable>) -> Run {
    let mut run = Run::start(table, "p").await;
    run.epoch(&rows(50..100, 0)).await;
    run.epoch(&rows(0..50, 0)).await;
    begin(table).await;
    run
}

async fn begin(table: &Arc<DeltaTable>) {
    let mut writer = table.writer.lock().await;
    let files = writer.files.iter().cloned().collect();
    writer.rewrite = table.begin_rewrite(writer.index.as_ref(), vec![files]);
}

async fn end(table: &Arc<DeltaTable>) {
    let mut writer = table.writer.lock().await;
    table.catch_up(&mut writer).await.unwrap();
    table.prepare(&mut writer).await.unwrap();
    table.end_rewrite(&mut writer).await;
}

fn rows(keys: std::ops::Range<i64>, value: i64) -> Vec<(i64, i64)> {
    keys.map(|key| (key, value + key)).collect()
}

/// Never compacts by itself.
fn quiet() -> DeltaSettings {
    DeltaSettings { compact_rows_min: 0, index_keys_min: 1, ..settings() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_changed_while_files_are_compacted_are_masked_in_the_new_file() {
    let location = memory();
    let table = open(&location, quiet()).await.unwrap();
    let mut run = begun(&table).await;
    run.epoch(&rows(40..60, 1_000)).await;
    foreign::delete(&location, 0..5).await;
    end(&table).await;
    let mut model: Model = rows(5..100, 0).into_iter().collect();
    model.extend(rows(40..60, 1_000));
    assert_eq!(scan(&table).await, model);
    index_is_what_a_scan_finds(&table).await;
    let again = open(&location, quiet()).await.unwrap();
    assert_eq!(scan(&again).await, model);
    let mut files: Vec<_> =
        again.view().files.iter().map(|file| (file.rows, file.masked_rows())).collect();
    files.sort_unstable();
    assert_eq!(files, [(20, 0), (100, 25)], "what was masked before is not in the new file");
    run.epoch(&rows(0..100, 7)).await;
    assert_eq!(scan(&table).await, rows(0..100, 7).into_iter().collect());
    index_is_what_a_scan_finds(&table).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compaction_whose_files_are_gone_or_got_rows_back_gives_up() {
    let location = memory();
    let table = open(&location, quiet()).await.unwrap();
    let mut run = begun(&table).await;
    foreign::compact(&location).await;
    end(&table).await;
    assert_eq!(scan(&table).await, rows(0..100, 0).into_iter().collect());
    index_is_what_a_scan_finds(&table).await;

    let before = table.version();
    run.epoch(&rows(0..10, 500)).await;
    {
        let mut writer = table.writer.lock().await;
        let masked = writer.files.iter().filter(|file| file.masked_rows() > 0).cloned().collect();
        writer.rewrite = table.begin_rewrite(writer.index.as_ref(), vec![masked]);
    }
    foreign::restore(&location, before, "WRITE", None).await;
    end(&table).await;
    assert_eq!(scan(&table).await, rows(0..100, 0).into_iter().collect());
    index_is_what_a_scan_finds(&table).await;

    begin(&table).await;
    run = Run::start(&table, "p").await;
    run.epoch(&rows(0..100, 3)).await; // nothing of the old files is left
    end(&table).await;
    assert_eq!(scan(&table).await, rows(0..100, 3).into_iter().collect());
    index_is_what_a_scan_finds(&table).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_another_engine_wrote_again_is_one_row_after_optimize() {
    let location = memory();
    let table = open(&location, quiet()).await.unwrap();
    let mut run = Run::start(&table, "p").await;
    run.epoch(&rows(0..10, 0)).await;
    run.epoch(&rows(10..20, 0)).await;
    begin(&table).await;
    foreign::append(&location, &[(3, 77), (30, 78)]).await;
    table.optimize().await.unwrap();
    let mut model: Model = rows(0..20, 0).into_iter().collect();
    model.extend([(3, 77), (30, 78)]);
    assert_eq!(scan(&table).await, model);
    assert_eq!(table.rows(), 21);
    index_is_what_a_scan_finds(&table).await;
    foreign::append(&location, &[(4, 79)]).await;
    table.refresh().await.unwrap();
    table.rest().await;
    run.epoch(&rows(50..51, 0)).await;
    model.extend([(4, 79), (50, 50)]);
    assert_eq!(scan(&table).await, model);
    index_is_what_a_scan_finds(&table).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn what_others_commit_between_our_commits_is_taken_over(
        steps in proptest::collection::vec(
            (0..6_u8, 0..30_i64, 0..1000_i64, any::<bool>(), any::<bool>()), 1..20),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.unwrap().block_on(async {
            let location = memory();
            let busy = DeltaSettings { compact_files_min: 4, index_keys_min: 1, ..settings() };
            let mut table = open(&location, busy).await.unwrap();
            let mut run = Run::start(&table, "p").await;
            let mut model = Model::new();
            for (kind, key, value, reopens, goes_on) in steps {
                match kind {
                    0 => {
                        foreign::append(&location, &[(key, value), (key + 40, value)]).await;
                        model.extend([(key, value), (key + 40, value)]);
                    }
                    1 => {
                        foreign::delete(&location, key..key + 5).await;
                        model.retain(|own, _| !(key..key + 5).contains(own));
                    }
                    2 => foreign::compact(&location).await,
                    3 | 4 => {
                        foreign::update(&location, key..key + 9, value).await;
                        model.range_mut(key..key + 9).for_each(|(_, own)| *own = value);
                    }
                    _ => {}
                }
                if reopens {
                    table.rest().await;
                    table = open(&location, busy).await.unwrap();
                    run = Run::start(&table, "p").await;
                }
                if goes_on && kind != 0 {
                    // What comes next from others comes on top. Not on rows whose keys are there: no
                    // compaction of another engine knows which of them came later.
                    continue;
                }
                let own = [(key + 1, value + 1), (key + 7, value + 1), (100, value)];
                run.epoch(&own).await;
                model.extend(own);
                assert_eq!(scan(&table).await, model);
                assert_eq!(table.rows(), model.len() as u64, "a key is there once");
                index_is_what_a_scan_finds(&table).await;
            }
            run.epoch(&[(100, -1)]).await;
            model.insert(100, -1);
            assert_eq!(scan(&table).await, model);
            index_is_what_a_scan_finds(&table).await;
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_another_engine_updated_are_replaced_and_not_doubled() {
    let location = memory();
    let table = open(&location, quiet()).await.unwrap();
    let mut run = Run::start(&table, "p").await;
    run.epoch(&rows(0..20, 0)).await;
    foreign::update(&location, 5..10, 77).await;
    run.epoch(&[(7, 1), (30, 2)]).await;
    let mut model: Model = rows(0..20, 0).into_iter().collect();
    model.extend((5..10).map(|key| (key, 77)));
    model.extend([(7, 1), (30, 2)]);
    assert_eq!(scan(&table).await, model);
    assert_eq!(table.rows(), 21);
    index_is_what_a_scan_finds(&table).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_saved_a_run_after_each_commit_leads_to_the_table() {
    let location = memory();
    let own = DeltaSettings { compact_files_min: 3, ..quiet() };
    let table = open(&location, own).await.unwrap();
    let mut run = Run::start(&table, "p").await;
    for epoch in 0..40 {
        run.epoch(&rows(epoch * 3..epoch * 3 + 40, epoch * 1_000)).await;
        foreign::delete(&location, epoch..epoch + 1).await;
    }
    for epoch in 40..60 {
        run.epoch(&rows(epoch * 3..epoch * 3 + 40, epoch * 1_000)).await;
    }
    let heads = table.saved_heads().await.unwrap();
    assert!(!heads.is_empty() && heads[0].0 + 4 < table.version(), "{heads:?}");
    let again = open(&location, own).await.unwrap();
    let (files, version) = {
        let writer = again.writer.lock().await;
        (writer.files.clone(), writer.snapshot.version())
    };
    let id = super::log::table_id(&again.writer.lock().await.snapshot);
    let mut owed = Owed::new();
    let index = again.load_index(&files, version, &id, &mut owed).await.expect("it fits");
    assert_eq!((index.len() as u64, owed.len()), (again.rows(), 0));
    again.writer.lock().await.index = Some(index);
    index_is_what_a_scan_finds(&again).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_larger_than_its_budget_is_on_disk_and_gives_the_same_table() {
    let location = memory();
    let own = DeltaSettings { index_bytes_max: 160 << 10, compact_files_min: 3, ..settings() };
    let table = open(&location, own).await.unwrap();
    let mut run = Run::start(&table, "p").await;
    let mut model = Model::new();
    for epoch in 0..12 {
        let changed = rows(epoch * 2_000..epoch * 2_000 + 5_000, epoch * 100_000);
        run.epoch(&changed).await;
        model.extend(changed);
        let writer = table.writer.lock().await;
        let index = writer.index.as_ref().unwrap();
        assert!(index.allocated_bytes() <= 160 << 10, "{epoch}: {}", index.allocated_bytes());
        assert!(epoch == 0 || index.has_cold());
    }
    assert_eq!(scan(&table).await, model);
    index_is_what_a_scan_finds(&table).await;
    table.maintain(&mut *table.writer.lock().await, Pace::Now).await;
    table.rest().await;
    let again = open(&location, own).await.unwrap();
    let mut run = Run::start(&again, "p").await;
    assert!(again.writer.lock().await.index.as_ref().unwrap().has_cold(), "also when it is loaded");
    run.epoch(&rows(0..27_000, 9)).await;
    assert_eq!(scan(&again).await, rows(0..27_000, 9).into_iter().collect());
    index_is_what_a_scan_finds(&again).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_changed_while_a_partition_is_compacted_are_masked_in_its_new_file() {
    let location = memory();
    let definition = TableDefinition { partition_by: vec!["s".to_owned()], ..definition() };
    let table = open_as(&location, Some(definition), quiet()).await.unwrap();
    let mut run = Run::start(&table, "p").await;
    let odd = |keys: std::ops::Range<i64>, value| -> Vec<(i64, i64)> {
        rows(keys, value).into_iter().filter(|(key, _)| key % 2 == 1).collect()
    };
    run.epoch(&odd(50..100, 0)).await; // all in the partition of NULL
    run.epoch(&odd(0..50, 0)).await;
    begin(&table).await;
    run.epoch(&odd(40..60, 1_000)).await;
    end(&table).await;
    let mut model: Model = odd(0..100, 0).into_iter().collect();
    model.extend(odd(40..60, 1_000));
    assert_eq!(scan(&table).await, model);
    index_is_what_a_scan_finds(&table).await;
    let mut files: Vec<_> =
        table.view().files.iter().map(|file| (file.rows, file.masked_rows())).collect();
    files.sort_unstable();
    assert_eq!(files, [(10, 0), (50, 10)]);
}
