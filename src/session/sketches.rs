//! The functions of sketches, in a session.

use crate::operator::{sketch_aggregates, sketch_functions};
use datafusion::common::Result;
use datafusion::execution::{FunctionRegistry, SessionState};

/// Adds them. A function of the same name that the session has already stays.
pub(super) fn register_sketches(state: &mut SessionState) -> Result<()> {
    for aggregate in sketch_aggregates() {
        if !state.aggregate_functions().contains_key(aggregate.name()) {
            state.register_udaf(aggregate)?;
        }
    }
    for function in sketch_functions() {
        if !state.scalar_functions().contains_key(function.name()) {
            state.register_udf(function)?;
        }
    }
    Ok(())
}
