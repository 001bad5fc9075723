//! Sessions, out of panes as long as the gap: `session(time, gap)`.
//!
//! ```text
//!   row --fold--> pane of its key, one gap long, with its first and last time --shuffle by key--> sessions
//! ```
//!
//! Two rows of one pane are less than a gap apart, so they are in one session. Which panes are in one
//! session is known when all of a key are together, with those that are remembered: that is `state`.

use super::shape::RollupShape;
use crate::operator::time::to_micros;
use crate::state::{FIXED_COLUMNS, hash_array};
use crate::types::SessionOptions;
use arrow::array::types::Int64Type;
use arrow::array::{Array, ArrayRef, PrimitiveArray, new_null_array};
use arrow::compute::cast;
use arrow::record_batch::RecordBatch;
use datafusion::common::Result;

/// The starts of the panes of times.
pub(super) fn panes(session: SessionOptions, times: &ArrayRef) -> Result<ArrayRef> {
    let gap = session.gap_us;
    let starts: PrimitiveArray<Int64Type> =
        to_micros(times)?.unary(|at| at.saturating_sub(at.rem_euclid(gap)));
    Ok(cast(&starts, times.data_type())?)
}

/// States of panes with the hash of their key, which all panes of a key share.
pub(super) fn by_key(
    session: SessionOptions,
    shape: &RollupShape,
    panes: &RecordBatch,
) -> Result<RecordBatch> {
    let groups = FIXED_COLUMNS..FIXED_COLUMNS + shape.group_columns();
    let mut key = panes.columns()[groups].to_vec();
    key[session.column] = new_null_array(key[session.column].data_type(), panes.num_rows());
    let mut hashes = Vec::with_capacity(panes.num_rows());
    shape.hasher.hash(&key, &mut hashes)?;
    let mut columns = panes.columns().to_vec();
    columns[0] = hash_array(&hashes);
    Ok(RecordBatch::try_new(panes.schema(), columns)?)
}
