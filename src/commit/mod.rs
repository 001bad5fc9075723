//! Skeleton.
mod error;
mod ledger;
mod manifest;
pub use error::CommitError;
pub use ledger::{EpochRows, Ledger, ManifestRef, Opened, Outcome, Proposal, Staged};
pub use manifest::{LedgerRow, MANIFEST_FORMAT, Manifest, OperatorManifest, SourceManifest};
