//! Aggregates over rows that come and go: each is made of sums that a sign takes back exactly.
//!
//! ```text
//!   the group     rows = sum(sign); without rows it leaves the table, unless it is of all rows
//!   count(x)      n = sum(CASE WHEN x IS NOT NULL THEN sign ELSE 0 END)
//!   sum(x)        s = sum(x, sign)      NULL where n is 0
//!   avg(x)        s / n                 NULL where n is 0
//! ```
//!
//! Sums of floats are not taken back: `(a + b) - b` is not `a`. One of whole or decimal numbers that
//! were cast to a float is folded before the cast.

use super::PlanError;
use super::positions::Exposed;
use super::rollup::ExposedRollup;
use super::written::written;
use crate::operator::{GroupingSet, exact_sum, has_exact_sum, signed_sum};
use crate::types::{DELETE_COLUMN, POSITION_COLUMN, WATERMARK_COLUMN};
use arrow::datatypes::{DataType, Field};
use datafusion::common::{Column, DFSchema, Result, TableReference};
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::{
    Aggregate, AggregateUDF, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, lit, when,
};
use std::sync::Arc;

/// The type in which whole numbers are folded whose sum is a float, as that of an average is.
const WHOLE: DataType = DataType::Decimal128(28, 0);

/// The type of a count as a divisor.
const COUNT: DataType = DataType::Decimal128(20, 0);

type Fields = Vec<(Option<TableReference>, Arc<Field>)>;

/// The aggregates of a GROUP BY over rows with a sign.
#[derive(Debug)]
pub(super) struct Signed {
    sign: Expr,
    /// What is folded.
    sums: Vec<Expr>,
    /// Whether there is no such group any more.
    has_left: Expr,
    /// What the aggregates of the query are worth, in their order.
    values: Vec<Expr>,
}

impl Signed {
    /// The aggregates of `aggregate`, with `sign` to tell whether a row came or went.
    ///
    /// # Errors
    ///
    /// An aggregate that cannot take a row back, and what to write instead.
    pub(super) fn try_new(aggregate: &Aggregate, sets: &[GroupingSet], sign: Expr) -> Result<Self> {
        let has_left = lit(false);
        let mut own = Self { has_left, sign, sums: Vec::new(), values: Vec::new() };
        let rows = own.sum(exact_sum(), vec![own.sign.clone()], None);
        own.has_left = rows.lt_eq(lit(0_i64));
        if let Some(all) = sets.iter().find(|set| !set.present.contains(&true)) {
            let set = Column::new_unqualified(Aggregate::INTERNAL_GROUPING_ID);
            let is_part = cast(Expr::Column(set), &DataType::UInt64).not_eq(lit(all.id));
            own.has_left = own.has_left.and(is_part);
        }
        for expr in &aggregate.aggr_expr {
            let bare = expr.clone().unalias_nested().data;
            let Expr::AggregateFunction(call) = &bare else {
                return Err(refused(&bare, "write count, sum or avg"));
            };
            let value = own.value(call, &bare, aggregate.input.schema())?;
            own.values.push(value);
        }
        Ok(own)
    }

    fn value(&mut self, call: &AggregateFunction, bare: &Expr, schema: &DFSchema) -> Result<Expr> {
        let arguments = &call.params.args;
        let filter = call.params.filter.clone();
        match call.func.name() {
            _ if call.params.distinct => {
                let instead = "GROUP BY the column too, into a table of its own, and count its \
                               rows from its changes";
                Err(refused(bare, instead))
            }
            "count" => {
                let count = self.count(arguments, filter)?;
                let count = when(count.clone().is_null(), lit(0_i64)).otherwise(count)?;
                when(!self.has_left.clone(), count).end() // never 0 in SQL, but of all rows
            }
            "sum" => {
                let (sum, count) = self.sum_and_count(call, bare, schema)?;
                when(count.gt(lit(0_i64)), sum).end()
            }
            "avg" => {
                let (sum, count) = self.sum_and_count(call, bare, schema)?;
                let count = when(count.clone().gt(lit(0_i64)), count).end()?;
                Ok(match call.params.args[0].get_type(schema)? {
                    DataType::Decimal128(..) => sum / cast(count, &COUNT),
                    _ => cast(sum, &DataType::Float64) / cast(count, &DataType::Float64),
                })
            }
            _ => Err(refused(
                bare,
                "write count, sum or avg; anything else can be asked of the table itself",
            )),
        }
    }

