//! The words for upkeep and time travel, and the table functions they stand for.
//!
//! ```text
//!   OPTIMIZE t                               onefold_optimize('t')
//!   VACUUM t [RETAIN n HOURS]                onefold_vacuum('t' [, 'n hours'])
//!   CHECKPOINT t                             onefold_checkpoint('t')
//!   RESTORE [TABLE] t TO VERSION AS OF n     onefold_restore('t', n)
//!   FROM t VERSION AS OF n                   FROM onefold_at('t', n) AS t
//!   FROM t TIMESTAMP AS OF 'time'            FROM onefold_at('t', 'time') AS t
//! ```

use super::SqlError;
use super::clause::tokenize;
use datafusion::sql::sqlparser::dialect::Dialect;
use datafusion::sql::sqlparser::keywords::{Keyword, RESERVED_FOR_TABLE_ALIAS};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

/// The statement that a command for upkeep stands for; `None` if `tokens` are none.
pub(super) fn upkeep(
    tokens: &[TokenWithSpan],
    dialect: &dyn Dialect,
) -> Result<Option<Vec<TokenWithSpan>>, SqlError> {
    let words: Vec<&TokenWithSpan> =
        tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_))).collect();
    let Some((first, rest)) = words.split_first() else { return Ok(None) };
    let Some(command) = COMMANDS.iter().find(|(word, _)| is_word(&first.token, word)) else {
        return Ok(None);
    };
    let (command, usage) = *command;
    let wrong = || SqlError::Upkeep {
        line: first.span.start.line,
        column: first.span.start.column,
        usage: usage.to_owned(),
    };
    let rest = match rest {
        [table, rest @ ..] if command == "RESTORE" && is_word(&table.token, "TABLE") => rest,
        rest => rest,
    };
    let Some((name, length)) = name(rest) else { return Err(wrong()) };
    let quoted = name.replace('\'', "''");
    let call = match (command, &rest[length..]) {
        ("OPTIMIZE", []) => format!("onefold_optimize('{quoted}')"),
        ("CHECKPOINT", []) => format!("onefold_checkpoint('{quoted}')"),
        ("VACUUM", []) => format!("onefold_vacuum('{quoted}')"),
        ("VACUUM", [retain, number, hours])
            if is_word(&retain.token, "RETAIN") && is_word(&hours.token, "HOURS") =>
        {
            let number = digits(&number.token).ok_or_else(wrong)?;
            format!("onefold_vacuum('{quoted}', '{number} hours')")
        }
        ("RESTORE", [to, version, as_, of, number])
            if is_word(&to.token, "TO")
                && is_word(&version.token, "VERSION")
                && is_word(&as_.token, "AS")
                && is_word(&of.token, "OF") =>
        {
            let number = digits(&number.token).ok_or_else(wrong)?;
            format!("onefold_restore('{quoted}', {number})")
        }
        _ => return Err(wrong()),
    };
    tokenize(&format!("SELECT * FROM {call}"), dialect).map(Some)
}

const COMMANDS: [(&str, &str); 4] = [
    ("OPTIMIZE", "OPTIMIZE table"),
    ("VACUUM", "VACUUM table [RETAIN n HOURS]"),
    ("CHECKPOINT", "CHECKPOINT table"),
    ("RESTORE", "RESTORE [TABLE] table TO VERSION AS OF n"),
];

