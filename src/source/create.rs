//! From the words of CREATE EXTERNAL TABLE to a source.

use super::files::{BadRows, CsvOptions, FileFormat, FileOrder, FilesOptions, FilesSource};
use super::{GeneratorOptions, GeneratorSource, Source, SourceError, WatermarkSpec};
use crate::store::is_store_option;
use crate::types::parse_duration_us;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::Session;
use datafusion::datasource::file_format::FileFormat as Inferring;
use datafusion::datasource::file_format::csv::CsvFormat;
use datafusion::datasource::file_format::json::JsonFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What a statement says about a source.
#[derive(Clone, Debug)]
pub struct SourceDefinition {
    /// The table's name, for messages.
    pub name: String,
    /// What is written after STORED AS.
    pub kind: String,
    /// What is written after LOCATION.
    pub location: String,
    /// The declared columns; `None` if there are none.
    pub schema: Option<SchemaRef>,
    /// What is written in OPTIONS, those of the store included.
    pub options: HashMap<String, String>,
}

/// Options as they are read one by one; what is left over was not known.
struct Options {
    table: String,
    left: BTreeMap<String, String>,
    known: Vec<&'static str>,
}

/// The source that `definition` describes, and how far in microseconds a row's event time may lie
/// after its arrival and still push the watermark (option `max_future`).
///
/// # Errors
///
/// An unknown kind or option, by name, with those there are; a value that cannot be read.
pub async fn create_source(
    definition: SourceDefinition,
    session: &dyn Session,
) -> Result<(Arc<dyn Source>, i64), SourceError> {
    let (store, own): (HashMap<_, _>, HashMap<_, _>) = definition
        .options
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .partition(|(key, _)| is_store_option(&definition.location, key));
    let plain = own.into_iter().map(|(key, value)| {
        let key = key.to_ascii_lowercase();
        (key.strip_prefix("format.").unwrap_or(&key).to_owned(), value)
    });
    let mut options =
        Options { table: definition.name.clone(), left: plain.collect(), known: Vec::new() };
    let max_future = options.duration("max_future", WatermarkSpec::MAX_FUTURE_US)?;
    let kind = definition.kind.to_ascii_uppercase();
    if kind == "GENERATOR" {
        let generator = generator(&mut options)?;
        options.end()?;
        let source = GeneratorSource::try_new(generator, definition.schema.as_deref())?;
        return Ok((Arc::new(source), max_future));
    }
    let format = match kind.as_str() {
        "JSON" | "NDJSON" => FileFormat::Json,
        "CSV" => FileFormat::Csv(csv(&mut options)?),
        "PARQUET" => FileFormat::Parquet,
        _ => {
            let reason = format!(
                "STORED AS {kind} is not a source; write JSON, NDJSON, CSV, PARQUET or GENERATOR"
            );
            return Err(SourceError::Invalid { source_name: definition.name, reason });
        }
    };
    let files = files(&mut options, format)?;
    options.end()?;
    let found =
        FilesSource::find(&definition.location, files.clone(), &store, session.runtime_env())?;
    let schema = match definition.schema {
        Some(schema) => schema,
        None => infer(&definition.name, &found, &files, session).await?,
    };
    Ok((Arc::new(found.with_schema(schema)), max_future))
}

async fn infer(
    table: &str,
    found: &super::files::FoundFiles,
    options: &FilesOptions,
    session: &dyn Session,
) -> Result<SchemaRef, SourceError> {
    const FILES: usize = 4;
    let invalid = |reason: String| SourceError::Invalid { source_name: table.to_owned(), reason };
    let (store, files) = found.first(FILES).await?;
    let Some(first) = files.first() else {
        return Err(invalid("there is no file to take the columns from; declare them".to_owned()));
    };
    let compression = found.compression(first.location.as_ref());
    let format: Box<dyn Inferring> = match &options.format {
        FileFormat::Json => Box::new(JsonFormat::default().with_file_compression_type(compression)),
        FileFormat::Parquet => Box::new(ParquetFormat::default()),
        FileFormat::Csv(csv) => Box::new(
            CsvFormat::default()
                .with_has_header(csv.has_header)
                .with_delimiter(csv.delimiter)
                .with_quote(csv.quote)
                .with_escape(csv.escape)
                .with_file_compression_type(compression),
        ),
    };
    format.infer_schema(session, &store, &files).await.map_err(|error| invalid(error.to_string()))
}

