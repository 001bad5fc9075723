//! Makes a computed epoch true: everything it names first, then the one commit.

use super::compute::{Computed, ComputedSource};
use super::keep::{read_state, write_manifest, write_state};
use super::{PipelineError, PipelineParts};
use crate::commit::{
    LedgerRow, MANIFEST_FORMAT, Manifest, ManifestRef, OperatorManifest, Outcome, Proposal,
    RowsChanged, SourceManifest,
};
use crate::state::{EncodedState, Joined};
use crate::types::{Incarnation, StateFile, Watermark};
use bytes::Bytes;
use std::collections::BTreeMap;

/// What the next commit builds on.
#[derive(Clone, Debug)]
pub(super) struct Published {
    pub(super) incarnation: Incarnation,
    pub(super) manifest: Option<ManifestRef>,
    /// By operator.
    pub(super) files: Vec<OperatorManifest>,
    /// By source: its entries.
    pub(super) entries: Vec<Vec<StateFile>>,
}

/// A committed epoch.
#[derive(Debug)]
pub(super) struct Committed {
    pub(super) published: Published,
    pub(super) version: u64,
    pub(super) changed: RowsChanged,
    pub(super) ledger: Vec<LedgerRow>,
    pub(super) commit_us: u64,
}

/// More files than this are joined.
const FILES_MAX: usize = 24;
/// How many of the smallest files are joined into one.
const FILES_JOINED: usize = 16;

/// Writes all that the epoch names and commits it.
///
/// # Cancellation
///
/// Whether the epoch is committed is unknown, as after an error.
pub(super) async fn publish(
    parts: PipelineParts,
    mut published: Published,
    computed: Computed,
) -> Result<Committed, PipelineError> {
    let began = parts.clock.monotonic();
    let epoch = published.manifest.as_ref().map(|last| last.epoch).unwrap_or_default().next();
    let staged = parts.ledger.stage(computed.rows);
    let saved = save(&parts, &mut published, computed.added, computed.sources, computed.watermark);
    let (staged, saved) = futures::join!(staged, saved);
    let (staged, sources) = (staged?, saved?);
    let operators = parts.operators.iter().zip(&published.files);
    let manifest = Manifest {
        format: MANIFEST_FORMAT,
        pipeline: parts.id.clone(),
        incarnation: published.incarnation,
        epoch,
        previous: published.manifest.clone(),
        written_at_us: parts.clock.now_us(),
        plan: parts.fingerprint.clone(),
        sources,
        operators: operators.map(|(part, files)| (part.name.clone(), files.clone())).collect(),
        ledger: computed.ledger,
        rows_emitted: computed.rows_emitted,
    };
    let store = parts.ledger.store();
    let named = write_manifest(store.as_ref(), &manifest, parts.owns_rows).await?;
    let outcome = parts.ledger.commit(Proposal {
        pipeline: parts.id.clone(),
        incarnation: published.incarnation,
        epoch,
        manifest: named.clone(),
        staged,
    });
    match outcome.await? {
        Outcome::Fenced { by } => Err(PipelineError::Fenced { pipeline: parts.id, by }),
        Outcome::Committed { version, changed } => {
            published.manifest = Some(named);
            Ok(Committed {
                published,
                version,
                changed,
                ledger: manifest.ledger,
                commit_us: parts.clock.monotonic().saturating_sub(began).as_micros() as u64,
            })
        }
    }
}

/// Writes what operators and sources must remember; the names go into `published`.
async fn save(
    parts: &PipelineParts,
    published: &mut Published,
    added: Vec<Option<EncodedState>>,
    sources: Vec<ComputedSource>,
    watermark: Option<Watermark>,
) -> Result<BTreeMap<String, SourceManifest>, PipelineError> {
    let store = parts.ledger.store();
    let fresh = |name: &str| {
        let (id, incarnation) = (&parts.id, published.incarnation);
        format!("_onefold/{id}/{incarnation}/{name}-{}.bin", parts.entropy.name())
    };
    for ((part, own), added) in parts.operators.iter().zip(&mut published.files).zip(added) {
        let reached = watermark.map(|watermark| Watermark(watermark.0.minus_us(part.delay_us)));
        if let Some(reached) = reached {
            own.files.retain(|file| !part.memory.is_expired(file, reached));
        }
        if let Some(added) = added {
            own.files.push(write_state(store.as_ref(), fresh(&part.name), added).await?);
        }
        if own.files.len() > FILES_MAX {
            own.files.sort_by_key(|file| std::cmp::Reverse(file.size_bytes));
            let saved = own.files.iter().map(|file| file.entries).sum();
            let (from, joined) = if part.memory.is_wasteful(saved) {
                (0, Joined::All)
            } else {
                (own.files.len() - FILES_JOINED, Joined::Some)
            };
            let small = own.files.split_off(from);
            let mut contents = Vec::with_capacity(small.len());
            for file in &small {
                contents.push(read_state(store.as_ref(), file).await?);
            }
            if let Some(merged) = part.memory.merge(&contents, joined, reached)? {
                own.files.push(write_state(store.as_ref(), fresh(&part.name), merged).await?);
            }
        }
    }
    let mut manifests = BTreeMap::new();
    for (index, (part, computed)) in parts.sources.iter().zip(sources).enumerate() {
        let entries = &mut published.entries[index];
        for bytes in computed.entries {
            entries.push(write_state(store.as_ref(), fresh("entries"), encoded(bytes)).await?);
        }
        if entries.len() > FILES_MAX {
            let from = join_from(entries);
            let mut contents = Vec::new();
            for file in entries.drain(from..) {
                contents.push(read_state(store.as_ref(), &file).await?);
            }
            let merged = encoded(part.source.merge_entries(&contents)?);
            entries.push(write_state(store.as_ref(), fresh("entries"), merged).await?);
        }
        let manifest = SourceManifest {
            fingerprint: part.source.fingerprint(),
            position: computed.position,
            clock: computed.clock,
            entries: entries.clone(),
        };
        manifests.insert(part.name.clone(), manifest);
    }
    Ok(manifests)
}

/// Entries have an order: the newest ones are joined, and older ones not much larger than those.
fn join_from(entries: &[StateFile]) -> usize {
    let mut from = entries.len().saturating_sub(FILES_JOINED);
    let mut joined: u64 = entries[from..].iter().map(|file| file.size_bytes).sum();
    while from > 0 && entries[from - 1].size_bytes <= 2 * joined {
        from -= 1;
        joined += entries[from].size_bytes;
    }
    from
}

fn encoded(bytes: Bytes) -> EncodedState {
    EncodedState { bytes, entries: 1, time_min: None, time_max: None }
}

/// The manifests of operators that remember nothing yet.
pub(super) fn fresh_operators(parts: &PipelineParts) -> Vec<OperatorManifest> {
    let fresh = parts.operators.iter().map(|part| OperatorManifest {
        fingerprint: part.memory.fingerprint(),
        hash_key: parts.entropy.name(),
        files: Vec::new(),
    });
    fresh.collect()
}
