//! Wider types for columns that are there: all data files are written again, in one commit.
//!
//! ```text
//!   from                           to
//!   TINYINT, SMALLINT, INT         a larger integer
//!   TINYINT, SMALLINT, INT         DOUBLE
//!   any integer                    DECIMAL with room for all its digits
//!   FLOAT                          DOUBLE
//!   DECIMAL                        DECIMAL with no fewer digits before and behind the point
//!   anything else                  refused
//! ```
//!
//! Delta's typeWidening would keep the old files, and is a reader feature that readers do not know.
//! Here every file of a version has the types of its version, so any reader reads it.
//!
//! # Invariants
//!
//! 1. Every value is what it was: no cast here can fail, round or overflow.
//! 2. No row changes: the commit says so, and the change feed shows none.

use super::DeltaError;
use super::apply::{Vectors, busy};
use super::checks::Checks;
use super::data::{read_file, write_files};
use super::files::LiveFile;
use super::ledger::RACES_MAX;
use super::log::Change;
use super::metadata::with_types;
use super::restore::{described, is_same_vector};
use super::rules::TableRules;
use super::schema::{from_kernel, normalise};
use super::stage::RowShape;
use super::stats::stats_of;
use super::table::{DeltaSettings, DeltaTable};
use arrow::array::BooleanArray;
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use roaring::RoaringTreemap;
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;

/// A file that was written again, and the lines that add what became of it.
type Rewritten = HashMap<String, (Arc<LiveFile>, Vec<String>)>;

impl DeltaTable {
    /// Gives each column of `columns` the type named with it, in one commit, and opens the table as
    /// it then is. Who holds this one can no longer commit.
    ///
    /// Costs a read and a write of the whole table, and memory for the rows of one file. The key
    /// index is made anew by the next write.
    ///
    /// # Errors
    ///
    /// A type that does not hold all values of the column, or that the key, a rule or a CHECK does
    /// not allow. Nothing is changed then.
    pub async fn widen(
        &self,
        columns: &[Field],
        settings: DeltaSettings,
    ) -> Result<Arc<Self>, DeltaError> {
        let next = self.widened(columns)?;
        let mut writer = self.writer.lock().await;
        let mut known = Rewritten::new();
        for _ in 0..RACES_MAX {
            self.catch_up(&mut writer).await?;
            self.prepare(&mut writer).await?;
            let mut raw = vec![with_types(&writer.snapshot, &next.schema)?];
            for file in writer.files.iter() {
                raw.push(self.removed(file));
                let owed = writer.owed.get(&file.ordinal);
                let old = known.get(&file.path).filter(|(old, _)| is_same_vector(old, file));
                match (old, owed) {
                    (Some((_, lines)), None) => raw.extend(lines.iter().cloned()),
                    _ => {
                        let lines = self.rewritten(file, owed, &next).await?;
                        raw.extend(lines.iter().cloned());
                        if owed.is_none() {
                            known.insert(file.path.clone(), (Arc::clone(file), lines));
                        }
                    }
                }
            }
            let change = Change { raw, operation: Some("CHANGE COLUMN"), ..Change::default() };
            if self.send(&mut writer, change, &Vectors::new()).await? {
                writer.index = None; // of files that are gone
                return self.altered(writer, settings).await;
            }
        }
        Err(busy().into())
    }

    /// Refuses a version whose files have other types than the table has now.
    pub(super) async fn refuse_other_types(&self, version: u64) -> Result<(), DeltaError> {
        let then = from_kernel(&self.log.at(version).await?.schema())?;
        for field in then.fields() {
            let Ok(now) = self.shape.schema.field_with_name(field.name()) else { continue };
            let (name, then, now) = (field.name(), field.data_type(), now.data_type());
            if then != now {
                let reason = format!(
                    "column {name} was {then} in version {version} and is {now} now, so its files \
                     cannot come back; write INSERT OVERWRITE {table} SELECT * FROM {table} VERSION \
                     AS OF {version}, which leaves pipelines where they are",
                    table = self.name()
                );
                return Err(DeltaError::Definition { table: self.name().to_owned(), reason });
            }
        }
        Ok(())
    }

    /// The line that removes `file`.
    fn removed(&self, file: &LiveFile) -> String {
        let mut remove = described(file);
        remove["dataChange"] = false.into();
        remove["deletionTimestamp"] = (self.clock.now_us() / 1_000).into();
        remove["extendedFileMetadata"] = true.into();
        json!({ "remove": remove }).to_string()
    }

