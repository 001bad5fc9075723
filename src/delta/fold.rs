//! Several rows of one key become one: each column by its own function.
//!
//! ```text
//!   rows of a key, in order     a   b        sum(a), last_non_null(b)
//!                               1   x
//!                               2   NULL  ->  6      y
//!                               3   y
//! ```
//!
//! Every function is associative: folding an epoch first and then the row that was there gives what
//! folding all rows at once would.

use super::rules::Fold;
use arrow::array::cast::AsArray;
use arrow::array::types::{
    Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
};
use arrow::array::{
    Array, ArrayRef, ArrowNativeTypeOp, ArrowPrimitiveType, BooleanArray, DynComparator,
    Int64Array, PrimitiveArray, UInt32Array, make_comparator,
};
use arrow::compute::{SortOptions, take};
use arrow::datatypes::{DataType, DecimalType};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use std::cmp::Ordering;
use std::ops::{BitAnd, BitOr, BitXor};
use std::sync::Arc;

/// Row numbers, those of one key next to each other and in the order in which they count.
#[derive(Debug, Default)]
pub(super) struct Groups {
    rows: Vec<u32>,
    ends: Vec<usize>,
}

/// What the rows are that a fold is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rows {
    /// As they came.
    Fresh,
    /// Folded before: a count is then a number and no longer a value to count.
    Folded,
}

/// How a column is folded; a group also names the column that orders it.
#[derive(Clone, Copy, Debug)]
pub(super) struct ColumnFold {
    pub(super) fold: Fold,
    pub(super) leader: usize,
}

/// Why rows cannot be folded.
#[derive(Debug)]
pub(super) enum FoldFailure {
    /// A sum left its type's range in this column, at this row.
    Overflow {
        column: String,
        row: usize,
    },
    Arrow(ArrowError),
}

impl From<ArrowError> for FoldFailure {
    fn from(error: ArrowError) -> Self {
        Self::Arrow(error)
    }
}

impl Groups {
    /// Adds the rows of one more key, of which there is at least one.
    pub(super) fn push(&mut self, rows: impl IntoIterator<Item = u32>) {
        self.rows.extend(rows);
        self.ends.push(self.rows.len());
    }

    fn iter(&self) -> impl Iterator<Item = &[u32]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.rows[start..*end])
    }

    fn len(&self) -> usize {
        self.ends.len()
    }
}

/// One row for each group.
pub(super) fn fold(
    batch: &RecordBatch,
    groups: &Groups,
    folds: &[ColumnFold],
    rows: Rows,
) -> Result<RecordBatch, FoldFailure> {
    let mut columns = Vec::with_capacity(folds.len());
    for (index, own) in folds.iter().enumerate() {
        let column = batch.column(index);
        let folded = match own.fold {
            Fold::Count if rows == Rows::Fresh => count(column, groups),
            Fold::Sum | Fold::Count => sum(column, groups).map_err(|row| {
                let column = batch.schema().field(index).name().clone();
                FoldFailure::Overflow { column, row }
            })?,
            Fold::BoolAnd => booleans(column, groups, |one, two| one & two),
            Fold::BoolOr => booleans(column, groups, |one, two| one | two),
            Fold::BitAnd | Fold::BitOr | Fold::BitXor => bits(column, groups, own.fold),
            Fold::Min | Fold::Max => pick(column, &extremes(column, groups, own.fold)?)?,
            Fold::Group(_) => {
                let leader = batch.column(own.leader);
                pick(column, &extremes(leader, groups, Fold::Max)?)?
            }
            Fold::First => pick(column, &edges(groups, |rows| rows.first().copied()))?,
            Fold::Last => pick(column, &edges(groups, |rows| rows.last().copied()))?,
            Fold::FirstNonNull | Fold::LastNonNull => {
                let is_there = |row: &&u32| column.is_valid(**row as usize);
                let chosen = if own.fold == Fold::FirstNonNull {
                    edges(groups, |rows| rows.iter().find(is_there).copied())
                } else {
                    edges(groups, |rows| rows.iter().rev().find(is_there).copied())
                };
                pick(column, &chosen)?
            }
        };
        columns.push(folded);
    }
    Ok(RecordBatch::try_new(batch.schema(), columns)?)
}

