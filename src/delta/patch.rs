//! The key index after commits of others: only rows that came or went are read.
//!
//! ```text
//!   rows live before and not now   leave the index, if it still names them
//!   rows live now and not before   enter it; of a key that is there twice the later file counts,
//!                                  and the other row is owed a mask by our next commit
//! ```

use super::DeltaError;
use super::actions::Add;
use super::files::{Files, LiveFile};
use super::index::{KeyIndex, keys_at, read_keys};
use super::slot::Slot;
use super::stage::{RowShape, join};
use super::vectors;
use crate::key::KeyError;
use crate::store::Location;
use datafusion::common::runtime::SpawnedTask;
use roaring::RoaringTreemap;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

/// Rows that a table shows and must not: of their keys there is a later row.
pub(super) type Owed = BTreeMap<u32, RoaringTreemap>;

/// Files read side by side.
const READS: usize = 4;

/// The keys of some rows of a file: hash, row and the first bytes of the sequence.
pub(super) type Keyed = (Arc<LiveFile>, Vec<(u128, u32, u64)>);

impl Files {
    /// The files that `adds` name; those that were known keep their ordinals and their vectors.
    pub(super) async fn next(&self, location: &Location, adds: &[Add]) -> Result<Self, DeltaError> {
        let mut files = self.clone();
        let named: HashSet<&str> = adds.iter().map(|add| add.path.as_str()).collect();
        for file in self.iter().filter(|file| !named.contains(file.path.as_str())) {
            files.remove(&file.path);
        }
        for add in adds {
            let known = self.by_path(&add.path);
            let vector = known.map(|known| known.vector.as_ref().map(|(own, _)| own));
            if vector == Some(add.deletion_vector.as_ref()) {
                continue;
            }
            let masked = match &add.deletion_vector {
                Some(descriptor) => Some(Arc::new(vectors::read(location, descriptor).await?)),
                None => None,
            };
            files.put(add, masked)?;
        }
        Ok(files)
    }
}

impl KeyIndex {
    /// Makes the index of `old` that of `new`. Costs a read of the keys of the rows that differ.
    pub(super) async fn patch(
        &mut self,
        location: &Location,
        (old, new): (&Files, &Files),
        shape: &RowShape,
        owed: &mut Owed,
    ) -> Result<(), DeltaError> {
        for (file, keys) in read_all(location, missing(old, new), shape).await? {
            if self.has_cold() {
                self.warm(&keys.iter().map(|(hash, ..)| *hash).collect::<Vec<_>>())?;
            }
            for (hash, row, _) in keys {
                let place = (file.ordinal, row);
                if self.get(hash)?.is_some_and(|slot| slot.place == place) {
                    self.remove(hash)?;
                }
            }
        }
        for (file, keys) in read_all(location, missing(new, old), shape).await? {
            self.place_all(file.ordinal, &keys, new, owed)?;
        }
        owed.retain(|file, rows| {
            let masked = new.get(*file).and_then(|file| file.vector.as_ref());
            if let Some((_, masked)) = masked {
                *rows -= masked.as_ref();
            }
            new.get(*file).is_some() && !rows.is_empty()
        });
        Ok(())
    }

    /// Sets where the rows of a file are.
    pub(super) fn place_all(
        &mut self,
        ordinal: u32,
        keys: &[(u128, u32, u64)],
        files: &Files,
        owed: &mut Owed,
    ) -> Result<(), KeyError> {
        if self.has_cold() {
            self.warm(&keys.iter().map(|(hash, ..)| *hash).collect::<Vec<_>>())?;
        }
        for (hash, row, sequence) in keys {
            self.place(*hash, Slot { place: (ordinal, *row), sequence: *sequence }, files, owed)?;
        }
        Ok(())
    }

    /// Sets where the row of `hash` is, unless a later file has it too.
    fn place(
        &mut self,
        hash: u128,
        slot: Slot,
        files: &Files,
        owed: &mut Owed,
    ) -> Result<(), KeyError> {
        let Some(old) = self.set(hash, slot)? else { return Ok(()) };
        if old.place == slot.place {
            return Ok(());
        }
        let age = |file: u32| {
            files.get(file).map(|file| (file.modified_ms, file.ordinal)).unwrap_or_default()
        };
        let loser = if age(old.place.0) <= age(slot.place.0) {
            old.place
        } else {
            self.set(hash, old)?;
            slot.place
        };
        owed.entry(loser.0).or_default().insert(u64::from(loser.1));
        Ok(())
    }
}

/// The rows that are live in `here` and not in `there`, by file; `None` is all that are live.
pub(super) fn missing(here: &Files, there: &Files) -> Vec<(Arc<LiveFile>, Option<RoaringTreemap>)> {
    let masked = |file: &LiveFile| file.vector.as_ref().map(|(_, rows)| Arc::clone(rows));
    let mut all = Vec::new();
    for file in here.iter() {
        let Some(other) = there.by_path(&file.path) else {
            all.push((Arc::clone(file), None));
            continue;
        };
        let Some(gone) = masked(other) else { continue };
        let rows = match masked(file) {
            Some(own) if Arc::ptr_eq(&own, &gone) => continue,
            Some(own) => gone.as_ref() - own.as_ref(),
            None => gone.as_ref().clone(),
        };
        if !rows.is_empty() {
            all.push((Arc::clone(file), Some(rows)));
        }
    }
    all
}

/// The keys of some rows of each file; `None` is all that are live.
pub(super) async fn read_all(
    location: &Location,
    files: Vec<(Arc<LiveFile>, Option<RoaringTreemap>)>,
    shape: &RowShape,
) -> Result<Vec<Keyed>, DeltaError> {
    let mut rest = files.into_iter();
    let (mut tasks, mut read) = (VecDeque::new(), Vec::new());
    loop {
        while tasks.len() < READS
            && let Some((file, rows)) = rest.next()
        {
            let (location, shape) = (location.clone(), shape.clone());
            tasks.push_back(SpawnedTask::spawn(async move {
                let keys = match rows {
                    Some(rows) => keys_at(&location, &file, &shape, &rows).await?,
                    None => read_keys(&location, &file, &shape).await?,
                };
                Ok::<_, DeltaError>((file, keys))
            }));
        }
        let Some(task) = tasks.pop_front() else { return Ok(read) };
        read.push(join(task).await?);
    }
}
