//! Object stores: opening a folder by URL, making local files durable, and refusing stores on
//! which two writers would overwrite each other.
//!
//! ```text
//!   LOCATION + OPTIONS --> open_location --> Location { store, store_once, prefix }
//!                                                        |        |
//!                              client retries, durable --+        +-- no retries: the one PUT
//!                                                                     whose answer may be lost
//! ```
//!
//! # Invariants
//!
//! 1. What a `put` on a [`Location`] returned for survives a crash of the machine: local files and
//!    their folders are fsynced. Caches that are checked when they are read are an exception:
//!    version checksums and saved key indexes. So are small objects that were put [`unread`]: they
//!    survive once a later object, which is what could name them, does.
//! 2. `store_once` sends each request at most once.
//!
//! # Not here
//!
//! What the files mean, and what to do when an answer is lost: that is `commit` and `delta`.

mod buffers;
mod durable;
mod error;
mod location;
mod parquet;
mod probe;
mod staging;
mod unsynced;
mod whole;

pub use durable::{DurableLocal, unread};
pub use error::StoreError;
pub use location::{Location, is_store_option, open_location};
pub use parquet::ParquetObject;
pub use probe::probe_put_if_absent;
pub use whole::{Sha256Sum, WholeError, read_pieces, read_whole, sha256_of};
