//! `CREATE MATERIALIZED VIEW`: its head, taken off the query that stays to be parsed.
//!
//! ```text
//!   [EXPLAIN ...] CREATE [OR REPLACE] MATERIALIZED VIEW [IF NOT EXISTS] name [(column, ...)]
//!     [LOCATION 'url'] [PARTITIONED BY (column, ...)] [OPTIONS ('name' 'value', ...)]
//!   AS query
//! ```

use super::SqlError;
use super::clause::is_word;
use datafusion::sql::sqlparser::ast::{Ident, ObjectName, Value};
use datafusion::sql::sqlparser::dialect::Dialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan};

const USAGE: &str = "CREATE MATERIALIZED VIEW [IF NOT EXISTS] name [(column, ...)] \
                     [LOCATION 'url'] [PARTITIONED BY (column, ...)] [OPTIONS ('name' 'value', ...)] AS SELECT ...";

/// What CREATE MATERIALIZED VIEW says before its query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewClause {
    /// Its name, as it is written.
    pub name: ObjectName,
    /// Whether OR REPLACE is written.
    pub or_replace: bool,
    /// Whether it is no error if there is a table of this name.
    pub if_not_exists: bool,
    /// What its columns are called, if not as those of the query.
    pub columns: Vec<Ident>,
    /// Where its rows are to be.
    pub location: Option<String>,
    /// The columns that partition them.
    pub partition_by: Vec<Ident>,
    /// Options of its table and of the store, each once.
    pub options: Vec<(String, String)>,
    /// The text of the query, as its author wrote it.
    pub query: String,
    /// Where that begins.
    pub(super) query_at: Location,
}

/// The tokens of the query, behind EXPLAIN where that is written, and the head; `None` if `tokens`
/// make no materialized view. The text of the query is left empty.
pub(super) fn cut_view(
    tokens: &[TokenWithSpan],
    dialect: &dyn Dialect,
) -> Result<Option<(Vec<TokenWithSpan>, ViewClause)>, SqlError> {
    let Some((create, body)) = find(tokens) else { return Ok(None) };
    let at = tokens[create].span.start;
    let wrong = || SqlError::Upkeep { line: at.line, column: at.column, usage: USAGE.to_owned() };
    let or_replace = tokens[create..body].iter().any(|token| is_word(&token.token, "REPLACE"));
    let mut parser = Parser::new(dialect).with_tokens_with_locations(tokens[body..].to_vec());
    let mut clause = head(&mut parser, or_replace).map_err(|_| wrong())?;
    let twice = |index: usize| {
        let (name, _) = &clause.options[index];
        clause.options[..index].iter().any(|(known, _)| known.eq_ignore_ascii_case(name))
    };
    if (0..clause.options.len()).any(twice) {
        return Err(wrong());
    }
    clause.options.iter_mut().for_each(|(name, _)| name.make_ascii_lowercase());
    let mut query = tokens[..create].to_vec();
    query.extend_from_slice(&tokens[body + parser.index()..]);
    Ok(Some((query, clause)))
}

/// Where CREATE stands, and what comes after VIEW.
fn find(tokens: &[TokenWithSpan]) -> Option<(usize, usize)> {
    const EXPLAIN_MAX: usize = 8;
    let words: Vec<usize> = (0..tokens.len())
        .filter(|index| !matches!(tokens[*index].token, Token::Whitespace(_)))
        .collect();
    let word = |index: usize, text: &str| {
        words.get(index).is_some_and(|at| is_word(&tokens[*at].token, text))
    };
    let create = if word(0, "EXPLAIN") {
        (1..EXPLAIN_MAX).find(|index| word(*index, "CREATE"))?
    } else {
        0
    };
    let mut next = create + 1;
    if word(next, "OR") && word(next + 1, "REPLACE") {
        next += 2;
    }
    let is_view = word(create, "CREATE") && word(next, "MATERIALIZED") && word(next + 1, "VIEW");
    is_view.then(|| (words[create], words[next + 1] + 1))
}

/// From behind VIEW to behind AS.
fn head(parser: &mut Parser<'_>, or_replace: bool) -> Result<ViewClause, ParserError> {
    let if_not_exists = parser.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
    let name = parser.parse_object_name(false)?;
    let mut columns = Vec::new();
    if parser.consume_token(&Token::LParen) {
        columns = parser.parse_comma_separated(Parser::parse_identifier)?;
        parser.expect_token(&Token::RParen)?;
    }
    let (mut location, mut partition_by, mut options) = (None, None, None);
    while !parser.parse_keyword(Keyword::AS) {
        if location.is_none() && parser.parse_keyword(Keyword::LOCATION) {
            location = Some(parser.parse_literal_string()?);
        } else if partition_by.is_none() && parser.parse_keyword(Keyword::PARTITIONED) {
            parser.expect_keyword(Keyword::BY)?;
            parser.expect_token(&Token::LParen)?;
            partition_by = Some(parser.parse_comma_separated(Parser::parse_identifier)?);
            parser.expect_token(&Token::RParen)?;
        } else if options.is_none() && parser.parse_keyword(Keyword::OPTIONS) {
            parser.expect_token(&Token::LParen)?;
            options = Some(parser.parse_comma_separated(option)?);
            parser.expect_token(&Token::RParen)?;
        } else {
            return parser.expected_ref("AS", parser.peek_token_ref());
        }
    }
    let query = parser.peek_token_ref();
    if query.token == Token::EOF {
        return parser.expected_ref("a query", query);
    }
    Ok(ViewClause {
        name,
        or_replace,
        if_not_exists,
        columns,
        location,
        partition_by: partition_by.unwrap_or_default(),
        options: options.unwrap_or_default(),
        query: String::new(),
        query_at: query.span.start,
    })
}