fn pick(column: &ArrayRef, rows: &UInt32Array) -> Result<ArrayRef, ArrowError> {
    take(column, rows, None)
}

fn edges(groups: &Groups, choose: impl Fn(&[u32]) -> Option<u32>) -> UInt32Array {
    groups.iter().map(choose).collect()
}

/// The row with the least or greatest value; of equal ones the last. NULLs do not count.
fn extremes(column: &ArrayRef, groups: &Groups, fold: Fold) -> Result<UInt32Array, ArrowError> {
    let compare: DynComparator = make_comparator(column, column, SortOptions::default())?;
    let loses = if fold == Fold::Max { Ordering::Less } else { Ordering::Greater };
    let chosen = groups.iter().map(|rows| {
        let mut best: Option<u32> = None;
        for row in rows.iter().filter(|row| column.is_valid(**row as usize)) {
            let is_better = |best: u32| {
                let order = compare(best as usize, *row as usize);
                order == loses || order == Ordering::Equal
            };
            if best.is_none_or(is_better) {
                best = Some(*row);
            }
        }
        best
    });
    Ok(chosen.collect())
}

fn count(column: &ArrayRef, groups: &Groups) -> ArrayRef {
    let counts = groups.iter().map(|rows| {
        let present = rows.iter().filter(|row| column.is_valid(**row as usize)).count();
        present as i64
    });
    Arc::new(Int64Array::from_iter_values(counts))
}

/// The sum of each group; the row at which it left its range, if it did.
fn sum(column: &ArrayRef, groups: &Groups) -> Result<ArrayRef, usize> {
    match column.data_type() {
        DataType::Int8 => summed::<Int8Type>(column, groups, |_| true),
        DataType::Int16 => summed::<Int16Type>(column, groups, |_| true),
        DataType::Int32 => summed::<Int32Type>(column, groups, |_| true),
        DataType::Float32 => summed::<Float32Type>(column, groups, |_| true),
        DataType::Float64 => summed::<Float64Type>(column, groups, |_| true),
        DataType::Decimal128(precision, _) => {
            let fits = |value| Decimal128Type::is_valid_decimal_precision(value, *precision);
            summed::<Decimal128Type>(column, groups, fits)
        }
        _ => summed::<Int64Type>(column, groups, |_| true),
    }
}

fn summed<T: ArrowPrimitiveType>(
    column: &ArrayRef,
    groups: &Groups,
    fits: impl Fn(T::Native) -> bool,
) -> Result<ArrayRef, usize> {
    let values = column.as_primitive::<T>();
    let mut sums: Vec<Option<T::Native>> = Vec::with_capacity(groups.len());
    for rows in groups.iter() {
        let mut sum: Option<T::Native> = None;
        for row in rows.iter().map(|row| *row as usize).filter(|row| values.is_valid(*row)) {
            let value = values.value(row);
            let next = match sum {
                None => value,
                Some(sum) => sum.add_checked(value).map_err(|_| row)?,
            };
            if !fits(next) {
                return Err(row);
            }
            sum = Some(next);
        }
        sums.push(sum);
    }
    let array: PrimitiveArray<T> = sums.into_iter().collect();
    Ok(Arc::new(array.with_data_type(column.data_type().clone())))
}

fn booleans(column: &ArrayRef, groups: &Groups, join: impl Fn(bool, bool) -> bool) -> ArrayRef {
    let values = column.as_boolean();
    let folded = groups.iter().map(|rows| {
        let present = rows.iter().map(|row| *row as usize).filter(|row| values.is_valid(*row));
        present.map(|row| values.value(row)).reduce(&join)
    });
    Arc::new(folded.collect::<BooleanArray>())
}

fn bits(column: &ArrayRef, groups: &Groups, fold: Fold) -> ArrayRef {
    match column.data_type() {
        DataType::Int8 => bitwise::<Int8Type>(column, groups, fold),
        DataType::Int16 => bitwise::<Int16Type>(column, groups, fold),
        DataType::Int32 => bitwise::<Int32Type>(column, groups, fold),
        _ => bitwise::<Int64Type>(column, groups, fold),
    }
}

