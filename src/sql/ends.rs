//! Starts and ends of windows, in words of what a query groups by: a planner sees `tumble(..)` in GROUP
//! BY, and not that `tumble_end(..)` is a value of it.
//!
//! ```text
//!   tumble_end(at, width [, origin])        tumble_end(tumble(at, width [, origin]), width [, origin])
//!   hop_end(at, slide, size [, origin])     (hop(at, slide, size [, origin]) + size)
//!   session_end(at, gap)                    (max(at) + gap)
//!   tumble_start, hop_start, session_start  tumble, hop, session
//! ```

use datafusion::sql::parser::{CopyToSource, Statement};
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList,
    FunctionArguments, Ident, ObjectName, VisitMut, visit_expressions_mut,
};
use std::ops::ControlFlow;

/// `statement` in those words; `None` if it has no such function. Functions that are `known` stay, but
/// for `tumble_end`.
#[must_use]
pub fn spell_ends(mut statement: Statement, known: impl Fn(&str) -> bool) -> Option<Statement> {
    rewrite(&mut statement, &known).then_some(statement)
}

fn rewrite(statement: &mut Statement, known: &impl Fn(&str) -> bool) -> bool {
    match statement {
        Statement::Statement(own) => rewrite_calls(own.as_mut(), known),
        Statement::Explain(own) => rewrite(&mut own.statement, known),
        Statement::CopyTo(own) => match &mut own.source {
            CopyToSource::Query(query) => rewrite_calls(query.as_mut(), known),
            CopyToSource::Relation(_) => false,
        },
        _ => false,
    }
}

fn rewrite_calls(tree: &mut impl VisitMut, known: &impl Fn(&str) -> bool) -> bool {
    let mut is_changed = false;
    let visited: ControlFlow<()> = visit_expressions_mut(tree, |expr| {
        if let Expr::Function(call) = expr
            && let Some(spelled) = spelled(call, known)
        {
            *expr = spelled;
            is_changed = true;
        }
        ControlFlow::Continue(())
    });
    is_changed && visited.is_continue()
}

fn spelled(call: &Function, known: &impl Fn(&str) -> bool) -> Option<Expr> {
    const NAMES: [&str; 5] =
        ["hop_end", "session_end", "tumble_start", "hop_start", "session_start"];
    let name = call.name.to_string().to_lowercase();
    if name != "tumble_end" && (!NAMES.contains(&name.as_str()) || known(&name)) {
        return None;
    }
    let args = arguments(call);
    match (name.as_str(), args.as_slice()) {
        ("tumble_end", [time, _, ..]) if !is_call(time, "tumble") => {
            let start = Expr::Function(called("tumble", call, args.clone()));
            let rest = args.iter().skip(1).cloned();
            let args = [start].into_iter().chain(rest).collect();
            Some(Expr::Function(called("tumble_end", call, args)))
        }
        ("hop_end", [_, _, size, ..]) => {
            let size = size.clone();
            Some(sum(Expr::Function(called("hop", call, args)), size))
        }
        ("session_end", [time, gap]) => {
            let newest = called("max", call, vec![time.clone()]);
            Some(sum(Expr::Function(newest), gap.clone()))
        }
        ("tumble_start" | "hop_start" | "session_start", _) => {
            let name = name.trim_end_matches("_start");
            Some(Expr::Function(called(name, call, args)))
        }
        _ => None,
    }
}

/// The arguments; none if one of them has a name, or is no expression.
fn arguments(call: &Function) -> Vec<Expr> {
    let FunctionArguments::List(list) = &call.args else { return Vec::new() };
    let own = list.args.iter().map(|own| match own {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(own)) => Some(own.clone()),
        _ => None,
    });
    own.collect::<Option<_>>().unwrap_or_default()
}

/// `call` of the function `name`, with `args`.
fn called(name: &str, call: &Function, args: Vec<Expr>) -> Function {
    let args = args.into_iter().map(|own| FunctionArg::Unnamed(FunctionArgExpr::Expr(own)));
    let args = args.collect();
    let list = FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() };
    let name = ObjectName::from(vec![Ident::new(name)]);
    Function { name, args: FunctionArguments::List(list), ..call.clone() }
}

fn is_call(expr: &Expr, name: &str) -> bool {
    matches!(expr, Expr::Function(call) if call.name.to_string().eq_ignore_ascii_case(name))
}

fn sum(left: Expr, right: Expr) -> Expr {
    let (left, right) = (Box::new(left), Box::new(right));
    Expr::Nested(Box::new(Expr::BinaryOp { left, op: BinaryOperator::Plus, right }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parse_script;
    use datafusion::sql::sqlparser::dialect::GenericDialect;

    fn spelled(text: &str, known: &[&str]) -> Option<String> {
        let statement = parse_script(text, &GenericDialect {}).unwrap().remove(0).statement;
        spell_ends(statement, |name| known.contains(&name)).map(|own| own.to_string())
    }

    #[test]
    fn ends_are_values_of_what_is_grouped_by() {
        for (text, expected) in [
            (
                "SELECT Tumble_End(at, INTERVAL '1 hour', o) FROM e",
                "SELECT tumble_end(tumble(at, INTERVAL '1 hour', o), INTERVAL '1 hour', o) FROM e",
            ),
            ("SELECT hop_end(at, s, z) * 2 FROM e", "SELECT (hop(at, s, z) + z) * 2 FROM e"),
            (
                "INSERT INTO t SELECT session_end(at, g) FROM e HAVING session_end(at, g) > x",
                "INSERT INTO t SELECT (max(at) + g) FROM e HAVING (max(at) + g) > x",
            ),
            (
                "EXPLAIN SELECT 1 FROM (SELECT hop_start(at, s, z), tumble_start(at, s) FROM e)",
                "EXPLAIN SELECT 1 FROM (SELECT hop(at, s, z), tumble(at, s) FROM e)",
            ),
            (
                "COPY (SELECT session_start(at, g) FROM e) TO 'x'",
                "COPY (SELECT session(at, g) FROM e) TO x",
            ),
        ] {
            assert_eq!(spelled(text, &["tumble_end"]).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_none_stays() {
        for text in [
            "SELECT tumble(at, s) FROM e",
            "SELECT tumble_end(tumble(at, s), s) FROM e",
            "SELECT tumble_end(at), hop_end(at), session_end(at, a, b), hop_end FROM e",
            "SELECT session_end(at, g) FROM e",
        ] {
            assert_eq!(spelled(text, &["session_end"]), None, "{text}");
        }
    }
}
