//! The changes of a table as rows: those that went, and then those that came.
//!
//! ```text
//!   rows live at `from` and not at `to`   ---+--- but those that are in both ---> -1
//!   rows live at `to` and not at `from`   ---+                               ---> +1
//! ```
//!
//! The same two versions give the same rows in the same order, whoever asks: files are taken in the
//! order of their paths. Rows that a table compaction only moved are in both; so many that they do
//! not fit into memory are shown as having gone and come, which is the same in the end.
//!
//! Another engine may write a row whose key is there. When one of the two goes, the other is shown
//! as gone and come once more, last: who keeps rows by their keys would else lose it.

use super::DeltaError;
use super::actions::Actions;
use super::changes::{Part, missing_parts};
use super::data::read_some;
use super::files::Files;
use super::log::table_id;
use super::patch::{Keyed, missing, read_all};
use super::table::{DeltaTable, TableView};
use crate::types::CHANGE_COLUMN;
use arrow::array::cast::AsArray;
use arrow::array::types::Int64Type;
use arrow::array::{ArrayRef, BooleanArray, Int64Array, UInt32Array};
use arrow::compute::{concat_batches, filter_record_batch, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, SortField};
use futures::{StreamExt, TryStreamExt};
use roaring::RoaringTreemap;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

/// Rows that are compared in memory at most.
const NETTED_MAX: u64 = 1 << 21;
/// Rows read at once at most, and at least.
const READ_MAX: u64 = 1 << 18;
const READ_MIN: u64 = 1 << 10;
/// Bytes of a data file read at once, about.
const READ_BYTES: u64 = 16 << 20;

/// Commits read side by side.
const READS: usize = 16;

/// A version of a table, with all its files.
#[derive(Clone, Debug)]
pub struct TableVersion(Arc<TableView>);

impl TableVersion {
    /// Its number.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.0.version
    }

    /// Whether `other` has the same rows of the same files.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let (one, two) = (&self.0.files, &other.0.files);
        one.is_same(two) || missing_parts(one, two).is_empty() && missing_parts(two, one).is_empty()
    }
}

/// What one version has and another has not, as rows with [`CHANGE_COLUMN`] last.
#[derive(Debug)]
pub struct Difference {
    table: Arc<DeltaTable>,
    to: TableVersion,
    parts: Vec<(i64, Part)>,
    /// The rows, where they were compared.
    netted: Option<RecordBatch>,
}

impl DeltaTable {
    /// What identifies the table, wherever it is.
    pub async fn id(&self) -> String {
        table_id(&self.writer.lock().await.snapshot)
    }

    /// The columns of its changes.
    #[must_use]
    pub fn feed_schema(&self) -> SchemaRef {
        let mut fields = self.shape.schema.fields().to_vec();
        fields.push(Arc::new(Field::new(CHANGE_COLUMN, DataType::Int64, false)));
        Arc::new(Schema::new(fields))
    }

    /// The newest version, also of those that others have committed.
    ///
    /// # Errors
    ///
    /// A store that does not answer, or a log that cannot be read.
    pub async fn newest(&self) -> Result<TableVersion, DeltaError> {
        self.refresh().await?;
        Ok(TableVersion(self.view()))
    }

    /// Version `number`.
    ///
    /// # Errors
    ///
    /// [`DeltaError::NotRetained`] for a version that is not kept.
    pub async fn version_of(&self, number: u64) -> Result<TableVersion, DeltaError> {
        self.view_at(number).await.map(TableVersion)
    }

    /// How many milliseconds lie between the commits of two versions; `None` if the log no longer
    /// tells.
    ///
    /// # Errors
    ///
    /// A store that does not answer, or a log that cannot be read.
    pub async fn time_between(&self, from: u64, to: u64) -> Result<Option<i64>, DeltaError> {
        let (from, to) = (self.log.actions(from).await?, self.log.actions(to).await?);
        let at = |own: Option<Actions>| own.and_then(|own| own.at_ms);
        Ok(at(from).zip(at(to)).map(|(from, to)| to.saturating_sub(from)))
    }

    /// What version `to` has that version `from` has not, and the other way round; `None` is a
    /// table without rows.
    ///
    /// # Errors
    ///
    /// A file that cannot be read: of versions that are no longer kept they may be deleted.
    pub async fn changed_between(
        self: &Arc<Self>,
        from: Option<&TableVersion>,
        to: &TableVersion,
    ) -> Result<Difference, DeltaError> {
        self.changed_within(from, to, NETTED_MAX).await
    }

