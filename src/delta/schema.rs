//! The schema of a table: what SQL declares, what Delta stores, what queries see.

use super::DeltaError;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use delta_kernel::schema::{DataType as KernelType, PrimitiveType, StructField, StructType};
use std::sync::Arc;

/// The property that holds the primary key: a JSON list of column names.
pub(super) const PRIMARY_KEY: &str = "onefold.primaryKey";
/// The property that holds the key of the key hash: 32 hexadecimal digits, random per table.
pub(super) const HASH_KEY: &str = "onefold.hashKey";
/// The property that holds the columns INSERT takes: a Delta schema, where some are not stored.
pub(super) const INPUT: &str = "onefold.input";

const RESERVED: &str = "__onefold";

/// The declared schema in the types that Delta keeps; key columns are NOT NULL.
pub(super) fn normalise(
    table: &str,
    declared: &Schema,
    primary_key: &[String],
) -> Result<SchemaRef, DeltaError> {
    let wrong = |reason: String| DeltaError::Definition { table: table.to_owned(), reason };
    if primary_key.is_empty() {
        return Err(wrong("an upsert table needs a PRIMARY KEY".to_owned()));
    }
    if let Some(field) = declared.fields().iter().find(|own| own.name().starts_with(RESERVED)) {
        return Err(wrong(format!("column {}: names in {RESERVED} are ours", field.name())));
    }
    for key in primary_key {
        let field = declared.field_with_name(key);
        let data_type =
            field.map_err(|_| wrong(format!("PRIMARY KEY ({key}): no such column")))?.data_type();
        if data_type.is_nested() || data_type.is_floating() {
            return Err(wrong(format!("PRIMARY KEY ({key}): a key cannot be {data_type}")));
        }
    }
    let fields = declared.fields().iter().map(|field| {
        let data_type = stored_type(field.data_type()).ok_or_else(|| {
            let (name, data_type) = (field.name(), field.data_type());
            wrong(format!("column {name}: Delta has no type for {data_type}"))
        })?;
        let is_key = primary_key.contains(field.name());
        Ok(Field::new(field.name(), data_type, field.is_nullable() && !is_key))
    });
    Ok(Arc::new(Schema::new(fields.collect::<Result<Vec<_>, DeltaError>>()?)))
}

/// The type in which Delta keeps `data_type`; `None` if it has none.
#[must_use]
pub fn stored_type(data_type: &DataType) -> Option<DataType> {
    Some(match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => DataType::Binary,
        DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Boolean
        | DataType::Date32 => data_type.clone(),
        DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 => DataType::Int64,
        DataType::Decimal128(precision, scale) if *scale >= 0 => {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::Timestamp(_, None) => DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::Timestamp(_, Some(_)) => {
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
        }
        _ => return None,
    })
}

/// The schema as the Delta log keeps it.
pub(super) fn to_kernel(schema: &Schema) -> Result<StructType, DeltaError> {
    let fields = schema.fields().iter().map(|field| kernel_field(field));
    Ok(StructType::try_new(fields.collect::<Result<Vec<_>, DeltaError>>()?)?)
}

/// A column as the Delta log keeps it.
pub(super) fn kernel_field(field: &Field) -> Result<StructField, DeltaError> {
    let data_type = kernel_type(field.data_type())?;
    Ok(StructField::new(field.name(), data_type, field.is_nullable()))
}

/// A type as the Delta log keeps it.
pub(super) fn kernel_type(data_type: &DataType) -> Result<KernelType, DeltaError> {
    Ok(match data_type {
        DataType::Utf8 => KernelType::STRING,
        DataType::Binary => KernelType::BINARY,
        DataType::Int8 => KernelType::BYTE,
        DataType::Int16 => KernelType::SHORT,
        DataType::Int32 => KernelType::INTEGER,
        DataType::Int64 => KernelType::LONG,
        DataType::Float32 => KernelType::FLOAT,
        DataType::Float64 => KernelType::DOUBLE,
        DataType::Boolean => KernelType::BOOLEAN,
        DataType::Date32 => KernelType::DATE,
        DataType::Timestamp(_, None) => KernelType::TIMESTAMP_NTZ,
        DataType::Timestamp(_, Some(_)) => KernelType::TIMESTAMP,
        DataType::Decimal128(precision, scale) => KernelType::decimal(*precision, *scale as u8)?,
        other => {
            return Err(DeltaError::Unsupported { what: format!("a column of type {other}") });
        }
    })
}

/// The schema of a table that was found.
pub(super) fn from_kernel(schema: &StructType) -> Result<SchemaRef, DeltaError> {
    let fields = schema.fields().map(|field| {
        let data_type = match field.data_type() {
            KernelType::Primitive(primitive) => arrow_type(primitive),
            _ => None,
        };
        let data_type = data_type.ok_or_else(|| DeltaError::Unsupported {
            what: format!("column {} of type {}", field.name(), field.data_type()),
        })?;
        Ok(Field::new(field.name(), data_type, field.is_nullable()))
    });
    Ok(Arc::new(Schema::new(fields.collect::<Result<Vec<_>, DeltaError>>()?)))
}

fn arrow_type(primitive: &PrimitiveType) -> Option<DataType> {
    Some(match primitive {
        PrimitiveType::String => DataType::Utf8,
        PrimitiveType::Binary => DataType::Binary,
        PrimitiveType::Byte => DataType::Int8,
        PrimitiveType::Short => DataType::Int16,
        PrimitiveType::Integer => DataType::Int32,
        PrimitiveType::Long => DataType::Int64,
        PrimitiveType::Float => DataType::Float32,
        PrimitiveType::Double => DataType::Float64,
        PrimitiveType::Boolean => DataType::Boolean,
        PrimitiveType::Date => DataType::Date32,
        PrimitiveType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        PrimitiveType::TimestampNtz => DataType::Timestamp(TimeUnit::Microsecond, None),
        PrimitiveType::Decimal(decimal) => {
            DataType::Decimal128(decimal.precision(), decimal.scale() as i8)
        }
        _ => return None,
    })
}

/// How `declared` differs from `found`, in words; empty if it does not.
pub(super) fn differences(
    (declared, declared_key): (&Schema, &[String]),
    (found, found_key): (&Schema, &[String]),
) -> Vec<String> {
    let mut all = Vec::new();
    let shown = |field: &Field| {
        let null = if field.is_nullable() { "" } else { " NOT NULL" };
        format!("{}{null}", field.data_type())
    };
    for field in declared.fields() {
        match found.field_with_name(field.name()) {
            Err(_) => all.push(format!("it has no column {}", field.name())),
            Ok(other) if shown(other) != shown(field) => {
                all.push(format!("{} is {}, not {}", field.name(), shown(other), shown(field)));
            }
            Ok(_) => {}
        }
    }
    for field in found.fields() {
        if declared.field_with_name(field.name()).is_err() {
            all.push(format!("it has a column {} too", field.name()));
        }
    }
    if all.is_empty()
        && declared.fields().iter().map(|f| f.name()).ne(found.fields().iter().map(|f| f.name()))
    {
        all.push("its columns are in another order".to_owned());
    }
    if declared_key != found_key {
        let (found, declared) = (found_key.join(", "), declared_key.join(", "));
        all.push(format!("its primary key is ({found}), not ({declared})"));
    }
    all
}
