//! Which columns of a query tell its rows apart: the primary key of a materialized view.
//!
//! ```text
//!   the query ends in                 its key
//!   GROUP BY a, f(b)                  the columns that show a and f(b)
//!   GROUP BY ROLLUP(a), GROUPING ..   coalesce(a, literal) and grouping(a), for each of them
//!   DEDUP BY a WITHIN UNBOUNDED       the column that shows a
//!   the changes of a table            the columns that show its primary key
//!   anything else                     none
//! ```
//!
//! # Invariants
//!
//! 1. Two rows of the query never have the same key.
//! 2. A column of the key is never NULL, and nothing of it is cut off in a table.

use super::DedupNode;
use super::changes::feed_of;
use super::micros::is_kept_whole;
use super::nulls::{column, group_of, is_given, is_left_out, is_never_null};
use super::positions::as_dedup;
use super::target::is_literal;
use super::trace::below;
use super::written::{filled, written};
use crate::types::Within;
use datafusion::logical_expr::utils::grouping_set_to_exprlist;
use datafusion::logical_expr::{Aggregate, Expr, GroupingSet, LogicalPlan};
use std::collections::BTreeSet;

/// What tells the rows of a query apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryKey {
    /// The positions of its columns among those of the query; at least one.
    pub columns: BTreeSet<usize>,
    /// Whether a row that comes again takes the place of the one before it: it is a group, or one of
    /// a table whose changes are followed.
    pub is_whole: bool,
}

/// The key of `query`, which is not yet analysed.
///
/// # Errors
///
/// What is missing, and what to write.
pub fn key_of(query: &LogicalPlan) -> Result<QueryKey, String> {
    let key = unique_columns(query)?;
    for index in &key.columns {
        let own = column(query.schema(), *index);
        if !is_kept_whole(query, &own) {
            let name = query.schema().field(*index).name();
            return Err(format!(
                "{name} has nanoseconds, of which a table keeps microseconds, so different times \
                 would have one key; write CAST(... AS TIMESTAMP(6)) or date_bin(...) in its place \
                 everywhere"
            ));
        }
    }
    Ok(key)
}

/// The columns whose values are not the same in two rows.
fn unique_columns(query: &LogicalPlan) -> Result<QueryKey, String> {
    const NONE: &str = "its rows have no key; write GROUP BY, or DEDUP BY ... WITHIN UNBOUNDED, or \
                        CREATE EXTERNAL TABLE with a PRIMARY KEY and INSERT INTO it";
    let mut shown: Vec<Expr> =
        (0..query.schema().fields().len()).map(|index| column(query.schema(), index)).collect();
    let mut plan = query;
    loop {
        plan = match plan {
            LogicalPlan::Limit(limit) => &limit.input,
            LogicalPlan::Aggregate(aggregate) => {
                let columns = Grouped { query, shown, aggregate }.key()?;
                return Ok(QueryKey { columns, is_whole: true });
            }
            LogicalPlan::Extension(_) => {
                let node = as_dedup(plan).ok_or(NONE)?;
                let columns = dedup_key(query, &shown, node)?;
                return Ok(QueryKey { columns, is_whole: false });
            }
            LogicalPlan::TableScan(_) => {
                let feed = feed_of(plan).ok_or(NONE)?;
                let columns = feed_key(plan, &shown, &feed.primary_key)?;
                return Ok(QueryKey { columns, is_whole: true });
            }
            _ => {
                let mut input = None;
                let traced = shown.iter().map(|own| {
                    let (under, own) = below(plan, own)?;
                    input = Some(under);
                    Some(own)
                });
                shown = traced.collect::<Option<_>>().ok_or(NONE)?;
                input.ok_or(NONE)?
            }
        };
    }
}

/// A query whose rows are groups, and what its columns show of them.
struct Grouped<'a> {
    query: &'a LogicalPlan,
    shown: Vec<Expr>,
    aggregate: &'a Aggregate,
}