    /// The same, of which at most `netted_max` rows are compared in memory.
    pub(super) async fn changed_within(
        self: &Arc<Self>,
        from: Option<&TableVersion>,
        to: &TableVersion,
        netted_max: u64,
    ) -> Result<Difference, DeltaError> {
        let mut whole =
            Difference { table: Arc::clone(self), to: to.clone(), parts: vec![], netted: None };
        let new = &to.0.files;
        let Some(from) = from else {
            whole.parts = signed(1, missing_parts(new, &Files::default()));
            return Ok(whole);
        };
        let commits = self.commits(from.number(), to.number()).await?;
        if commits.only_move {
            return Ok(whole);
        }
        let old = &from.0.files;
        let (gone, come) = (missing_parts(old, new), missing_parts(new, old));
        let is_mixed = !gone.is_empty() && !come.is_empty();
        whole.parts = signed(-1, gone).into_iter().chain(signed(1, come)).collect();
        if commits.may_make_twins || self.may_have_twins(from.number()).await? {
            // Not netted: of two equal rows one may have gone, and the other moved.
            let twins = self.twins_left(old, new).await?;
            whole.parts.extend(signed(-1, twins.clone()).into_iter().chain(signed(1, twins)));
        } else if is_mixed && whole.rows() <= netted_max {
            whole.netted = Some(net(&whole.read_whole().await?)?);
        }
        Ok(whole)
    }

    /// What the commits after `from`, up to `to`, did.
    async fn commits(&self, from: u64, to: u64) -> Result<Commits, DeltaError> {
        let reads = futures::stream::iter(from + 1..=to).map(|version| {
            let log = self.log.clone();
            async move { log.actions(version).await }
        });
        let mut reads = std::pin::pin!(reads.buffered(READS));
        let mut all = Commits { only_move: true, may_make_twins: false };
        while let Some(actions) = reads.try_next().await? {
            match actions {
                Some(own) => {
                    all.only_move &= !own.changes_rows && !own.changes_table;
                    all.may_make_twins |= own.changes_rows && !masks_twins(&own);
                }
                None => all = Commits { only_move: false, may_make_twins: true },
            }
        }
        Ok(all)
    }

    /// Whether a key may be there twice at `version`.
    async fn may_have_twins(&self, version: u64) -> Result<bool, DeltaError> {
        for version in (0..=version).rev() {
            match self.log.actions(version).await? {
                Some(own) if !own.changes_rows => {}
                Some(own) => return Ok(!masks_twins(&own)),
                None => return Ok(true),
            }
        }
        Ok(false)
    }

    /// The rows of `new` whose key another row had in `old` that is gone. To a table of keys such a
    /// row comes again; to a sum it goes and comes.
    async fn twins_left(&self, old: &Files, new: &Files) -> Result<Vec<Part>, DeltaError> {
        let (location, shape) = (&self.location, &self.shape);
        let gone = read_all(location, missing(old, new), shape).await?;
        let come = read_all(location, missing(new, old), shape).await?;
        let hashes = |all: &[Keyed]| -> HashSet<u128> {
            all.iter().flat_map(|(_, keys)| keys.iter().map(|(hash, ..)| *hash)).collect()
        };
        let (mut wanted, come) = (hashes(&gone), hashes(&come));
        wanted.retain(|hash| !come.contains(hash));
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let live = new.iter().map(|file| (Arc::clone(file), None)).collect();
        let mut twins = Vec::new();
        for (file, keys) in read_all(location, live, shape).await? {
            let own = keys.iter().filter(|(hash, ..)| wanted.contains(hash));
            let only: RoaringTreemap = own.map(|(_, row, _)| u64::from(*row)).collect();
            if !only.is_empty() {
                twins.push(Part { file, only: Some(only) });
            }
        }
        twins.sort_by(|one, two| one.file.path.cmp(&two.file.path));
        Ok(twins)
    }
}

/// What some commits did.
struct Commits {
    /// Whether they left the rows as they were.
    only_move: bool,
    /// Whether a key may have been there twice after one of them.
    may_make_twins: bool,
}

