//! Tables in partitions: what is written where, what is read back, and what is not read at all.

use crate::support::tables::{World, refusal, rows, run};
use futures::TryStreamExt;
use onefold::object_store::memory::InMemory;
use onefold::object_store::path::Path;
use onefold::object_store::{ObjectStore, ObjectStoreExt};
use onefold::prelude::*;
use onefold::testing::AgedStore;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

const TABLE: &str = "CREATE EXTERNAL TABLE t (p VARCHAR, k BIGINT NOT NULL, day DATE, v BIGINT,
    PRIMARY KEY (k)) STORED AS DELTA PARTITIONED BY (day, p) LOCATION 'memory:///t'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_lie_in_the_folders_of_their_values_and_files_do_not_repeat_them() {
    let world = World::new();
    let context = world.session();
    run(&context, TABLE).await.unwrap();
    run(
        &context,
        "INSERT INTO t VALUES ('US/East', 1, DATE '2026-01-01', 10), ('a', 2, DATE '2026-01-01', 20),
         ('US/East', 3, DATE '2026-01-01', 30), ('', 4, NULL, 40), (NULL, 5, NULL, 50)",
    )
    .await
    .unwrap();
    let expected = [
        "US/East 1 2026-01-01 10",
        "a 2 2026-01-01 20",
        "US/East 3 2026-01-01 30",
        "NULL 4 NULL 40",
        "NULL 5 NULL 50",
    ];
    assert_eq!(rows(&context, "SELECT * FROM t ORDER BY k").await, expected);
    let mut adds: Vec<(String, Value)> = adds(&world.store, 1)
        .await
        .into_iter()
        .map(|add| (add["path"].as_str().unwrap().to_owned(), add["partitionValues"].clone()))
        .collect();
    adds.sort_by(|one, two| one.0.cmp(&two.0));
    let east = serde_json::json!({ "day": "2026-01-01", "p": "US/East" });
    assert!(adds[0].0.starts_with("day=2026-01-01/p=US%252FEast/part-"), "{adds:?}");
    assert_eq!(adds[0].1, east);
    let none = "day=__HIVE_DEFAULT_PARTITION__/p=__HIVE_DEFAULT_PARTITION__/part-";
    assert!(adds[2].0.starts_with(none), "{adds:?}");
    assert_eq!(adds.len(), 3);
    let metadata = lines(&world.store, 0).await;
    let metadata = metadata.iter().find_map(|line| line.get("metaData")).unwrap();
    assert_eq!(metadata["partitionColumns"], serde_json::json!(["day", "p"]));
    let files = files(&world.store).await;
    let path = files.iter().find(|path| path.contains("p=US%2FEast/")).unwrap();
    world.store.head(&Path::parse(path).unwrap()).await.unwrap();
    run(
        &context,
        &format!(
            "CREATE EXTERNAL TABLE raw STORED AS PARQUET LOCATION 'memory:///t/{}'",
            adds[0].0
        ),
    )
    .await
    .unwrap();
    assert_eq!(rows(&context, "SELECT * FROM raw ORDER BY k").await, ["1 10", "3 30"]);
}