impl Grouped<'_> {
    fn key(&self) -> Result<BTreeSet<usize>, String> {
        let groups = grouping_set_to_exprlist(&self.aggregate.group_expr);
        let count = groups.map_err(|error| error.to_string())?.len();
        if count == 0 {
            let reason = "without GROUP BY it has one row and no key; write SELECT 'all' AS scope, \
                          ... GROUP BY 'all'";
            return Err(reason.to_owned());
        }
        self.refuse_equal_sets()?;
        let mut key = BTreeSet::new();
        for group in 0..count {
            self.add(group, &mut key)?;
        }
        Ok(key)
    }

    /// Adds what tells the values of one group column apart.
    fn add(&self, group: usize, key: &mut BTreeSet<usize>) -> Result<(), String> {
        let Aggregate { input, schema, .. } = self.aggregate;
        let own = column(schema, group);
        let expr = group_of(self.aggregate, group).unwrap_or(&own);
        let bare = self.shown.iter().position(|shown| *shown == own);
        let filling = self.shown.iter().position(|shown| is_filled(shown, &own));
        let is_given = is_given(self.aggregate, group);
        if is_left_out(self.aggregate, group) {
            let (Some(filling), Some(level)) = (filling, self.level(group)) else {
                let (name, filled) = (written(expr), filled(input, expr));
                return Err(format!(
                    "{name} is NULL in coarser levels; SELECT both {filled} and grouping({name})"
                ));
            };
            if !is_given {
                return Err(maybe_null(input, expr));
            }
            key.extend([filling, level]);
            return Ok(());
        }
        match (bare, filling) {
            (Some(bare), _) if is_never_null(self.query, &column(self.query.schema(), bare)) => {
                key.insert(bare);
                Ok(())
            }
            (_, Some(filling)) if is_given => {
                key.insert(filling);
                Ok(())
            }
            (Some(_), _) | (_, Some(_)) => Err(maybe_null(input, expr)),
            (None, None) => Err(format!(
                "GROUP BY {} is not in the SELECT list, so rows of different groups would be \
                 the same; SELECT it too",
                written(expr)
            )),
        }
    }

    /// The column that shows `grouping(...)` of a group column.
    fn level(&self, group: usize) -> Option<usize> {
        let Aggregate { aggr_expr, schema, .. } = self.aggregate;
        let own = group_of(self.aggregate, group)?;
        let first = schema.fields().len() - aggr_expr.len();
        let is_level = |expr: &Expr| match expr.clone().unalias_nested().data {
            Expr::AggregateFunction(call) => {
                call.func.name() == "grouping" && call.params.args.contains(own)
            }
            _ => false,
        };
        self.shown.iter().position(|shown| {
            (0..aggr_expr.len())
                .any(|index| is_level(&aggr_expr[index]) && *shown == column(schema, first + index))
        })
    }

    fn refuse_equal_sets(&self) -> Result<(), String> {
        let [Expr::GroupingSet(GroupingSet::GroupingSets(sets))] =
            self.aggregate.group_expr.as_slice()
        else {
            return Ok(());
        };
        let is_within = |one: &[Expr], two: &[Expr]| one.iter().all(|own| two.contains(own));
        let is_twice = |index: usize| {
            sets[..index]
                .iter()
                .any(|known| is_within(known, &sets[index]) && is_within(&sets[index], known))
        };
        match (0..sets.len()).find(|index| is_twice(*index)) {
            Some(index) => {
                let names: Vec<String> = sets[index].iter().map(written).collect();
                Err(format!("the grouping set ({}) is there twice", names.join(", ")))
            }
            None => Ok(()),
        }
    }
}

fn dedup_key(
    query: &LogicalPlan,
    shown: &[Expr],
    node: &DedupNode,
) -> Result<BTreeSet<usize>, String> {
    if node.options.within != Within::Unbounded {
        let reason = "its key comes again after the interval of DEDUP BY; write WITHIN UNBOUNDED, \
                      or GROUP BY, or CREATE EXTERNAL TABLE with a PRIMARY KEY and INSERT INTO it";
        return Err(reason.to_owned());
    }
    let mut key = BTreeSet::new();
    for own in &node.keys {
        let name = written(own);
        let Some(index) = shown.iter().position(|shown| shown == own) else {
            return Err(format!("DEDUP BY {name} is not in the SELECT list; SELECT it too"));
        };
        if !is_never_null(query, &column(query.schema(), index)) {
            return Err(maybe_null(&node.input, own));
        }
        key.insert(index);
    }
    Ok(key)
}

