//! Sketches: small summaries that merge, in a binary form that outlives releases.
//!
//! ```text
//!   values --> sketch of a minute --+
//!   values --> sketch of a minute --+--> merge --> sketch of the day --> estimate
//! ```
//!
//! | sketch | answers | error | bytes at most |
//! |---|---|---|---|
//! | [`HllSketch`] | how many different values | `1.04 / sqrt(2^lg_k)` standard, of the count | `12 + 0.75 * 2^lg_k` |
//! | [`QuantileSketch`] | the value at a rank | relative, of the value; known to the sketch | 39 + 13 per bucket; mostly 2 or 3 |
//! | [`BitmapSketch`] | which integers, exactly | none | grows with the distinct values |
//!
//! # Meaning
//!
//! A sketch is a function of what went in: of the set of values ([`HllSketch`], [`BitmapSketch`])
//! or the multiset ([`QuantileSketch`]). However the input is cut and in whatever order the parts
//! are merged, the bytes are the same. So merging is commutative and associative to the last bit,
//! and for sets idempotent; a replay writes the same rows. An empty sketch changes nothing it is
//! merged with. Of two sketches with different parameters the coarser one's hold.
//!
//! # Why these
//!
//! The HLL of Apache `datasketches` keeps an estimator that depends on the order of updates, and
//! its KLL flips coins; a t-digest depends on order and has no bound. Their bytes would differ
//! between a replay and the first run.
//!
//! # Invariants
//!
//! 1. `from_bytes(to_bytes(s)) == s`.
//! 2. `from_bytes` gives a sketch or an error for any bytes; it allocates no more than a small
//!    multiple of their length and 1 MiB.
//! 3. Version 1 of each format never changes; the tests hold samples.
//!
//! # Not here
//!
//! How values are hashed, and the SQL functions.
//!
//! # Sources
//!
//! Flajolet et al., `HyperLogLog`, 2007. Ertl, "New cardinality estimation algorithms for
//! `HyperLogLog` sketches", arXiv:1702.01284. Epicoco et al., "`UDDSketch`: accurate tracking of
//! quantiles in data streams", 2020, for the collapse that keeps all quantiles. Lemire et al.,
//! "Roaring bitmaps: implementation of an optimized software library", 2018.

mod bitmap;
mod error;
mod format;
mod hll;
mod quantile;
#[cfg(test)]
mod tests;
mod traits;

pub use bitmap::BitmapSketch;
pub use error::SketchError;
pub use format::SketchKind;
pub use hll::HllSketch;
pub use quantile::QuantileSketch;
pub use traits::Sketch;
