//! What every source must do.

use crate::source::{Poll, PollLimits, Source, SourcePosition, SourceStart};
use crate::types::PartitionId;
use arrow::compute::concat_batches;
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

type Rows = BTreeMap<PartitionId, Read>;

/// What was read of one partition.
#[derive(Default)]
struct Read {
    first: u64,
    end: u64,
    malformed: u64,
    rows: Vec<RecordBatch>,
}

/// Most polls before a source counts as endless.
const POLLS_MAX: usize = 100_000;

/// Checks the contract of [`Source`] over what `source` holds now; it must not change meanwhile.
///
/// Offsets join; limits do not change rows; opening at any position that a poll returned goes on
/// with the same rows.
///
/// # Errors
///
/// What the source does wrong.
pub async fn source_conformance(source: &Arc<dyn Source>) -> Result<(), String> {
    let large = PollLimits { rows_max: u64::MAX, bytes_max: u64::MAX };
    let small = PollLimits { rows_max: 3, bytes_max: u64::MAX };
    let (whole, _) = read(source, SourceStart::default(), large).await?;
    let (parts, stops) = read(source, SourceStart::default(), small).await?;
    same(source, &whole, &parts, "read with small limits")?;
    let mut entries: Vec<Bytes> = Vec::new();
    let stride = stops.len().div_ceil(20).max(1);
    for (number, (position, own)) in stops.into_iter().enumerate() {
        entries.extend(own);
        if number % stride != 0 {
            continue;
        }
        let merged = match entries.len() {
            0 | 1 => entries.clone(),
            _ => vec![source.merge_entries(&entries).map_err(|error| error.to_string())?],
        };
        let start = SourceStart { position: Some(position.clone()), entries: merged };
        let (rest, _) = read(source, start, large).await?;
        for (id, part) in &rest {
            let all = whole.get(id).ok_or(format!("{id} is there only after a stop"))?;
            let (rows, left) = (joined(source, &all.rows)?, joined(source, &part.rows)?);
            // Malformed rows have offsets and no rows: only the end says how many were skipped.
            let skipped = rows.num_rows().checked_sub(left.num_rows());
            let is_tail =
                skipped.is_some_and(|skipped| left == rows.slice(skipped, left.num_rows()));
            let is_exact = all.malformed > 0
                || skipped.map(|rows| rows as u64) == Some(part.first - all.first);
            if all.end != part.end || !is_tail || !is_exact {
                return Err(format!("{id}: other rows after opening at {position:?}"));
            }
        }
    }
    Ok(())
}

type Stops = Vec<(SourcePosition, Option<Bytes>)>;

async fn read(
    source: &Arc<dyn Source>,
    start: SourceStart,
    limits: PollLimits,
) -> Result<(Rows, Stops), String> {
    let mut reader = source.open(start).await.map_err(|error| error.to_string())?;
    let mut rows = Rows::new();
    let mut stops = Stops::new();
    for _ in 0..POLLS_MAX {
        let poll: Poll = reader.poll(limits).await.map_err(|error| error.to_string())?;
        for chunk in poll.chunks {
            let (from, to) = (chunk.offsets.start.0, chunk.offsets.end.0);
            let fresh = Read { first: from, end: from, ..Read::default() };
            let read = rows.entry(chunk.partition.clone()).or_insert(fresh);
            if read.end != from {
                return Err(format!("{}: offset {from} follows {}", chunk.partition, read.end));
            }
            if to - from != chunk.batch.num_rows() as u64 + chunk.malformed {
                return Err(format!("{}: {from}..{to} has other rows", chunk.partition));
            }
            read.end = to;
            read.malformed += chunk.malformed;
            read.rows.push(chunk.batch);
        }
        stops.push((poll.position, poll.entries));
        if poll.is_at_end {
            return Ok((rows, stops));
        }
    }
    Err("the source never reaches its end".to_owned())
}

fn same(source: &Arc<dyn Source>, one: &Rows, two: &Rows, what: &str) -> Result<(), String> {
    if one.keys().ne(two.keys()) {
        return Err(format!("other partitions when {what}"));
    }
    for (id, read) in one {
        let other = two.get(id).map(|read| joined(source, &read.rows)).transpose()?;
        if Some(joined(source, &read.rows)?) != other {
            return Err(format!("{id}: other rows when {what}"));
        }
    }
    Ok(())
}

fn joined(source: &Arc<dyn Source>, rows: &[RecordBatch]) -> Result<RecordBatch, String> {
    concat_batches(&source.schema(), rows).map_err(|error| error.to_string())
}
