//! Rows of state files that say that something is gone.
//!
//! ```text
//!   sessions                  one that went into another: a row without a first time
//!   groups of rows with a     one whose rows were all taken back: its states are again what no rows
//!   sign ([`TAKES_BACK`])     make them, each zero or NULL
//! ```
//!
//! Memory forgets them at once. In files such a row stands against all older ones of its hash, and
//! files are joined some at a time, the smallest first: only a join of all of them may drop it.

use super::format;
use super::sessions::merged_of;
use super::shard::{FIXED_COLUMNS, GROUP_COLUMNS};
use arrow::array::cast::AsArray;
use arrow::array::types::{ArrowPrimitiveType, Decimal128Type, Decimal256Type};
use arrow::array::{Array, ArrayRef, ArrowNativeTypeOp, BooleanArray};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;

/// The key in a schema's metadata that says that the states are sums of rows with a sign.
pub const TAKES_BACK: &str = "onefold.takes_back";

/// Which of `rows` are of groups without rows, if those take rows back.
pub(super) fn empty_groups(rows: &RecordBatch) -> Option<Vec<bool>> {
    let schema = rows.schema();
    let about = schema.metadata();
    if !about.contains_key(TAKES_BACK) {
        return None;
    }
    let groups: usize = about.get(GROUP_COLUMNS)?.parse().ok()?;
    let states = FIXED_COLUMNS + groups..rows.num_columns() - usize::from(format::has_step(rows));
    let mut empty = vec![true; rows.num_rows()];
    for column in &rows.columns()[states] {
        match column.data_type() {
            DataType::Decimal128(..) => keep_nothing::<Decimal128Type>(&mut empty, column),
            DataType::Decimal256(..) => keep_nothing::<Decimal256Type>(&mut empty, column),
            _ => return None,
        }
    }
    Some(empty)
}

fn keep_nothing<T: ArrowPrimitiveType>(empty: &mut [bool], column: &ArrayRef) {
    for (own, value) in empty.iter_mut().zip(column.as_primitive::<T>()) {
        *own &= value.is_none_or(ArrowNativeTypeOp::is_zero);
    }
}

/// Which of saved rows, with their steps, say that something is gone; `None` if none can.
pub(super) fn gone_of(rows: &RecordBatch) -> Result<Option<BooleanArray>, ArrowError> {
    match merged_of(rows)? {
        Some(merged) => Ok(Some(merged)),
        None => Ok(empty_groups(rows).map(BooleanArray::from)),
    }
}
