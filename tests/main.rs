//! All integration tests, in one binary so that DataFusion is linked once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]
#![allow(clippy::future_not_send, reason = "tests run on one thread")]

mod aggregates;
mod checks;
mod cli;
mod crash;
mod dml;
mod ends;
mod explain;
mod feed_groups;
mod feed_rules;
mod feed_versions;
mod feeds;
mod float_sums;
mod group_writers;
mod hop_memory;
mod hops;
mod levels;
mod lookups;
mod merges;
mod partition_model;
mod partitions;
mod pipelines;
mod process;
mod races;
mod rollups;
mod rules;
mod sequences;
mod sessions;
mod sketches;
mod slt;
mod soak;
mod spills;
mod statements;
mod support;
mod tidy;
mod tokens;
mod upkeep;
mod view_columns;
mod view_keys;
mod views;
mod widen;
mod window_ends;
mod windows;
