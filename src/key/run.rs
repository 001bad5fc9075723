//! Entries that left memory: sorted by hash, in a file on local disk that vanishes with the process.
//!
//! ```text
//!   file     | page 0: 128 entries | page 1 | ...      entry: hash u128, value
//!   memory   filter; per page its first hash and a checksum
//! ```
//!
//! A question costs a look at the filter, and mostly no more; else a search of the first hashes, and
//! the read of one page. In memory an entry costs 1.5 bytes. All numbers are little-endian.

use super::{KeyError, KeyFilter};
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Entries that are read together.
const PAGE_ENTRIES: usize = 128;
const HASH_BYTES: usize = 16;
/// Pages that are read together where all are read.
const PAGES_AHEAD: usize = 64;

/// A value of fixed width beside a hash.
pub trait KeyValue: Copy + Default + Send + Sync + 'static {
    /// How many bytes it takes.
    const BYTES: usize;
    /// What stands for "not there, whatever older runs say".
    const GONE: Self;

    /// Whether it is [`Self::GONE`].
    fn is_gone(&self) -> bool;
    /// Appends its bytes.
    fn write(&self, bytes: &mut Vec<u8>);
    /// Reads what `write` wrote; `bytes` has the right length.
    fn read(bytes: &[u8]) -> Self;
}

/// An immutable sorted run.
#[derive(Debug)]
pub(super) struct KeyRun {
    pub(super) file: Mutex<File>,
    filter: KeyFilter,
    /// The first hash of each page.
    firsts: Vec<u128>,
    /// Its checksum.
    sums: Vec<u32>,
    entries: usize,
    entry_bytes: usize,
    folder: String,
}

impl KeyRun {
    /// Writes `entries`, ascending by hash and about `expected` of them, to a file in `folder`.
    pub(super) fn write<V: KeyValue>(
        folder: &Path,
        expected: usize,
        entries: impl Iterator<Item = Result<(u128, V), KeyError>>,
    ) -> Result<Self, KeyError> {
        let disk = |error| KeyError::Disk { folder: folder.display().to_string(), source: error };
        let file = tempfile::tempfile_in(folder).map_err(disk)?;
        let mut writer = BufWriter::with_capacity(1 << 18, file);
        let mut filter = KeyFilter::for_hashes(expected);
        let pages = expected.div_ceil(PAGE_ENTRIES);
        let (mut firsts, mut sums) = (Vec::with_capacity(pages), Vec::with_capacity(pages));
        let (mut page, mut first, mut count) = (Vec::new(), 0, 0);
        let mut finish = |page: &mut Vec<u8>, first| {
            firsts.push(first);
            sums.push(crc32fast::hash(page));
            let written = writer.write_all(page);
            page.clear();
            written
        };
        for entry in entries {
            let (hash, value) = entry?;
            if page.is_empty() {
                first = hash;
            }
            filter.insert(hash);
            page.extend_from_slice(&hash.to_le_bytes());
            value.write(&mut page);
            count += 1;
            if count % PAGE_ENTRIES == 0 {
                finish(&mut page, first).map_err(disk)?;
            }
        }
        if !page.is_empty() {
            finish(&mut page, first).map_err(disk)?;
        }
        let file = writer.into_inner().map_err(|error| disk(error.into_error()))?;
        let entry_bytes = HASH_BYTES + V::BYTES;
        let folder = folder.display().to_string();
        let file = Mutex::new(file);
        Ok(Self { file, filter, firsts, sums, entries: count, entry_bytes, folder })
    }

    pub(super) const fn len(&self) -> usize {
        self.entries
    }

    /// Bytes of memory, not of disk.
    pub(super) const fn allocated_bytes(&self) -> usize {
        let page_bytes = size_of::<u128>() + size_of::<u32>();
        self.filter.allocated_bytes() + self.firsts.capacity() * page_bytes
    }