/// Whether a commit that changes rows masks the older row of each key that is there twice: ours do;
/// other engines do not know of keys, and a restore brings back what there was.
fn masks_twins(commit: &Actions) -> bool {
    let is_ours = commit.engine.as_ref().is_some_and(|own| own.starts_with("onefold/"));
    is_ours && commit.operation.as_deref() != Some("RESTORE")
}

fn signed(change: i64, parts: Vec<Part>) -> Vec<(i64, Part)> {
    parts.into_iter().map(|part| (change, part)).collect()
}

impl Difference {
    /// How many rows.
    #[must_use]
    pub fn rows(&self) -> u64 {
        match &self.netted {
            Some(rows) => rows.num_rows() as u64,
            None => self.parts.iter().map(|(_, part)| part.rows()).sum(),
        }
    }

    /// The version that it leads to.
    #[must_use]
    pub const fn to(&self) -> &TableVersion {
        &self.to
    }

    /// Rows from `range` on, at least one and perhaps not all of it.
    ///
    /// # Errors
    ///
    /// A file that is gone, or cannot be read.
    pub async fn read(&self, range: Range<u64>) -> Result<RecordBatch, DeltaError> {
        if let Some(rows) = &self.netted {
            let to = range.end.min(range.start + READ_MAX).min(self.rows());
            let chosen = UInt32Array::from_iter_values(range.start as u32..to as u32);
            return Ok(take_record_batch(rows, &chosen)?);
        }
        let mut first = 0;
        for (change, part) in &self.parts {
            let rows = part.rows();
            if range.start < first + rows {
                let skip = range.start - first;
                let most = (range.end - range.start).min(at_once(part));
                return self.read_part(*change, part, skip..(skip + most).min(rows)).await;
            }
            first += rows;
        }
        Ok(RecordBatch::new_empty(self.table.feed_schema()))
    }

    async fn read_whole(&self) -> Result<RecordBatch, DeltaError> {
        let mut batches = Vec::with_capacity(self.parts.len());
        for (change, part) in &self.parts {
            batches.push(self.read_part(*change, part, 0..part.rows()).await?);
        }
        Ok(concat_batches(&self.table.feed_schema(), &batches)?)
    }

    async fn read_part(
        &self,
        change: i64,
        part: &Part,
        range: Range<u64>,
    ) -> Result<RecordBatch, DeltaError> {
        let (skip, count) = (range.start as usize, (range.end - range.start) as usize);
        let numbers: Vec<u32> = part.numbers().skip(skip).take(count).collect();
        let schema = &self.table.shape.schema;
        let rows = read_some(&self.table.location, &part.file, &numbers, schema).await?;
        let change: ArrayRef = Arc::new(Int64Array::from_value(change, rows.num_rows()));
        let columns = rows.columns().iter().cloned().chain([change]).collect();
        Ok(RecordBatch::try_new(self.table.feed_schema(), columns)?)
    }
}

/// Rows of a part to be read at once: as many as take about the same room in memory.
fn at_once(part: &Part) -> u64 {
    let row_bytes = part.file.size_bytes.unsigned_abs() / part.file.rows.max(1);
    (READ_BYTES / row_bytes.max(1)).clamp(READ_MIN, READ_MAX)
}

/// `rows` without those that went and came as they were.
fn net(rows: &RecordBatch) -> Result<RecordBatch, DeltaError> {
    let shown = rows.num_columns() - 1;
    let fields = rows.schema().fields()[..shown].to_vec();
    let fields = fields.iter().map(|own| SortField::new(own.data_type().clone()));
    let encoded = RowConverter::new(fields.collect())?.convert_columns(&rows.columns()[..shown])?;
    let changes = rows.column(shown).as_primitive::<Int64Type>();
    let mut gone: HashMap<&[u8], Vec<usize>> = HashMap::new();
    let mut is_kept = vec![true; rows.num_rows()];
    for row in 0..rows.num_rows() {
        let bytes = encoded.row(row).data();
        if changes.value(row) < 0 {
            gone.entry(bytes).or_default().push(row);
        } else if let Some(same) = gone.get_mut(bytes).and_then(Vec::pop) {
            is_kept[same] = false;
            is_kept[row] = false;
        }
    }
    Ok(filter_record_batch(rows, &BooleanArray::from(is_kept))?)
}
