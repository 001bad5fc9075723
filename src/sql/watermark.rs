//! Cuts `WATERMARK FOR column AS column - INTERVAL '...'` out of CREATE EXTERNAL TABLE.

use super::SqlError;
use crate::types::parse_duration_us;
use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Ident, Interval, Value};
use datafusion::sql::sqlparser::dialect::Dialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Whitespace};

/// What a table's definition says about its event time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatermarkClause {
    /// The column, spelled as DataFusion spells it.
    pub column: String,
    /// The delay d in microseconds; at least 0.
    pub delay_us: i64,
}

/// The tokens without the clause, and the clause.
pub(super) fn cut_watermark(
    tokens: &[TokenWithSpan],
    dialect: &dyn Dialect,
) -> Result<(Vec<TokenWithSpan>, Option<WatermarkClause>), SqlError> {
    let words: Vec<usize> = (0..tokens.len())
        .filter(|index| !matches!(tokens[*index].token, Token::Whitespace(_)))
        .collect();
    let Some((first, last)) = find(tokens, &words) else { return Ok((tokens.to_vec(), None)) };
    let at = tokens[words[first]].span.start;
    let clause = read(&tokens[words[first]..words[last]], at, dialect)?;
    // One comma goes with it: the one after it, or else the one before it.
    let (from, to) = if tokens[words[last]].token == Token::Comma {
        (words[first], words[last] + 1)
    } else if tokens[words[first - 1]].token == Token::Comma {
        (words[first - 1], words[last])
    } else {
        let reason = "declare the columns too, before WATERMARK FOR";
        return Err(SqlError::watermark(at, reason));
    };
    let mut rest = tokens[..from].to_vec();
    rest.extend_from_slice(&tokens[to..]);
    if let (_, Some(_)) = cut_watermark(&rest, dialect)? {
        return Err(SqlError::watermark(at, "a table has one watermark, and this one has two"));
    }
    Ok((rest, Some(clause)))
}

/// Where the clause begins and ends, as indices into `words`; only inside the column list of
/// CREATE [OR REPLACE] [UNBOUNDED] EXTERNAL TABLE.
fn find(tokens: &[TokenWithSpan], words: &[usize]) -> Option<(usize, usize)> {
    let word = |index: usize, text: &str| {
        words.get(index).is_some_and(|at| {
            matches!(&tokens[*at].token, Token::Word(word)
                if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(text))
        })
    };
    if !word(0, "CREATE") || !(1..5).any(|index| word(index, "EXTERNAL")) {
        return None;
    }
    let mut depth = 0;
    let mut begun = None;
    for (index, at) in words.iter().enumerate() {
        match tokens[*at].token {
            Token::LParen => depth += 1,
            Token::RParen if depth == 1 => return begun.map(|first| (first, index)),
            Token::RParen => depth -= 1,
            Token::Comma if depth == 1 && begun.is_some() => {
                return begun.map(|first| (first, index));
            }
            _ if depth == 1 && begun.is_none() => {
                let starts = index > 0
                    && matches!(tokens[words[index - 1]].token, Token::LParen | Token::Comma);
                if starts && word(index, "WATERMARK") && word(index + 1, "FOR") {
                    begun = Some(index);
                }
            }
            _ => {}
        }
    }
    None
}

fn read(
    tokens: &[TokenWithSpan],
    at: Location,
    dialect: &dyn Dialect,
) -> Result<WatermarkClause, SqlError> {
    const SHAPE: &str = "write WATERMARK FOR column AS column - INTERVAL '30 seconds'";
    let wrong = |reason: &str| SqlError::watermark(at, reason);
    let mut parser = Parser::new(dialect).with_tokens_with_locations(tokens.to_vec());
    parser.next_token(); // WATERMARK
    parser.next_token(); // FOR
    let name = parser.parse_identifier().map_err(|_| wrong(SHAPE))?;
    if !parser.parse_keyword(datafusion::sql::sqlparser::keywords::Keyword::AS) {
        return Err(wrong(SHAPE));
    }
    let value = parser.parse_expr().map_err(|error| wrong(&error.to_string()))?;
    if parser.peek_token().token != Token::EOF {
        return Err(wrong(SHAPE));
    }
    let column = spelled(&name);
    let is_it = |expr: &Expr| matches!(expr, Expr::Identifier(own) if spelled(own) == column);
    let delay_us = match &value {
        own if is_it(own) => 0,
        Expr::BinaryOp { left, op: BinaryOperator::Minus, right } if is_it(left) => {
            match right.as_ref() {
                Expr::Interval(interval) => micros(interval).map_err(|reason| wrong(&reason))?,
                _ => return Err(wrong(SHAPE)),
            }
        }
        _ => return Err(wrong(SHAPE)),
    };
    Ok(WatermarkClause { column, delay_us })
}

