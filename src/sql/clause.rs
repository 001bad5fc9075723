//! Finds DEDUP BY clauses in a row of tokens and puts carriers in their place.

use super::SqlError;
use super::carrier::{Parts, write_carrier};
use crate::types::{LatePolicy, NullKeys};
use datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};

/// Rewrites every DEDUP BY clause of `text` into plain SQL that any DataFusion parser accepts, for
/// hosts that parse themselves. The rest of the text comes back as it was.
///
/// # Errors
///
/// [`SqlError`] for a clause that is written wrongly.
pub fn desugar(text: &str) -> Result<String, SqlError> {
    let dialect = GenericDialect {};
    let tokens = tokenize(text, &dialect)?;
    if !tokens.iter().enumerate().any(|(index, _)| clause_body(&tokens, index).is_some()) {
        return Ok(text.to_owned());
    }
    let rewritten = rewrite(&tokens, &dialect)?;
    let mut out = String::new();
    for token in &rewritten {
        let is_word = matches!(token.token, Token::Word(_));
        if is_word && out.ends_with(|last: char| !last.is_whitespace()) {
            out.push(' ');
        }
        out.push_str(&token.token.to_string());
    }
    Ok(out)
}

/// Cuts a text into tokens that know their line and column.
pub(super) fn tokenize(text: &str, dialect: &dyn Dialect) -> Result<Vec<TokenWithSpan>, SqlError> {
    Tokenizer::new(dialect, text)
        .tokenize_with_location()
        .map_err(|error| SqlError::Token { message: error.to_string() })
}

/// Puts a carrier in the place of every clause; all other tokens stay as they are.
pub(super) fn rewrite(
    tokens: &[TokenWithSpan],
    dialect: &dyn Dialect,
) -> Result<Vec<TokenWithSpan>, SqlError> {
    let mut out = Vec::with_capacity(tokens.len());
    let mut index = 0;
    while index < tokens.len() {
        let Some(body) = clause_body(tokens, index) else {
            out.push(tokens[index].clone());
            index += 1;
            continue;
        };
        let span = tokens[index].span;
        let rest = &tokens[body..];
        let (parts, length) = Reader::new(rest, span.start, dialect).read()?;
        write_carrier(&parts, span, &mut out);
        index = body + length;
    }
    Ok(out)
}

/// If a clause begins at `index`, where its keys begin.
fn clause_body(tokens: &[TokenWithSpan], index: usize) -> Option<usize> {
    if !is_word(&tokens[index].token, "DEDUP") {
        return None;
    }
    let next = (index + 1..tokens.len())
        .find(|next| !matches!(tokens[*next].token, Token::Whitespace(_)))?;
    is_word(&tokens[next].token, "BY").then_some(next + 1)
}

/// Whether `token` is the unquoted word `text`.
pub(super) fn is_word(token: &Token, text: &str) -> bool {
    matches!(token, Token::Word(word)
        if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(text))
}

/// Reads one clause after DEDUP BY.
struct Reader<'a> {
    tokens: &'a [TokenWithSpan],
    parser: Parser<'a>,
    at: Location,
}

impl<'a> Reader<'a> {
    fn new(tokens: &'a [TokenWithSpan], at: Location, dialect: &'a dyn Dialect) -> Self {
        let parser = Parser::new(dialect).with_tokens_with_locations(tokens.to_vec());
        Self { tokens, parser, at }
    }

    /// The parts, and how many tokens they take.
    fn read(mut self) -> Result<(Parts<'a>, usize), SqlError> {
        let keys =
            self.extent(|parser| parser.parse_comma_separated(Parser::parse_expr).map(drop))?;
        if !self.parser.parse_keyword(Keyword::WITHIN) {
            return Err(self
                .wrong("WITHIN is missing; write WITHIN INTERVAL '1 hour', or WITHIN UNBOUNDED"));
        }
        let within = if self.word("UNBOUNDED") { None } else { Some(self.expression()?) };
        let (late, nulls) = (LatePolicy::default(), NullKeys::default());
        let mut parts = Parts { keys, within, time: None, lateness: None, late, nulls };
        let mut seen: Vec<&str> = Vec::new();
        while let Some(option) = self.option(&mut parts)? {
            if seen.contains(&option) {
                return Err(self.wrong(&format!("{option} is written twice")));
            }
            seen.push(option);
        }
        if self.parser.peek_keyword(Keyword::WITHIN) {
            return Err(self.wrong("WITHIN is written twice"));
        }
        Ok((parts, self.parser.index()))
    }

