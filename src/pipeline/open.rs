//! Opens a pipeline where its last committed epoch left it.

use super::collect::OpenSource;
use super::join::blocking;
use super::keep::{fetch_all, read_manifest, read_state};
use super::publish::{Published, fresh_operators};
use super::{PipelineError, PipelineParts, SourcePart};
use crate::commit::{Manifest, OperatorManifest, SourceManifest};
use crate::source::{SourceClock, SourceError, SourcePosition, SourceStart};
use crate::types::{Epoch, Watermark};
use std::sync::Arc;

/// An opened pipeline.
#[derive(Debug)]
pub(super) struct OpenedPipeline {
    pub(super) sources: Vec<OpenSource>,
    pub(super) published: Published,
    pub(super) epoch: Epoch,
    pub(super) version: u64,
}

/// Takes the pipeline over and loads what it remembers.
pub(super) async fn open(parts: &PipelineParts) -> Result<OpenedPipeline, PipelineError> {
    let opened = parts.ledger.open(&parts.id).await?;
    let store = parts.ledger.store();
    let manifest = match &opened.manifest {
        Some(named) => Some(read_manifest(store.as_ref(), named).await?),
        None => None,
    };
    if let Some(manifest) = &manifest {
        refuse_changes(parts, manifest)?;
    }
    let mut sources = Vec::with_capacity(parts.sources.len());
    let mut entries = Vec::with_capacity(parts.sources.len());
    for part in &parts.sources {
        let stored = manifest.as_ref().and_then(|manifest| manifest.sources.get(&part.name));
        entries.push(stored.map(|stored| stored.entries.clone()).unwrap_or_default());
        sources.push(open_source(parts, part, stored).await?);
    }
    let watermark = super::compute::lowest(&sources);
    let files = match &manifest {
        Some(manifest) => restore(parts, manifest, watermark).await?,
        None => {
            let files = fresh_operators(parts);
            for (part, own) in parts.operators.iter().zip(&files) {
                part.memory.restore(hash_key(own)?, Vec::new(), None)?;
            }
            files
        }
    };
    tracing::info!(
        pipeline = %parts.id,
        incarnation = %opened.incarnation,
        version = opened.version,
        epoch = opened.manifest.as_ref().map_or(0, |named| named.epoch.0),
        "pipeline opened"
    );
    Ok(OpenedPipeline {
        sources,
        epoch: opened.manifest.as_ref().map(|named| named.epoch).unwrap_or_default(),
        version: opened.version,
        published: Published {
            incarnation: opened.incarnation,
            manifest: opened.manifest,
            files,
            entries,
        },
    })
}

async fn open_source(
    parts: &PipelineParts,
    part: &SourcePart,
    stored: Option<&SourceManifest>,
) -> Result<OpenSource, PipelineError> {
    let mut clock = SourceClock::new(part.watermark.clone(), part.source.drained_delay_us());
    let mut start = SourceStart::default();
    if let Some(stored) = stored {
        clock.restore(&stored.clock)?;
        let position: Option<SourcePosition> =
            serde_json::from_value(stored.position.clone()).map_err(|error| {
                SourceError::Position { source_name: part.name.clone(), reason: error.to_string() }
            })?;
        start.position = position;
        let store = parts.ledger.store();
        for file in &stored.entries {
            start.entries.push(read_state(store.as_ref(), file).await?);
        }
    }
    let position = start.position.clone();
    let reader = part.source.open(start).await?;
    Ok(OpenSource::new(part.clone(), reader, clock, position))
}

async fn restore(
    parts: &PipelineParts,
    manifest: &Manifest,
    watermark: Option<Watermark>,
) -> Result<Vec<OperatorManifest>, PipelineError> {
    let store = parts.ledger.store();
    let mut all = Vec::with_capacity(parts.operators.len());
    for part in &parts.operators {
        let Some(own) = manifest.operators.get(&part.name) else {
            let path = format!("operator {} of epoch {}", part.name, manifest.epoch);
            return Err(PipelineError::Damaged { path, reason: "is missing".to_owned() });
        };
        let files = fetch_all(store.as_ref(), &own.files).await?;
        let reached = watermark.map(|watermark| Watermark(watermark.0.minus_us(part.delay_us)));
        let (memory, hash_key) = (Arc::clone(&part.memory), hash_key(own)?);
        blocking(move || memory.restore(hash_key, files, reached)).await?;
        all.push(own.clone());
    }
    Ok(all)
}

fn hash_key(own: &OperatorManifest) -> Result<[u8; 16], PipelineError> {
    let number = u128::from_str_radix(&own.hash_key, 16).map_err(|error| {
        let path = "the hash key of an operator".to_owned();
        PipelineError::Damaged { path, reason: error.to_string() }
    })?;
    Ok(number.to_be_bytes())
}

fn refuse_changes(parts: &PipelineParts, manifest: &Manifest) -> Result<(), PipelineError> {
    let changed = |what: String, stored: &str, now: &str| PipelineError::Changed {
        pipeline: parts.id.clone(),
        what,
        stored: stored.replace('\n', "\n          "),
        now: now.replace('\n', "\n          "),
    };
    for part in &parts.sources {
        let now = part.source.fingerprint();
        let stored = manifest.sources.get(&part.name).map(|stored| stored.fingerprint.as_str());
        if stored != Some(&now) {
            let what = format!("source {}", part.name);
            return Err(changed(what, stored.unwrap_or("none"), &now));
        }
    }
    if manifest.plan != parts.fingerprint {
        return Err(changed("query".to_owned(), &manifest.plan, &parts.fingerprint));
    }
    for part in &parts.operators {
        let now = part.memory.fingerprint();
        let stored = manifest.operators.get(&part.name);
        if let Some(stored) = stored
            && stored.fingerprint != now
        {
            return Err(changed(part.name.clone(), &stored.fingerprint, &now));
        }
    }
    Ok(())
}
