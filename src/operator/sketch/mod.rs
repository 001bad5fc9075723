//! Sketches in SQL: aggregates that make and merge them, functions that ask them.
//!
//! ```text
//!   rows   --> hll_state(x [, lg_k])    quantile_state(x [, k])    bitmap_state(x)    --> BINARY
//!   BINARY --> hll_merge(s)             quantile_merge(s)          bitmap_merge(s)    --> BINARY
//!   BINARY --> hll_estimate(s)          quantile_estimate(s, q)    bitmap_count(s)    --> number
//!                                       quantile_error(s)          bitmap_and(s, t), bitmap_or,
//!                                                                  bitmap_andnot      --> BINARY
//! ```
//!
//! # Meaning
//!
//! NULLs are passed over. An aggregate of no rows is an empty sketch, never NULL: its estimate is
//! 0, its quantiles are NULL. A function of NULL is NULL. What an aggregate has as its state
//! between the phases is the stored form itself, so states, results and columns are one format;
//! asking for them changes nothing.
//!
//! `hll_state` takes values as keys do: `Int32` 7 is `Int64` 7, `Utf8` is a dictionary, -0 is 0.
//! Its hash has a fixed key that everybody knows, so that sketches of all tables merge: who
//! chooses the values can skew an estimate.
//!
//! # Memory
//!
//! One sketch per group, and the hashes of one batch.

mod accumulator;
mod aggregate;
mod scalar;
#[cfg(test)]
mod tests;

pub use aggregate::sketch_aggregates;
pub use scalar::sketch_functions;
