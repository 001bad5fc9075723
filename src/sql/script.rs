//! Scripts: several statements, each with the text its author wrote.

use super::clause::{rewrite, tokenize};
use super::emit::{inner_emit, last_emit};
use super::upkeep::{travel, upkeep};
use super::view::cut_view;
use super::watermark::{cut_watermark, place_generator};
use super::{SqlError, ViewClause, WatermarkClause};
use crate::types::Emit;
use datafusion::error::DataFusionError;
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::dialect::Dialect;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan};

/// One statement of a script.
#[derive(Clone, Debug)]
pub struct ParsedStatement {
    /// What DataFusion plans.
    pub statement: Statement,
    /// The text as it was written, without the semicolon: what a view keeps as its definition.
    pub text: String,
    /// Line of the script on which the text begins, from 1.
    pub line: u64,
    /// Column at which it begins, in characters, from 1.
    pub column: u64,
    /// What CREATE EXTERNAL TABLE says about the table's event time; not in `statement`.
    pub watermark: Option<WatermarkClause>,
    /// Whether it is a command such as OPTIMIZE; `statement` is then the query that does the work.
    pub is_upkeep: bool,
    /// What CREATE MATERIALIZED VIEW says; `statement` is then its query, explained or not.
    pub view: Option<ViewClause>,
    /// What EMIT at the end of the query asks for; not in `statement`.
    pub emit: Option<Emit>,
}

impl ParsedStatement {
    /// The text behind as many line breaks and blanks as put it where it stood, so that errors of
    /// a run of this statement alone name its place in the script.
    #[must_use]
    pub fn text_in_place(&self) -> String {
        let (lines, blanks) = (self.line.saturating_sub(1), self.column.saturating_sub(1));
        format!("{}{}{}", "\n".repeat(lines as usize), " ".repeat(blanks as usize), self.text)
    }
}

/// Parses the statements of `text`, which are separated by semicolons.
///
/// # Errors
///
/// [`SqlError`], with line and column in `text`.
pub fn parse_script(text: &str, dialect: &dyn Dialect) -> Result<Vec<ParsedStatement>, SqlError> {
    let tokens = tokenize(text, dialect)?;
    let mut statements = Vec::new();
    for part in tokens.split(|token| token.token == Token::SemiColon) {
        let mut words = part.iter().filter(|token| !matches!(token.token, Token::Whitespace(_)));
        let Some(first) = words.next() else { continue };
        let last = words.next_back().unwrap_or(first);
        let start = byte_offset(text, first.span.start);
        let end = byte_offset(text, last.span.end).max(start);
        let own = text.get(start..end).unwrap_or(text).to_owned();
        let (mut part, watermark) = cut_watermark(part, dialect)?;
        place_generator(&mut part);
        let mut view = None;
        if let Some((query, mut clause)) = cut_view(&part, dialect)? {
            let from = byte_offset(text, clause.query_at).min(end);
            text.get(from..end).unwrap_or_default().trim().clone_into(&mut clause.query);
            (part, view) = (query, Some(clause));
        }
        let upkeep = upkeep(&part, dialect)?;
        let is_upkeep = upkeep.is_some();
        let part = travel(upkeep.as_ref().unwrap_or(&part), dialect)?;
        let (statement, emit) = parse_one(&part, dialect)?;
        let Location { line, column } = first.span.start;
        statements.push(ParsedStatement {
            statement,
            text: own,
            line,
            column,
            watermark,
            is_upkeep,
            view,
            emit,
        });
    }
    Ok(statements)
}

/// Whether `text` is one or more whole statements, or nothing at all: what a prompt asks before it
/// runs what was typed. A statement ends with a semicolon.
#[must_use]
pub fn is_complete(text: &str, dialect: &dyn Dialect) -> bool {
    let Ok(tokens) = tokenize(text, dialect) else { return false };
    let last = tokens.iter().rev().find(|token| !matches!(token.token, Token::Whitespace(_)));
    last.is_none_or(|last| last.token == Token::SemiColon)
}

/// The statement, and the EMIT behind it. A text that is one without EMIT has none.
fn parse_one(
    tokens: &[TokenWithSpan],
    dialect: &dyn Dialect,
) -> Result<(Statement, Option<Emit>), SqlError> {
    let rewritten = rewrite(tokens, dialect)?;
    let Some(clause) = last_emit(&rewritten) else {
        return Ok((parse_emitless(&rewritten, dialect)?, None));
    };
    if let Ok(statement) = parse_whole(&rewritten, dialect) {
        return Ok((statement, None)); // a table or a column called emit, and its alias
    }
    let statement = parse_emitless(clause.before, dialect)?;
    clause.check(&statement)?;
    Ok((statement, Some(clause.emit)))
}

/// The statement; where an EMIT is all that is wrong with it, that is said.
fn parse_emitless(tokens: &[TokenWithSpan], dialect: &dyn Dialect) -> Result<Statement, SqlError> {
    parse_whole(tokens, dialect).map_err(|error| match inner_emit(tokens) {
        Some((misplaced, without)) if parse_whole(&without, dialect).is_ok() => misplaced,
        _ => error,
    })
}