    /// Writes the live rows of `file` again, without those that are `owed` a mask; returns the lines
    /// that add them.
    async fn rewritten(
        &self,
        file: &LiveFile,
        owed: Option<&RoaringTreemap>,
        next: &RowShape,
    ) -> Result<Vec<String>, DeltaError> {
        let mut batches = Vec::new();
        for (rows, numbers) in read_file(&self.location, file, &next.file).await? {
            batches.push(match owed {
                Some(owed) => {
                    let keep = numbers.iter().map(|row| Some(!owed.contains(u64::from(*row))));
                    filter_record_batch(&rows, &keep.collect::<BooleanArray>())?
                }
                None => rows,
            });
        }
        let rows = concat_batches(&next.file, &batches)?;
        drop(batches);
        next.refuse_violations(&rows)?;
        let now_ms = self.clock.now_us() / 1_000;
        let mut lines = Vec::new();
        let partitioning = &next.partitioning;
        let hashes = vec![0; rows.num_rows()]; // nobody asks for them: the index is made anew
        let held = partitioning.held(&next.schema);
        for written in write_files(&self.location, partitioning, &rows, &hashes, now_ms).await? {
            written.upload.done().await?;
            let add = json!({ "add": {
                "path": written.path,
                "partitionValues": written.partition,
                "size": written.size_bytes,
                "modificationTime": now_ms,
                "dataChange": false,
                "stats": stats_of(&written.rows, &held)?,
            } });
            lines.push(add.to_string());
        }
        Ok(lines)
    }

    /// The table's shape with the types of `columns`.
    fn widened(&self, columns: &[Field]) -> Result<RowShape, DeltaError> {
        let (name, own) = (self.name(), &self.shape);
        let wrong = |reason: String| DeltaError::Definition { table: name.to_owned(), reason };
        let declared = Schema::new(columns.to_vec());
        let input = retyped(&own.input, &declared);
        let input = normalise(name, &input, self.primary_key())?; // in the types that Delta keeps
        for column in columns {
            let column = column.name();
            let old = own.schema.field_with_name(column);
            let old = old.map_err(|_| wrong(format!("there is no column {column}")))?.data_type();
            let new = input.field_with_name(column)?.data_type();
            if !is_wider(old, new) {
                return Err(wrong(format!(
                    "column {column} is {old}, and not all its values need be {new}; a type can \
                     become a larger integer, DOUBLE (from INT and smaller, or FLOAT), or a DECIMAL \
                     with room; for anything else write the rows into a new table"
                )));
            }
            let is_key = self.primary_key().contains(column);
            if is_key && !(old.is_integer() && new.is_integer() || old.is_decimal()) {
                let reason =
                    format!("column {column} is in the PRIMARY KEY: {new} has other hashes");
                return Err(wrong(reason));
            }
            if own.partitioning.has(column) {
                return Err(wrong(format!(
                    "column {column} is in PARTITIONED BY: write the rows into a new table"
                )));
            }
            if own.rules.sequence_by.contains(column) {
                return Err(wrong(format!(
                    "column {column} is in 'sequence_by': deletes are remembered with values of its \
                     type"
                )));
            }
        }
        let options: HashMap<String, String> = self.options.clone().into_iter().collect();
        TableRules::try_new(name, &input, self.primary_key(), &options)?;
        let (schema, file) = (retyped(&own.schema, &input), retyped(&own.file, &input));
        let checks = Checks::of_property(name, &schema, own.checks.to_property())?;
        Ok(RowShape { input, schema, file, checks: Arc::new(checks), ..own.clone() })
    }
}

