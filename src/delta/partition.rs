//! Partitions: the columns whose values name the folders of a table.
//!
//! ```text
//!   value of a row   ->  partitionValues of the log  ->  folder  ->  path in the log
//!   'US/East'            US/East          region=US%2FEast           region=US%252FEast
//!   NULL, or ''          null             region=__HIVE_DEFAULT_PARTITION__
//! ```
//!
//! # Invariants
//!
//! 1. All rows of a data file have the same values in these columns, and the file does not hold
//!    them: the log does.
//! 2. The log alone says to which partition a file belongs; the folder is only a name for people.
//! 3. An empty text is NULL, as Delta cannot tell them apart.

use super::DeltaError;
use super::data::FileRows;
use super::schema::kernel_type;
use arrow::array::{Array, ArrayRef, StringArray, UInt32Array};
use arrow::compute::kernels::cmp::eq;
use arrow::compute::{nullif, take_record_batch};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, SortField};
use datafusion::common::ScalarValue;
use delta_kernel::engine::arrow_conversion::scalar::extract_primitive_scalar;
use delta_kernel::expressions::Scalar;
use delta_kernel::partition::serialization::serialize_partition_value;
use delta_kernel::schema::DataType as KernelType;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The values of the partition columns, as the log writes them; a missing one is NULL.
pub(super) type Values = BTreeMap<String, Option<String>>;

/// Partitions at most that one commit writes rows of: each is a file.
pub(super) const PARTITIONS_MAX: usize = 10_000;
/// Bytes of a folder's name at most, and of those in one another; where they are longer the file
/// lies beside the folders.
const FOLDER_BYTES_MAX: usize = 255;
const FOLDERS_BYTES_MAX: usize = 512;
const NULL_FOLDER: &str = "__HIVE_DEFAULT_PARTITION__";
/// The first and the last day that a partition can be named by: years 1 to 9999.
const DAYS: std::ops::RangeInclusive<i64> = -719_162..=2_932_896;
const DAY_US: i64 = 86_400_000_000;

/// The columns that partition a table; none in most.
#[derive(Clone, Debug, Default)]
pub(super) struct Partitioning {
    table: String,
    fields: Fields,
}

impl Partitioning {
    /// A table of the columns `stored`, partitioned by those of the names `names`.
    ///
    /// # Errors
    ///
    /// [`DeltaError::Definition`] for columns that cannot partition a table, with the reason.
    pub(super) fn try_new(
        table: &str,
        stored: &Schema,
        names: &[String],
    ) -> Result<Self, DeltaError> {
        let wrong = |reason: String| {
            let reason = format!("PARTITIONED BY ({}): {reason}", names.join(", "));
            DeltaError::Definition { table: table.to_owned(), reason }
        };
        let mut fields: Vec<FieldRef> = Vec::with_capacity(names.len());
        for name in names {
            let field = stored.field_with_name(name);
            let field = field.map_err(|_| wrong(format!("the table stores no column {name}")))?;
            let data_type = field.data_type();
            let is_binary = matches!(data_type, DataType::Binary);
            if data_type.is_nested() || data_type.is_floating() || is_binary {
                return Err(wrong(format!("a {data_type} such as {name} names no partition")));
            }
            if fields.iter().any(|known| known.name() == name) {
                return Err(wrong(format!("{name} is there twice")));
            }
            fields.push(Arc::new(field.clone()));
        }
        if !fields.is_empty() && fields.len() == stored.fields().len() {
            return Err(wrong("one column at least must be left for the files".to_owned()));
        }
        Ok(Self { table: table.to_owned(), fields: fields.into() })
    }

    /// The columns, in the order of the folders.
    pub(super) const fn fields(&self) -> &Fields {
        &self.fields
    }

    /// Their names.
    pub(super) fn names(&self) -> Vec<String> {
        self.fields.iter().map(|field| field.name().clone()).collect()
    }

