//! What a file source is told about its files.

/// How rows are written in files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileFormat {
    /// One JSON object per line.
    Json,
    /// Comma-separated values.
    Csv(CsvOptions),
    /// Apache Parquet.
    Parquet,
}

/// How comma-separated values are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsvOptions {
    /// Whether the first record names the columns; columns go by their place all the same.
    pub has_header: bool,
    /// Between two values. Default comma.
    pub delimiter: u8,
    /// Around values that hold a delimiter or a line end. Default double quote.
    pub quote: u8,
    /// Before a quote inside quotes, besides doubling it. Default none.
    pub escape: Option<u8>,
}

impl Default for CsvOptions {
    fn default() -> Self {
        Self { has_header: true, delimiter: b',', quote: b'"', escape: None }
    }
}

/// What happens to a row that cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BadRows {
    /// The read fails and names file, line and reason.
    #[default]
    Error,
    /// The row is skipped and counted.
    Skip,
}

/// What the order of paths says about event time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FileOrder {
    /// Nothing: files were written side by side.
    #[default]
    Any,
    /// Path order is time order up to the watermark's delay.
    EventTime,
}

/// Options of a file source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilesOptions {
    /// The format of all files.
    pub format: FileFormat,
    /// `gzip`, `zstd` or none; where that is not said the name of each file tells.
    pub compression: Option<String>,
    /// What happens to rows that cannot be read.
    pub bad_rows: BadRows,
    /// What the order of paths says.
    pub order: FileOrder,
    /// How much later than its siblings a file may land and not be late, in microseconds. Default
    /// 1 hour.
    pub file_delay_us: i64,
}

impl FilesOptions {
    /// Options with the defaults.
    #[must_use]
    pub const fn new(format: FileFormat) -> Self {
        Self {
            format,
            compression: None,
            bad_rows: BadRows::Error,
            order: FileOrder::Any,
            file_delay_us: 3_600_000_000,
        }
    }
}

impl FileFormat {
    /// Endings of the files of a folder that belong to the source, without compression.
    pub(super) const fn endings(&self) -> &'static [&'static str] {
        match self {
            Self::Json => &["json", "ndjson", "jsonl"],
            Self::Csv(_) => &["csv", "tsv"],
            Self::Parquet => &["parquet"],
        }
    }
}
