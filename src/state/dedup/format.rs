//! The file of anchors.
//!
//! ```text
//!   "OFDEDUP1"  count u64 LE  count x { hash u128 LE, time i64 LE }  crc32 u32 LE of all before
//! ```

use crate::state::{EncodedState, StateError};
use crate::types::EventTime;
use bytes::Bytes;

const MAGIC: &[u8; 8] = b"OFDEDUP1";
const HEAD_BYTES: usize = 16;
const ENTRY_BYTES: usize = 24;
const TAIL_BYTES: usize = 4;

/// Writes `count` anchors; `None` if there are none.
pub(super) fn encode(
    count: usize,
    anchors: impl Iterator<Item = (u128, i64)>,
) -> Option<EncodedState> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES + count * ENTRY_BYTES + TAIL_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&[0; 8]);
    let (mut entries, mut time_min, mut time_max) = (0_u64, i64::MAX, i64::MIN);
    for (hash, at) in anchors {
        bytes.extend_from_slice(&hash.to_le_bytes());
        bytes.extend_from_slice(&at.to_le_bytes());
        entries += 1;
        time_min = time_min.min(at);
        time_max = time_max.max(at);
    }
    if entries == 0 {
        return None;
    }
    bytes[8..HEAD_BYTES].copy_from_slice(&entries.to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    let time = |at| Some(EventTime(at));
    Some(EncodedState {
        content: Bytes::from(bytes).into(),
        entries,
        time_min: time(time_min),
        time_max: time(time_max),
    })
}

/// Reads what [`encode`] wrote.
pub(super) fn decode(file: &Bytes) -> Result<impl Iterator<Item = (u128, i64)> + '_, StateError> {
    let corrupt = |reason: &str| StateError::Corrupt { reason: reason.to_owned() };
    if file.len() < HEAD_BYTES + TAIL_BYTES || &file[..8] != MAGIC {
        return Err(corrupt("it is not a file of dedup anchors"));
    }
    let (body, crc) = file.split_at(file.len() - TAIL_BYTES);
    if crc32fast::hash(body).to_le_bytes() != crc {
        return Err(corrupt("its checksum is wrong"));
    }
    let count = u64_at(body, 8);
    let entries = &body[HEAD_BYTES..];
    if count.checked_mul(ENTRY_BYTES as u64) != Some(entries.len() as u64) {
        return Err(corrupt("its length does not fit its count"));
    }
    Ok(entries.chunks_exact(ENTRY_BYTES).map(|entry| {
        let hash = u128::from(u64_at(entry, 8)) << 64 | u128::from(u64_at(entry, 0));
        (hash, u64_at(entry, 16) as i64)
    }))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_damage_is_noticed() {
        let anchors = [(u128::MAX - 5, -7), (1 << 70, i64::MAX), (3, 0)];
        let file = encode(3, anchors.into_iter()).unwrap();
        assert_eq!((file.time_min, file.entries), (Some(EventTime(-7)), 3));
        let bytes = file.content.to_bytes().unwrap();
        assert_eq!(decode(&bytes).unwrap().collect::<Vec<_>>(), anchors);
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 1;
            assert!(decode(&damaged.into()).is_err(), "byte {at}");
        }
        assert!(decode(&bytes.slice(..20)).is_err());
        assert!(encode(0, [].into_iter()).is_none());
    }

    #[test]
    fn the_format_has_not_changed() {
        let file = encode(1, [(0x0102, 3)].into_iter()).unwrap();
        let mut expected = b"OFDEDUP1\x01\0\0\0\0\0\0\0\x02\x01".to_vec();
        expected.extend_from_slice(&[0; 14]);
        expected.extend_from_slice(&[3, 0, 0, 0, 0, 0, 0, 0]);
        let bytes = file.content.to_bytes().unwrap();
        assert_eq!(bytes[..bytes.len() - 4], expected);
    }
}