/// The columns that show the primary key of the table whose changes `scan` is.
fn feed_key(
    scan: &LogicalPlan,
    shown: &[Expr],
    primary_key: &[String],
) -> Result<BTreeSet<usize>, String> {
    let found = |name: &String| {
        let index = scan.schema().index_of_column_by_name(None, name)?;
        shown.iter().position(|own| *own == column(scan.schema(), index))
    };
    let index = |name| {
        found(name).ok_or_else(|| {
            format!(
                "{name}, of the primary key of the table that changes, is not in the SELECT list; \
                 SELECT it too, or write GROUP BY"
            )
        })
    };
    primary_key.iter().map(index).collect()
}

/// Whether `shown` is `coalesce(own, a literal)`.
fn is_filled(shown: &Expr, own: &Expr) -> bool {
    matches!(shown, Expr::ScalarFunction(call) if call.name() == "coalesce"
        && matches!(call.args.as_slice(), [first, other] if first == own && is_literal(other)))
}

/// Refuses a column of the key that is `expr`, over the columns that `plan` shows.
fn maybe_null(plan: &LogicalPlan, expr: &Expr) -> String {
    let (name, filled) = (written(expr), filled(plan, expr));
    format!(
        "{name} can be NULL, and a PRIMARY KEY cannot; write WHERE {name} IS NOT NULL, or {filled} in \
         its place everywhere"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::OnefoldContextExt;
    use crate::sql::parse_script;
    use crate::types::Settings;
    use datafusion::prelude::SessionContext;
    use datafusion::sql::sqlparser::dialect::GenericDialect;

    /// The names of the key's columns, or what is missing.
    async fn key(query: &str) -> Result<String, String> {
        let context = SessionContext::new().with_onefold(Settings::default()).unwrap();
        let table = "CREATE TABLE e (id INT NOT NULL, k INT, v INT, at TIMESTAMP);
                     CREATE TABLE f (k INT, name VARCHAR NOT NULL)";
        context.run_sql(table).await.unwrap();
        let parsed = parse_script(query, &GenericDialect {}).unwrap().remove(0);
        let plan = context.state().statement_to_plan(parsed.statement).await.unwrap();
        let names = |key: QueryKey| {
            let names = key.columns.iter().map(|own| plan.schema().field(*own).name().clone());
            names.collect::<Vec<_>>().join(", ")
        };
        key_of(&plan).map(names)
    }

    async fn assert_keys(all: &[(&str, Result<&str, &str>)]) {
        for (query, expected) in all {
            match (key(query).await, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, *expected, "{query}"),
                (Err(found), Err(expected)) => {
                    assert!(found.contains(expected), "{query}: {found}");
                }
                (found, _) => panic!("{query}: {found:?}"),
            }
        }
    }

    #[tokio::test]
    async fn the_key_of_groups_is_what_they_are_grouped_by() {
        assert_keys(&[
            ("SELECT id, count(*) AS n FROM e GROUP BY id", Ok("id")),
            ("SELECT count(*) AS n, id AS own FROM e GROUP BY id", Ok("own")),
            ("SELECT id % 10 AS m, max(v) AS v FROM e GROUP BY m", Ok("m")),
            ("SELECT id, id AS again, count(*) AS n FROM e GROUP BY 1", Ok("id")),
            ("SELECT 'all' AS scope, count(*) AS n FROM e GROUP BY 'all'", Ok("scope")),
            ("SELECT id, count(*) AS n FROM e GROUP BY id HAVING count(*) > 1", Ok("id")),
            (
                "SELECT own, n FROM (SELECT id AS own, count(*) AS n FROM e GROUP BY id) AS g",
                Ok("own"),
            ),
            (
                "WITH c AS (SELECT id AS i FROM e DEDUP BY id WITHIN UNBOUNDED)
                 SELECT i, count(*) AS n FROM c GROUP BY i",
                Ok("i"),
            ),
            ("SELECT count(*) AS n FROM e GROUP BY id", Err("GROUP BY e.id is not in the SELECT")),
            ("SELECT id + 1 AS i, count(*) AS n FROM e GROUP BY id", Err("not in the SELECT list")),
            ("SELECT count(*) AS n FROM e", Err("without GROUP BY it has one row")),
            ("SELECT id FROM e", Err("its rows have no key")),
            (
                "SELECT g.id FROM (SELECT id FROM e GROUP BY id) AS g JOIN f ON g.id = f.k",
                Err("its rows have no key"),
            ),
        ])
        .await;
    }

    #[tokio::test]
    async fn a_column_of_the_key_must_not_be_null_by_what_the_query_says() {
        assert_keys(&[
            ("SELECT k, count(*) AS n FROM e GROUP BY k", Err("e.k can be NULL")),
            ("SELECT k, count(*) AS n FROM e WHERE k IS NOT NULL GROUP BY k", Ok("k")),
            ("SELECT k, count(*) AS n FROM e WHERE v > 1 AND k > 1 GROUP BY k", Ok("k")),
            ("SELECT k, count(*) AS n FROM e WHERE k IN (1, 2) GROUP BY k", Ok("k")),
            ("SELECT k, count(*) AS n FROM e WHERE k BETWEEN 1 AND 2 GROUP BY k", Ok("k")),
            ("SELECT k, count(*) AS n FROM e WHERE k > 1 OR v > 1 GROUP BY k", Err("can be NULL")),
            ("SELECT k, count(*) AS n FROM e WHERE k IS NULL GROUP BY k", Err("can be NULL")),
            (
                "SELECT k, count(*) AS n FROM e WHERE k IS DISTINCT FROM 1 GROUP BY k",
                Err("can be NULL"),
            ),
            ("SELECT k, count(*) AS n FROM e GROUP BY k HAVING k IS NOT NULL", Ok("k")),
            ("SELECT coalesce(k, 0) AS k, count(*) AS n FROM e GROUP BY coalesce(k, 0)", Ok("k")),
            // NULL and 0 would be one row.
            ("SELECT coalesce(k, 0) AS c, count(*) AS n FROM e GROUP BY k", Err("can be NULL")),
            ("SELECT coalesce(k, 0) AS c, count(*) AS n FROM e WHERE k > 1 GROUP BY k", Ok("c")),
            (
                "SELECT date_bin(INTERVAL '1 hour', at) AS h, count(*) AS n FROM e
                 WHERE at IS NOT NULL GROUP BY h",
                Ok("h"),
            ),
            (
                "SELECT tumble(at, INTERVAL '1 hour') AS h, count(*) AS n FROM e
                   DEDUP BY id WITHIN INTERVAL '1 hour' OF at
                 GROUP BY tumble(at, INTERVAL '1 hour')",
                Ok("h"),
            ),
            (
                "SELECT at, count(*) AS n FROM e
                   DEDUP BY id WITHIN INTERVAL '1 hour' OF at LATE PASS GROUP BY at",
                Err("e.\"at\" can be NULL"),
            ),
            (
                "SELECT nullif(id, 3) AS m, count(*) AS n FROM e GROUP BY nullif(id, 3)",
                Err("can be NULL"),
            ),
            ("SELECT name, count(*) AS n FROM e JOIN f ON e.k = f.k GROUP BY name", Ok("name")),
            (
                "SELECT name, count(*) AS n FROM e LEFT JOIN f ON e.k = f.k GROUP BY name",
                Err("f.\"name\" can be NULL"),
            ),
            ("SELECT e.k, count(*) AS n FROM e JOIN f ON e.k = f.k GROUP BY e.k", Ok("k")),
        ])
        .await;
    }

    #[tokio::test]
    async fn two_times_of_one_microsecond_are_not_one_key() {
        let by = |group: &str| {
            format!(
                "SELECT {group} AS g, count(*) AS n FROM e WHERE at IS NOT NULL GROUP BY {group}"
            )
        };
        assert_keys(&[
            (&by("at"), Err("g has nanoseconds, of which a table keeps microseconds")),
            (&by("CAST(at AS TIMESTAMP(6))"), Ok("g")),
            (&by("date_trunc('microsecond', at)"), Ok("g")),
            (&by("date_bin(INTERVAL '10 microseconds', at)"), Ok("g")),
            (&by("date_bin(INTERVAL '10 nanoseconds', at)"), Err("g has nanoseconds")),
            (
                &by("tumble(at, INTERVAL '1 hour', TIMESTAMP '2026-01-01 00:00:00.000001')"),
                Ok("g"),
            ),
            (
                &by("tumble(at, INTERVAL '1 hour', TIMESTAMP '2026-01-01 00:00:00.0000001')"),
                Err("g has nanoseconds"),
            ),
            (
                "WITH c AS (SELECT date_bin(INTERVAL '1 hour', at) AS h FROM e WHERE at IS NOT NULL)
                 SELECT h, count(*) AS n FROM c AS d GROUP BY h",
                Ok("h"),
            ),
            (
                "SELECT id, at FROM e DEDUP BY id, at WITHIN UNBOUNDED WHERE at IS NOT NULL",
                Err("at has nanoseconds"),
            ),
        ])
        .await;
    }

    #[tokio::test]
    async fn levels_of_a_rollup_are_told_apart_by_grouping() {
        let rollup = |shown: &str| {
            format!("SELECT {shown}, count(*) AS n FROM e WHERE k > 0 GROUP BY id, ROLLUP(k)")
        };
        assert_keys(&[
            (&rollup("id, coalesce(k, -1) AS k, grouping(k) AS g"), Ok("id, k, g")),
            (
                &rollup("id, grouping(k) AS g, coalesce(k, id) AS k"),
                Err("SELECT both coalesce(e.k, 0)"),
            ),
            (
                &rollup("id, k, grouping(k) AS g"),
                Err("SELECT both coalesce(e.k, 0) and grouping(e.k)"),
            ),
            (&rollup("id, coalesce(k, -1) AS k"), Err("e.k is NULL in coarser levels")),
            (&rollup("id, coalesce(k, -1) AS k, grouping(id) AS g"), Err("grouping(e.k)")),
            (
                "SELECT coalesce(k, -1) AS k, grouping(k) AS g, count(*) AS n FROM e
                 GROUP BY ROLLUP(k)",
                Err("e.k can be NULL"), // NULL and -1 would be one row
            ),
            (
                "SELECT coalesce(id, 0) AS i, coalesce(name, '') AS s, grouping(id, name) AS g,
                   count(*) AS n
                 FROM e JOIN f ON e.k = f.k GROUP BY CUBE(id, name)",
                Ok("i, s, g"),
            ),
            (
                "SELECT coalesce(id, 0) AS i, grouping(id) AS g, count(*) AS n FROM e
                 GROUP BY GROUPING SETS ((id), (), ())",
                Err("the grouping set () is there twice"),
            ),
            (
                "SELECT id, coalesce(v, 0) AS v, grouping(v) AS g, count(*) AS n FROM e
                 WHERE v > 1 GROUP BY GROUPING SETS ((id, v), (id))",
                Ok("id, v, g"),
            ),
        ])
        .await;
    }

    #[tokio::test]
    async fn the_key_of_dedup_is_one_only_without_an_end() {
        assert_keys(&[
            ("SELECT v, id FROM e DEDUP BY id WITHIN UNBOUNDED", Ok("id")),
            ("SELECT id + 1 AS i FROM e DEDUP BY id + 1 WITHIN UNBOUNDED WHERE v > 1", Ok("i")),
            ("SELECT k, id FROM e DEDUP BY id, k WITHIN UNBOUNDED WHERE k > 1", Ok("k, id")),
            ("SELECT v FROM e DEDUP BY id WITHIN UNBOUNDED", Err("DEDUP BY e.id is not in the")),
            ("SELECT k FROM e DEDUP BY k WITHIN UNBOUNDED", Err("e.k can be NULL")),
            (
                "SELECT id FROM e DEDUP BY id WITHIN INTERVAL '1 hour' OF at",
                Err("its key comes again after the interval"),
            ),
        ])
        .await;
    }
}
