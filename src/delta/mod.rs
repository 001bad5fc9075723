//! The upsert table: a Delta table whose primary key is unique at every version.
//!
//! ```text
//!   rows -> stage: last of each key -> new data files, named by nobody yet
//!         \-> want: what is asked of each key -> resolve: against what is there, by the rules
//!                                          |
//!   key index: hash -> (file, row) --probe-+-> deletion vectors of the rows they replace
//!                                          |
//!                     one commit: adds, vectors, removes, txn, domain metadata
//!
//!   partition  the columns that name folders: the log has their values, files do not
//!   dml        statements that change rows: planned here, from what the user wrote
//!   alter      new columns, conditions (alter_checks), wider types (widen)
//!   travel     the table as it was; changes, restore; its changes as a source (feed)
//!   compact    table compaction, checkpoints; vacuum
//! ```
//!
//! # Invariants
//!
//! 1. The primary key is unique at every version, to any reader of deletion vectors.
//! 2. A vector only grows while its file lives; its cardinality is what the log says.
//! 3. The key index is a cache: it equals what a scan would find, or it is dropped.
//! 4. One writer per table and process orders all its commits.
//!
//! # Not here
//!
//! No grammar and no epochs: who commits what, and when, is decided above.
//!
//! # Sources
//!
//! The Delta transaction log protocol, <https://github.com/delta-io/delta/blob/master/PROTOCOL.md>.

mod actions;
mod alter;
mod alter_checks;
mod apply;
mod batch;
mod bury;
mod changes;
mod checks;
mod committer;
mod compact;
mod data;
mod dml;
mod encoding;
mod error;
mod feed;
mod files;
mod fold;
#[cfg(test)]
mod foreign;
mod forward;
mod index;
mod kernel;
mod key_order;
mod ledger;
mod log;
mod lookup;
mod memory;
mod metadata;
mod others;
mod partition;
mod patch;
mod provider;
mod prune;
mod resolve;
mod restore;
mod returned;
mod rewrite;
mod rules;
mod saved;
mod scan_rows;
mod schema;
mod sequence;
mod sink;
mod slot;
mod stage;
mod stats;
mod table;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_beside;
#[cfg(test)]
mod tests_feed;
#[cfg(test)]
mod tests_health;
mod token;
mod travel;
mod upload;
mod vacuum;
mod vectors;
mod view;
mod wanted;
mod widen;

pub use alter::SchemaChange;
pub use alter_checks::CheckChange;
pub use batch::WriteReport;
pub use changes::CHANGE_TYPE;
pub use checks::CheckDefinition;
pub use dml::{DmlExtensionPlanner, KEPT, LowerDml};
pub use error::DeltaError;
pub use feed::{Difference, TableVersion};
pub use provider::StoredColumns;
pub use schema::stored_type;
pub use table::{DeltaSettings, DeltaTable, TableDefinition};
pub use travel::TableTime;
pub use vacuum::VacuumReport;
pub use view::view_property;
