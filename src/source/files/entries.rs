//! The files a source has listed, as its pipeline remembers them.
//!
//! ```text
//!   "OFFILES1"  count u32  count x { generation u32, size u64, modified i64 us,
//!                                    path and tag: length u32, UTF-8 }  crc32 u32   all LE
//! ```

use bytes::Bytes;

const MAGIC: &[u8; 8] = b"OFFILES1";

/// A file as it was listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The listing that found it, from 1.
    pub(super) generation: u32,
    /// Path relative to the listed folder.
    pub(super) path: String,
    pub(super) size_bytes: u64,
    /// When the store says it was written, in microseconds since the Unix epoch.
    pub(super) modified_us: i64,
    /// The e-tag; empty where the store has none.
    pub(super) tag: String,
}

impl Entry {
    /// Whether both are the same content, as far as the store can tell.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let is_tagged = !self.tag.is_empty() && !other.tag.is_empty();
        self.size_bytes == other.size_bytes
            && if is_tagged { self.tag == other.tag } else { self.modified_us == other.modified_us }
    }
}

pub(super) fn encode(entries: &[Entry]) -> Bytes {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&(entries.len() as u32).to_le_bytes());
    for entry in entries {
        bytes.extend_from_slice(&entry.generation.to_le_bytes());
        bytes.extend_from_slice(&entry.size_bytes.to_le_bytes());
        bytes.extend_from_slice(&entry.modified_us.to_le_bytes());
        for text in [&entry.path, &entry.tag] {
            bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
    }
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    bytes.into()
}

/// Reads what [`encode`] wrote; the error is the reason.
pub(super) fn decode(bytes: &Bytes) -> Result<Vec<Entry>, String> {
    let body = bytes.len().checked_sub(4).ok_or("it is too short")?;
    let (body, crc) = bytes.split_at(body);
    if crc32fast::hash(body).to_le_bytes() != crc {
        return Err("its checksum is wrong".to_owned());
    }
    let mut rest = body.strip_prefix(MAGIC).ok_or("it is not a list of files")?;
    let count = u32::from_le_bytes(take(&mut rest)?);
    let mut entries = Vec::with_capacity(count.min(1 << 20) as usize);
    for _ in 0..count {
        let generation = u32::from_le_bytes(take(&mut rest)?);
        let size_bytes = u64::from_le_bytes(take(&mut rest)?);
        let modified_us = i64::from_le_bytes(take(&mut rest)?);
        let (path, tag) = (text(&mut rest)?, text(&mut rest)?);
        entries.push(Entry { generation, path, size_bytes, modified_us, tag });
    }
    Ok(entries)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], String> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or("it ends too early")?;
    *rest = tail;
    Ok(*head)
}

fn text(rest: &mut &[u8]) -> Result<String, String> {
    let length = u32::from_le_bytes(take(rest)?) as usize;
    let (head, tail) = rest.split_at_checked(length).ok_or("it ends too early")?;
    *rest = tail;
    String::from_utf8(head.to_vec()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_damage_is_noticed() {
        let entry = |generation, path: &str| Entry {
            generation,
            path: path.to_owned(),
            size_bytes: 7,
            modified_us: -3,
            tag: "\"x\"".to_owned(),
        };
        let entries = [entry(1, "a/b.json"), entry(2, "\u{e4}.json")];
        let bytes = encode(&entries);
        assert_eq!(decode(&bytes).unwrap(), entries);
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 1;
            assert!(decode(&damaged.into()).is_err(), "byte {at}");
        }
    }
}