    /// Whether the column of that name partitions the table.
    pub(super) fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|field| field.name() == name)
    }

    /// The columns of `schema` that files hold.
    pub(super) fn held(&self, schema: &SchemaRef) -> SchemaRef {
        if self.fields.is_empty() {
            return Arc::clone(schema);
        }
        let held = schema.fields().iter().filter(|field| !self.has(field.name()));
        Arc::new(Schema::new(held.cloned().collect::<Fields>()))
    }

    /// How the columns `declared` differ from these, in words.
    pub(super) fn difference(&self, declared: &[String]) -> Option<String> {
        let found = self.names();
        let shown = |names: &[String]| names.join(", ");
        match (found.as_slice(), declared) {
            (found, declared) if found == declared => None,
            ([], declared) => Some(format!("it is not partitioned by ({})", shown(declared))),
            (found, []) => Some(format!("it is partitioned by ({})", shown(found))),
            (found, declared) => {
                let (found, declared) = (shown(found), shown(declared));
                Some(format!("it is partitioned by ({found}), not by ({declared})"))
            }
        }
    }

    /// A column as the table keeps it: an empty text that would name a partition is NULL.
    pub(super) fn normal(&self, name: &str, column: ArrayRef) -> Result<ArrayRef, DeltaError> {
        if self.fields.is_empty() || *column.data_type() != DataType::Utf8 || !self.has(name) {
            return Ok(column);
        }
        let empty = eq(&column, &StringArray::new_scalar(""))?;
        Ok(nullif(&column, &empty)?)
    }

    /// Puts the rows of a partition next to each other, with the words that go with them.
    pub(super) fn gather<T: Copy>(
        &self,
        rows: RecordBatch,
        words: Vec<T>,
    ) -> Result<(RecordBatch, Vec<T>), DeltaError> {
        if self.fields.is_empty() {
            return Ok((rows, words));
        }
        let order: Vec<u32> =
            self.split(&rows)?.into_iter().flat_map(|(_, numbers)| numbers).collect();
        let words = order.iter().map(|row| words[*row as usize]).collect();
        Ok((take_record_batch(&rows, &UInt32Array::from(order))?, words))
    }

    /// Whether the table has no partitions.
    pub(super) fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Cuts rows, and their hashes, into those of each partition, whose order stays. In a table without
    /// partitions the hashes may be missing.
    pub(super) fn cut(
        &self,
        rows: RecordBatch,
        hashes: Vec<u128>,
    ) -> Result<Vec<FileRows>, DeltaError> {
        if self.fields.is_empty() {
            let (partition, folder) = (Values::new(), String::new());
            return Ok(vec![FileRows { partition, folder, rows, hashes }]);
        }
        let schema = rows.schema();
        let held: Vec<usize> =
            (0..schema.fields().len()).filter(|at| !self.has(schema.field(*at).name())).collect();
        let kept = rows.project(&held)?;
        let mut parts = Vec::new();
        for (partition, numbers) in self.split(&rows)? {
            let hashes = numbers.iter().map(|row| hashes[*row as usize]).collect();
            let own = take_record_batch(&kept, &UInt32Array::from(numbers))?;
            let folder = self.folder(&partition);
            parts.push(FileRows { partition, folder, rows: own, hashes });
        }
        Ok(parts)
    }

    /// The rows of each partition, by number; partitions in the order in which they come.
    fn split(&self, rows: &RecordBatch) -> Result<Vec<(Values, Vec<u32>)>, DeltaError> {
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.fields.len());
        for field in &self.fields {
            columns.push(Arc::clone(rows.column(rows.schema().index_of(field.name())?)));
        }
        let fields = self.fields.iter().map(|own| SortField::new(own.data_type().clone()));
        let converter = RowConverter::new(fields.collect())?;
        let keys = converter.convert_columns(&columns)?;
        let mut known: HashMap<&[u8], usize> = HashMap::new();
        let mut parts: Vec<(Values, Vec<u32>)> = Vec::new();
        for number in 0..rows.num_rows() {
            let key = keys.row(number).data();
            let part = match known.get(key) {
                Some(part) => *part,
                None => {
                    self.refuse_many(parts.len() + 1)?;
                    known.insert(key, parts.len());
                    parts.push((self.values(&columns, number)?, Vec::new()));
                    parts.len() - 1
                }
            };
            parts[part].1.push(number as u32);
        }
        Ok(parts)
    }

    /// Refuses rows of more partitions than one commit writes.
    pub(super) fn refuse_many(&self, partitions: usize) -> Result<(), DeltaError> {
        if partitions <= PARTITIONS_MAX {
            return Ok(());
        }
        let names = self.names().join(", ");
        Err(self.wrong(format!(
            "one commit writes rows of {PARTITIONS_MAX} partitions at most, each of which is a \
             file; these are of more: partition by fewer values than those of ({names})"
        )))
    }

    /// What the log writes for a row.
    fn values(&self, columns: &[ArrayRef], row: usize) -> Result<Values, DeltaError> {
        let mut values = Values::new();
        for (field, column) in self.fields.iter().zip(columns) {
            let value = extract_primitive_scalar(column.as_ref(), row)?;
            let day = match &value {
                Scalar::Date(day) => i64::from(*day),
                Scalar::Timestamp(us) | Scalar::TimestampNtz(us) => us.div_euclid(DAY_US),
                _ => 0,
            };
            if !DAYS.contains(&day) {
                let name = field.name();
                let reason = format!("{name} is day {day} since 1970, outside of years 1 to 9999");
                return Err(self.wrong(reason));
            }
            values.insert(field.name().clone(), serialize_partition_value(&value)?);
        }
        Ok(values)
    }

    fn wrong(&self, reason: String) -> DeltaError {
        DeltaError::Partition { table: self.table.clone(), reason }
    }

    /// The folder of a partition as the log writes it, with a slash behind it; or nothing.
    fn folder(&self, values: &Values) -> String {
        let mut folder = String::new();
        for field in &self.fields {
            let value = values.get(field.name()).and_then(Option::as_deref);
            let value = value.map_or_else(|| NULL_FOLDER.to_owned(), hive);
            let part = format!("{}={value}", hive(field.name()));
            folder.push_str(&part);
            folder.push('/');
            if part.len() > FOLDER_BYTES_MAX || folder.len() > FOLDERS_BYTES_MAX {
                return String::new();
            }
        }
        uri(&folder)
    }
}

