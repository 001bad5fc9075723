//! The file of anchors.
//!
//! ```text
//!   "OFDEDUP2"  count u64 LE  base i64 LE  width u64 LE
//!               count x { hash u128 LE, time - base, LE, in width bytes }
//!               crc32 u32 LE of all before
//!
//!   "OFDEDUP1"  count u64 LE  count x { hash u128 LE, time i64 LE }  crc32 u32 LE of all before
//! ```
//!
//! The first form is still read.

use crate::state::{EncodedState, StateError};
use crate::types::EventTime;
use bytes::Bytes;

const MAGIC: &[u8; 8] = b"OFDEDUP2";
const HEAD_BYTES: usize = 32;
const FIRST_MAGIC: &[u8; 8] = b"OFDEDUP1";
const FIRST_HEAD_BYTES: usize = 16;
const HASH_BYTES: usize = 16;
const TIME_BYTES: usize = 8;
const TAIL_BYTES: usize = 4;

/// Writes anchors; `None` if there are none.
pub(super) fn encode(anchors: impl Iterator<Item = (u128, i64)> + Clone) -> Option<EncodedState> {
    let (mut entries, mut time_min, mut time_max) = (0_u64, i64::MAX, i64::MIN);
    for (_, at) in anchors.clone() {
        entries += 1;
        time_min = time_min.min(at);
        time_max = time_max.max(at);
    }
    if entries == 0 {
        return None;
    }
    let widest = time_max.wrapping_sub(time_min) as u64;
    let width = TIME_BYTES - widest.leading_zeros() as usize / 8;
    let bytes = HEAD_BYTES + entries as usize * (HASH_BYTES + width) + TAIL_BYTES;
    let mut bytes = Vec::with_capacity(bytes);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&entries.to_le_bytes());
    bytes.extend_from_slice(&time_min.to_le_bytes());
    bytes.extend_from_slice(&(width as u64).to_le_bytes());
    match width {
        4 => write::<4>(&mut bytes, anchors, time_min), // more than 16 seconds, up to 71 minutes
        5 => write::<5>(&mut bytes, anchors, time_min), // up to 12 days
        _ => {
            for (hash, at) in anchors {
                bytes.extend_from_slice(&hash.to_le_bytes());
                bytes.extend_from_slice(&at.wrapping_sub(time_min).to_le_bytes()[..width]);
            }
        }
    }
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    let time = |at| Some(EventTime(at));
    Some(EncodedState {
        content: Bytes::from(bytes).into(),
        entries,
        time_min: time(time_min),
        time_max: time(time_max),
    })
}

/// The entries, where times take `WIDTH` bytes, which is known when this is compiled.
fn write<const WIDTH: usize>(
    bytes: &mut Vec<u8>,
    anchors: impl Iterator<Item = (u128, i64)>,
    base: i64,
) {
    for (hash, at) in anchors {
        let time = at.wrapping_sub(base).to_le_bytes();
        bytes.extend_from_slice(&hash.to_le_bytes());
        bytes.extend_from_slice(&std::array::from_fn::<u8, WIDTH, _>(|at| time[at]));
    }
}

/// Reads what [`encode`] wrote.
pub(super) fn decode(file: &Bytes) -> Result<impl Iterator<Item = (u128, i64)> + '_, StateError> {
    let corrupt = |reason: &str| StateError::Corrupt { reason: reason.to_owned() };
    let is_first = file.starts_with(FIRST_MAGIC);
    let head = if is_first { FIRST_HEAD_BYTES } else { HEAD_BYTES };
    if file.len() < head + TAIL_BYTES || !(is_first || file.starts_with(MAGIC)) {
        return Err(corrupt("it is not a file of dedup anchors"));
    }
    let (body, crc) = file.split_at(file.len() - TAIL_BYTES);
    if crc32fast::hash(body).to_le_bytes() != crc {
        return Err(corrupt("its checksum is wrong"));
    }
    let (base, width) = if is_first {
        (0, TIME_BYTES)
    } else {
        (word_at(body, 16) as i64, word_at(body, 24).min(9) as usize)
    };
    let (count, entries) = (word_at(body, 8), &body[head..]);
    let bytes = HASH_BYTES + width;
    if width > TIME_BYTES || count.checked_mul(bytes as u64) != Some(entries.len() as u64) {
        return Err(corrupt("its length does not fit its count"));
    }
    Ok(entries.chunks_exact(bytes).map(move |entry| {
        let hash = u128::from(word_at(entry, 8)) << 64 | u128::from(word_at(entry, 0));
        let mut time = [0; TIME_BYTES];
        time[..width].copy_from_slice(&entry[HASH_BYTES..]);
        (hash, base.wrapping_add(i64::from_le_bytes(time)))
    }))
}

fn word_at(bytes: &[u8], at: usize) -> u64 {
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
        let file = encode(anchors.into_iter()).unwrap();
        assert_eq!((file.time_min, file.entries), (Some(EventTime(-7)), 3));
        let bytes = file.content.to_bytes().unwrap();
        assert_eq!(decode(&bytes).unwrap().collect::<Vec<_>>(), anchors);
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 1;
            assert!(decode(&damaged.into()).is_err(), "byte {at}");
        }
        assert!(decode(&bytes.slice(..20)).is_err());
        assert!(encode([].into_iter()).is_none());
    }

    #[test]
    fn times_of_every_width_are_read_as_they_were() {
        let base = [i64::MIN, -1_000, 0, 1_767_225_600_000_000];
        for (base, bits) in base.into_iter().flat_map(|base| (0..64).map(move |bits| (base, bits)))
        {
            let last = base.wrapping_add((u64::MAX >> (63 - bits)) as i64 / 2).max(base);
            let anchors = [(1 << 100, base), (7, last), (u128::MAX, base)];
            let bytes = encode(anchors.into_iter()).unwrap().content.to_bytes().unwrap();
            assert_eq!(decode(&bytes).unwrap().collect::<Vec<_>>(), anchors, "{base} {bits}");
        }
    }

    #[test]
    fn the_format_has_not_changed_and_the_one_before_is_read() {
        let hash = [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let word = |value: u8| [value, 0, 0, 0, 0, 0, 0, 0];
        let file = encode([(0x0102, 3), (0x0102, 9)].into_iter()).unwrap();
        let expected: [&[u8]; 8] =
            [b"OFDEDUP2", &word(2), &word(3), &word(1), &hash, &[0], &hash, &[6]];
        let bytes = file.content.to_bytes().unwrap();
        assert_eq!(bytes[..bytes.len() - 4], expected.concat());
        let first: [&[u8]; 4] = [b"OFDEDUP1", &word(1), &hash, &word(3)];
        let mut first = first.concat();
        first.extend_from_slice(&crc32fast::hash(&first).to_le_bytes());
        assert_eq!(decode(&first.into()).unwrap().collect::<Vec<_>>(), [(0x0102, 3)]);
    }
}
