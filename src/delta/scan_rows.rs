//! The rows that a scan of the log gives, one for each live file: read from it, and made for it.

use super::DeltaError;
use super::actions::{Add, Descriptor};
use super::files::LiveFile;
use super::partition::Values;
use arrow::array::cast::AsArray;
use arrow::array::types::{Int32Type, Int64Type};
use arrow::array::{
    Array, ArrayRef, Int32Array, Int64Array, MapArray, StringArray, StructArray, new_null_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Schema};
use arrow::record_batch::RecordBatch;
use delta_kernel::engine::arrow_conversion::TryIntoArrow;
use delta_kernel::engine::arrow_data::ArrowEngineData;
use delta_kernel::{FilteredEngineData, KernelError};
use std::borrow::Cow;
use std::sync::Arc;

/// Rows as a scan of the log would give them, from our own memory, with these statistics.
pub(super) fn scan_rows(
    files: &[Arc<LiveFile>],
    stats: fn(&LiveFile) -> Cow<'_, str>,
) -> Result<FilteredEngineData, KernelError> {
    let schema: Schema = delta_kernel::scan::scan_row_schema().as_ref().try_into_arrow()?;
    let schema = Arc::new(schema);
    let vector = |file: &LiveFile| file.vector.as_ref().map(|(descriptor, _)| descriptor.clone());
    let vectors: Vec<Option<Descriptor>> = files.iter().map(|file| vector(file)).collect();
    let own = |get: fn(&Descriptor) -> String| -> ArrayRef {
        let texts = vectors.iter().map(|it| it.as_ref().map(get).unwrap_or_default());
        Arc::new(StringArray::from_iter_values(texts))
    };
    let struct_fields = |name: &str| match schema.field_with_name(name)?.data_type() {
        DataType::Struct(fields) => Ok(fields.clone()),
        other => Err(KernelError::generic(format!("{name} of a scan row is {other}"))),
    };
    let offsets = vectors.iter().map(|it| it.as_ref().and_then(|it| it.offset));
    let sizes = vectors.iter().map(|it| it.as_ref().map_or(0, |it| it.size_in_bytes));
    let counts = vectors.iter().map(|it| it.as_ref().map_or(0, |it| it.cardinality));
    let is_masked: Vec<bool> = vectors.iter().map(Option::is_some).collect();
    let vector_columns: Vec<ArrayRef> = vec![
        own(|it| it.storage_type.clone()),
        own(|it| it.path_or_inline_dv.clone()),
        Arc::new(offsets.collect::<Int32Array>()),
        Arc::new(Int32Array::from_iter_values(sizes)),
        Arc::new(Int64Array::from_iter_values(counts)),
    ];
    let masked = Some(NullBuffer::from(is_masked));
    let vector_column =
        StructArray::try_new(struct_fields("deletionVector")?, vector_columns, masked)?;
    let constant_fields = struct_fields("fileConstantValues")?;
    let constants = constant_fields.iter().map(|field| match field.data_type() {
        DataType::Map(entries, _) if field.name() == "partitionValues" => {
            let DataType::Struct(inner) = entries.data_type() else {
                return Err(KernelError::generic("partition values are no map"));
            };
            let values = files.iter().flat_map(|file| &file.partition);
            let (names, texts): (Vec<&String>, Vec<Option<&String>>) =
                values.map(|(name, text)| (name, text.as_ref())).unzip();
            let columns: Vec<ArrayRef> = vec![
                Arc::new(StringArray::from_iter_values(names)),
                Arc::new(texts.into_iter().collect::<StringArray>()),
            ];
            let held = StructArray::try_new(inner.clone(), columns, None)?;
            let offsets = OffsetBuffer::from_lengths(files.iter().map(|own| own.partition.len()));
            let map = MapArray::try_new(Arc::clone(entries), offsets, held, None, false)?;
            Ok(Arc::new(map) as ArrayRef)
        }
        data_type => Ok(new_null_array(data_type, files.len())),
    });
    let constants = constants.collect::<Result<Vec<_>, KernelError>>()?;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(files.iter().map(|file| file.path.as_str()))),
        Arc::new(Int64Array::from_iter_values(files.iter().map(|file| file.size_bytes))),
        Arc::new(Int64Array::from_iter_values(files.iter().map(|file| file.modified_ms))),
        Arc::new(StringArray::from_iter_values(files.iter().map(|file| stats(file)))),
        Arc::new(vector_column),
        Arc::new(StructArray::try_new(constant_fields, constants, None)?),
    ];
    let batch = RecordBatch::try_new(schema, columns)?;
    Ok(FilteredEngineData::with_all_rows_selected(Box::new(ArrowEngineData::new(batch))))
}

/// The selected files of one batch of scan rows.
pub(super) fn adds_of(
    batch: &RecordBatch,
    selected: &[bool],
    adds: &mut Vec<Add>,
) -> Result<(), DeltaError> {
    let column = |name: &str| {
        let missing = || DeltaError::Damaged { reason: format!("the log shows no {name}") };
        batch.column_by_name(name).ok_or_else(missing)
    };
    let (path, stats) = (column("path")?.as_string::<i32>(), column("stats")?.as_string::<i32>());
    let size = column("size")?.as_primitive::<Int64Type>();
    let modified = column("modificationTime")?.as_primitive::<Int64Type>();
    let vector = column("deletionVector")?.as_struct();
    let storage = vector.column(0).as_string::<i32>();
    let name = vector.column(1).as_string::<i32>();
    let offset = vector.column(2).as_primitive::<Int32Type>();
    let bytes = vector.column(3).as_primitive::<Int32Type>();
    let count = vector.column(4).as_primitive::<Int64Type>();
    let constants = column("fileConstantValues")?.as_struct();
    let partitions = constants.column_by_name("partitionValues").and_then(|map| map.as_map_opt());
    for row in 0..batch.num_rows() {
        if !selected.get(row).copied().unwrap_or(true) {
            continue;
        }
        let has_vector = vector.is_valid(row) && storage.is_valid(row);
        adds.push(Add {
            data_change: false, // long ago
            path: path.value(row).to_owned(),
            size: size.value(row),
            modification_time: modified.value(row),
            stats: stats.is_valid(row).then(|| stats.value(row).to_owned()),
            partition_values: partitions.map(|map| values_at(map, row)).unwrap_or_default(),
            deletion_vector: has_vector.then(|| Descriptor {
                storage_type: storage.value(row).to_owned(),
                path_or_inline_dv: name.value(row).to_owned(),
                offset: offset.is_valid(row).then(|| offset.value(row)),
                size_in_bytes: bytes.value(row),
                cardinality: count.value(row),
            }),
        });
    }
    Ok(())
}

/// The partition values in a row of `map`.
fn values_at(map: &MapArray, row: usize) -> Values {
    let entries = map.value(row);
    let (names, texts) = (entries.column(0).as_string::<i32>(), entries.column(1));
    let texts = texts.as_string::<i32>();
    let text = |at: usize| texts.is_valid(at).then(|| texts.value(at).to_owned());
    (0..entries.len()).map(|at| (names.value(at).to_owned(), text(at))).collect()
}
