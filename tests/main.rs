//! All integration tests, in one binary so that DataFusion is linked once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]
#![allow(clippy::future_not_send, reason = "tests run on one thread")]

mod aggregates;
mod checks;
mod cli;
mod crash;
mod dml;
mod emitted;
mod explain;
mod feed_groups;
mod feed_rules;
mod feed_versions;
mod feeds;
mod float_sums;
mod group_writers;
mod hops;
mod lateness;
mod lookups;
mod merges;
mod partition_model;
mod partitions;
mod pipelines;
mod process;
mod races;
mod rollups;
mod rules;
mod sequence_cuts;
mod sequences;
mod sessions;
mod sketches;
mod slt;
mod soak;
mod spills;
mod support;
mod tidy;
mod tokens;
mod upkeep;
mod view_columns;
mod views;
mod widen;
mod windows;
