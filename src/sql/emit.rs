//! `EMIT CHANGES` and `EMIT FINAL`: at the end of a query, or in a wrong place.

use super::SqlError;
use super::clause::is_word;
use crate::types::Emit;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::Statement as SqlStatement;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan};

/// An EMIT at the end of a statement.
#[derive(Debug)]
pub(super) struct EmitClause<'a> {
    /// What it asks for.
    pub(super) emit: Emit,
    /// The tokens before it.
    pub(super) before: &'a [TokenWithSpan],
    at: Location,
}

/// The EMIT with which `tokens` end. That of a DEDUP clause is no longer there.
pub(super) fn last_emit(tokens: &[TokenWithSpan]) -> Option<EmitClause<'_>> {
    let is_code = |index: &usize| !matches!(tokens[*index].token, Token::Whitespace(_));
    let mut last = (0..tokens.len()).rev().filter(is_code);
    let (what, word) = (last.next()?, last.next()?);
    let emit = [Emit::Changes, Emit::Final]
        .into_iter()
        .find(|emit| is_word(&tokens[what].token, &emit.to_string()))?;
    let clause = EmitClause { emit, before: &tokens[..word], at: tokens[word].span.start };
    is_word(&tokens[word].token, "EMIT").then_some(clause)
}

/// An EMIT that stands elsewhere, and the tokens without it.
pub(super) fn inner_emit(tokens: &[TokenWithSpan]) -> Option<(SqlError, Vec<TokenWithSpan>)> {
    let is_code = |index: &usize| !matches!(tokens[*index].token, Token::Whitespace(_));
    let code: Vec<usize> = (0..tokens.len()).filter(is_code).collect();
    let emit = |what: usize| {
        let all = [Emit::Changes, Emit::Final].into_iter();
        all.map(|emit| emit.to_string()).find(|emit| is_word(&tokens[what].token, emit))
    };
    let found = code.windows(2).find_map(|own| {
        let is_emit = is_word(&tokens[own[0]].token, "EMIT");
        Some((own[0], own[1], emit(own[1]).filter(|_| is_emit)?))
    });
    let (word, what, emit) = found?;
    let at = tokens[word].span.start;
    let usage = format!(
        "EMIT {emit} at the end of the statement only: it is said of the whole query, and not of a \
         subquery or a part of it"
    );
    let without = tokens[..word].iter().chain(&tokens[what + 1..]).cloned().collect();
    Some((SqlError::Upkeep { line: at.line, column: at.column, usage }, without))
}

impl EmitClause<'_> {
    /// Refuses it behind anything that is not the query of an INSERT or a view, or a plain query.
    pub(super) fn check(&self, statement: &Statement) -> Result<(), SqlError> {
        if is_query(statement) {
            return Ok(());
        }
        let usage = format!("EMIT {} behind a query or the query of an INSERT only", self.emit);
        Err(SqlError::Upkeep { line: self.at.line, column: self.at.column, usage })
    }
}

fn is_query(statement: &Statement) -> bool {
    match statement {
        Statement::Explain(explained) => is_query(&explained.statement),
        Statement::Statement(inner) => match inner.as_ref() {
            SqlStatement::Query(_) => true,
            SqlStatement::Insert(insert) => insert.source.is_some(),
            _ => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use crate::sql::parse_script;
    use crate::types::Emit;
    use datafusion::sql::sqlparser::dialect::GenericDialect;

    #[test]
    fn the_last_words_of_a_query_are_its_emit() {
        let (changes, last) = (Some(Emit::Changes), Some(Emit::Final));
        for (query, words, emit) in [
            ("INSERT INTO t SELECT a, count(*) FROM e GROUP BY a", "EMIT FINAL", last),
            ("INSERT INTO t SELECT a FROM e", "emit /* x */ changes -- y\n", changes),
            ("INSERT INTO t SELECT a FROM e WHERE a > 1", "EMIT CHANGES", changes),
            ("EXPLAIN INSERT INTO t SELECT a FROM e ORDER BY a", "EMIT FINAL", last),
            ("SELECT * FROM e DEDUP BY a WITHIN UNBOUNDED", "EMIT CHANGES", changes),
            ("WITH c AS (SELECT 1 AS a) SELECT a FROM c", "EMIT CHANGES", changes),
        ] {
            let parsed = parse_script(&format!("{query} {words}"), &GenericDialect {}).unwrap();
            let plain = parse_script(query, &GenericDialect {}).unwrap();
            assert_eq!(parsed[0].statement, plain[0].statement, "{query}");
            assert_eq!((parsed[0].emit, plain[0].emit), (emit, None), "{query}");
        }
    }

    #[test]
    fn what_means_something_without_the_clause_keeps_its_meaning() {
        for text in [
            "SELECT * FROM emit final",
            "SELECT * FROM e, emit changes",
            "SELECT a FROM e JOIN (SELECT 1 AS a) emit USING (a)",
            "SELECT emit changes",
            "SELECT 'EMIT FINAL'",
            "SELECT 1 AS emit -- EMIT FINAL",
        ] {
            let parsed = parse_script(text, &GenericDialect {}).unwrap();
            assert_eq!(parsed[0].emit, None, "{text}");
        }
        for emit in ["EMIT FINAL", "EMIT EAGER EMIT FINAL"] {
            let dedup = format!("SELECT * FROM e DEDUP BY a WITHIN UNBOUNDED {emit}");
            let error = parse_script(&dedup, &GenericDialect {}).unwrap_err().to_string();
            assert!(error.starts_with("DEDUP BY at line 1"), "{error}");
        }
        for (text, said) in [
            ("DELETE FROM t WHERE a = 1\n EMIT FINAL", "line 2, column 2: write EMIT FINAL behind"),
            ("CREATE VIEW v AS SELECT 1 AS a EMIT CHANGES", "write EMIT CHANGES behind a query"),
            ("SELECT * FROM e WHERE EMIT FINAL", "an expression"),
        ] {
            let error = parse_script(text, &GenericDialect {}).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn an_emit_elsewhere_is_refused_with_its_place() {
        for (text, place) in [
            ("SELECT * FROM (SELECT a FROM e EMIT FINAL) AS s", "column 32: write EMIT FINAL"),
            ("WITH c AS (SELECT 1 EMIT CHANGES) SELECT * FROM c", "column 21: write EMIT CHANGES"),
            ("SELECT a FROM e WHERE a > 1 EMIT FINAL LIMIT 3", "column 29: write EMIT FINAL"),
            ("SELECT a FROM e GROUP BY a EMIT FINAL UNION ALL SELECT 1", "column 28: write EMIT"),
            (
                "INSERT INTO t SELECT a FROM (SELECT 1 EMIT FINAL) s EMIT CHANGES",
                "column 39: write",
            ),
        ] {
            let error = parse_script(text, &GenericDialect {}).unwrap_err().to_string();
            assert!(error.contains(place) && error.contains("at the end"), "{text}: {error}");
        }
        let text = "SELECT * FROM (SELECT a FROM emit final) s";
        assert!(parse_script(text, &GenericDialect {}).is_ok(), "a table and its alias");
        let wrong = "SELECT * FROM (SELECT a FRM e EMIT FINAL x) s";
        let error = parse_script(wrong, &GenericDialect {}).unwrap_err().to_string();
        assert!(!error.contains("at the end"), "{error}");
    }
}
