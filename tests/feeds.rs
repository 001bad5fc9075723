//! Pipelines over the changes of a table, at random moments of a random life of it, against one
//! query over the table as it then is.

use crate::support::feeds::{drain, runtime, small, sorted};
use crate::support::tables::{World, rows, run};
use onefold::datafusion::prelude::SessionContext;
use onefold::object_store::ObjectStore;
use onefold::object_store::memory::InMemory;
use onefold::prelude::*;
use onefold::testing::{Fault, FaultyStore};
use proptest::prelude::*;
use std::sync::Arc;

/// A pipeline over changes: its target's columns, and its query; `t_changes` is `t` in one over
/// the table.
struct Fed {
    name: &'static str,
    columns: &'static str,
    select: &'static str,
}

const FEDS: [Fed; 7] = [
    Fed {
        name: "copy",
        columns: "k BIGINT NOT NULL, n INT NOT NULL, twice BIGINT CHECK (twice < 1000),
          PRIMARY KEY (k)",
        select: "SELECT k, n, n * 2 AS twice FROM t_changes WHERE n % 3 <> 0",
    },
    Fed {
        name: "moved",
        columns: "g VARCHAR NOT NULL, k INT NOT NULL, n INT, PRIMARY KEY (k, g)",
        select: "SELECT coalesce(g, 'none') AS g, CAST(k AS INT) AS k, n FROM
          (SELECT * FROM t_changes AS own WHERE k <> 3) AS sub",
    },
    Fed {
        name: "groups",
        columns: "g VARCHAR NOT NULL, c BIGINT NOT NULL, cn BIGINT, f BIGINT, s BIGINT,
          sf DECIMAL(30, 2), a DOUBLE, ad DECIMAL(38, 6), e BIGINT, x DOUBLE, PRIMARY KEY (g)",
        select: "SELECT coalesce(g, 'none') AS g, count(*) AS c, count(n) AS cn,
          count(n) FILTER (WHERE n > 0) AS f, sum(n) AS s, sum(d) FILTER (WHERE k > 2) AS sf,
          avg(n) AS a, avg(d) AS ad, 100 / count(*) + sum(n) AS e, sum(CAST(k AS DOUBLE)) AS x
          FROM t_changes GROUP BY coalesce(g, 'none')",
    },
    Fed {
        name: "some",
        columns: "g VARCHAR NOT NULL, c BIGINT, PRIMARY KEY (g)",
        select: "SELECT coalesce(g, 'none') AS g, count(*) AS c FROM t_changes AS own
          WHERE k <> 1 GROUP BY coalesce(g, 'none') HAVING count(*) > 1 AND sum(n) > 0",
    },
    Fed {
        name: "tree",
        columns: "g VARCHAR NOT NULL, m BIGINT NOT NULL, l INT NOT NULL, c BIGINT, s BIGINT,
          PRIMARY KEY (g, m, l)",
        select: "SELECT coalesce(g, 'all') AS g, coalesce(m, -1) AS m, grouping(g, m) AS l,
          count(*) AS c, sum(n) AS s
          FROM (SELECT coalesce(g, 'none') AS g, k % 2 AS m, n FROM t_changes)
          GROUP BY CUBE(g, m)",
    },
    Fed {
        name: "whole",
        columns: "a VARCHAR NOT NULL, c BIGINT, s BIGINT, PRIMARY KEY (a)",
        select: "SELECT 'all' AS a, count(*) AS c, sum(n) AS s FROM t_changes GROUP BY 'all'",
    },
    // Of the changes of another's target.
    Fed {
        name: "sizes",
        columns: "c BIGINT NOT NULL, many BIGINT, s DECIMAL(38, 0), PRIMARY KEY (c)",
        select: "SELECT c, count(*) AS many, sum(s) AS s FROM groups_changes GROUP BY c",
    },
];