fn files(options: &mut Options, format: FileFormat) -> Result<FilesOptions, SourceError> {
    let mut files = FilesOptions::new(format);
    files.bad_rows = match options.choice("on_bad_row", &["error", "skip"])? {
        1 => BadRows::Skip,
        _ => BadRows::Error,
    };
    files.order = match options.choice("file_order", &["any", "event_time"])? {
        1 => FileOrder::EventTime,
        _ => FileOrder::Any,
    };
    files.file_delay_us = options.duration("file_delay", files.file_delay_us)?;
    for name in ["compression", "file_compression_type"] {
        if let Some(value) = options.take(name) {
            let known = ["gzip", "gz", "zstd", "zst", "uncompressed", "none"];
            if !known.contains(&value.to_ascii_lowercase().as_str()) {
                return Err(options.wrong(name, &value, "'gzip', 'zstd' or 'uncompressed'"));
            }
            files.compression = Some(value);
        }
    }
    Ok(files)
}

fn csv(options: &mut Options) -> Result<CsvOptions, SourceError> {
    let mut csv = CsvOptions::default();
    csv.has_header = match options.choice("has_header", &["true", "false"])? {
        1 => false,
        _ => csv.has_header,
    };
    csv.delimiter = options.byte("delimiter")?.unwrap_or(csv.delimiter);
    csv.quote = options.byte("quote")?.unwrap_or(csv.quote);
    csv.escape = options.byte("escape")?;
    Ok(csv)
}

fn generator(options: &mut Options) -> Result<GeneratorOptions, SourceError> {
    let default = GeneratorOptions::default();
    Ok(GeneratorOptions {
        rows: options.number("rows", default.rows)?,
        seed: options.number("seed", default.seed)?,
        partitions: options.number("partitions", default.partitions)?,
        duplicate_percent: options.number("duplicate_percent", default.duplicate_percent)?,
        late_percent: options.number("late_percent", default.late_percent)?,
        disorder_us: options.duration("disorder", default.disorder_us as i64)?.unsigned_abs(),
        users: options.number("users", default.users)?,
        rows_per_second: options.number("rows_per_second", default.rows_per_second)?,
    })
}

impl Options {
    fn take(&mut self, name: &'static str) -> Option<String> {
        self.known.push(name);
        self.left.remove(name)
    }

    fn duration(&mut self, name: &'static str, default: i64) -> Result<i64, SourceError> {
        let Some(value) = self.take(name) else { return Ok(default) };
        parse_duration_us(&value).map_err(|reason| self.wrong(name, &value, &reason))
    }

    fn number<T: std::str::FromStr>(
        &mut self,
        name: &'static str,
        default: T,
    ) -> Result<T, SourceError> {
        let Some(value) = self.take(name) else { return Ok(default) };
        value.replace('_', "").parse().map_err(|_| self.wrong(name, &value, "a number"))
    }

    fn byte(&mut self, name: &'static str) -> Result<Option<u8>, SourceError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match value.as_bytes() {
            [byte] => Ok(Some(*byte)),
            [b'\\', b't'] => Ok(Some(b'\t')),
            _ => Err(self.wrong(name, &value, "one character")),
        }
    }

    fn choice(&mut self, name: &'static str, values: &[&str]) -> Result<usize, SourceError> {
        let Some(value) = self.take(name) else { return Ok(0) };
        let found = values.iter().position(|known| value.eq_ignore_ascii_case(known));
        found.ok_or_else(|| {
            let quoted: Vec<String> = values.iter().map(|known| format!("'{known}'")).collect();
            self.wrong(name, &value, &quoted.join(" or "))
        })
    }

    fn wrong(&self, name: &str, value: &str, expected: &str) -> SourceError {
        SourceError::Invalid {
            source_name: self.table.clone(),
            reason: format!("option '{name}' cannot be '{value}': {expected}"),
        }
    }

    /// Refuses what was not asked for.
    fn end(self) -> Result<(), SourceError> {
        let Some((name, _)) = self.left.first_key_value() else { return Ok(()) };
        let known = self.known.join(", ");
        let reason = format!("no option '{name}'; there are {known}");
        Err(SourceError::Invalid { source_name: self.table, reason })
    }
}
