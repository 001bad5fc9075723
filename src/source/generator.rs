//! `GeneratorSource`: a clickstream that is a function of its seed.
//!
//! ```text
//!   row i of partition p: event_id, user, post, kind, amount, event_time  =  f(seed, p, i)
//!
//!   time   i / rows_per_second since 2026-01-01, less a random delay below `disorder`
//!   retry  every so often row i repeats an earlier row of its partition, time included
//!   late   every so often a row is an hour behind
//!   hot    one row in ten is for post 1
//! ```
//!
//! Any offset is computed in constant time, so reading from an offset costs nothing.

use super::{Chunk, Poll, PollLimits, Source, SourceError, SourceReader, SourceStart};
use crate::types::{Offset, PartitionId};
use arrow::array::{ArrayRef, Float64Array, Int64Array, StringBuilder, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

/// What the generator makes.
#[derive(Clone, Debug, PartialEq)]
pub struct GeneratorOptions {
    /// Rows in all partitions together. Default 1 000 000.
    pub rows: u64,
    /// Another seed, other rows. Default 1.
    pub seed: u64,
    /// Partitions. Default 4; at least 1.
    pub partitions: u64,
    /// Rows in a hundred that repeat an earlier row. Default 5; at most 90.
    pub duplicate_percent: f64,
    /// Rows in a hundred that come an hour late. Default 0.1; at most 90.
    pub late_percent: f64,
    /// How far rows are out of order, in microseconds. Default 10 seconds.
    pub disorder_us: u64,
    /// Different users. Default 10 000; at least 1.
    pub users: u64,
    /// Rows in one second of event time, of all partitions together. Default 1 000; at least 1.
    pub rows_per_second: u64,
}

impl Default for GeneratorOptions {
    fn default() -> Self {
        Self {
            rows: 1_000_000,
            seed: 1,
            partitions: 4,
            duplicate_percent: 5.0,
            late_percent: 0.1,
            disorder_us: 10_000_000,
            users: 10_000,
            rows_per_second: 1_000,
        }
    }
}

/// A source of made-up clicks.
#[derive(Clone, Debug)]
pub struct GeneratorSource {
    options: GeneratorOptions,
    schema: SchemaRef,
    /// Which of [`GeneratorSource::full_schema`]'s columns the schema shows.
    shown: Vec<usize>,
}

/// The event time of the first row: 2026-01-01T00:00:00Z.
const START_US: i64 = 1_767_225_600_000_000;
const LATE_US: i64 = 3_600_000_000;
const BATCH_ROWS: u64 = 8_192;
/// A retry repeats one of this many rows before it.
const RETRY_ROWS: u64 = 1_000;
const KINDS: [&str; 4] = ["view", "view", "like", "share"];

impl GeneratorSource {
    /// A generator that shows the columns of `declared`, or all where that is `None`.
    ///
    /// # Errors
    ///
    /// An option out of its range, or a column it does not make.
    pub fn try_new(
        options: GeneratorOptions,
        declared: Option<&Schema>,
    ) -> Result<Self, SourceError> {
        let invalid =
            |reason: String| SourceError::Invalid { source_name: "generator".to_owned(), reason };
        let percent = 0.0..=90.0;
        if options.partitions == 0 || options.users == 0 || options.rows_per_second == 0 {
            let reason = "'partitions', 'users' and 'rows_per_second' must be at least 1";
            return Err(invalid(reason.to_owned()));
        }
        if !percent.contains(&options.duplicate_percent) || !percent.contains(&options.late_percent)
        {
            let reason = "'duplicate_percent' and 'late_percent' must be between 0 and 90";
            return Err(invalid(reason.to_owned()));
        }
        let full = Self::full_schema();
        let Some(declared) = declared else {
            let shown = (0..full.fields().len()).collect();
            return Ok(Self { options, schema: full, shown });
        };
        let mut shown = Vec::with_capacity(declared.fields().len());
        for field in declared.fields() {
            let names = full.fields().iter().map(|field| field.name().as_str());
            let Ok(index) = full.index_of(field.name()) else {
                let known = names.collect::<Vec<_>>().join(", ");
                return Err(invalid(format!("no column {}; it makes {known}", field.name())));
            };
            let made = full.field(index).data_type();
            let is_text = |data_type: &DataType| {
                matches!(data_type, DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8)
            };
            let is_time = |data_type: &DataType| matches!(data_type, DataType::Timestamp(_, None));
            let fits = field.data_type() == made
                || (is_text(field.data_type()) && is_text(made))
                || (is_time(field.data_type()) && is_time(made));
            if !fits {
                let (name, declared) = (field.name(), field.data_type());
                return Err(invalid(format!("column {name} is {made}, not {declared}")));
            }
            shown.push(index);
        }
        let schema = Arc::new(full.project(&shown).map_err(|error| invalid(error.to_string()))?);
        Ok(Self { options, schema, shown })
    }

    /// All columns it makes.
    #[must_use]
    pub fn full_schema() -> SchemaRef {
        let field = |name, data_type| Field::new(name, data_type, true);
        Arc::new(Schema::new(vec![
            Field::new("event_id", DataType::Utf8, false),
            field("user_id", DataType::Int64),
            field("post_id", DataType::Int64),
            field("kind", DataType::Utf8),
            field("amount", DataType::Float64),
            field("event_time", DataType::Timestamp(TimeUnit::Microsecond, None)),
        ]))
    }

    fn rows_of(&self, partition: u64) -> u64 {
        let GeneratorOptions { rows, partitions, .. } = self.options;
        rows / partitions + u64::from(partition < rows % partitions)
    }

    fn batch(&self, partition: u64, from: u64, to: u64) -> Result<RecordBatch, SourceError> {
        let rows = (to - from) as usize;
        let mut ids = StringBuilder::with_capacity(rows, rows * 16);
        let mut kinds = StringBuilder::with_capacity(rows, rows * 5);
        let (mut users, mut posts) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
        let (mut amounts, mut times) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
        let mut id = String::with_capacity(20);
        for row in from..to {
            let row = self.original(partition, row);
            let bits = self.bits(partition, row, 0);
            id.clear();
            let _ = write!(id, "{bits:016x}"); // a bijection of (partition, row): ids are unique
            ids.append_value(&id);
            let more = mix(bits);
            users.push((more % self.options.users) as i64);
            let is_hot = (more >> 40).is_multiple_of(10);
            posts.push(if is_hot { 1 } else { ((more >> 20) % 100_000) as i64 + 2 });
            kinds.append_value(KINDS[(more >> 10) as usize % KINDS.len()]);
            amounts.push(f64::from((more >> 32) as u32 % 10_000) / 100.0);
            times.push(self.time(partition, row));
        }
        let columns: [ArrayRef; 6] = [
            Arc::new(ids.finish()),
            Arc::new(Int64Array::from(users)),
            Arc::new(Int64Array::from(posts)),
            Arc::new(kinds.finish()),
            Arc::new(Float64Array::from(amounts)),
            Arc::new(TimestampMicrosecondArray::from(times)),
        ];
        let shown = self.shown.iter().map(|index| Arc::clone(&columns[*index])).collect();
        RecordBatch::try_new(Arc::clone(&self.schema), shown).map_err(|error| {
            SourceError::Invalid { source_name: "generator".to_owned(), reason: error.to_string() }
        })
    }

    /// The row that `row` repeats, or itself.
    fn original(&self, partition: u64, row: u64) -> u64 {
        let chance = self.bits(partition, row, 1);
        if row == 0 || percent(chance) >= self.options.duplicate_percent {
            return row;
        }
        row - 1 - mix(chance) % row.min(RETRY_ROWS)
    }

    fn time(&self, partition: u64, row: u64) -> i64 {
        let GeneratorOptions { partitions, rows_per_second, disorder_us, late_percent, .. } =
            self.options;
        let number = u128::from(row) * u128::from(partitions) + u128::from(partition);
        let planned = (number * 1_000_000 / u128::from(rows_per_second)) as i64;
        let chance = self.bits(partition, row, 2);
        let delay = mix(chance) % disorder_us.max(1);
        let late = if percent(chance) < late_percent { LATE_US } else { 0 };
        START_US + planned - delay as i64 - late
    }

    fn bits(&self, partition: u64, row: u64, salt: u64) -> u64 {
        let seeded = mix(self.options.seed.wrapping_mul(4).wrapping_add(salt));
        mix(seeded ^ (partition << 48 | row))
    }
}

/// The finaliser of splitmix64: a bijection.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

fn percent(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1_u64 << 53) as f64 * 100.0
}

