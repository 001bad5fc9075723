//! MERGE INTO against a model: every kind of clause, in any order, over sources with repeated keys.

use crate::support::tables::{World, rows, run};
use onefold::datafusion::prelude::SessionContext;
use onefold::prelude::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

type Table = BTreeMap<i64, Option<i64>>;

#[derive(Clone, Copy, Debug)]
enum Clause {
    Matched(Condition, Change),
    NotMatched(Condition),
    BySource(Condition, Change),
}

/// What a value must be for the clause.
#[derive(Clone, Copy, Debug)]
enum Condition {
    Any,
    Above(i64),
    Below(i64),
    Null,
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Delete,
    /// To the source's value, or the opposite of its own.
    Set,
    /// To itself and ten more.
    Grow,
}

impl Condition {
    fn holds(self, value: Option<i64>) -> bool {
        match self {
            Self::Any => true,
            Self::Above(limit) => value.is_some_and(|value| value > limit),
            Self::Below(limit) => value.is_some_and(|value| value < limit),
            Self::Null => value.is_none(),
        }
    }

    fn sql(self, column: &str) -> String {
        match self {
            Self::Any => String::new(),
            Self::Above(limit) => format!(" AND {column} > {limit}"),
            Self::Below(limit) => format!(" AND {column} < {limit}"),
            Self::Null => format!(" AND {column} IS NULL"),
        }
    }
}

impl Clause {
    fn sql(self) -> String {
        match self {
            Self::Matched(condition, change) => {
                let then = match change {
                    Change::Delete => "DELETE",
                    Change::Set => "UPDATE SET v = s.v",
                    Change::Grow => "UPDATE SET v = t.v + 10",
                };
                format!("WHEN MATCHED{} THEN {then}", condition.sql("s.v"))
            }
            Self::NotMatched(condition) => {
                let when = condition.sql("s.v");
                format!("WHEN NOT MATCHED{when} THEN INSERT (v, k) VALUES (s.v, s.k)")
            }
            Self::BySource(condition, change) => {
                let then = match change {
                    Change::Delete => "DELETE",
                    Change::Set => "UPDATE SET v = -t.v",
                    Change::Grow => "UPDATE SET v = t.v + 10",
                };
                format!("WHEN NOT MATCHED BY SOURCE{} THEN {then}", condition.sql("t.v"))
            }
        }
    }
}

/// The table after the statement and how many rows it changed; `None` if it is an error.
fn merged(
    table: &Table,
    source: &[(i64, Option<i64>)],
    clauses: &[Clause],
) -> Option<(Table, u64)> {
    let mut after = table.clone();
    let mut touched: BTreeMap<i64, bool> = BTreeMap::new();
    for (key, value) in table {
        let pairs: Vec<Option<i64>> =
            source.iter().filter(|own| own.0 == *key).map(|own| own.1).collect();
        let mut changes = Vec::new();
        for other in &pairs {
            changes.extend(clauses.iter().find_map(|clause| match clause {
                Clause::Matched(condition, change) => {
                    condition.holds(*other).then_some((*change, *other))
                }
                _ => None,
            }));
        }
        if pairs.is_empty() {
            changes.extend(clauses.iter().find_map(|clause| match clause {
                Clause::BySource(condition, change) => {
                    condition.holds(*value).then_some((*change, value.map(|own| -own)))
                }
                _ => None,
            }));
        }
        for (change, other) in changes {
            let is_delete = matches!(change, Change::Delete);
            if touched.insert(*key, is_delete).is_some_and(|before| !(before && is_delete)) {
                return None;
            }
            match change {
                Change::Delete => after.remove(key),
                Change::Set => after.insert(*key, other),
                Change::Grow => after.insert(*key, value.map(|own| own + 10)),
            };
        }
    }
    let mut count = touched.len() as u64;
    let mut inserted = BTreeSet::new();
    for (key, value) in source.iter().filter(|own| !table.contains_key(&own.0)) {
        let is_it = |clause: &&Clause| matches!(clause, Clause::NotMatched(condition) if condition.holds(*value));
        if clauses.iter().any(|clause| is_it(&clause)) {
            if !inserted.insert(*key) {
                return None;
            }
            after.insert(*key, *value);
            count += 1;
        }
    }
    Some((after, count))
}