fn parse_whole(tokens: &[TokenWithSpan], dialect: &dyn Dialect) -> Result<Statement, SqlError> {
    const PLACES: &str = "DEDUP BY must follow a table, view, CTE, table function or parenthesised \
                          query";
    let failed = |error| SqlError::Statement(Box::new(error));
    let mut parser =
        DFParserBuilder::new(tokens.to_vec()).with_dialect(dialect).build().map_err(failed)?;
    let refused = |error: DataFusionError| {
        let text = error.to_string();
        match text.split_once("found: PIVOT at Line: ") {
            Some((_, place)) => SqlError::clause(location(place), PLACES),
            None => SqlError::Statement(Box::new(error)),
        }
    };
    let mut parsed = parser.parse_statements().map_err(refused)?;
    match (parsed.pop_front(), parsed.is_empty()) {
        (Some(statement), true) => Ok(statement),
        _ => Err(SqlError::Token { message: "expected one statement".to_owned() }),
    }
}

/// Reads `3, Column: 14` back.
fn location(place: &str) -> Location {
    let mut numbers =
        place.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok());
    let line = numbers.next().unwrap_or(0);
    Location::new(line, numbers.next().unwrap_or(0))
}

/// Where `at` stands in `text`, in bytes.
fn byte_offset(text: &str, at: Location) -> usize {
    let line = (at.line as usize).saturating_sub(1);
    let start: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
    let column = (at.column as usize).saturating_sub(1);
    let rest = text.get(start..).unwrap_or("");
    start + rest.chars().take(column).map(char::len_utf8).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::sql::parser::DFParser;
    use datafusion::sql::sqlparser::dialect::GenericDialect;

    #[test]
    fn plain_statements_are_parsed_as_by_datafusion() {
        for text in [
            "SELECT a, count(*) FROM t WHERE b > 1 GROUP BY a HAVING count(*) > 2 ORDER BY a LIMIT 3",
            "WITH RECURSIVE n AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM n WHERE x < 9) TABLE n",
            "SELECT * FROM (VALUES (1, 'a;b')) AS v(x, y) JOIN u USING (x)",
            "CREATE EXTERNAL TABLE t (a INT, b VARCHAR) STORED AS CSV LOCATION 'x' OPTIONS ('has_header' 'true')",
            "CREATE UNBOUNDED EXTERNAL TABLE t (a INT) STORED AS JSON LOCATION 'y'",
            "COPY (SELECT 1) TO 'z.parquet' STORED AS PARQUET",
            "INSERT INTO t SELECT * FROM u",
            "MERGE INTO t USING s ON t.a = s.a WHEN MATCHED THEN UPDATE SET b = s.b",
            "EXPLAIN ANALYZE VERBOSE SELECT 1",
            "SET datafusion.execution.batch_size = 10",
            "SHOW ALL",
            "SELECT * FROM t PIVOT (sum(a) FOR b IN ('x', 'y'))",
            "SELECT dedup FROM dedup AS dedup",
            "PREPARE p AS SELECT $1",
            "CREATE VIEW v AS SELECT 1",
            "DELETE FROM t WHERE a = 1",
        ] {
            let ours = parse_script(text, &GenericDialect {}).unwrap();
            let theirs = DFParser::parse_sql(text).unwrap();
            assert_eq!(ours.len(), 1);
            assert_eq!(Some(&ours[0].statement), theirs.front(), "{text}");
            assert_eq!(ours[0].text, text);
        }
    }

    #[test]
    fn each_statement_keeps_the_text_of_its_author() {
        let text = "SELECT 'a;b' ; -- one; two\n\nCREATE VIEW v AS SELECT *\n FROM t DEDUP BY id WITHIN UNBOUNDED;\n;";
        let parsed = parse_script(text, &GenericDialect {}).unwrap();
        let texts: Vec<&str> = parsed.iter().map(|statement| statement.text.as_str()).collect();
        assert_eq!(
            texts,
            ["SELECT 'a;b'", "CREATE VIEW v AS SELECT *\n FROM t DEDUP BY id WITHIN UNBOUNDED"]
        );
    }

    #[test]
    fn a_clause_where_none_may_stand_is_refused_with_its_place() {
        let text = "SELECT *\nFROM (a JOIN b ON a.x = b.x) DEDUP BY x WITHIN UNBOUNDED";
        let error = parse_script(text, &GenericDialect {}).unwrap_err().to_string();
        assert!(
            error.starts_with("DEDUP BY at line 2, column 30: DEDUP BY must follow"),
            "{error}"
        );
    }

    #[test]
    fn a_prompt_waits_for_the_semicolon() {
        let complete = |text| is_complete(text, &GenericDialect {});
        assert!(complete("SELECT 1;") && complete("  ") && complete("SELECT 1; -- done"));
        assert!(!complete("SELECT 1") && !complete("SELECT 'a;") && !complete("SELECT /* ;"));
    }
}