    /// Reads one option if one follows, and says which.
    fn option(&mut self, parts: &mut Parts<'a>) -> Result<Option<&'static str>, SqlError> {
        if self.parser.parse_keyword(Keyword::OF) {
            parts.time = Some(self.expression()?);
            return Ok(Some("OF"));
        }
        if self.words("KEEP", &["FIRST", "LAST"]) {
            return match self.choice("KEEP", &["FIRST", "LAST"])? {
                0 => Ok(Some("KEEP")),
                _ => Err(self.not_yet("KEEP LAST")),
            };
        }
        if self.words("ALLOWED", &["LATENESS"]) {
            self.choice("ALLOWED", &["LATENESS"])?;
            parts.lateness = Some(self.expression()?);
            return Ok(Some("ALLOWED LATENESS"));
        }
        if self.words("LATE", &["DROP", "PASS", "ERROR", "TO"]) {
            parts.late = match self.choice("LATE", &["DROP", "PASS", "ERROR", "TO"])? {
                0 => LatePolicy::Drop,
                1 => LatePolicy::Pass,
                2 => LatePolicy::Error,
                _ => return Err(self.not_yet("LATE TO")),
            };
            return Ok(Some("LATE"));
        }
        if self.words("DUPLICATES", &["TO"]) {
            return Err(self.not_yet("DUPLICATES TO"));
        }
        if self.words("NULLS", &["DISTINCT", "NOT"]) {
            parts.nulls = NullKeys::Distinct;
            if self.choice("NULLS", &["DISTINCT", "NOT"])? == 1 {
                self.choice("NULLS NOT", &["DISTINCT"])?;
                parts.nulls = NullKeys::NotDistinct;
            }
            return Ok(Some("NULLS"));
        }
        if self.words("EXTEND", &["ON"]) {
            return Err(self.not_yet("EXTEND ON DUPLICATE"));
        }
        if self.words("EMIT", &["EAGER", "FINAL"]) {
            return match self.choice("EMIT", &["EAGER", "FINAL"])? {
                0 => Ok(Some("EMIT")),
                _ => Err(self.not_yet("EMIT FINAL")),
            };
        }
        Ok(None)
    }

    /// Whether `first` and then one of `second` follow; takes `first` if so. A lone word may be
    /// an alias, and stays.
    fn words(&mut self, first: &str, second: &[&str]) -> bool {
        let [one, two] = self.parser.peek_tokens();
        let follows = is_word(&one, first) && second.iter().any(|word| is_word(&two, word));
        if follows {
            self.parser.next_token();
        }
        follows
    }

    fn choice(&mut self, before: &str, words: &[&str]) -> Result<usize, SqlError> {
        match words.iter().position(|word| self.word(word)) {
            Some(which) => Ok(which),
            None => Err(self.wrong(&format!("after {before} write {}", words.join(" or ")))),
        }
    }

    fn word(&mut self, word: &str) -> bool {
        let follows = is_word(&self.parser.peek_token().token, word);
        if follows {
            self.parser.next_token();
        }
        follows
    }

    fn expression(&mut self) -> Result<&'a [TokenWithSpan], SqlError> {
        self.extent(|parser| parser.parse_expr().map(drop))
    }

    fn extent(
        &mut self,
        parse: impl FnOnce(&mut Parser<'a>) -> Result<(), ParserError>,
    ) -> Result<&'a [TokenWithSpan], SqlError> {
        let start = self.parser.index();
        parse(&mut self.parser).map_err(|error| match error {
            ParserError::ParserError(text) | ParserError::TokenizerError(text) => self.wrong(&text),
            ParserError::RecursionLimitExceeded => {
                self.wrong("the expression is nested too deeply")
            }
        })?;
        Ok(&self.tokens[start..self.parser.index()])
    }

    fn wrong(&self, reason: &str) -> SqlError {
        SqlError::clause(self.at, reason)
    }