fn value() -> impl Strategy<Value = Option<i64>> {
    proptest::option::weighted(0.8, 0..20_i64)
}

fn clause() -> impl Strategy<Value = Clause> {
    let condition = || {
        prop_oneof![
            1 => Just(Condition::Any),
            2 => (0..20_i64).prop_map(Condition::Above),
            2 => (0..20_i64).prop_map(Condition::Below),
            1 => Just(Condition::Null),
        ]
    };
    let change = || prop_oneof![Just(Change::Delete), Just(Change::Set), Just(Change::Grow)];
    prop_oneof![
        (condition(), change()).prop_map(|(when, change)| Clause::Matched(when, change)),
        condition().prop_map(Clause::NotMatched),
        (condition(), change()).prop_map(|(when, change)| Clause::BySource(when, change)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_merge_leaves_what_its_clauses_say_of_each_pair(
        table in proptest::collection::btree_map(0..7_i64, value(), 1..6),
        merges in proptest::collection::vec((
            proptest::collection::vec((0..9_i64, value()), 1..6),
            proptest::collection::vec(clause(), 1..6),
            any::<bool>(),
        ), 1..5),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.unwrap().block_on(async {
            let context = World::new().session();
            run(&context, "CREATE EXTERNAL TABLE t (k BIGINT NOT NULL, v BIGINT, PRIMARY KEY (k))
                STORED AS DELTA LOCATION 'memory:///t'").await.unwrap();
            run(&context, &format!("INSERT INTO t VALUES {}", values(&table))).await.unwrap();
            let mut model = table;
            for (mut source, clauses, is_unique) in merges {
                if is_unique {
                    let mut seen = BTreeSet::new();
                    source.retain(|(key, _)| seen.insert(*key));
                }
                let clauses_sql: Vec<String> = clauses.iter().map(|own| own.sql()).collect();
                let merge = format!(
                    "MERGE INTO t USING (VALUES {}) AS s (k, v) ON t.k = s.k {}",
                    values(&source), clauses_sql.join(" "),
                );
                let done = counted(&context, &merge).await;
                match (merged(&model, &source, &clauses), done) {
                    (Some((after, count)), Ok(found)) => {
                        assert_eq!(found, count, "{merge}");
                        model = after;
                    }
                    (None, Err(said)) => assert!(said.contains("more than once"), "{merge}: {said}"),
                    (expected, found) => panic!("{merge}: {expected:?}, not {found:?}"),
                }
                let shown: Vec<String> = model.iter().map(|(key, value)| {
                    format!("{key} {}", value.map_or("NULL".to_owned(), |value| value.to_string()))
                }).collect();
                assert_eq!(rows(&context, "SELECT * FROM t ORDER BY k").await, shown, "{merge}");
            }
        });
    }
}

fn values<'a>(rows: impl IntoIterator<Item = impl Into<Row<'a>>>) -> String {
    let shown = rows.into_iter().map(|row| {
        let Row(key, value) = row.into();
        let value = value.map_or("CAST(NULL AS BIGINT)".to_owned(), |value| value.to_string());
        format!("({key}, {value})")
    });
    shown.collect::<Vec<_>>().join(", ")
}

struct Row<'a>(&'a i64, &'a Option<i64>);

impl<'a> From<(&'a i64, &'a Option<i64>)> for Row<'a> {
    fn from((key, value): (&'a i64, &'a Option<i64>)) -> Self {
        Self(key, value)
    }
}

impl<'a> From<&'a (i64, Option<i64>)> for Row<'a> {
    fn from((key, value): &'a (i64, Option<i64>)) -> Self {
        Self(key, value)
    }
}

async fn counted(context: &SessionContext, merge: &str) -> Result<u64, String> {
    use onefold::arrow::array::cast::AsArray;
    use onefold::arrow::array::types::UInt64Type;
    let frame = context.run_sql(merge).await.map_err(|error| error.to_string())?.remove(0);
    let batches = frame.collect().await.map_err(|error| error.to_string())?;
    Ok(batches[0].column(0).as_primitive::<UInt64Type>().value(0))
}