#[async_trait]
impl Source for GeneratorSource {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn fingerprint(&self) -> String {
        let columns: Vec<&str> = self.schema.fields().iter().map(|f| f.name().as_str()).collect();
        let GeneratorOptions { rows: _, seed, partitions, users, .. } = self.options;
        let GeneratorOptions { duplicate_percent, late_percent, .. } = self.options;
        let GeneratorOptions { disorder_us, rows_per_second, .. } = self.options;
        format!(
            "generator seed={seed} partitions={partitions} duplicate_percent={duplicate_percent} \
             late_percent={late_percent} disorder_us={disorder_us} users={users} \
             rows_per_second={rows_per_second} columns={}",
            columns.join(",")
        )
    }

    async fn open(&self, start: SourceStart) -> Result<Box<dyn SourceReader>, SourceError> {
        let stored = start.position.map(|position| position.partitions).unwrap_or_default();
        let next = (0..self.options.partitions).map(|partition| {
            let offset = stored.get(&name(partition)).copied();
            (partition, offset)
        });
        Ok(Box::new(GeneratorReader { source: self.clone(), next: next.collect(), turn: 0 }))
    }

    async fn position_at(&self, _: i64) -> Result<SourceStart, SourceError> {
        Ok(SourceStart::default()) // made rows have no arrival time
    }
}