/// Filters over the columns of [`every_type_comes_back_as_it_went_and_can_be_asked_for`].
const ASKED: [&str; 21] = [
    "true",
    "a",
    "NOT a",
    "a IS NULL",
    "b > 0",
    "c = -32768",
    "d IN (0, 5, 2147483647)",
    "e < 0",
    "f >= DATE '1970-01-01'",
    "f BETWEEN DATE '0001-01-01' AND DATE '1000-01-01'",
    "g < TIMESTAMP '1970-01-01T00:00:00'",
    "g = TIMESTAMP '1969-12-31T23:59:59.999999'",
    "h = TIMESTAMP '2026-05-01T10:00:00.000001Z'",
    "i = -0.005",
    "i <> 0",
    "j = 'x y'",
    "j LIKE '2026%'",
    "j IS NOT NULL AND k + b > 100",
    "NOT (j = '0' OR b > 3)",
    "(j = 'x y' AND l = 1) OR (a IS NULL AND l > 2)",
    "l > 1 AND length(j) > 2",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_type_comes_back_as_it_went_and_can_be_asked_for() {
    let world = World::new();
    let context = world.session();
    let zone = "SET datafusion.execution.time_zone = '+00:00'"; // without one there are no zones
    run(&context, zone).await.unwrap();
    let columns = "k BIGINT NOT NULL, a BOOLEAN, b TINYINT, c SMALLINT, d INT, e BIGINT, f DATE,
        g TIMESTAMP, h TIMESTAMP WITH TIME ZONE, i DECIMAL(20, 3), j VARCHAR, l BIGINT NOT NULL";
    for (name, layout) in [("t", "PARTITIONED BY (j, a, b, c, d, e, f, g, h, i)"), ("plain", "")] {
        run(
            &context,
            &format!(
                "CREATE EXTERNAL TABLE {name} ({columns}, PRIMARY KEY (k)) STORED AS DELTA {layout}
                 LOCATION 'memory:///{name}';
                 INSERT INTO {name} VALUES
                 (1, true, 127, -32768, 2147483647, 9223372036854775807, DATE '9999-12-31',
                  TIMESTAMP '1969-12-31T23:59:59.999999', TIMESTAMP '2026-05-01T10:00:00.000001Z',
                  '-0.005', 'x y', 1),
                 (2, false, -128, 32767, -2147483648, -9223372036854775808, DATE '0001-01-01',
                  TIMESTAMP '2262-01-31T23:59:59', TIMESTAMP '1900-01-01T00:00:00Z',
                  '12345678901234567.891', '2026-01-01', 2),
                 (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 3),
                 (4, true, 0, 0, 0, 0, DATE '1970-01-01', TIMESTAMP '1970-01-01T00:00:00',
                  TIMESTAMP '1970-01-01T00:00:00Z', '0', '0', 4)"
            ),
        )
        .await
        .unwrap();
    }
    let again = world.session();
    let pushing = world.session();
    run(&pushing, "SET datafusion.execution.parquet.pushdown_filters = true").await.unwrap();
    for name in ["t", "plain"] {
        let open =
            format!("CREATE EXTERNAL TABLE {name} STORED AS DELTA LOCATION 'memory:///{name}'");
        for context in [&again, &pushing] {
            run(context, &open).await.unwrap();
        }
    }
    for context in [&context, &again, &pushing] {
        for asked in ASKED {
            let query = |table: &str| format!("SELECT * FROM {table} WHERE {asked} ORDER BY k");
            let expected = rows(context, &query("plain")).await;
            assert_eq!(rows(context, &query("t")).await, expected, "{asked}");
        }
        let moved = "SELECT l, j, k, a FROM t WHERE k > 1 ORDER BY k";
        assert_eq!(rows(context, moved).await[0], "2 2026-01-01 2 false");
        assert_eq!(rows(context, "SELECT count(*), count(j) FROM t").await, ["4 3"]);
    }
    for (value, said) in [
        ("DATE '9999-12-31' + INTERVAL '1 day'", "outside of years 1 to 9999"),
        ("DATE '0001-01-01' - INTERVAL '1 day'", "f is day -719163 since 1970"),
    ] {
        let insert = format!("INSERT INTO t (k, l, f) VALUES (9, 9, {value})");
        let error = refusal(&context, &insert).await;
        assert!(error.contains(said), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_text_names_a_partition_in_memory_and_in_a_folder() {
    let odd = [
        "a/b",
        "a=b",
        "%",
        "100%25",
        " ",
        " x ",
        ".",
        "..",
        "~",
        "*",
        "a:b",
        "'",
        "\"",
        "\\",
        "#?&+",
        "<>|{}^[]`",
        "\t\n",
        "\u{7f}",
        "M\u{fc}nchen",
        "\u{65e5}\u{672c}",
        "null",
        "__HIVE_DEFAULT_PARTITION__",
        "-1",
    ];
    let long = ["x".repeat(300), "/".repeat(120)];
    let texts: Vec<&str> = odd.iter().copied().chain(long.iter().map(String::as_str)).collect();
    let folder = tempfile::tempdir().unwrap();
    let local = folder.path().join("some ~ folder").display().to_string();
    for location in ["memory:///t", local.as_str()] {
        let world = World::new();
        let context = world.session();
        let create = TABLE.replace("memory:///t", location).replace("day, p", "p");
        run(&context, &create).await.unwrap();
        let quoted: Vec<String> = texts.iter().map(|text| text.replace('\'', "''")).collect();
        let values: Vec<String> = quoted
            .iter()
            .zip(0..)
            .map(|(text, key): (_, i64)| format!("('{text}', {key}, NULL, 0)"))
            .collect();
        run(&context, &format!("INSERT INTO t VALUES {}", values.join(", "))).await.unwrap();
        run(&context, "UPDATE t SET v = 1; DELETE FROM t WHERE p = '..'; VACUUM t; CHECKPOINT t")
            .await
            .unwrap();
        run(&context, "OPTIMIZE t").await.unwrap();
        let again = world.session();
        run(&again, &create).await.unwrap();
        for context in [&context, &again] {
            let found = rows(context, "SELECT p FROM t ORDER BY k").await;
            let expected: Vec<&str> = texts.iter().copied().filter(|text| *text != "..").collect();
            assert_eq!(found, expected, "{location}");
            for (text, key) in quoted.iter().zip(0_i64..).filter(|(text, _)| *text != "..") {
                let query = format!("SELECT k, v FROM t WHERE p = '{text}'");
                assert_eq!(rows(context, &query).await, [format!("{key} 1")], "{query}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_other_partitions_are_not_opened() {
    let world = World::new();
    let context = world.session();
    run(&context, TABLE).await.unwrap();
    let values: Vec<String> = (0..12)
        .map(|key| match key % 4 {
            0 => format!("('a', {key}, DATE '2026-01-01', {key})"),
            1 => format!("('b', {key}, DATE '2026-01-02', {key})"),
            2 => format!("('c', {key}, DATE '2026-01-03', {key})"),
            _ => format!("(NULL, {key}, NULL, {key})"),
        })
        .collect();
    run(&context, &format!("INSERT INTO t VALUES {}", values.join(", "))).await.unwrap();
    let first = files(&world.store).await.into_iter().find(|path| path.contains("p=a")).unwrap();
    let kept = Path::parse(&first).unwrap();
    for path in files(&world.store).await.iter().filter(|path| **path != first) {
        world.store.delete(&Path::parse(path).unwrap()).await.unwrap();
    }
    let many: Vec<String> = (0..40).map(|number| format!("'x{number}'")).collect();
    let many = format!("p IN ('a', {})", many.join(", "));
    for asked in [
        "p = 'a'",
        "p IN ('a', 'z')",
        &many,
        "p < 'b'",
        "day <= DATE '2026-01-01'",
        "day < DATE '2026-01-02' AND p > ''",
        "p LIKE 'a%'",
        "p NOT IN ('b', 'c')",
        "p BETWEEN 'a' AND 'aa'",
        "p = 'a' AND v >= 0",
        "(p = 'a' OR p = 'd') AND day IS NOT NULL",
        "k >= 0 AND day = DATE '2026-01-01'",
        "(p = 'a' AND k >= 0) OR (p = 'd' AND k > 1)",
        "day = '2026-01-01'",
    ] {
        let query = format!("SELECT k FROM t WHERE {asked} ORDER BY k");
        assert_eq!(rows(&context, &query).await, ["0", "4", "8"], "{asked}");
        let explained = rows(&context, &format!("EXPLAIN {query}")).await.join("\n");
        assert_eq!(explained.matches(".parquet").count(), 1, "{explained}");
        assert!(explained.contains("t/day=2026-01-01/p=a/part-"), "{explained}");
    }
    let changed = "UPDATE t SET v = v + 1 WHERE p = 'a'; DELETE FROM t WHERE p = 'a' AND k = 8";
    run(&context, changed).await.unwrap();
    assert_eq!(rows(&context, "SELECT v FROM t WHERE p = 'a' ORDER BY k").await, ["1", "5"]);
    for asked in ["p = 'b'", "p IS NULL", "p > 'a'", "p <> 'a'", "day IS NULL", "true"] {
        let query = format!("SELECT k FROM t WHERE {asked}");
        let error = refusal(&context, &query).await;
        assert!(error.contains("not found"), "{asked} reads what is gone: {error}");
    }
    world.store.delete(&kept).await.unwrap();
    assert_eq!(rows(&context, "SELECT k FROM t WHERE p = 'd'").await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_moves_when_its_partition_changes_and_its_key_stays_unique() {
    let world = World::new();
    let context = world.session();
    run(&context, TABLE).await.unwrap();
    run(&context, "INSERT INTO t VALUES ('a', 1, NULL, 1), ('a', 2, NULL, 2), ('b', 3, NULL, 3)")
        .await
        .unwrap();
    for (statement, expected) in [
        ("INSERT INTO t VALUES ('b', 1, NULL, 10)", "b 1 10|a 2 2|b 3 3"),
        ("UPDATE t SET p = 'c' WHERE p = 'b'", "c 1 10|a 2 2|c 3 3"),
        ("UPDATE t SET p = '' WHERE k = 2", "c 1 10|NULL 2 2|c 3 3"),
        (
            "REPLACE INTO t VALUES ('a', 3, NULL, 30), ('a', 4, NULL, 4)",
            "c 1 10|NULL 2 2|a 3 30|a 4 4",
        ),
        (
            "MERGE INTO t USING (SELECT 3 AS k UNION ALL SELECT 1 UNION ALL SELECT 7) AS s
             ON t.k = s.k WHEN MATCHED AND t.p = 'a' THEN UPDATE SET p = 'd'
             WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (p, k, v) VALUES ('e', s.k, 70)",
            "NULL 2 2|d 3 30|a 4 4|e 7 70",
        ),
        ("UPDATE t SET k = 5, p = 'e' WHERE k = 2", "d 3 30|a 4 4|e 5 2|e 7 70"),
        ("OPTIMIZE t", "d 3 30|a 4 4|e 5 2|e 7 70"),
        ("DELETE FROM t WHERE p = 'e' AND k = 5", "d 3 30|a 4 4|e 7 70"),
        ("INSERT OVERWRITE t VALUES ('z', 3, NULL, 1), ('y', 9, NULL, 9)", "z 3 1|y 9 9"),
        ("ALTER TABLE t ADD COLUMN w BIGINT", "z 3 1|y 9 9"),
        ("INSERT INTO t VALUES ('x', 9, NULL, 8, 8)", "z 3 1|x 9 8"),
        ("ALTER TABLE t ALTER COLUMN v DROP NOT NULL", "z 3 1|x 9 8"),
        ("TRUNCATE TABLE t", ""),
    ] {
        run(&context, statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
        let again = world.session();
        run(&again, "CREATE EXTERNAL TABLE t STORED AS DELTA LOCATION 'memory:///t'")
            .await
            .unwrap();
        for context in [&context, &again] {
            let found = rows(context, "SELECT p, k, v FROM t ORDER BY k").await.join("|");
            assert_eq!(found, expected, "{statement}");
        }
    }
    let key = "CREATE EXTERNAL TABLE one (p VARCHAR NOT NULL, v BIGINT, PRIMARY KEY (p))
        STORED AS DELTA PARTITIONED BY (p) LOCATION 'memory:///one'";
    run(&context, key).await.unwrap();
    run(&context, "INSERT INTO one VALUES ('a', 1), ('b', 2); INSERT INTO one VALUES ('a', 3)")
        .await
        .unwrap();
    let again = world.session();
    run(&again, key).await.unwrap();
    run(&again, "UPDATE one SET v = 4 WHERE p = 'b'; DELETE FROM one WHERE p = 'c'").await.unwrap();
    assert_eq!(rows(&again, "SELECT * FROM one ORDER BY p").await, ["a 3", "b 4"]);
    assert_eq!(rows(&again, "SELECT v FROM one WHERE p = 'b'").await, ["4"]);
    for insert in ["INSERT INTO one VALUES ('', 1)", "REPLACE INTO one VALUES ('', 1)"] {
        let empty = refusal(&again, insert).await;
        assert!(empty.contains("an empty text is NULL to Delta"), "{empty}");
    }
    let told = "CREATE EXTERNAL TABLE told (k BIGINT NOT NULL, PRIMARY KEY (k)) STORED AS DELTA
        PARTITIONED BY (day DATE NOT NULL) LOCATION 'memory:///told'";
    run(&context, told).await.unwrap();
    let insert = "INSERT INTO told SELECT n, CASE WHEN n = 1 THEN DATE '2026-01-01' END
        FROM (SELECT 1 AS n UNION ALL SELECT 2)";
    let error = refusal(&context, insert).await;
    assert!(error.contains("column day is NULL in row {k: 2, day: NULL}"), "{error}");
    run(&context, "ALTER TABLE told ALTER COLUMN day DROP NOT NULL").await.unwrap();
    run(&context, insert).await.unwrap();
    let found = rows(&context, "SELECT day, k FROM told ORDER BY k").await;
    assert_eq!(found, ["2026-01-01 1", "NULL 2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vacuum_empties_folders_of_what_no_version_names_and_of_nothing_else() {
    let mut world = World::new();
    world.settings.retention_hours = 0; // no vacuum but ours
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    world.store = Arc::new(AgedStore::new(inner, world.clock.as_ref().clone()));
    let context = world.session();
    run(&context, TABLE).await.unwrap();
    for round in 0..30 {
        let values: Vec<String> = (0..4)
            .map(|key| format!("('a/% {key}', {}, NULL, {round})", key + round % 3))
            .collect();
        run(&context, &format!("INSERT INTO t VALUES {}", values.join(", "))).await.unwrap();
        world.clock.advance(Duration::from_hours(4));
    }
    world.clock.advance(Duration::from_hours(40));
    run(&context, "INSERT INTO t VALUES ('last', 1, NULL, 1); CHECKPOINT t").await.unwrap();
    world.clock.advance(Duration::from_hours(40));
    run(&context, "INSERT INTO t VALUES ('later', 2, NULL, 2)").await.unwrap();
    let (before, all) =
        (files(&world.store).await, rows(&context, "SELECT * FROM t ORDER BY k").await);
    run(&context, "VACUUM t RETAIN 24 HOURS").await.unwrap();
    let after = files(&world.store).await;
    assert!(after.len() * 4 < before.len(), "{} of {}", after.len(), before.len());
    let again = world.session();
    run(&again, TABLE).await.unwrap();
    for context in [&context, &again] {
        assert_eq!(rows(context, "SELECT * FROM t ORDER BY k").await, all);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_compaction_keeps_partitions_apart_and_the_past_can_be_read() {
    let mut world = World::new();
    world.settings.compact_files_min = 1_000;
    let context = world.session();
    run(&context, TABLE).await.unwrap();
    for round in 0..5 {
        let keys = round * 3..round * 3 + 6;
        let values: Vec<String> = keys
            .map(|key| format!("('p{}', {key}, NULL, {round})", (key + round / 4) % 3))
            .collect();
        run(&context, &format!("INSERT INTO t VALUES {}", values.join(", "))).await.unwrap();
    }
    let before = rows(&context, "SELECT * FROM t ORDER BY k").await;
    let version = context.table_version("t").unwrap();
    run(&context, "OPTIMIZE t").await.unwrap();
    assert_eq!(context.table_version("t").unwrap(), version + 1, "all partitions in one commit");
    let added = adds(&world.store, version + 1).await;
    let values = added.iter().map(|add| add["partitionValues"]["p"].to_string());
    assert_eq!(values.collect::<BTreeSet<_>>().len(), 3);
    assert_eq!(added.len(), 3);
    run(&context, "OPTIMIZE t").await.unwrap();
    assert_eq!(context.table_version("t").unwrap(), version + 1, "nothing is left to do");
    let again = world.session();
    run(&again, TABLE).await.unwrap();
    for context in [&context, &again] {
        assert_eq!(rows(context, "SELECT * FROM t ORDER BY k").await, before);
        let old = format!("SELECT count(*) FROM t VERSION AS OF {}", version - 1);
        assert_eq!(rows(context, &old).await, ["15"]);
    }
    let changes = format!("SELECT * FROM onefold_changes('t', {version}, {})", version + 1);
    assert_eq!(rows(&again, &changes).await, [""; 0]);
    let from = version - 1;
    let changes = format!(
        "SELECT _change_type, p, k, v FROM onefold_changes('t', {from}, {version})
        WHERE k IN (12, 15) ORDER BY k, v"
    );
    let expected = ["update_preimage p0 12 3", "update_postimage p1 12 4", "insert p1 15 4"];
    assert_eq!(rows(&again, &changes).await, expected);
    run(&again, &format!("RESTORE t TO VERSION AS OF {}", version - 1)).await.unwrap();
    run(&again, "INSERT INTO t VALUES ('p9', 4, NULL, 9)").await.unwrap();
    let fresh = world.session();
    run(&fresh, TABLE).await.unwrap();
    for context in [&again, &fresh] {
        assert_eq!(rows(context, "SELECT p, v FROM t WHERE k = 4").await, ["p9 9"]);
        assert_eq!(rows(context, "SELECT count(*) FROM t").await, ["15"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_partition_a_table_is_refused_with_the_reason() {
    let context = World::new().session();
    let create = |columns: &str, by: &str, options: &str| {
        format!(
            "CREATE EXTERNAL TABLE t (k BIGINT NOT NULL, {columns}, PRIMARY KEY (k))
             STORED AS DELTA PARTITIONED BY ({by}) LOCATION 'memory:///refused' {options}"
        )
    };
    for (columns, by, options, said) in [
        ("v BIGINT", "nothing", "", "the table stores no column nothing"),
        ("v BIGINT", "k, v", "", "one column at least must be left for the files"),
        ("v BIGINT, w BIGINT", "v, v", "", "v is there twice"),
        ("v DOUBLE", "v", "", "a Float64 such as v names no partition"),
        ("v BYTEA", "v", "", "a Binary such as v names no partition"),
        (
            "v BIGINT, o VARCHAR",
            "o",
            "OPTIONS ('op_column' 'o', 'unstored' 'o')",
            "the table stores no column o",
        ),
    ] {
        let error = refusal(&context, &create(columns, by, options)).await;
        assert!(error.contains(said), "{columns} by {by}: {error}");
        assert!(error.contains(&format!("PARTITIONED BY ({by})")), "{error}");
    }
    let undeclared = "CREATE EXTERNAL TABLE t STORED AS DELTA PARTITIONED BY (v)
        LOCATION 'memory:///refused'";
    let error = refusal(&context, undeclared).await;
    assert!(error.contains("PARTITIONED BY needs the table's columns"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_partition_columns_than_the_tables_are_another_table() {
    let world = World::new();
    let create = |name: &str, by: &str| {
        format!(
            "CREATE EXTERNAL TABLE t (k BIGINT NOT NULL, v BIGINT, \"W\" BIGINT, PRIMARY KEY (k))
             STORED AS DELTA {by} LOCATION 'memory:///{name}'"
        )
    };
    run(&world.session(), &create("parts", "PARTITIONED BY (V, \"W\")")).await.unwrap();
    run(&world.session(), &create("plain", "")).await.unwrap();
    run(&world.session(), &create("parts", "PARTITIONED BY (v, \"W\")")).await.unwrap();
    for (name, by, said) in [
        ("parts", "", "it is partitioned by (v, W)"),
        ("parts", "PARTITIONED BY (v)", "it is partitioned by (v, W), not by (v)"),
        ("parts", "PARTITIONED BY (\"W\", v)", "it is partitioned by (v, W), not by (W, v)"),
        ("plain", "PARTITIONED BY (v)", "it is not partitioned by (v)"),
    ] {
        let session = world.session();
        let error = refusal(&session, &create(name, by)).await;
        assert!(error.contains(said), "{error}");
        let open = format!("CREATE EXTERNAL TABLE t STORED AS DELTA LOCATION 'memory:///{name}'");
        run(&session, &open).await.unwrap();
        let error = refusal(&session, &create(name, by).replace("TABLE t", "TABLE u")).await;
        assert!(error.contains(said), "a table that is open: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_too_many_partitions_are_refused_and_nothing_is_written() {
    let context = World::new().session();
    run(&context, TABLE).await.unwrap();
    let insert =
        "INSERT INTO t SELECT value::VARCHAR AS p, value, NULL, 0 FROM generate_series(0, 10000)";
    let error = refusal(&context, insert).await;
    assert!(error.contains("rows of 10000 partitions at most"), "{error}");
    assert_eq!(rows(&context, "SELECT count(*) FROM t").await, ["0"]);
}

/// The actions of one commit.
async fn lines(store: &Arc<dyn ObjectStore>, version: u64) -> Vec<Value> {
    let path = Path::from(format!("t/_delta_log/{version:020}.json"));
    let bytes = store.get(&path).await.unwrap().bytes().await.unwrap();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn adds(store: &Arc<dyn ObjectStore>, version: u64) -> Vec<Value> {
    let lines = lines(store, version).await;
    lines.into_iter().filter_map(|line| line.get("add").cloned()).collect()
}

/// The data files in the store.
async fn files(store: &Arc<dyn ObjectStore>) -> Vec<String> {
    let all: Vec<_> = store.list(None).try_collect().await.unwrap();
    let paths = all.into_iter().map(|object| object.location.to_string());
    paths.filter(|path| path.contains("/part-")).collect()
}