/// A generator has no location, and DataFusion's grammar wants one.
pub(super) fn place_generator(tokens: &mut Vec<TokenWithSpan>) {
    let words: Vec<&str> = tokens
        .iter()
        .filter_map(|token| match &token.token {
            Token::Word(word) if word.quote_style.is_none() => Some(word.value.as_str()),
            _ => None,
        })
        .collect();
    let is = |index: usize, text: &str| {
        words.get(index).is_some_and(|word| word.eq_ignore_ascii_case(text))
    };
    let is_generator =
        (0..words.len()).any(|at| is(at, "STORED") && is(at + 1, "AS") && is(at + 2, "GENERATOR"));
    let is_create = is(0, "CREATE") && (1..5).any(|index| is(index, "EXTERNAL"));
    let is_placed = (0..words.len()).any(|at| is(at, "LOCATION"));
    if !is_create || !is_generator || is_placed {
        return;
    }
    let Some(span) = tokens.last().map(|token| token.span) else { return };
    for token in [
        Token::Whitespace(Whitespace::Space),
        Token::make_word("LOCATION", None),
        Token::SingleQuotedString("generator".to_owned()),
    ] {
        tokens.push(TokenWithSpan { token, span });
    }
}

/// Unquoted names are lower case in DataFusion.
fn spelled(name: &Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() }
}

fn micros(interval: &Interval) -> Result<i64, String> {
    let text = match interval.value.as_ref() {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => text.clone(),
            Value::Number(number, _) => number.clone(),
            other => return Err(format!("{other} is no interval")),
        },
        other => return Err(format!("{other} is not a constant; write INTERVAL '30 seconds'")),
    };
    let unit = interval.leading_field.as_ref().map(ToString::to_string).unwrap_or_default();
    parse_duration_us(&format!("{text} {unit}"))
}

#[cfg(test)]
mod tests {
    use crate::sql::parse_script;
    use datafusion::sql::sqlparser::dialect::GenericDialect;

    #[test]
    fn the_clause_is_cut_out_wherever_it_stands() {
        for columns in [
            "a INT, at TIMESTAMP, WATERMARK FOR at AS at - INTERVAL '30 seconds'",
            "WATERMARK FOR At AS at - INTERVAL '30' SECOND, a INT, at TIMESTAMP",
            "a INT, watermark for at as at - interval '30 s', at TIMESTAMP",
        ] {
            let create = |columns: &str| {
                format!("CREATE UNBOUNDED EXTERNAL TABLE t ({columns}) STORED AS JSON LOCATION 'x'")
            };
            let parsed = parse_script(&create(columns), &GenericDialect {}).unwrap();
            let watermark = parsed[0].watermark.clone().unwrap();
            assert_eq!((watermark.column.as_str(), watermark.delay_us), ("at", 30_000_000));
            let plain = parse_script(&create("a INT, at TIMESTAMP"), &GenericDialect {}).unwrap();
            assert_eq!(parsed[0].statement, plain[0].statement);
        }
    }

    #[test]
    fn columns_named_watermark_and_other_statements_are_left_alone() {
        for text in [
            "CREATE EXTERNAL TABLE t (watermark INT, b INT) STORED AS CSV LOCATION 'x'",
            "SELECT watermark FROM t",
            "CREATE EXTERNAL TABLE t (a INT) STORED AS CSV LOCATION '(WATERMARK FOR a AS a)'",
        ] {
            assert_eq!(parse_script(text, &GenericDialect {}).unwrap()[0].watermark, None);
        }
    }

    #[test]
    fn what_is_written_wrongly_is_refused_with_its_place() {
        let message = |clause: &str| {
            let text =
                format!("CREATE EXTERNAL TABLE t (a INT,\n  {clause}) STORED AS CSV LOCATION 'x'");
            parse_script(&text, &GenericDialect {}).unwrap_err().to_string()
        };
        for (clause, expected) in [
            ("WATERMARK FOR a AS b - INTERVAL '1 s'", "write WATERMARK FOR column AS column -"),
            ("WATERMARK FOR a AS a + INTERVAL '1 s'", "write WATERMARK FOR column AS column -"),
            ("WATERMARK FOR a AS a - INTERVAL '1 month'", "months and years have no fixed length"),
            ("WATERMARK FOR a AS a - INTERVAL '-1 s'", "is negative"),
            ("WATERMARK FOR a AS a, WATERMARK FOR a AS a", "this one has two"),
        ] {
            let found = message(clause);
            assert!(found.starts_with("WATERMARK at line 2, column 3: "), "{found}");
            assert!(found.contains(expected), "{found}");
        }
    }
}