    /// The value of `hash`.
    pub(super) fn get<V: KeyValue>(&self, hash: u128) -> Result<Option<V>, KeyError> {
        let Some(number) = self.page_of(hash) else { return Ok(None) };
        Ok(find(&self.pages(number, 1)?, hash, self.entry_bytes))
    }

    /// Tells `found` the values of those of `hashes`, ascending, that are here; each page is read
    /// once.
    pub(super) fn get_all<V: KeyValue>(
        &self,
        hashes: &[u128],
        mut found: impl FnMut(u128, V),
    ) -> Result<(), KeyError> {
        let mut page = (usize::MAX, Vec::new());
        for hash in hashes {
            let Some(number) = self.page_of(*hash) else { continue };
            if page.0 != number {
                page = (number, self.pages(number, 1)?);
            }
            if let Some(value) = find(&page.1, *hash, self.entry_bytes) {
                found(*hash, value);
            }
        }
        Ok(())
    }

    /// All entries, ascending.
    pub(super) fn iter<V: KeyValue>(
        &self,
    ) -> impl Iterator<Item = Result<(u128, V), KeyError>> + '_ {
        let (mut next, mut bytes, mut at) = (0, Vec::new(), 0);
        std::iter::from_fn(move || {
            if at == bytes.len() {
                let count = (self.firsts.len() - next).min(PAGES_AHEAD);
                if count == 0 {
                    return None;
                }
                match self.pages(next, count) {
                    Ok(read) => bytes = read,
                    Err(error) => {
                        next = self.firsts.len();
                        return Some(Err(error));
                    }
                }
                next += count;
                at = 0;
            }
            let entry = &bytes[at..at + self.entry_bytes];
            at += self.entry_bytes;
            Some(Ok((hash_at(entry), V::read(&entry[HASH_BYTES..]))))
        })
    }

    /// The page that `hash` would be in, if it can be here.
    fn page_of(&self, hash: u128) -> Option<usize> {
        if !self.filter.may_contain(hash) {
            return None;
        }
        self.firsts.partition_point(|first| *first <= hash).checked_sub(1)
    }

    /// The bytes of `count` pages.
    fn pages(&self, number: usize, count: usize) -> Result<Vec<u8>, KeyError> {
        let from = number * PAGE_ENTRIES;
        let entries = (self.entries - from).min(count * PAGE_ENTRIES);
        let mut bytes = vec![0; entries * self.entry_bytes];
        let read = {
            let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
            let start = SeekFrom::Start((from * self.entry_bytes) as u64);
            file.seek(start).and_then(|_| file.read_exact(&mut bytes))
        };
        let damaged = |source| KeyError::Disk { folder: self.folder.clone(), source };
        read.map_err(damaged)?;
        let sums = bytes.chunks(PAGE_ENTRIES * self.entry_bytes).map(crc32fast::hash);
        if sums.ne(self.sums[number..].iter().take(count).copied()) {
            return Err(damaged(io::Error::from(io::ErrorKind::InvalidData)));
        }
        Ok(bytes)
    }
}

fn find<V: KeyValue>(page: &[u8], hash: u128, entry_bytes: usize) -> Option<V> {
    let (mut from, mut to) = (0, page.len() / entry_bytes);
    while from < to {
        let middle = usize::midpoint(from, to);
        let entry = &page[middle * entry_bytes..(middle + 1) * entry_bytes];
        match hash_at(entry).cmp(&hash) {
            std::cmp::Ordering::Less => from = middle + 1,
            std::cmp::Ordering::Equal => return Some(V::read(&entry[HASH_BYTES..])),
            std::cmp::Ordering::Greater => to = middle,
        }
    }
    None
}

fn hash_at(entry: &[u8]) -> u128 {
    let mut bytes = [0; HASH_BYTES];
    bytes.copy_from_slice(&entry[..HASH_BYTES]);
    u128::from_le_bytes(bytes)
}
