//! The watermarks of a source: what each partition promised before each row.
//!
//! ```text
//!   wm_p(o) = max(F_p, max{ T(r) : r in p, offset < o } - d)      T capped at arrival + max_future
//!   wm      = min over active p of wm_p, never decreasing; recorded at the end of each epoch
//!   F_p     = wm of the last recorded epoch when p became active
//! ```
//!
//! Nothing here depends on how a log was cut into chunks: a running maximum per partition is
//! carried in the saved form, and `wm` moves only in [`SourceClock::end_epoch`].

use super::{Chunk, Poll, SourceError};
use crate::types::{EventTime, PartitionId, Position, Watermark, hidden_fields};
use arrow::array::cast::AsArray;
use arrow::array::types::TimestampMicrosecondType;
use arrow::array::{Array, ArrayRef, Int64Array, UInt64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema, SchemaRef, TimeUnit};
use arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// `WATERMARK FOR column AS column - delay`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatermarkSpec {
    /// The event-time column: a timestamp or date.
    pub column: String,
    /// The delay d in microseconds; at least 0.
    pub delay_us: i64,
    /// How far in microseconds a row's event time may lie after its arrival and still push the
    /// watermark. Default 5 minutes; at least 0.
    pub max_future_us: i64,
}

impl WatermarkSpec {
    /// Default of `max_future`, in microseconds.
    pub const MAX_FUTURE_US: i64 = 300_000_000;
}

/// The watermarks of one source, carried from epoch to epoch.
#[derive(Clone, Debug)]
pub struct SourceClock {
    spec: Option<WatermarkSpec>,
    drained_delay_us: Option<i64>,
    saved: Saved,
}

/// What the manifest keeps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Saved {
    /// wm as of the last recorded epoch, microseconds.
    watermark: Option<i64>,
    /// Newest capped event time of any row.
    newest: Option<i64>,
    partitions: BTreeMap<PartitionId, PartitionClock>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct PartitionClock {
    /// `F_p`.
    floor: Option<i64>,
    /// Newest capped event time of the partition's rows.
    newest: Option<i64>,
    #[serde(default)]
    is_idle: bool,
}

impl PartitionClock {
    fn watermark(&self, delay_us: i64) -> Option<i64> {
        self.floor.max(self.newest.map(|newest| newest.saturating_sub(delay_us)))
    }

    /// The watermark before each of `times`, and the newest of all, where `newest` came before.
    fn promised(&self, mut newest: i64, times: &[i64], cap: i64, delay_us: i64) -> (Vec<i64>, i64) {
        let floor = self.floor.unwrap_or(i64::MIN);
        let before = |at: &i64| {
            let promised = newest.saturating_sub(delay_us).max(floor);
            newest = newest.max((*at).min(cap));
            promised
        };
        let promised = times.iter().map(before).collect();
        (promised, newest)
    }
}

impl SourceClock {
    /// A clock that has seen nothing. `drained_delay_us` is the source's own, see
    /// [`Source::drained_delay_us`](super::Source::drained_delay_us).
    #[must_use]
    pub fn new(spec: Option<WatermarkSpec>, drained_delay_us: Option<i64>) -> Self {
        Self { spec, drained_delay_us, saved: Saved::default() }
    }

    /// Takes up where [`Self::to_json`] left off.
    pub fn restore(&mut self, saved: &serde_json::Value) -> Result<(), SourceError> {
        self.saved = serde_json::from_value(saved.clone()).map_err(|error| {
            let reason = format!("its watermarks: {error}");
            SourceError::Position { source_name: "source".to_owned(), reason }
        })?;
        Ok(())
    }