/// The values of partition columns without those that are NULL, however that was written.
pub(super) fn present(values: &Values) -> BTreeMap<&str, &str> {
    let given = values.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_deref()?)));
    given.filter(|(_, value)| !value.is_empty()).collect()
}

/// What the log of a table says that the column `field` of a file is.
pub(super) fn value_of(values: &Values, field: &Field) -> Result<ScalarValue, DeltaError> {
    let data_type = field.data_type();
    let text = values.get(field.name()).and_then(Option::as_deref).filter(|text| !text.is_empty());
    let damaged = |error: String| DeltaError::Damaged {
        reason: format!("partition column {} is {text:?} in the log: {error}", field.name()),
    };
    let scalar = scalar_of(text, &kernel_type(data_type)?);
    Ok(match scalar.map_err(|error| damaged(error.to_string()))? {
        Scalar::Null(_) => {
            ScalarValue::try_new_null(data_type).map_err(|error| damaged(error.to_string()))?
        }
        Scalar::String(own) => ScalarValue::Utf8(Some(own)),
        Scalar::Boolean(own) => ScalarValue::Boolean(Some(own)),
        Scalar::Byte(own) => ScalarValue::Int8(Some(own)),
        Scalar::Short(own) => ScalarValue::Int16(Some(own)),
        Scalar::Integer(own) => ScalarValue::Int32(Some(own)),
        Scalar::Long(own) => ScalarValue::Int64(Some(own)),
        Scalar::Date(own) => ScalarValue::Date32(Some(own)),
        Scalar::Timestamp(own) => {
            ScalarValue::TimestampMicrosecond(Some(own), Some(Arc::from("UTC")))
        }
        Scalar::TimestampNtz(own) => ScalarValue::TimestampMicrosecond(Some(own), None),
        Scalar::Decimal(own) => {
            ScalarValue::Decimal128(Some(own.bits()), own.precision(), own.scale() as i8)
        }
        _ => return Err(damaged(format!("no {data_type} names a partition"))),
    })
}

/// The partition column `field` of `rows` rows of a file.
pub(super) fn column_of(
    values: &Values,
    field: &Field,
    rows: usize,
) -> Result<ArrayRef, DeltaError> {
    let value = value_of(values, field)?;
    value.to_array_of_size(rows).map_err(|error| DeltaError::Damaged { reason: error.to_string() })
}

/// The value that a text of the log stands for.
pub(super) fn scalar_of(text: Option<&str>, data_type: &KernelType) -> Result<Scalar, DeltaError> {
    match (text, data_type) {
        (Some(text), KernelType::Primitive(primitive)) => Ok(primitive.parse_scalar(text)?),
        _ => Ok(Scalar::Null(data_type.clone())),
    }
}