/// `'name' 'value'`, or a name and a value that need no quotes.
fn option(parser: &mut Parser<'_>) -> Result<(String, String), ParserError> {
    let name = match parser.next_token().token {
        Token::SingleQuotedString(name) => name,
        Token::Word(word) => {
            let mut name = word.value;
            while parser.consume_token(&Token::Period) {
                name = format!("{name}.{}", parser.parse_identifier()?.value);
            }
            name
        }
        _ => return parser.expected_ref("the name of an option", parser.peek_token_ref()),
    };
    let value = match parser.parse_value()?.value {
        Value::SingleQuotedString(text) => text,
        other => other.to_string(),
    };
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use crate::sql::parse_script;
    use crate::types::Emit;
    use datafusion::sql::sqlparser::dialect::GenericDialect;

    #[test]
    fn the_head_is_taken_off_and_the_query_stays() {
        let query = "SELECT a, 'AS b' FROM t -- AS c\n WHERE a > 1 EMIT CHANGES";
        for (head, explain) in [
            ("CREATE MATERIALIZED VIEW IF NOT EXISTS s.v (x, \"Y z\")", ""),
            ("explain verbose create or replace materialized view s.v", "EXPLAIN VERBOSE "),
        ] {
            let rest =
                "OPTIONS ('A.b' 'c', merge_mode 'x;y') PARTITIONED BY (a, \"B\") LOCATION 'u'";
            let text = format!("SELECT 1;\n {head} {rest} AS\n  {query} ; SELECT 2");
            let parsed = parse_script(&text, &GenericDialect {}).unwrap();
            let [_, own, _] = parsed.as_slice() else { panic!("{parsed:?}") };
            let view = own.view.as_ref().unwrap();
            assert_eq!(view.name.to_string(), "s.v");
            assert_eq!(
                (view.if_not_exists, view.or_replace),
                (explain.is_empty(), !explain.is_empty())
            );
            assert_eq!(view.columns.len(), if explain.is_empty() { 2 } else { 0 });
            assert_eq!(view.location.as_deref(), Some("u"));
            let options = [("a.b", "c"), ("merge_mode", "x;y")];
            assert_eq!(
                view.options,
                options.map(|(name, value)| (name.to_owned(), value.to_owned()))
            );
            assert_eq!(view.partition_by.len(), 2);
            assert_eq!((view.query.as_str(), own.emit), (query, Some(Emit::Changes)));
            let plain = parse_script(&format!("{explain}{query}"), &GenericDialect {}).unwrap();
            assert_eq!(own.statement, plain[0].statement);
        }
    }

    #[test]
    fn what_is_written_wrongly_is_refused_with_its_place() {
        for text in [
            "CREATE MATERIALIZED VIEW v",
            "CREATE MATERIALIZED VIEW v AS",
            "CREATE MATERIALIZED VIEW AS SELECT 1",
            "CREATE MATERIALIZED VIEW v () AS SELECT 1",
            "CREATE MATERIALIZED VIEW v (a BIGINT) AS SELECT 1",
            "CREATE MATERIALIZED VIEW v LOCATION 'u' (a) AS SELECT 1",
            "CREATE MATERIALIZED VIEW v LOCATION 'u' LOCATION 'w' AS SELECT 1",
            "CREATE MATERIALIZED VIEW v OPTIONS ('a' 'b', A 'c') AS SELECT 1",
            "CREATE MATERIALIZED VIEW v SELECT 1",
        ] {
            let script = format!("SELECT 1;\n  {text}");
            let error = parse_script(&script, &GenericDialect {}).unwrap_err().to_string();
            let expected = "line 2, column 3: write CREATE MATERIALIZED VIEW [IF NOT EXISTS] name";
            assert!(error.starts_with(expected), "{text}: {error}");
        }
        for text in ["CREATE VIEW v AS SELECT 1", "CREATE TABLE materialized AS SELECT 1"] {
            assert!(parse_script(text, &GenericDialect {}).unwrap()[0].view.is_none(), "{text}");
        }
    }
}