/// The fields of `schema`, in the types that `types` has for them.
fn retyped(schema: &Schema, types: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|own| match types.field_with_name(own.name()) {
        Ok(other) => own.as_ref().clone().with_data_type(other.data_type().clone()),
        Err(_) => own.as_ref().clone(),
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Whether every value of `from` is one of `to`, and they are not the same type.
fn is_wider(from: &DataType, to: &DataType) -> bool {
    use DataType as T;
    match (from, to) {
        (T::Int8, T::Int16 | T::Int32 | T::Int64 | T::Float64)
        | (T::Int16, T::Int32 | T::Int64 | T::Float64)
        | (T::Int32, T::Int64 | T::Float64)
        | (T::Float32, T::Float64) => true,
        (T::Decimal128(..), T::Decimal128(..)) if from == to => false,
        (_, T::Decimal128(precision, scale)) => {
            let Some((whole, fraction)) = digits(from) else { return false };
            i16::from(*precision) - i16::from(*scale) >= whole && i16::from(*scale) >= fraction
        }
        _ => false,
    }
}

/// The digits that values of an exact type have at most, before and behind the point.
fn digits(data_type: &DataType) -> Option<(i16, i16)> {
    Some(match data_type {
        DataType::Int8 => (3, 0),
        DataType::Int16 => (5, 0),
        DataType::Int32 => (10, 0),
        DataType::Int64 => (19, 0),
        DataType::Decimal128(precision, scale) => {
            (i16::from(*precision) - i16::from(*scale), i16::from(*scale))
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delta::foreign;
    use crate::delta::tests::{batch, open, settings};
    use crate::store::Location;
    use object_store::memory::InMemory;

    use DataType::{Date32, Decimal128, Float32, Float64, Int8, Int16, Int32, Int64, Utf8};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn rows_that_another_writer_made_double_are_there_once_in_the_wider_table() {
        let location = Location::from_store("memory:///t", Arc::new(InMemory::new())).unwrap();
        let table = open(&location, settings()).await.unwrap();
        let rows = |rows: &[(i64, i64)]| vec![batch(0, rows).project(&[0, 1]).unwrap()];
        let _ = table.write_once(rows(&[(1, 10), (2, 20), (3, 30)]), "first").await.unwrap();
        foreign::append(&location, &[(2, 21), (4, 40)]).await;
        let wider = [Field::new("v", Decimal128(19, 0), true)];
        let table = table.widen(&wider, settings()).await.unwrap();
        let counts = table.view().files.iter().map(|file| file.rows).collect::<Vec<_>>();
        assert_eq!(counts, [2, 2], "the row that lost is gone");
        assert_eq!(table.rows(), 4);
        let done = table.write_once(rows(&[(2, 22), (5, 50)]), "second").await.unwrap();
        assert_eq!((done.rows_updated, done.rows_inserted), (1, 1));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_writer_that_commits_meanwhile_loses_no_row_and_is_then_told() {
        let location = Location::from_store("memory:///t", Arc::new(InMemory::new())).unwrap();
        let quiet = DeltaSettings { compact_rows_min: 0, ..settings() };
        let (one, two) =
            (open(&location, quiet).await.unwrap(), open(&location, quiet).await.unwrap());
        let rows = |key: i64| vec![batch(0, &[(key, 0), (key + 1, 1)]).project(&[0, 1]).unwrap()];
        for key in 0..30 {
            let _ = one.write_once(rows(key), &format!("before {key}")).await.unwrap();
        }
        let writes = async {
            for key in 30..230 {
                let Err(error) = two.write_once(rows(key), &format!("during {key}")).await else {
                    continue;
                };
                assert!(error.to_string().contains("changed the schema"), "{error}");
                return key as u64;
            }
            230
        };
        let wider = [Field::new("v", Decimal128(19, 0), true)];
        let (table, written) = tokio::join!(one.widen(&wider, quiet), writes);
        let table = table.unwrap();
        assert_eq!(table.rows(), written + 1, "keys 0 to the last one written");
        assert!(two.write_once(rows(0), "after").await.is_err(), "it knows the old columns only");
        let done = table.write_once(rows(written as i64), "last").await.unwrap();
        assert_eq!((done.rows_updated, done.rows_inserted), (1, 1), "of {written}");
    }

    #[test]
    fn a_type_is_wider_if_it_holds_every_value() {
        for (from, to, expected) in [
            (Int8, Int16, true),
            (Int32, Int64, true),
            (Int64, Int32, false),
            (Int32, Int32, false),
            (Int32, Float64, true),
            (Int64, Float64, false),
            (Int32, Float32, false),
            (Float32, Float64, true),
            (Float64, Float32, false),
            (Int32, Decimal128(10, 0), true),
            (Int32, Decimal128(12, 3), false),
            (Int32, Decimal128(13, 3), true),
            (Int64, Decimal128(18, 0), false),
            (Int64, Decimal128(19, 0), true),
            (Decimal128(10, 2), Decimal128(12, 4), true),
            (Decimal128(10, 2), Decimal128(11, 4), false),
            (Decimal128(10, 2), Decimal128(12, 1), false),
            (Decimal128(10, 2), Decimal128(10, 2), false),
            (Decimal128(10, 2), Float64, false),
            (Float64, Decimal128(38, 10), false),
            (Utf8, Int32, false),
            (Int32, Utf8, false),
            (Date32, Int64, false),
        ] {
            assert_eq!(is_wider(&from, &to), expected, "{from} to {to}");
        }
    }
}
