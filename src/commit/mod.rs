//! The commit protocol: how an epoch becomes true.
//!
//! ```text
//!   offsets, watermarks   operator memory   table files
//!           |                    |               |
//!           +---- Manifest ------+               |
//!                     |                          |
//!                     +------- Proposal ---------+
//!                                  |
//!                               Ledger  ->  Committed | Fenced
//! ```
//!
//! # Invariants
//!
//! 1. One commit per pipeline and epoch, and epochs have no gaps.
//! 2. Incarnations never go back: after a fence no commit of a lower one succeeds.
//! 3. Data before word: what a commit names is durable before the commit is sent.
//! 4. Only an answer OK means committed; everything else is looked up in the log.
//!
//! # Not here
//!
//! No I/O: the loop is in `pipeline`, the Delta log in `delta`.
//!
//! # Sources
//!
//! Carbone et al., "Lightweight Asynchronous Snapshots for Distributed Dataflows",
//! arXiv:1506.08603, 2015.

mod error;
mod ledger;
mod manifest;

pub use error::CommitError;
pub use ledger::{
    EpochRows, Ledger, ManifestRef, Opened, Outcome, PipelineHead, Proposal, Restoration,
    RowsChanged, Staged,
};
pub use manifest::{LedgerRow, MANIFEST_FORMAT, Manifest, OperatorManifest, SourceManifest};
