//! The epoch loop: polls sources, runs the plan, saves what operators remember, commits.
//!
//! ```text
//!   open     fence -> manifest -> state files -> readers at their positions
//!   collect  poll each source up to the limits; stamp position and watermark
//!   compute  fill the slots, plan, execute all partitions, count what became of each row
//!   prepare  state files, rows and manifest to unique names
//!   commit   the one commit
//! ```
//!
//! # Invariants
//!
//! 1. An epoch begins where the last committed one ended, and its commit carries the new place.
//! 2. Computing and preparing epoch n + 1 overlap the commit of n, and nothing more: n + 1 is sent
//!    only after n is known to be committed.
//! 3. After any error the pipeline answers nothing but errors: open it again, which takes a new
//!    fence and reads what is true.
//! 4. Per source partition and epoch: rows read = emitted + duplicate + late + filtered +
//!    malformed.
//!
//! # Not here
//!
//! No SQL and no Delta: plans come from an [`EpochPlanner`], commits go to a
//! [`Ledger`](crate::commit::Ledger).

mod collect;
mod compute;
mod error;
mod history;
mod join;
mod keep;
mod open;
mod parts;
mod publish;
mod restore;
mod run;
mod status;

pub use error::PipelineError;
pub use history::{HistoryEntry, SavedGroups, all_saved_groups, history, history_of};
pub use parts::{EpochPlan, EpochPlanner, OperatorPart, PipelineParts, SourcePart};
pub use restore::restore;
pub use run::{EpochOutcome, Pipeline};
pub use status::PipelineStatus;