/// Puts a table function in the place of every table that is read as it was.
pub(super) fn travel(
    tokens: &[TokenWithSpan],
    dialect: &dyn Dialect,
) -> Result<Vec<TokenWithSpan>, SqlError> {
    let places: Vec<usize> = tokens
        .iter()
        .enumerate()
        .filter(|(_, token)| !matches!(token.token, Token::Whitespace(_)))
        .map(|(place, _)| place)
        .collect();
    let at = |index: usize| places.get(index).map(|place| &tokens[*place].token);
    let is = |index: usize, word: &str| at(index).is_some_and(|token| is_word(token, word));
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let (mut copied, mut index) = (0, 0);
    while index < places.len() {
        let kind = ["VERSION", "TIMESTAMP"].into_iter().find(|word| is(index + 1, word));
        let is_clause = kind.is_some() && is(index + 2, "AS") && is(index + 3, "OF");
        let when = at(index + 4).and_then(|token| match (kind, token) {
            (Some("VERSION"), token) => digits(token),
            (Some("TIMESTAMP"), Token::SingleQuotedString(text)) => {
                Some(format!("'{}'", text.replace('\'', "''")))
            }
            _ => None,
        });
        let (true, Some(when), Some(Token::Word(last))) = (is_clause, when, at(index)) else {
            index += 1;
            continue;
        };
        let mut first = index;
        while first >= 2 && at(first - 1) == Some(&Token::Period) {
            first -= 2;
        }
        let whole = places[first..=index].iter().map(|place| &tokens[*place]).collect::<Vec<_>>();
        let Some((name, _)) = name(&whole) else {
            index += 1;
            continue;
        };
        let is_dedup = is(index + 5, "DEDUP") && is(index + 6, "BY");
        let has_alias = match at(index + 5) {
            Some(Token::Word(word)) if !is_dedup => {
                let is_reserved = RESERVED_FOR_TABLE_ALIAS.contains(&word.keyword);
                word.quote_style.is_some() || word.keyword == Keyword::AS || !is_reserved
            }
            _ => false,
        };
        let alias = if has_alias { String::new() } else { format!(" AS {last}") };
        let call = format!("onefold_at('{}', {when}){alias}", name.replace('\'', "''"));
        out.extend_from_slice(&tokens[copied..places[first]]);
        out.extend(tokenize(&call, dialect)?);
        copied = places[index + 4] + 1;
        index += 5;
    }
    out.extend_from_slice(&tokens[copied..]);
    Ok(out)
}

/// A name of one or more parts, and how many tokens it takes.
fn name(tokens: &[&TokenWithSpan]) -> Option<(String, usize)> {
    let part = |token: &Token| match token {
        Token::Word(word) if word.quote_style.is_some() => Some(word.value.clone()),
        Token::Word(word) => Some(word.value.to_ascii_lowercase()),
        _ => None,
    };
    let mut name = part(&tokens.first()?.token)?;
    let mut length = 1;
    while let [period, next, ..] = &tokens[length..]
        && period.token == Token::Period
    {
        name = format!("{name}.{}", part(&next.token)?);
        length += 2;
    }
    Some((name, length))
}

fn digits(token: &Token) -> Option<String> {
    match token {
        Token::Number(number, false) if number.bytes().all(|digit| digit.is_ascii_digit()) => {
            Some(number.clone())
        }
        _ => None,
    }
}

