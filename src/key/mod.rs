//! Keys: what makes two of them equal, their 128-bit hash, and the table that remembers hashes.
//!
//! ```text
//!   key columns --> KeyHasher --> u128 --> KeyTable<V>: hash -> V, in hash order
//!                   canonical,            one flat array per shard, no tombstones
//!                   keyed
//! ```
//!
//! A `TieredTable` is the same for more keys than memory holds: sorted runs on local disk, each
//! behind a `KeyFilter` that tells cheaply what cannot be in it.
//!
//! Equality is SQL's, on values and not on their encodings: `Int32` 7 is `Int64` 7, `Utf8` is
//! `Utf8View` is a dictionary, all NaNs are one, -0 is 0, timestamps are instants, decimals are
//! numbers. Hashes are trusted as keys: 128 bits of a pseudo-random function under a random key
//! cannot be made to collide by who chooses the ids.
//!
//! # Not here
//!
//! What a key means to dedup, rollups or the key index; where tables are saved.
//!
//! # Sources
//!
//! Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012. Amble and Knuth, "Ordered
//! hash tables", The Computer Journal 17(2), 1974.

mod error;
mod filter;
mod hash;
mod run;
mod table;
mod tiers;

pub use error::KeyError;
pub use filter::KeyFilter;
pub use hash::KeyHasher;
pub use run::KeyValue;
pub use table::{Entry, KeyTable};
pub use tiers::TieredTable;