fn name(partition: u64) -> PartitionId {
    PartitionId(format!("{partition}"))
}

/// The partitions take turns, a batch each, so that they advance together.
#[derive(Debug)]
struct GeneratorReader {
    source: GeneratorSource,
    /// The next offset of each partition; `None` before it was started.
    next: BTreeMap<u64, Option<Offset>>,
    turn: u64,
}

#[async_trait]
impl SourceReader for GeneratorReader {
    async fn poll(&mut self, limits: PollLimits) -> Result<Poll, SourceError> {
        let mut poll = Poll::default();
        for (partition, next) in &mut self.next {
            if next.is_none() {
                poll.started.push(name(*partition));
                *next = Some(Offset(0));
            }
        }
        let (mut rows, mut bytes) = (0, 0);
        let partitions = self.source.options.partitions;
        let mut exhausted = 0;
        while rows < limits.rows_max && bytes < limits.bytes_max && exhausted < partitions {
            let partition = self.turn % partitions;
            self.turn += 1;
            let next = self.next.entry(partition).or_default().get_or_insert(Offset(0));
            let end = self.source.rows_of(partition);
            let to = end.min(next.0 + BATCH_ROWS.min(limits.rows_max - rows));
            if next.0 >= end {
                exhausted += 1;
                continue;
            }
            exhausted = 0;
            let batch = self.source.batch(partition, next.0, to)?;
            rows += to - next.0;
            bytes += batch.get_array_memory_size() as u64;
            poll.chunks.push(Chunk {
                partition: name(partition),
                offsets: *next..Offset(to),
                batch,
                malformed: 0,
                arrived_us: None,
            });
            *next = Offset(to);
        }
        poll.is_at_end = true;
        for (partition, next) in &self.next {
            let next = next.unwrap_or_default();
            poll.is_at_end &= next.0 >= self.source.rows_of(*partition);
            poll.position.partitions.insert(name(*partition), next);
        }
        Ok(poll)
    }
}