fn bitwise<T: ArrowPrimitiveType>(column: &ArrayRef, groups: &Groups, fold: Fold) -> ArrayRef
where
    T::Native: BitAnd<Output = T::Native> + BitOr<Output = T::Native> + BitXor<Output = T::Native>,
{
    let values = column.as_primitive::<T>();
    let folded = groups.iter().map(|rows| {
        let present = rows.iter().map(|row| *row as usize).filter(|row| values.is_valid(*row));
        present.map(|row| values.value(row)).reduce(|one, two| match fold {
            Fold::BitAnd => one & two,
            Fold::BitOr => one | two,
            _ => one ^ two,
        })
    });
    Arc::new(folded.collect::<PrimitiveArray<T>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Decimal128Array, Int8Array};

    #[test]
    fn each_function_folds_in_order_and_skips_nulls_where_it_says_so() {
        let values = Int64Array::from(vec![Some(5), None, Some(7), Some(6), None, None]);
        let batch = numbers(Arc::new(values));
        let mut groups = Groups::default();
        groups.push([0, 1, 2, 3]);
        groups.push([3, 1]);
        groups.push([4, 5]);
        for (function, expected) in [
            (Fold::Last, [Some(6), None, None]),
            (Fold::First, [Some(5), Some(6), None]),
            (Fold::LastNonNull, [Some(6), Some(6), None]),
            (Fold::FirstNonNull, [Some(5), Some(6), None]),
            (Fold::Sum, [Some(18), Some(6), None]),
            (Fold::Count, [Some(3), Some(1), Some(0)]),
            (Fold::Min, [Some(5), Some(6), None]),
            (Fold::Max, [Some(7), Some(6), None]),
            (Fold::BitAnd, [Some(4), Some(6), None]),
            (Fold::BitOr, [Some(7), Some(6), None]),
            (Fold::BitXor, [Some(4), Some(6), None]),
        ] {
            let folded = run(&batch, &groups, function, Rows::Fresh).unwrap();
            let found: Vec<Option<i64>> = folded.as_primitive::<Int64Type>().iter().collect();
            assert_eq!(found, expected, "{function:?}");
        }
        let counted = run(&batch, &groups, Fold::Count, Rows::Folded).unwrap();
        assert_eq!(counted.as_primitive::<Int64Type>().value(0), 18, "counts are added");
        let truths: ArrayRef = Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]));
        let mut groups = Groups::default();
        groups.push([0, 1, 2]);
        for (function, expected) in [(Fold::BoolAnd, false), (Fold::BoolOr, true)] {
            let folded = run(&numbers(Arc::clone(&truths)), &groups, function, Rows::Fresh);
            assert_eq!(folded.unwrap().as_boolean().value(0), expected, "{function:?}");
        }
    }

    #[test]
    fn a_sum_that_leaves_its_type_is_an_error_that_names_the_row() {
        let mut groups = Groups::default();
        groups.push([0, 1, 2]);
        let bytes: ArrayRef = Arc::new(Int8Array::from(vec![100, 27, 1]));
        let failure = run(&numbers(bytes), &groups, Fold::Sum, Rows::Fresh).unwrap_err();
        assert!(matches!(failure, FoldFailure::Overflow { row: 2, .. }), "{failure:?}");
        let decimals = Decimal128Array::from(vec![90, 9, 1]).with_precision_and_scale(2, 0);
        let failure = run(&numbers(Arc::new(decimals.unwrap())), &groups, Fold::Sum, Rows::Fresh);
        assert!(matches!(failure.unwrap_err(), FoldFailure::Overflow { row: 2, .. }));
    }

    fn run(
        batch: &RecordBatch,
        groups: &Groups,
        fold: Fold,
        rows: Rows,
    ) -> Result<ArrayRef, FoldFailure> {
        let folds = [ColumnFold { fold, leader: 0 }];
        super::fold(batch, groups, &folds, rows).map(|folded| Arc::clone(folded.column(0)))
    }

    fn numbers(column: ArrayRef) -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable([("n", column, true)]).unwrap()
    }
}