    /// What must be kept to go on later.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(&self.saved).unwrap_or_default()
    }

    /// wm as of the last recorded epoch.
    #[must_use]
    pub fn watermark(&self) -> Option<Watermark> {
        self.saved.watermark.map(|at| Watermark(EventTime(at)))
    }

    /// Newest event time seen, capped.
    #[must_use]
    pub fn newest(&self) -> Option<EventTime> {
        self.saved.newest.map(EventTime)
    }

    /// Takes note of the partitions a poll started, before any of its rows is stamped.
    pub fn start(&mut self, poll: &Poll) {
        let floor = self.saved.watermark;
        for id in &poll.started {
            let clock = PartitionClock { floor, ..PartitionClock::default() };
            self.saved.partitions.entry(id.clone()).or_insert(clock);
        }
    }

    /// The rows of `chunk` with the two hidden columns last. `ordinal` is the partition's number
    /// within the epoch and `first_row` how many of its rows the epoch has seen before.
    pub fn stamp(
        &mut self,
        chunk: &Chunk,
        ordinal: u64,
        first_row: u64,
    ) -> Result<RecordBatch, SourceError> {
        let rows = chunk.batch.num_rows() as u64;
        let invalid = |reason: String| SourceError::Invalid {
            source_name: chunk.partition.to_string(),
            reason,
        };
        if ordinal >= Position::PARTITIONS_MAX || first_row + rows >= Position::ROWS_MAX {
            return Err(invalid("more partitions or rows than one epoch can hold".to_owned()));
        }
        let watermarks = self.watermarks(chunk)?;
        let first = Position::new(ordinal, first_row).0;
        let positions = UInt64Array::from_iter_values(first..first + rows);
        let mut columns = chunk.batch.columns().to_vec();
        columns.push(Arc::new(positions));
        columns.push(Arc::new(watermarks));
        RecordBatch::try_new(stamped_schema(&chunk.batch.schema()), columns)
            .map_err(|error| invalid(error.to_string()))
    }

    /// Takes note of partitions that ended or fell idle, after the rows of their poll.
    pub fn end_poll(&mut self, poll: &Poll) {
        for id in &poll.finished {
            self.saved.partitions.remove(id);
        }
        for id in &poll.idle {
            if let Some(clock) = self.saved.partitions.get_mut(id) {
                clock.is_idle = true;
            }
        }
    }

    /// Moves wm after all rows of an epoch; the two flags are those of its last poll.
    pub fn end_epoch(&mut self, is_held: bool) {
        let Some(spec) = &self.spec else { return };
        if is_held {
            return;
        }
        let active = self.saved.partitions.values().filter(|clock| !clock.is_idle);
        let lowest = active.map(|clock| clock.watermark(spec.delay_us)).min();
        let reached = match (lowest, self.drained_delay_us, self.saved.newest) {
            (Some(lowest), _, _) => lowest,
            (None, Some(drained), Some(newest)) if self.saved.partitions.is_empty() => {
                Some(newest.saturating_sub(spec.delay_us).saturating_sub(drained))
            }
            _ => None,
        };
        self.saved.watermark = self.saved.watermark.max(reached);
    }

    fn watermarks(&mut self, chunk: &Chunk) -> Result<Int64Array, SourceError> {
        let Some(spec) = &self.spec else {
            return Ok(Int64Array::new_null(chunk.batch.num_rows()));
        };
        let floor = self.saved.watermark;
        let clock = self
            .saved
            .partitions
            .entry(chunk.partition.clone())
            .or_insert(PartitionClock { floor, ..PartitionClock::default() });
        if clock.is_idle {
            clock.is_idle = false;
            clock.floor = clock.floor.max(floor);
        }
        let times = event_times(&chunk.batch, &spec.column).map_err(|reason| {
            SourceError::Invalid { source_name: chunk.partition.to_string(), reason }
        })?;
        let cap = chunk.arrived_us.map(|at| at.saturating_add(spec.max_future_us));
        let stamped = match clock.newest {
            Some(newest) if times.null_count() == 0 => {
                let cap = cap.unwrap_or(i64::MAX);
                let (stamped, newest) = clock.promised(newest, times.values(), cap, spec.delay_us);
                clock.newest = Some(newest);
                Int64Array::from(stamped)
            }
            _ => {
                let mut stamped = Vec::with_capacity(times.len());
                for at in &times {
                    stamped.push(clock.watermark(spec.delay_us));
                    if let Some(at) = at {
                        let at = cap.map_or(at, |cap| at.min(cap));
                        clock.newest = clock.newest.max(Some(at));
                    }
                }
                Int64Array::from(stamped)
            }
        };
        self.saved.newest = self.saved.newest.max(clock.newest);
        Ok(stamped)
    }
}