    /// The sum of the values of `call`, and how many there are.
    fn sum_and_count(
        &mut self,
        call: &AggregateFunction,
        bare: &Expr,
        schema: &DFSchema,
    ) -> Result<(Expr, Expr)> {
        let (own, is_float) = match &call.params.args[0] {
            Expr::Cast(to) if to.field.data_type() == &DataType::Float64 => (&*to.expr, true),
            own => (own, false),
        };
        let data_type = own.get_type(schema)?;
        if !has_exact_sum(&data_type) {
            return Err(refused(
                bare,
                "write it of whole numbers, or of CAST(... AS DECIMAL(38, 6))",
            ));
        }
        let count = self.count(std::slice::from_ref(own), call.params.filter.clone())?;
        let is_whole = is_float && data_type.is_integer();
        let value = if is_whole { cast(own.clone(), &WHOLE) } else { own.clone() };
        let arguments = vec![value, self.sign.clone()];
        Ok((self.sum(signed_sum(), arguments, call.params.filter.clone()), count))
    }

    /// How many rows have values that are not NULL.
    fn count(&mut self, arguments: &[Expr], filter: Option<Box<Expr>>) -> Result<Expr> {
        let is_given = |own: &&Expr| !matches!(own, Expr::Literal(value, _) if !value.is_null());
        let given = arguments.iter().filter(is_given).map(|own| own.clone().is_not_null());
        let counted = match given.reduce(Expr::and) {
            Some(given) => when(given, self.sign.clone()).otherwise(lit(0_i64))?,
            None => self.sign.clone(),
        };
        Ok(self.sum(exact_sum(), vec![counted], filter))
    }

    /// The column of a sum, which is folded once however often it is asked for.
    fn sum(
        &mut self,
        function: Arc<AggregateUDF>,
        arguments: Vec<Expr>,
        filter: Option<Box<Expr>>,
    ) -> Expr {
        let call = AggregateFunction::new_udf(function, arguments, false, filter, Vec::new(), None);
        let own = Expr::AggregateFunction(call);
        let is_own = |known: &Expr| matches!(known, Expr::Alias(known) if *known.expr == own);
        let index = self.sums.iter().position(is_own).unwrap_or(self.sums.len());
        let name = format!("{} [{index}]", own.schema_name()); // in which casts do not show
        if index == self.sums.len() {
            self.sums.push(own.alias(&name));
        }
        Expr::Column(Column::new_unqualified(name))
    }

    /// What is folded, and the columns of the groups and of that, over rows of `schema`.
    pub(super) fn folded(
        &self,
        aggregate: &Aggregate,
        schema: &DFSchema,
    ) -> Result<(Vec<Expr>, Fields)> {
        let mut fields = fields_of(&aggregate.schema);
        fields.truncate(fields.len() - aggregate.aggr_expr.len());
        for own in &self.sums {
            fields.push((None, own.to_field(schema)?.1));
        }
        Ok((self.sums.clone(), fields))
    }

    /// `rollup`, whose columns are the groups and what is folded, as a plan with the columns of
    /// `aggregate`.
    pub(super) fn shown(self, aggregate: &Aggregate, rollup: LogicalPlan) -> Result<ExposedRollup> {
        let schema = Arc::clone(rollup.schema());
        let groups = aggregate.schema.fields().len() - aggregate.aggr_expr.len();
        let mut shown: Vec<Expr> =
            aggregate.schema.columns().into_iter().take(groups).map(Expr::Column).collect();
        for (value, field) in self.values.into_iter().zip(&aggregate.schema.fields()[groups..]) {
            shown.push(value.cast_to(field.data_type(), &schema)?.alias(field.name()));
        }
        let hidden = [POSITION_COLUMN, WATERMARK_COLUMN].map(Column::new_unqualified);
        shown.extend(hidden.map(Expr::Column));
        shown.push(self.has_left.alias(DELETE_COLUMN));
        let plan = LogicalPlanBuilder::from(rollup).project(shown)?.build()?;
        let delete = Some(Column::new_unqualified(DELETE_COLUMN));
        Ok(ExposedRollup { exposed: Exposed::of(plan, None), delete })
    }
}

/// The columns of `schema`.
pub(super) fn fields_of(schema: &DFSchema) -> Fields {
    schema.iter().map(|(qualifier, field)| (qualifier.cloned(), Arc::clone(field))).collect()
}

fn cast(expr: Expr, to: &DataType) -> Expr {
    datafusion::logical_expr::cast(expr, to.clone())
}

fn refused(bare: &Expr, instead: &str) -> datafusion::error::DataFusionError {
    let what =
        format!("{}, which cannot take back a row exactly that goes from a table,", written(bare));
    PlanError::incremental(&what, instead).into()
}