fn is_word(token: &Token, text: &str) -> bool {
    matches!(token, Token::Word(word)
        if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::sql::sqlparser::dialect::GenericDialect;

    #[test]
    fn commands_stand_for_table_functions() {
        for (text, call) in [
            ("OPTIMIZE t", "onefold_optimize('t')"),
            ("vacuum s.\"T'x\" retain 12 hours", "onefold_vacuum('s.T'x', '12 hours')"),
            ("VACUUM t", "onefold_vacuum('t')"),
            ("CHECKPOINT T", "onefold_checkpoint('t')"),
            ("RESTORE TABLE t TO VERSION AS OF 7", "onefold_restore('t', 7)"),
            ("restore t to version as of 7", "onefold_restore('t', 7)"),
        ] {
            let tokens = tokenize(text, &GenericDialect {}).unwrap();
            let stands_for = upkeep(&tokens, &GenericDialect {}).unwrap().unwrap();
            assert_eq!(written(&stands_for), format!("SELECT * FROM {call}"));
        }
        for (text, usage) in [
            ("OPTIMIZE", "OPTIMIZE table"),
            ("VACUUM t RETAIN many HOURS", "VACUUM table [RETAIN n HOURS]"),
            ("RESTORE t TO VERSION 7", "RESTORE [TABLE] table TO VERSION AS OF n"),
        ] {
            let tokens = tokenize(text, &GenericDialect {}).unwrap();
            let error = upkeep(&tokens, &GenericDialect {}).unwrap_err().to_string();
            assert!(error.contains(usage), "{error}");
        }
        let tokens = tokenize("SELECT optimize FROM vacuum", &GenericDialect {}).unwrap();
        assert!(upkeep(&tokens, &GenericDialect {}).unwrap().is_none());
    }

    #[test]
    fn a_table_as_it_was_keeps_its_name_or_alias() {
        for (text, expected) in [
            (
                "SELECT * FROM t VERSION AS OF 3 WHERE t.k = 1",
                "SELECT * FROM onefold_at('t', 3) AS t WHERE t.k = 1",
            ),
            (
                "SELECT * FROM a.t version as of 3 AS x, u",
                "SELECT * FROM onefold_at('a.t', 3) AS x, u",
            ),
            (
                "SELECT * FROM t VERSION AS OF 3 x JOIN t TIMESTAMP AS OF '2026-01-01' ON true",
                "SELECT * FROM onefold_at('t', 3) x JOIN onefold_at('t', '2026-01-01') AS t ON true",
            ),
            (
                "WITH c AS (SELECT * FROM t VERSION AS OF 3), d AS (SELECT 1) SELECT * FROM c",
                "WITH c AS (SELECT * FROM onefold_at('t', 3) AS t), d AS (SELECT 1) SELECT * FROM c",
            ),
            (
                "SELECT (SELECT max(k) FROM t VERSION AS OF 3) FROM t",
                "SELECT (SELECT max(k) FROM onefold_at('t', 3) AS t) FROM t",
            ),
            (
                "SELECT * FROM t VERSION AS OF 3 LEFT JOIN u VERSION AS OF 4 USING (k)",
                "SELECT * FROM onefold_at('t', 3) AS t LEFT JOIN onefold_at('u', 4) AS u USING (k)",
            ),
            (
                "SELECT * FROM t VERSION AS OF 3 old JOIN t new ON old.k = new.k",
                "SELECT * FROM onefold_at('t', 3) old JOIN t new ON old.k = new.k",
            ),
            (
                "SELECT * FROM \"T t\".\"x\" VERSION AS OF 3 \"left\" LIMIT 1",
                "SELECT * FROM onefold_at('T t.x', 3) \"left\" LIMIT 1",
            ),
            (
                "SELECT * FROM \"it's\" VERSION AS OF 3",
                "SELECT * FROM onefold_at('it's', 3) AS \"it's\"",
            ),
            (
                "SELECT * FROM t /* VERSION */ VERSION -- AS\n AS OF 3 ORDER BY k",
                "SELECT * FROM onefold_at('t', 3) AS t ORDER BY k",
            ),
            (
                "SELECT * FROM t VERSION AS OF 3 DEDUP BY k WITHIN UNBOUNDED",
                "SELECT * FROM onefold_at('t', 3) AS t DEDUP BY k WITHIN UNBOUNDED",
            ),
            (
                "MERGE INTO t USING s TIMESTAMP AS OF 'it''s' ON t.k = s.k",
                "MERGE INTO t USING onefold_at('s', 'it's') AS s ON t.k = s.k",
            ),
            (
                "SELECT * FROM version VERSION AS OF 3, timestamp TIMESTAMP AS OF '2026'",
                "SELECT * FROM onefold_at('version', 3) AS version, \
                 onefold_at('timestamp', '2026') AS timestamp",
            ),
        ] {
            let tokens = tokenize(text, &GenericDialect {}).unwrap();
            assert_eq!(written(&travel(&tokens, &GenericDialect {}).unwrap()), expected);
        }
    }

    #[test]
    fn what_is_no_clause_is_left_as_it_is() {
        for text in [
            "SELECT version AS of, 5 FROM t",
            "SELECT t.version AS OF FROM t",
            "SELECT a, 'x VERSION AS OF 3' FROM t",
            "SELECT a -- t VERSION AS OF 3\n FROM t",
            "SELECT /* FROM t VERSION AS OF 3 */ a FROM t",
            "SELECT * FROM t \"VERSION\" AS OF",
            "SELECT * FROM t VERSION AS OF x",
            "SELECT * FROM t TIMESTAMP AS OF 3",
            "SELECT * FROM t VERSION AS OF '3'",
            "SELECT $$t VERSION AS OF 3$$ FROM t",
        ] {
            let tokens = tokenize(text, &GenericDialect {}).unwrap();
            let untouched = written(&travel(&tokens, &GenericDialect {}).unwrap());
            assert_eq!(untouched, written(&tokens), "{text}");
        }
    }

    fn written(tokens: &[TokenWithSpan]) -> String {
        tokens.iter().map(|token| token.token.to_string()).collect()
    }
}
