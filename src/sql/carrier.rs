//! The construct that carries a DEDUP clause through DataFusion's parser, and its reader.

use crate::types::{LatePolicy, NullKeys};
use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, FunctionArguments, PivotValueSource, TableAlias,
    TableFactor, Value,
};
use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan};

/// The function name that marks our PIVOT; a user's own aggregate of this name cannot be pivoted.
const MARK: &str = "onefold_dedup";

/// A DEDUP clause as it was written; its expressions are not planned yet.
#[derive(Clone, Debug)]
pub struct Carrier {
    /// What is deduplicated.
    pub input: TableFactor,
    /// The key expressions.
    pub keys: Vec<Expr>,
    /// The interval; `None` is UNBOUNDED.
    pub within: Option<Expr>,
    /// The time expression of OF.
    pub time: Option<Expr>,
    /// The interval of ALLOWED LATENESS.
    pub lateness: Option<Expr>,
    /// The LATE policy.
    pub late: LatePolicy,
    /// The NULLS rule.
    pub nulls: NullKeys,
    /// The alias after the clause.
    pub alias: Option<TableAlias>,
    /// Line and column of the word DEDUP in the text that was parsed.
    pub line_column: (u64, u64),
}

/// The parts of a clause as tokens.
pub(super) struct Parts<'a> {
    pub keys: &'a [TokenWithSpan],
    pub within: Option<&'a [TokenWithSpan]>,
    pub time: Option<&'a [TokenWithSpan]>,
    pub lateness: Option<&'a [TokenWithSpan]>,
    pub late: LatePolicy,
    pub nulls: NullKeys,
}

/// Appends the carrier of a clause whose first word stands at `span`.
pub(super) fn write_carrier(parts: &Parts<'_>, span: Span, out: &mut Vec<TokenWithSpan>) {
    let word = |text: &str| Token::make_word(text, None);
    let spanned = |token| TokenWithSpan::new(token, span);
    let open = [word("PIVOT"), Token::LParen, word(MARK), Token::LParen];
    out.extend(open.map(spanned));
    out.extend_from_slice(parts.keys);
    let between = [Token::RParen, word("FOR"), word("within"), word("IN"), Token::LParen];
    out.extend(between.map(spanned));
    let optional = [("W", parts.within), ("T", parts.time), ("L", parts.lateness)];
    let present: String =
        optional.iter().filter(|(_, tokens)| tokens.is_some()).map(|(letter, _)| *letter).collect();
    let late = parts.late;
    let nulls = parts.nulls;
    let (line, column) = (span.start.line, span.start.column);
    let options = format!("{present};{late};{nulls};{line};{column}");
    out.push(spanned(Token::SingleQuotedString(options)));
    for tokens in optional.into_iter().filter_map(|(_, tokens)| tokens) {
        out.push(spanned(Token::Comma));
        out.extend_from_slice(tokens);
    }
    out.push(spanned(Token::RParen));
    out.push(spanned(Token::RParen));
}

/// Reads a carrier back; any other table factor comes back unchanged.
#[allow(clippy::result_large_err, reason = "the other arm is the caller's own table factor")]
pub fn read_carrier(relation: TableFactor) -> Result<Carrier, TableFactor> {
    let Some((keys, options, values)) = parts_of(&relation) else { return Err(relation) };
    let mut values = values.into_iter();
    let fields: Vec<&str> = options.split(';').collect();
    let [present, late, nulls, line, column] = fields[..] else { return Err(relation) };
    let mut next = |letter| if present.contains(letter) { values.next() } else { None };
    let (within, time, lateness) = (next('W'), next('T'), next('L'));
    let late = match late {
        "PASS" => LatePolicy::Pass,
        "ERROR" => LatePolicy::Error,
        _ => LatePolicy::Drop,
    };
    let nulls = if nulls == "DISTINCT" { NullKeys::Distinct } else { NullKeys::NotDistinct };
    let line_column = (line.parse().unwrap_or(0), column.parse().unwrap_or(0));
    let TableFactor::Pivot { table, alias, .. } = relation else { return Err(relation) };
    Ok(Carrier { input: *table, keys, within, time, lateness, late, nulls, alias, line_column })
}

/// The keys, the options text and the other values of a carrier.
fn parts_of(relation: &TableFactor) -> Option<(Vec<Expr>, String, Vec<Expr>)> {
    let TableFactor::Pivot { aggregate_functions, value_source, .. } = relation else {
        return None;
    };
    let [aggregate] = aggregate_functions.as_slice() else { return None };
    let Expr::Function(function) = &aggregate.expr else { return None };
    if function.name.to_string() != MARK {
        return None;
    }
    let FunctionArguments::List(list) = &function.args else { return None };
    let keys = list.args.iter().map(|argument| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(key)) => Some(key.clone()),
        _ => None,
    });
    let keys = keys.collect::<Option<Vec<Expr>>>()?;
    let PivotValueSource::List(values) = value_source else { return None };
    let mut values = values.iter().map(|value| value.expr.clone());
    let Some(Expr::Value(options)) = values.next() else { return None };
    let Value::SingleQuotedString(options) = options.value else { return None };
    Some((keys, options, values.collect()))
}