#[derive(Clone, Debug)]
enum Step {
    /// Rows by key: group, number and cents.
    Write(Vec<(i64, Option<u8>, Option<i32>)>),
    Statement(&'static str),
    Restore(u64),
    Run(usize),
    Reopen,
}

const STATEMENTS: [&str; 7] = [
    "DELETE FROM t WHERE k % 3 = 1",
    "UPDATE t SET n = n + 1 WHERE k < 4",
    "UPDATE t SET g = 'b', d = d * -2 WHERE n > 2",
    "MERGE INTO t USING (VALUES (1, 5), (9, 6)) AS s(k, n) ON t.k = s.k
     WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (k, n, d) VALUES (s.k, s.n, 1.5)",
    "OPTIMIZE t",
    "TRUNCATE TABLE t",
    "INSERT OVERWRITE t SELECT k, g, n + 7, d FROM t WHERE k > 1",
];

fn step() -> impl Strategy<Value = Step> {
    let row =
        (0..10_i64, proptest::option::of(0..3_u8), proptest::option::weighted(0.8, -3..9_i32));
    prop_oneof![
        4 => proptest::collection::vec(row, 1..8).prop_map(Step::Write),
        4 => (0..STATEMENTS.len()).prop_map(|index| Step::Statement(STATEMENTS[index])),
        1 => (0..30_u64).prop_map(Step::Restore),
        6 => (0..FEDS.len()).prop_map(Step::Run),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn the_answer_is_that_of_one_query_whenever_the_pipelines_run(
        steps in proptest::collection::vec(step(), 0..14),
        epoch_rows_max in prop_oneof![Just(1_u64), Just(3), Just(1000)],
    ) {
        runtime().block_on(async {
            let mut world = World::new();
            world.settings.epoch_rows_max = epoch_rows_max;
            let mut context = opened(&world).await;
            run(&context, &written(&[(5, None, Some(1))])).await.unwrap();
            drain(&context, "tree").await; // whose row of all rows is there from the first one on
            for step in steps {
                match step {
                    Step::Write(rows) => run(&context, &written(&rows)).await.unwrap(),
                    Step::Statement(sql) => run(&context, sql).await.unwrap(),
                    Step::Restore(back) => {
                        let newest = context.table_version("t").unwrap();
                        let version = newest - back % (newest + 1);
                        let sql = format!("RESTORE t TO VERSION AS OF {version}");
                        run(&context, &sql).await.unwrap();
                    }
                    Step::Run(index) => drain(&context, FEDS[index].name).await,
                    Step::Reopen => context = opened(&world).await,
                }
            }
            for Fed { name, .. } in &FEDS {
                drain(&context, name).await;
            }
            for Fed { name, select, .. } in &FEDS {
                let found = sorted(&context, &format!("SELECT * FROM {name}")).await;
                let select = select.replace("_changes", "");
                assert_eq!(found, sorted(&context, &select).await, "{name}");
            }
            balances(&context).await;
        });
    }
}

fn written(rows: &[(i64, Option<u8>, Option<i32>)]) -> String {
    let mut last = std::collections::BTreeMap::new();
    last.extend(rows.iter().map(|(key, group, number)| (key, (group, number))));
    let values = last.into_iter().map(|(key, (group, number))| {
        let group = group.map_or("NULL".to_owned(), |own| format!("'{}'", char::from(b'a' + own)));
        let number = number.map_or("NULL".to_owned(), |own| own.to_string());
        format!("({key}, {group}, {number}, {key}.25)")
    });
    format!("INSERT INTO t VALUES {}", values.collect::<Vec<_>>().join(", "))
}

/// A session with the table, its changes, and the pipelines over them.
async fn opened(world: &World) -> SessionContext {
    let context = world.session();
    run(
        &context,
        "CREATE EXTERNAL TABLE t (k BIGINT NOT NULL, g VARCHAR, n INT, d DECIMAL(12, 2),
           PRIMARY KEY (k)) STORED AS DELTA LOCATION 'memory:///t';
         CREATE UNBOUNDED EXTERNAL TABLE t_changes STORED AS DELTA LOCATION 'memory:///t'",
    )
    .await
    .unwrap();
    for Fed { name, columns, select } in &FEDS {
        let parts = if *name == "moved" { "PARTITIONED BY (g)" } else { "" };
        let script = format!(
            "CREATE EXTERNAL TABLE {name} ({columns}) STORED AS DELTA {parts}
             LOCATION 'memory:///{name}';
             CREATE UNBOUNDED EXTERNAL TABLE {name}_changes STORED AS DELTA
             LOCATION 'memory:///{name}';
             INSERT INTO {name} {select}"
        );
        run(&context, &script).await.unwrap();
    }
    context
}

/// Every epoch of the ledgers adds up, and partitions are read from their beginning, in order.
async fn balances(context: &SessionContext) {
    for Fed { name, .. } in &FEDS {
        let ledger = format!(
            "SELECT count(*) FROM (SELECT *, lag(offset_to, 1, 0)
               OVER (PARTITION BY \"partition\" ORDER BY epoch) AS expected
               FROM onefold_history('{name}'))
             WHERE rows_read <> rows_emitted + rows_filtered OR rows_read <> offset_to - offset_from
               OR offset_from <> expected"
        );
        assert_eq!(rows(context, &ledger).await, ["0"], "{name}");
    }
}

/// A pipeline over changes that is cut off at any call to its store, and opened again.
#[test]
fn changes_are_folded_in_once_wherever_the_process_is_cut_off() {
    const FAULTS: [Fault; 3] = [Fault::Lost, Fault::AppliedThenTimeout, Fault::AppliedLate];
    const SCRIPT: &str = "CREATE EXTERNAL TABLE r (g VARCHAR NOT NULL, c BIGINT, s BIGINT,
          PRIMARY KEY (g)) STORED AS DELTA LOCATION 'memory:///r';
        INSERT INTO r SELECT coalesce(g, ''), count(*), sum(n) FROM t_changes
        GROUP BY coalesce(g, '')";
    async fn work(world: &World) -> Result<SessionContext, Error> {
        let context = world.session();
        let feed = "CREATE UNBOUNDED EXTERNAL TABLE t_changes STORED AS DELTA
            LOCATION 'memory:///t'";
        run(&context, &format!("{feed}; {SCRIPT}")).await?;
        context.pipeline("r")?.run_until_idle().await?;
        Ok(context)
    }
    runtime().block_on(async {
        let first = Arc::new(InMemory::new());
        let mut world = World { store: Arc::clone(&first) as _, ..World::new() };
        world.settings.epoch_rows_max = 4;
        let context = small(&world, "INSERT INTO t VALUES (3, 'a', 1, 1), (4, 'c', 2, 2)").await;
        work(&world).await.unwrap();
        let changes = "UPDATE t SET n = n * 3 WHERE k <> 2; DELETE FROM t WHERE k = 4;
            INSERT INTO t VALUES (5, 'b', 50, 1), (6, 'd', 60, 1)";
        run(&context, changes).await.unwrap();
        let query = "SELECT coalesce(g, ''), count(*), sum(n) FROM t GROUP BY 1 ORDER BY 1";
        let expected = rows(&context, query).await;
        let on = |store: Arc<dyn ObjectStore>| World { store, ..world.clone() };
        let counting = FaultyStore::once(Arc::new(first.fork()), u64::MAX, Fault::Lost);
        work(&on(Arc::new(counting.clone()))).await.unwrap();
        assert!(counting.calls() > 20, "only {} calls", counting.calls());
        for fault in FAULTS {
            for at in 1..=counting.calls() {
                let inner: Arc<dyn ObjectStore> = Arc::new(first.fork());
                let faulty = FaultyStore::cut_off(Arc::clone(&inner), at, fault);
                drop(work(&on(Arc::new(faulty.clone()))).await);
                faulty.apply_late(u64::MAX).await;
                let context = work(&on(inner)).await.unwrap();
                let found = rows(&context, "SELECT * FROM r ORDER BY g").await;
                assert_eq!(found, expected, "{fault:?} at call {at}");
            }
        }
    });
}