/// `text` as Hive writes it in the name of a folder.
fn hive(text: &str) -> String {
    let escaped = |byte: u8| byte < b' ' || byte == 0x7F || b"\"#%'*/:=?\\{[]^".contains(&byte);
    encode(text, escaped)
}

/// A path as it is written in a URL.
fn uri(path: &str) -> String {
    let escaped = |byte: u8| !(b'!'..=b'~').contains(&byte) || b"\"#%<>?[\\]^`{|}".contains(&byte);
    encode(path, escaped)
}

fn encode(text: &str, escaped: impl Fn(u8) -> bool) -> String {
    let mut encoded = Vec::with_capacity(text.len());
    for byte in text.bytes() {
        if escaped(byte) {
            encoded.extend_from_slice(format!("%{byte:02X}").as_bytes());
        } else {
            encoded.push(byte);
        }
    }
    String::from_utf8_lossy(&encoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::EpochRows;
    use crate::delta::data::write_files;
    use crate::delta::files::LiveFile;
    use crate::delta::foreign;
    use crate::delta::stage::show;
    use crate::delta::table::{DeltaTable, TableDefinition};
    use crate::delta::tests::{batch, definition, index_is_what_a_scan_finds, open_as, settings};
    use crate::store::{Location, open_location};
    use arrow::array::{Date32Array, TimestampMicrosecondArray};
    use datafusion::execution::runtime_env::RuntimeEnv;
    use futures::TryStreamExt;
    use object_store::ObjectStore;
    use object_store::memory::InMemory;

    #[test]
    fn folders_are_named_as_hive_names_them_and_paths_as_urls_do() {
        let by = Partitioning::try_new("t", &schema(DataType::Utf8), &["p".to_owned()]).unwrap();
        let folder =
            |text: &str| by.folder(&Values::from([("p".to_owned(), Some(text.to_owned()))]));
        for (text, expected) in [
            ("US", "p=US/"),
            ("a%c", "p=a%2525c/"),
            ("a ", "p=a%20/"),
            ("Serbia/srb%", "p=Serbia%252Fsrb%2525/"),
            ("a{b}", "p=a%257Bb%7D/"),
            ("2024-01-01 10:00:00", "p=2024-01-01%2010%253A00%253A00/"),
            ("M\u{fc}", "p=M%C3%BC/"),
            ("\u{7f}|`<>", "p=%257F%7C%60%3C%3E/"),
            ("a&b+c$d;e,f@g!(h)~", "p=a&b+c$d;e,f@g!(h)~/"),
        ] {
            assert_eq!(folder(text), expected);
        }
        assert_eq!(by.folder(&Values::new()), "p=__HIVE_DEFAULT_PARTITION__/");
        assert_eq!(folder(&"x".repeat(253)).len(), 256);
        assert_eq!(folder(&"x".repeat(254)), "");
    }

    #[test]
    fn the_first_and_the_last_day_come_back_and_those_beyond_are_refused() {
        let edges = [*DAYS.start(), *DAYS.end(), 0, -1];
        let beyond = [*DAYS.start() - 1, *DAYS.end() + 1];
        let utc = DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some("UTC".into()));
        let local = DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, None);
        for data_type in [DataType::Date32, utc, local] {
            let schema = schema(data_type.clone());
            let by = Partitioning::try_new("t", &schema, &["p".to_owned()]).unwrap();
            let column = |day: i64| -> ArrayRef {
                let time = day * DAY_US + DAY_US - 1;
                match &data_type {
                    DataType::Date32 => Arc::new(Date32Array::from(vec![day as i32])),
                    DataType::Timestamp(_, zone) => Arc::new(
                        TimestampMicrosecondArray::from(vec![time]).with_timezone_opt(zone.clone()),
                    ),
                    other => panic!("{other}"),
                }
            };
            for day in edges {
                let values = by.values(&[column(day)], 0).unwrap();
                let found = column_of(&values, &schema.field(0).clone(), 1).unwrap();
                assert_eq!(&found, &column(day), "{values:?}");
            }
            for day in beyond {
                let error = by.values(&[column(day)], 0).unwrap_err().to_string();
                assert!(error.contains("outside of years 1 to 9999"), "{error}");
            }
        }
    }

    #[test]
    fn times_and_numbers_of_other_writers_are_read() {
        let read = |text: &str, data_type: DataType| {
            let values = Values::from([("p".to_owned(), Some(text.to_owned()))]);
            let value = value_of(&values, schema(data_type).field(0));
            value.map(|value| value.to_string()).map_err(|error| error.to_string())
        };
        let utc = DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some("UTC".into()));
        for (text, data_type, expected) in [
            ("1970-01-01 00:00:01", utc.clone(), "1000000"),
            ("1970-01-01T00:00:01.5Z", utc, "1500000"),
            ("1.5", DataType::Decimal128(10, 1), "1.5"),
            ("", DataType::Utf8, "NULL"),
            ("TRUE", DataType::Boolean, "true"),
        ] {
            assert_eq!(read(text, data_type).unwrap(), expected, "{text}");
        }
        let wrong = read("x1", DataType::Int32).unwrap_err();
        assert!(wrong.contains("partition column p is Some(\"x1\") in the log"), "{wrong}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn files_are_listed_under_the_names_that_vacuum_compares() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a ~ b").display().to_string();
        let location = open_location(&path, &HashMap::new(), &RuntimeEnv::default()).unwrap();
        let by = Partitioning::try_new("t", &schema(DataType::Utf8), &["p".to_owned()]).unwrap();
        let texts = ["a/b", "100%25 ~", "M\u{fc}", "#?<>|{}^[]`'\"", "\t\u{7f}\\", ""];
        let columns: Vec<ArrayRef> = vec![
            by.normal("p", Arc::new(StringArray::from_iter_values(texts))).unwrap(),
            Arc::new(arrow::array::Int64Array::from_iter_values(0..texts.len() as i64)),
        ];
        let rows = RecordBatch::try_new(Arc::new(schema(DataType::Utf8)), columns).unwrap();
        let hashes: Vec<u128> = (0..texts.len() as u128).collect();
        let files = write_files(&location, &by, &rows, &hashes, 0).await.unwrap();
        assert_eq!(files.len(), texts.len());
        for file in &files {
            file.upload.done().await.unwrap();
        }
        let mut written: Vec<String> =
            files.iter().map(|file| LiveFile::object(&location, &file.path).to_string()).collect();
        let listed = location.store.list(Some(&location.path("")));
        let listed: Vec<_> = listed.try_collect().await.unwrap();
        let mut listed: Vec<String> =
            listed.into_iter().map(|object| object.location.to_string()).collect();
        written.sort();
        listed.sort();
        assert_eq!(listed, written);
        let url = |path: &str| location.url.join(path).unwrap();
        for file in &files {
            let same = location.url.make_relative(&url(&file.path));
            assert_eq!(same.as_deref(), Some(file.path.as_str()), "the kernel keeps it as it is");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn partitions_that_another_engine_writes_deletes_and_compacts_are_taken_over() {
        let location = Location::from_store("memory:///t", Arc::new(InMemory::new())).unwrap();
        let open = async || {
            let definition = TableDefinition { partition_by: vec!["s".to_owned()], ..definition() };
            open_as(&location, Some(definition), settings()).await.unwrap()
        };
        let table: Arc<DeltaTable> = open().await;
        let write = async |rows: &[(i64, i64)]| {
            let rows = EpochRows { partitions: vec![vec![batch(0, rows)]] };
            let staged = table.stage_rows(rows).await.unwrap();
            table.write(&staged, None).await.unwrap();
        };
        write(&[(1, 2), (2, 4), (3, 5)]).await;
        index_is_what_a_scan_finds(&table).await;
        foreign::append(&location, &[(2, 3), (4, 6), (7, 7)]).await;
        write(&[(1, 3)]).await;
        index_is_what_a_scan_finds(&table).await;
        foreign::delete(&location, 3..5).await;
        foreign::compact(&location).await;
        write(&[(7, 8)]).await;
        index_is_what_a_scan_finds(&table).await;
        for table in [&table, &open().await] {
            let none = table.changes(0, table.version()).await.unwrap();
            let shown = |row| show(&none, row);
            let mut rows: Vec<String> = (0..none.num_rows()).map(shown).collect();
            rows.sort();
            let expected = [
                "{k: 1, v: 3, s: NULL, _change_type: insert}",
                "{k: 2, v: 3, s: NULL, _change_type: insert}",
                "{k: 7, v: 8, s: 7, _change_type: insert}",
            ];
            assert_eq!(rows, expected);
        }
    }

    fn schema(data_type: DataType) -> Schema {
        Schema::new(vec![
            Field::new("p", data_type, true),
            Field::new("rest", DataType::Int64, true),
        ])
    }
}
