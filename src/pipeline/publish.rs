//! Makes a computed epoch true: everything it names first, then the one commit.

use super::compute::{Computed, ComputedSource};
use super::join::{Choice, FILES_MAX, blocking};
use super::keep::{fetch_all, read_state, write_manifest, write_state};
use super::{PipelineError, PipelineParts};
use crate::commit::{
    LedgerRow, MANIFEST_FORMAT, Manifest, ManifestRef, OperatorManifest, Outcome, Proposal,
    RowsChanged, SourceManifest,
};
use crate::source::SourcePosition;
use crate::state::{EncodedState, Unsaved};
use crate::types::{Incarnation, LateRows, StateFile, Watermark};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

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

/// An epoch whose files are all written, and that nobody sees yet.
#[derive(Debug)]
pub(super) struct Prepared {
    /// What the epoch after it builds on.
    pub(super) published: Published,
    progress: Progress,
    proposal: Proposal,
    ledger: Vec<LedgerRow>,
}

/// What becomes visible when an epoch is committed.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) positions: Vec<Option<SourcePosition>>,
    pub(super) watermark: Option<Watermark>,
    pub(super) late: Option<LateRows>,
    pub(super) state_bytes: u64,
    pub(super) keys_held: u64,
}

/// A committed epoch.
#[derive(Debug)]
pub(super) struct Committed {
    /// What the epoch after it builds on.
    pub(super) published: Published,
    pub(super) progress: Progress,
    pub(super) version: u64,
    pub(super) changed: RowsChanged,
    pub(super) ledger: Vec<LedgerRow>,
    pub(super) commit_us: u64,
}

/// How many of the newest files of entries are joined into one.
const FILES_JOINED: usize = 16;

/// Writes all that the epoch names. The epoch before need not be committed yet: if it never is, this
/// one is never sent, and its files are what any crash leaves behind.
pub(super) async fn prepare(
    parts: &PipelineParts,
    mut published: Published,
    computed: Computed,
) -> Result<Prepared, PipelineError> {
    let progress = Progress::of(&computed);
    let epoch = published.manifest.as_ref().map(|last| last.epoch).unwrap_or_default().next();
    let staged = parts.ledger.stage(computed.rows);
    let saved = save(parts, &mut published, computed.added, computed.sources, computed.watermark);
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
    published.manifest = Some(named.clone());
    let proposal = Proposal {
        pipeline: parts.id.clone(),
        incarnation: published.incarnation,
        epoch,
        manifest: named,
        staged,
    };
    Ok(Prepared { published, progress, proposal, ledger: manifest.ledger })
}

/// Commits an epoch; the one before it must be known to be committed.
///
/// # Cancellation
///
/// Whether the epoch is committed is unknown, as after an error.
pub(super) async fn commit(
    parts: &PipelineParts,
    prepared: Prepared,
) -> Result<Committed, PipelineError> {
    let began = parts.clock.monotonic();
    let Prepared { published, progress, proposal, ledger } = prepared;
    match parts.ledger.commit(proposal).await? {
        Outcome::Fenced { by } => Err(PipelineError::Fenced { pipeline: parts.id.clone(), by }),
        Outcome::Committed { version, changed } => {
            let commit_us = parts.clock.monotonic().saturating_sub(began).as_micros() as u64;
            Ok(Committed { published, progress, version, changed, ledger, commit_us })
        }
    }
}

impl Progress {
    fn of(computed: &Computed) -> Self {
        let positions = computed.sources.iter();
        Self {
            positions: positions
                .map(|source| serde_json::from_value(source.position.clone()).ok())
                .collect(),
            watermark: computed.watermark,
            late: computed.late,
            state_bytes: computed.state_bytes,
            keys_held: computed.keys_held,
        }
    }
}

/// Writes what operators and sources must remember; the names go into `published`.
async fn save(
    parts: &PipelineParts,
    published: &mut Published,
    added: Vec<(Option<Unsaved>, Option<u64>)>,
    sources: Vec<ComputedSource>,
    watermark: Option<Watermark>,
) -> Result<BTreeMap<String, SourceManifest>, PipelineError> {
    let store = parts.ledger.store();
    let fresh = |name: &str| {
        let (id, incarnation) = (&parts.id, published.incarnation);
        format!("_onefold/{id}/{incarnation}/{name}-{}.bin", parts.entropy.name())
    };
    let operators = parts.operators.iter().zip(&mut published.files).zip(added);
    for ((part, own), (added, live)) in operators {
        let reached = watermark.map(|watermark| Watermark(watermark.0.minus_us(part.delay_us)));
        if let Some(reached) = reached {
            own.files.retain(|file| !part.memory.is_expired(file, reached));
        }
        if let Some(added) = added
            && let Some(added) = blocking(move || added.encode()).await?
        {
            own.files.push(write_state(store.as_ref(), fresh(&part.name), added).await?);
        }
        if let Some(Choice { files, which }) = Choice::of(&mut own.files, live) {
            let contents = fetch_all(store.as_ref(), &files).await?;
            let memory = Arc::clone(&part.memory);
            let joined = blocking(move || memory.merge(contents, which, reached)).await?;
            if let Some(joined) = joined {
                own.files.push(write_state(store.as_ref(), fresh(&part.name), joined).await?);
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
    EncodedState { content: bytes.into(), entries: 1, time_min: None, time_max: None }
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