    fn not_yet(&self, option: &'static str) -> SqlError {
        SqlError::NotYet { line: self.at.line, column: self.at.column, option }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(text: &str) -> String {
        desugar(text).unwrap_err().to_string()
    }

    #[test]
    fn a_clause_becomes_a_pivot_and_the_rest_stays() {
        let text = "SELECT * FROM e DEDUP BY id, k WITHIN INTERVAL '1 hour' OF at AS d WHERE x";
        assert_eq!(
            desugar(text).unwrap(),
            "SELECT * FROM e PIVOT( onefold_dedup( id, k ) FOR within IN('WT;DROP;DISTINCT;1;17', \
             INTERVAL '1 hour', at)) AS d WHERE x"
                .replace("k )", "k)")
        );
    }

    #[test]
    fn options_come_in_any_order_and_once() {
        let text = "FROM e DEDUP BY id WITHIN UNBOUNDED NULLS NOT DISTINCT EMIT EAGER LATE PASS \
                    ALLOWED LATENESS INTERVAL '1 s' KEEP FIRST OF at";
        assert!(
            desugar(text).unwrap().contains("'TL;PASS;NOT DISTINCT;1;8'"),
            "{:?}",
            desugar(text)
        );
        assert!(
            message("FROM e DEDUP BY id WITHIN UNBOUNDED LATE PASS LATE DROP")
                .ends_with("LATE is written twice")
        );
    }

    #[test]
    fn options_that_are_not_built_yet_are_refused_by_name() {
        for option in ["KEEP LAST", "LATE TO", "DUPLICATES TO", "EXTEND ON DUPLICATE", "EMIT FINAL"]
        {
            let text = format!("FROM e\n  DEDUP BY id WITHIN UNBOUNDED {option} t");
            let expected = format!("DEDUP BY at line 2, column 3: {option} is not supported yet");
            assert_eq!(message(&text), expected);
        }
    }

    #[test]
    fn errors_say_where_and_what_to_write() {
        let missing = message("SELECT *\nFROM e DEDUP BY id WHERE x");
        assert!(
            missing.starts_with("DEDUP BY at line 2, column 8: WITHIN is missing"),
            "{missing}"
        );
        let key = message("FROM e DEDUP BY WITHIN UNBOUNDED");
        assert!(key.contains("line 1, column 8"), "{key}");
    }

    #[test]
    fn an_alias_named_like_an_option_stays_an_alias() {
        for alias in ["late", "keep", "emit", "nulls", "allowed", "extend", "duplicates"] {
            let text = format!("FROM e DEDUP BY id WITHIN UNBOUNDED {alias} WHERE x");
            assert!(desugar(&text).unwrap().ends_with(&format!("{alias} WHERE x")), "{alias}");
        }
    }

    proptest! {
        #[test]
        fn strings_comments_quoted_names_and_aliases_are_never_touched(
            inner in "[a-zA-Z0-9 ]{0,12}",
            which in 0..6_usize,
        ) {
            let text = match which {
                0 => format!("SELECT '{inner} DEDUP BY id WITHIN UNBOUNDED'"),
                1 => format!("SELECT 1 -- {inner} DEDUP BY id WITHIN UNBOUNDED"),
                2 => format!("SELECT /* {inner} DEDUP BY id */ 1"),
                3 => format!("SELECT \"{inner} DEDUP BY id\", \"DEDUP\" BY FROM t"),
                4 => format!("SELECT dedup.x FROM t dedup WHERE dedup.x = '{inner}'"),
                _ => format!("SELECT dedup FROM t ORDER BY dedup -- {inner}"),
            };
            prop_assert_eq!(desugar(&text).unwrap(), text);
        }

        #[test]
        fn any_text_is_answered_and_a_rewritten_one_holds_no_clause(text in ".{0,60}") {
            if let Ok(once) = desugar(&text) {
                prop_assert_eq!(desugar(&once).unwrap(), once);
            }
        }

        #[test]
        fn any_clause_soup_is_answered_without_a_panic(
            words in proptest::collection::vec(
                prop_oneof![
                    Just("DEDUP"), Just("BY"), Just("WITHIN"), Just("UNBOUNDED"), Just("OF"), Just("id"),
                    Just(","), Just("("), Just(")"), Just("LATE"), Just("PASS"), Just("NULLS"),
                    Just("NOT"), Just("DISTINCT"), Just("INTERVAL '1 hour'"), Just("'x'"), Just("FROM t"),
                ],
                0..16,
            ),
        ) {
            let text = words.join(" ");
            if let Ok(once) = desugar(&text) {
                prop_assert_eq!(desugar(&once).unwrap(), once);
            }
        }
    }
}
