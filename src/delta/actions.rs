//! The lines of a commit, read back.

use super::DeltaError;
use super::partition::Values;
use serde::{Deserialize, Serialize};

/// What one commit did, as its JSON says.
#[derive(Debug, Default)]
pub(super) struct Actions {
    pub(super) adds: Vec<Add>,
    pub(super) removes: Vec<Remove>,
    pub(super) txns: Vec<Txn>,
    pub(super) operation: Option<String>,
    /// Who committed it.
    pub(super) engine: Option<String>,
    /// When it was committed, in milliseconds since the Unix epoch.
    pub(super) at_ms: Option<i64>,
    /// The fresh id that every commit carries.
    pub(super) txn_id: Option<String>,
    /// Whether the schema, a property or the protocol changed.
    pub(super) changes_table: bool,
    /// Whether rows came, changed or went, and not only files.
    pub(super) changes_rows: bool,
}

#[derive(Debug, Deserialize)]
struct Line {
    add: Option<Add>,
    remove: Option<Remove>,
    txn: Option<Txn>,
    #[serde(rename = "metaData")]
    metadata: Option<serde::de::IgnoredAny>,
    protocol: Option<serde::de::IgnoredAny>,
    #[serde(rename = "commitInfo")]
    info: Option<CommitInfo>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Add {
    pub(super) path: String,
    pub(super) size: i64,
    pub(super) modification_time: i64,
    pub(super) stats: Option<String>,
    /// Values of the partition columns, as text; a missing one is NULL.
    #[serde(default)]
    pub(super) partition_values: Values,
    pub(super) deletion_vector: Option<Descriptor>,
    #[serde(default)]
    pub(super) data_change: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Remove {
    pub(super) path: String,
    #[serde(default)]
    data_change: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Txn {
    pub(super) app_id: String,
    pub(super) version: i64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CommitInfo {
    timestamp: Option<i64>,
    in_commit_timestamp: Option<i64>,
    operation: Option<String>,
    engine_info: Option<String>,
    txn_id: Option<String>,
}

/// Where a deletion vector is, in the words of the Delta protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub(super) storage_type: String,
    pub(super) path_or_inline_dv: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) offset: Option<i32>,
    pub(super) size_in_bytes: i32,
    pub(super) cardinality: i64,
}

impl Actions {
    /// Reads the JSON of commit `version`.
    pub(super) fn parse(version: u64, json: &[u8]) -> Result<Self, DeltaError> {
        let mut actions = Self::default();
        for line in json.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let line: Line = serde_json::from_slice(line).map_err(|error| DeltaError::Damaged {
                reason: format!("version {version} cannot be read: {error}"),
            })?;
            actions.changes_rows |= line.add.as_ref().is_some_and(|own| own.data_change)
                || line.remove.as_ref().is_some_and(|own| own.data_change);
            actions.adds.extend(line.add);
            actions.removes.extend(line.remove);
            actions.txns.extend(line.txn);
            actions.changes_table |= line.metadata.is_some() || line.protocol.is_some();
            if let Some(info) = line.info {
                actions.at_ms = info.in_commit_timestamp.or(info.timestamp);
                actions.operation = info.operation;
                actions.engine = info.engine_info;
                actions.txn_id = info.txn_id;
            }
        }
        Ok(actions)
    }

    /// The version of `app`, if the commit sets it.
    pub(super) fn txn(&self, app: &str) -> Option<i64> {
        self.txns.iter().find(|txn| txn.app_id == app).map(|txn| txn.version)
    }
}
