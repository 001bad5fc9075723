//! `DedupNode`: DEDUP in a logical plan.

use crate::types::{DedupOptions, format_duration_us};
use arrow::datatypes::DataType;
use datafusion::common::tree_node::TreeNode;
use datafusion::common::{DFSchemaRef, Result};
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNodeCore};
use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;

/// Lets the first row of each key through; its columns are those of its input.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DedupNode {
    /// What is deduplicated.
    pub input: LogicalPlan,
    /// The keys; at least one.
    pub keys: Vec<Expr>,
    /// The event time; `None` only with WITHIN UNBOUNDED.
    pub time: Option<Expr>,
    /// The hidden position and watermark columns of the input, where it has them.
    pub hidden: Option<[Expr; 2]>,
    /// The name of the operator in a pipeline; `None` in a plain query.
    pub operator: Option<String>,
    /// Everything else the clause says.
    pub options: DedupOptions,
}

impl DedupNode {
    /// Whether a predicate on the column cannot tell two copies of a key apart.
    fn is_safe(&self, index: usize) -> bool {
        let (qualifier, field) = self.input.schema().qualified_field(index);
        let is_key = self.keys.iter().any(|key| {
            matches!(key, Expr::Column(column)
                if column.name == *field.name() && column.relation.as_ref() == qualifier)
        });
        is_key && is_identical_when_equal(field.data_type())
    }
}

impl PartialOrd for DedupNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        let by_parts = self
            .keys
            .partial_cmp(&other.keys)?
            .then(self.time.partial_cmp(&other.time)?)
            .then(self.hidden.partial_cmp(&other.hidden)?)
            .then(self.operator.cmp(&other.operator))
            .then(self.options.cmp(&other.options))
            .then(self.input.partial_cmp(&other.input)?);
        (by_parts != Ordering::Equal || self == other).then_some(by_parts)
    }
}

impl UserDefinedLogicalNodeCore for DedupNode {
    fn name(&self) -> &'static str {
        "Dedup"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        let hidden = self.hidden.iter().flatten();
        self.keys.iter().chain(&self.time).chain(hidden).cloned().collect()
    }

    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        // The optimizer asks by bare name, so one unsafe column bars every column of its name.
        let fields = self.input.schema().fields().iter().enumerate();
        fields.filter(|(index, _)| !self.is_safe(*index)).map(|(_, f)| f.name().clone()).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<String> = self.keys.iter().map(ToString::to_string).collect();
        let DedupOptions { within, lateness_us, late, nulls } = &self.options;
        write!(f, "Dedup: by=[{}], within={within}", keys.join(", "))?;
        if let Some(time) = &self.time {
            write!(f, ", of={time}")?;
        }
        let lateness = format_duration_us(lateness_us.unsigned_abs());
        let class = match &self.operator {
            Some(_) => "retries",
            None => guarantee_class(&self.input),
        };
        write!(f, ", lateness={lateness}, late={late}, nulls={nulls}, class={class}")
    }

    fn with_exprs_and_inputs(
        &self,
        mut exprs: Vec<Expr>,
        mut inputs: Vec<LogicalPlan>,
    ) -> Result<Self> {
        let mut hidden = None;
        if self.hidden.is_some()
            && let (Some(watermark), Some(position)) = (exprs.pop(), exprs.pop())
        {
            hidden = Some([position, watermark]);
        }
        let time = if self.time.is_some() { exprs.pop() } else { None };
        let (input, operator) = (inputs.swap_remove(0), self.operator.clone());
        Ok(Self { input, keys: exprs, time, hidden, operator, options: self.options })
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        if self.hidden.is_some() {
            return Some(vec![output_columns.to_vec()]); // and what the expressions read
        }
        // All of them: rows of equal time are ordered by all columns, so dropping one that the
        // query does not show could change which row is first.
        Some(vec![(0..self.input.schema().fields().len()).collect()])
    }
}

/// What can be promised about running the query again over the same rows, cut differently.
///
/// `exact`: a plain query, the whole input at once. `retries`: a stream; the same keys and times
/// are accepted under every cut if all copies of a key share their time or lie in one partition.
fn guarantee_class(input: &LogicalPlan) -> &'static str {
    let streams = |plan: &LogicalPlan| {
        Ok(super::positions::source_of(plan).is_some_and(|table| table.options().is_unbounded))
    };
    if input.exists(streams).unwrap_or(true) { "retries" } else { "exact" }
}

/// Types whose equal values cannot be told apart; floats have two zeros and many NaNs.
fn is_identical_when_equal(data_type: &DataType) -> bool {
    data_type.is_integer()
        || matches!(
            data_type,
            DataType::Utf8
                | DataType::LargeUtf8
                | DataType::Utf8View
                | DataType::Binary
                | DataType::LargeBinary
                | DataType::BinaryView
                | DataType::Boolean
                | DataType::Date32
                | DataType::Timestamp(..)
                | DataType::Decimal128(..)
        )
}
