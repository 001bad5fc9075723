//! UPDATE, DELETE, MERGE INTO, REPLACE INTO, INSERT OVERWRITE and TRUNCATE.
//!
//! ```text
//!   Dml(table, input) --LowerDml, before any other rule--> DmlNode(input as the user wrote it)
//!                                                               | optimizer
//!   kind | columns of a file | old key  <--runs in execute--  DmlExec: lock, pin, run, apply, commit
//! ```
//!
//! DataFusion hands a provider the filters that its optimizer left over, which may be none; here
//! the whole input is the plan of the rows to change, so no WHERE, subquery or LIMIT can be lost.
//!
//! # Invariants
//!
//! 1. Planning changes nothing: all work is in `execute`, `EXPLAIN DELETE` deletes nothing.
//! 2. A statement sees one version, and its changes are one commit on that version: where another
//!    process changes rows in between, it is planned and run again, as if it began after them.
//! 3. Rows that a statement does not name are not touched.

mod exec;
mod merge;
mod node;
mod pinned;
mod planning;
mod rows;
mod rule;
mod values;

pub use node::DmlExtensionPlanner;
pub use rule::{KEPT, LowerDml};
