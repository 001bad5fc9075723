//! What the log says of a table as a whole: its schema and its properties.

use super::DeltaError;
use super::alter::SchemaChange;
use super::schema::kernel_field;
use arrow::datatypes::Schema;
use delta_kernel::snapshot::SnapshotRef;
use delta_kernel::table_features::TableFeature;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Begin the properties that say how a table is written.
const OURS: &str = "onefold.";
const CONSTRAINTS: &str = "delta.constraints.";

/// What a writer must know of a table; when it changes, the table must be opened again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableWords {
    schema: String,
    partition_columns: Vec<String>,
    properties: BTreeMap<String, String>,
}

impl TableWords {
    pub(super) fn of(snapshot: &SnapshotRef) -> Self {
        let metadata = snapshot.table_configuration().metadata();
        let binds = |name: &str| {
            let name = name.to_ascii_lowercase();
            name.starts_with(OURS) || name.starts_with(CONSTRAINTS)
        };
        let properties = metadata.configuration().iter().filter(|(name, _)| binds(name));
        Self {
            schema: metadata.schema_string().clone(),
            partition_columns: metadata.partition_columns().to_vec(),
            properties: properties.map(|(name, value)| (name.clone(), value.clone())).collect(),
        }
    }
}

/// The action, as a line of JSON, that gives the table of `snapshot` the property `name`, or takes
/// it away.
pub(super) fn with_property(
    snapshot: &SnapshotRef,
    name: &str,
    value: Option<String>,
) -> Result<String, DeltaError> {
    let mut metadata = metadata_of(snapshot)?;
    if let Some(properties) = metadata["configuration"].as_object_mut() {
        match value {
            Some(value) => properties.insert(name.to_owned(), value.into()),
            None => properties.remove(name),
        };
    }
    Ok(line(&metadata))
}

/// The action, as a line of JSON, that gives the columns of the table of `snapshot` the types of
/// `schema`, and leaves all else that is said of them.
pub(super) fn with_types(snapshot: &SnapshotRef, schema: &Schema) -> Result<String, DeltaError> {
    let damaged = |reason: String| DeltaError::Damaged { reason };
    let unread = |error: serde_json::Error| damaged(format!("the schema is no JSON: {error}"));
    let mut metadata = metadata_of(snapshot)?;
    let text = metadata["schemaString"].as_str().unwrap_or_default();
    let mut columns: Value = serde_json::from_str(text).map_err(unread)?;
    for own in schema.fields() {
        let fields = columns["fields"].as_array_mut().into_iter().flatten();
        let named = fields.into_iter().find(|field| field["name"] == own.name().as_str());
        let named = named.ok_or_else(|| damaged(format!("the schema has no {}", own.name())))?;
        let described = serde_json::to_value(kernel_field(own)?).map_err(unread)?;
        named["type"] = described["type"].clone();
    }
    metadata["schemaString"] = columns.to_string().into();
    Ok(line(&metadata))
}

/// The actions, as lines of JSON, that add columns of a type which a table says that it has, and make
/// the other `changes`; none if there is no such column, or the table says so already.
pub(super) fn with_times(
    snapshot: &SnapshotRef,
    changes: &[SchemaChange],
) -> Result<Vec<String>, DeltaError> {
    let configuration = snapshot.table_configuration();
    let unread = |error: serde_json::Error| DeltaError::Damaged {
        reason: format!("the table's description is no JSON: {error}"),
    };
    let mut metadata = metadata_of(snapshot)?;
    let text = metadata["schemaString"].as_str().unwrap_or_default();
    let mut columns: Value = serde_json::from_str(text).map_err(unread)?;
    let mut is_new = false;
    for change in changes {
        let fields = columns["fields"].as_array_mut().into_iter();
        match change {
            SchemaChange::Add(field) => {
                let described = serde_json::to_value(kernel_field(field)?).map_err(unread)?;
                is_new |= described["type"].to_string().contains("\"timestamp_ntz\"");
                fields.for_each(|fields| fields.push(described.clone()));
            }
            SchemaChange::DropNotNull(name) => {
                let mut own = fields.flatten();
                if let Some(field) = own.find(|field| field["name"] == name.as_str()) {
                    field["nullable"] = true.into();
                }
            }
        }
    }
    if !is_new || configuration.is_feature_supported(&TableFeature::TimestampWithoutTimezone) {
        return Ok(Vec::new());
    }
    metadata["schemaString"] = columns.to_string().into();
    let mut protocol = serde_json::to_value(configuration.protocol()).map_err(unread)?;
    for features in ["readerFeatures", "writerFeatures"] {
        let features = protocol[features].as_array_mut().ok_or_else(|| DeltaError::Damaged {
            reason: format!("its protocol has no {features}"),
        })?;
        features.push("timestampNtz".into());
    }
    Ok(vec![json!({ "protocol": protocol }).to_string(), line(&metadata)])
}

fn metadata_of(snapshot: &SnapshotRef) -> Result<Value, DeltaError> {
    let metadata = serde_json::to_value(snapshot.table_configuration().metadata());
    let mut metadata = metadata.map_err(|error| DeltaError::Damaged {
        reason: format!("the table's metadata is no JSON: {error}"),
    })?;
    if let Some(fields) = metadata.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    Ok(metadata)
}

fn line(metadata: &Value) -> String {
    json!({ "metaData": metadata }).to_string()
}
