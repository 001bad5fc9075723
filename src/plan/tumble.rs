//! `tumble(time, interval [, origin])` and `tumble_end(...)`: where the window of a time begins and
//! ends. Windows follow each other without gaps; a time is in the one that begins at or before it.
//!
//! ```text
//!   tumble(time, interval [, origin])        date_bin(interval, time [, origin])
//!   tumble_end(time, interval [, origin])    date_bin(interval, time [, origin]) + interval
//! ```
//!
//! An analysed plan has the right side only, under the names of the left.

use arrow::compute::kernels::numeric::add;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Result, plan_err};
use datafusion::functions::datetime::date_bin;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::type_coercion::functions::fields_with_udf;
use datafusion::logical_expr::{
    ColumnarValue, Expr, GroupingSet, LogicalPlan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility,
};
use datafusion::optimizer::AnalyzerRule;
use std::sync::Arc;

/// The functions.
#[must_use]
pub fn tumble_functions() -> [ScalarUDF; 2] {
    [Edge::Start, Edge::End].map(|edge| ScalarUDF::new_from_impl(Tumble::new(edge)))
}

/// Puts `date_bin` in the place of the functions.
#[derive(Clone, Copy, Debug, Default)]
pub struct LowerTumble;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Edge {
    Start,
    End,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Tumble {
    edge: Edge,
    signature: Signature,
}

impl Tumble {
    fn new(edge: Edge) -> Self {
        Self { edge, signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Tumble {
    fn name(&self) -> &'static str {
        match self.edge {
            Edge::Start => "tumble",
            Edge::End => "tumble_end",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        if types.len() != 2 && types.len() != 3 {
            return plan_err!("write {}(time, interval [, origin])", self.name());
        }
        let field = |own: &DataType| -> FieldRef { Arc::new(Field::new("", own.clone(), true)) };
        let mut fields: Vec<FieldRef> = types.iter().map(field).collect();
        fields.swap(0, 1);
        let mut fields = fields_with_udf(&fields, date_bin().as_ref())?;
        fields.swap(0, 1);
        Ok(fields.iter().map(|own| own.data_type().clone()).collect())
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types.first() {
            Some(time @ DataType::Timestamp(..)) => Ok(time.clone()),
            _ => plan_err!("{}: the first argument is a timestamp", self.name()),
        }
    }

    fn invoke_with_args(&self, mut call: ScalarFunctionArgs) -> Result<ColumnarValue> {
        call.args.swap(0, 1);
        call.arg_fields.swap(0, 1);
        let (interval, rows) = (call.args[0].clone(), call.number_rows);
        let start = date_bin().invoke_with_args(call)?;
        match self.edge {
            Edge::Start => Ok(start),
            Edge::End => {
                let end = add(&start.into_array(rows)?, &interval.into_array(rows)?)?;
                Ok(ColumnarValue::Array(end))
            }
        }
    }
}

impl AnalyzerRule for LowerTumble {
    fn name(&self) -> &'static str {
        "lower_tumble"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|plan| {
            let names = NamePreserver::new(&plan);
            plan.map_expressions(|expr| lower(expr, &names))
        })
        .map(|transformed| transformed.data)
    }
}

/// `expr` in other words, under the same name.
fn lower(expr: Expr, names: &NamePreserver) -> Result<Transformed<Expr>> {
    let Expr::GroupingSet(set) = expr else {
        let name = names.save(&expr);
        let lowered = expr.transform_up(|expr| Ok(lower_call(expr)))?;
        return Ok(lowered.update_data(|expr| name.restore(expr)));
    };
    // Each of its expressions is a column with a name.
    let each = |list: Vec<Expr>| -> Result<Vec<Expr>> {
        list.into_iter().map(|own| Ok(lower(own, names)?.data)).collect()
    };
    let set = match set {
        GroupingSet::Rollup(list) => GroupingSet::Rollup(each(list)?),
        GroupingSet::Cube(list) => GroupingSet::Cube(each(list)?),
        GroupingSet::GroupingSets(lists) => {
            GroupingSet::GroupingSets(lists.into_iter().map(each).collect::<Result<_>>()?)
        }
    };
    Ok(Transformed::yes(Expr::GroupingSet(set)))
}

fn lower_call(expr: Expr) -> Transformed<Expr> {
    let Expr::ScalarFunction(ScalarFunction { func, mut args }) = expr else {
        return Transformed::no(expr);
    };
    let Some(edge) = func.inner().downcast_ref::<Tumble>().map(|own| own.edge) else {
        return Transformed::no(Expr::ScalarFunction(ScalarFunction { func, args }));
    };
    args.swap(0, 1);
    let interval = args[0].clone();
    let start = Expr::ScalarFunction(ScalarFunction { func: date_bin(), args });
    Transformed::yes(match edge {
        Edge::Start => start,
        Edge::End => start + interval,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::prelude::SessionContext;

    const TIMES: &str = "CREATE TABLE t AS SELECT column1 AS at FROM (VALUES
        (TIMESTAMP '2026-01-01 10:59:59.999'), (TIMESTAMP '2026-01-01 11:00:00'), (NULL))";

    #[tokio::test]
    async fn a_session_without_the_rule_computes_the_same() {
        let with_rule = |rule: bool| async move {
            let context = SessionContext::new();
            for function in tumble_functions() {
                context.register_udf(function);
            }
            if rule {
                context.add_analyzer_rule(Arc::new(LowerTumble));
            }
            context.sql(TIMES).await.unwrap().collect().await.unwrap();
            let query = "SELECT tumble(at, INTERVAL '1 hour'),
                tumble_end(at, INTERVAL '1 hour', TIMESTAMP '2026-01-01 00:30:00') FROM t";
            let frame = context.sql(query).await.unwrap();
            let plan = frame.clone().into_optimized_plan().unwrap().to_string();
            assert_eq!(plan.contains("date_bin"), rule, "{plan}");
            format!("{:?}", frame.collect().await.unwrap())
        };
        assert_eq!(with_rule(true).await, with_rule(false).await);
    }

    #[tokio::test]
    async fn what_is_written_wrongly_is_refused() {
        let context = SessionContext::new();
        for function in tumble_functions() {
            context.register_udf(function);
        }
        for (call, reason) in [
            ("tumble(now())", "write tumble(time, interval [, origin])"),
            ("tumble_end(1, INTERVAL '1 hour')", "date_bin"),
            ("tumble(TIME '10:00:00', INTERVAL '1 hour')", "the first argument is a timestamp"),
        ] {
            let error = context.sql(&format!("SELECT {call}")).await.unwrap_err().to_string();
            assert!(error.contains(reason), "{call}: {error}");
        }
    }
}