/// `schema` with the two hidden columns last.
#[must_use]
pub fn stamped_schema(schema: &SchemaRef) -> SchemaRef {
    let mut fields = schema.fields().to_vec();
    fields.extend(hidden_fields().map(Arc::new));
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

fn event_times(
    batch: &RecordBatch,
    column: &str,
) -> Result<arrow::array::PrimitiveArray<TimestampMicrosecondType>, String> {
    let found = batch.column_by_name(column).ok_or_else(|| format!("there is no {column}"))?;
    let zone = match found.data_type() {
        DataType::Timestamp(_, zone) => zone.clone(),
        DataType::Date32 | DataType::Date64 => None,
        other => return Err(format!("{column} is {other}, and not a timestamp or date")),
    };
    let floor: ArrayRef = cast(found, &DataType::Timestamp(TimeUnit::Microsecond, zone))
        .map_err(|error| error.to_string())?;
    Ok(floor.as_primitive::<TimestampMicrosecondType>().clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Offset;
    use arrow::array::TimestampMicrosecondArray;
    use arrow::datatypes::Field;

    #[test]
    fn a_row_carries_what_was_promised_before_it_whatever_the_cut() {
        let times = [10, 50, 20, 70];
        let whole = stamp(&mut clock(5), &[&times]);
        let cut = stamp(&mut clock(5), &[&times[..1], &times[1..3], &times[3..]]);
        assert_eq!(whole, [None, Some(5), Some(45), Some(45)]);
        assert_eq!(whole, cut);
    }

    #[test]
    fn the_watermark_is_the_lowest_of_the_active_partitions_and_never_falls() {
        let mut clock = clock(0);
        clock.start(&Poll { started: vec![id("a"), id("b")], ..Poll::default() });
        clock.stamp(&chunk("a", &[100]), 0, 0).unwrap();
        clock.end_epoch(false);
        assert_eq!(clock.watermark(), None, "b promised nothing yet");
        clock.stamp(&chunk("b", &[40]), 1, 0).unwrap();
        clock.end_epoch(true);
        assert_eq!(clock.watermark(), None, "held");
        clock.end_epoch(false);
        assert_eq!(clock.watermark(), Some(Watermark(EventTime(40))));
        clock.end_poll(&Poll { finished: vec![id("b")], ..Poll::default() });
        clock.start(&Poll { started: vec![id("c")], ..Poll::default() });
        clock.end_epoch(false);
        assert_eq!(clock.watermark(), Some(Watermark(EventTime(40))), "c starts at 40");
    }

    #[test]
    fn a_clock_from_the_future_pushes_only_as_far_as_its_arrival_allows() {
        let mut clock = clock(0);
        let mut rows = chunk("a", &[9_000_000_000_000, 1]);
        rows.arrived_us = Some(1_000);
        let stamped = clock.stamp(&rows, 0, 0).unwrap();
        let cap = 1_000 + WatermarkSpec::MAX_FUTURE_US;
        assert_eq!(column(&stamped), [None, Some(cap)]);
    }

    #[test]
    fn a_drained_source_keeps_its_distance_from_the_newest_row() {
        let mut clock = SourceClock::new(clock(10).spec, Some(100));
        clock.stamp(&chunk("a", &[1_000]), 0, 0).unwrap();
        clock.end_poll(&Poll { finished: vec![id("a")], ..Poll::default() });
        clock.end_epoch(false);
        assert_eq!(clock.watermark(), Some(Watermark(EventTime(890))));
        let mut again = SourceClock::new(clock.spec.clone(), Some(100));
        again.restore(&clock.to_json()).unwrap();
        assert_eq!(again.watermark(), clock.watermark());
    }

    fn clock(delay_us: i64) -> SourceClock {
        let max_future_us = WatermarkSpec::MAX_FUTURE_US;
        let spec = WatermarkSpec { column: "at".to_owned(), delay_us, max_future_us };
        SourceClock::new(Some(spec), None)
    }

    fn id(name: &str) -> PartitionId {
        PartitionId(name.to_owned())
    }

    fn chunk(partition: &str, times: &[i64]) -> Chunk {
        let at = TimestampMicrosecondArray::from(times.to_vec());
        let field = Field::new("at", at.data_type().clone(), true);
        let schema = Arc::new(Schema::new(vec![field]));
        Chunk {
            partition: id(partition),
            offsets: Offset(0)..Offset(times.len() as u64),
            batch: RecordBatch::try_new(schema, vec![Arc::new(at)]).unwrap(),
            malformed: 0,
            arrived_us: None,
        }
    }

    fn stamp(clock: &mut SourceClock, cuts: &[&[i64]]) -> Vec<Option<i64>> {
        let stamped = cuts.iter().map(|cut| clock.stamp(&chunk("a", cut), 0, 0).unwrap());
        stamped.flat_map(|batch| column(&batch)).collect()
    }

    fn column(batch: &RecordBatch) -> Vec<Option<i64>> {
        let last = batch.columns().last().unwrap();
        last.as_primitive::<arrow::array::types::Int64Type>().iter().collect()
    }
}
