//! The frame that every sketch is stored in.
//!
//! ```text
//!   offset  bytes
//!   0       4      "1fsk"
//!   4       1      kind: 1 hll, 2 quantile, 3 bitmap
//!   5       1      version of the kind's payload: 1
//!   6       n      payload, as the kind's module says
//!   6 + n   4      CRC-32 (IEEE, as in gzip) of all bytes before it, u32 LE
//! ```
//!
//! `u32` and so on are little-endian. A varint is LEB128: seven bits a byte, low bits first, the
//! high bit set on all bytes but the last; at most 64 bits.

use super::SketchError;
use std::fmt;

const MAGIC: &[u8; 4] = b"1fsk";
const VERSION: u8 = 1;
const HEAD_BYTES: usize = 6;
const SUM_BYTES: usize = 4;

/// A kind of sketch, as its functions are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SketchKind {
    /// How many different values.
    Hll,
    /// The value at a rank.
    Quantile,
    /// Which integers.
    Bitmap,
}

impl SketchKind {
    const fn byte(self) -> u8 {
        match self {
            Self::Hll => 1,
            Self::Quantile => 2,
            Self::Bitmap => 3,
        }
    }

    const fn of_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Hll),
            2 => Some(Self::Quantile),
            3 => Some(Self::Bitmap),
            _ => None,
        }
    }
}

impl fmt::Display for SketchKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hll => "hll",
            Self::Quantile => "quantile",
            Self::Bitmap => "bitmap",
        })
    }
}

/// The stored form of a sketch of `kind` with the payload that `write` appends.
pub(super) fn frame(kind: SketchKind, write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&[kind.byte(), VERSION]);
    write(&mut bytes);
    let sum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes
}

/// The payload of a sketch that must be of kind `expected`.
///
/// ```text
///  case  bytes                               outcome
///  A     not the magic, or too few for one   NotASketch
///  B     unknown kind, or version            Unknown
///  C     wrong sum                           Corrupt
///  D     another kind                        Kind
///  E     -                                   payload
/// ```
pub(super) fn unframe(expected: SketchKind, bytes: &[u8]) -> Result<Payload<'_>, SketchError> {
    let rest = bytes.strip_prefix(MAGIC).filter(|_| bytes.len() >= HEAD_BYTES + SUM_BYTES);
    let Some([kind, version, ..]) = rest else {
        return Err(SketchError::NotASketch { expected, found_bytes: bytes.len() }); // A
    };
    let found = SketchKind::of_byte(*kind).filter(|_| *version == VERSION);
    let Some(found) = found else {
        return Err(SketchError::Unknown { kind: *kind, version: *version }); // B
    };
    let (body, sum) = bytes.split_at(bytes.len() - SUM_BYTES);
    if crc32fast::hash(body).to_le_bytes() != sum {
        let reason = format!("the checksum of its {} bytes does not match", bytes.len());
        return Err(SketchError::Corrupt { kind: found, reason }); // C
    }
    if found != expected {
        return Err(SketchError::Kind { expected, found }); // D
    }
    Ok(Payload { kind: found, bytes: &body[HEAD_BYTES..] }) // E
}

pub(super) fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// What is left to read of a payload.
#[derive(Debug)]
pub(super) struct Payload<'a> {
    kind: SketchKind,
    bytes: &'a [u8],
}

impl<'a> Payload<'a> {
    pub(super) const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// All that is left.
    pub(super) const fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    pub(super) fn corrupt(&self, reason: impl Into<String>) -> SketchError {
        SketchError::Corrupt { kind: self.kind, reason: reason.into() }
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], SketchError> {
        let (array, rest) =
            self.bytes.split_first_chunk().ok_or_else(|| self.corrupt("it ends too early"))?;
        self.bytes = rest;
        Ok(*array)
    }

    pub(super) fn byte(&mut self) -> Result<u8, SketchError> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn varint(&mut self) -> Result<u64, SketchError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.corrupt("a number is longer than 64 bits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_length_come_back() {
        let numbers = (0..64).map(|bits| u64::MAX >> bits).chain((0..64).map(|bits| 1 << bits));
        for number in numbers.chain([0]) {
            let bytes = frame(SketchKind::Hll, |out| put_varint(number, out));
            let mut payload = unframe(SketchKind::Hll, &bytes).unwrap();
            assert_eq!(payload.varint(), Ok(number));
            assert!(payload.is_empty());
        }
    }

    #[test]
    fn a_number_of_more_than_64_bits_is_refused() {
        for long in
            [[0xff; 10].as_slice(), &[0x80; 11], &[255, 255, 255, 255, 255, 255, 255, 255, 255, 2]]
        {
            let bytes = frame(SketchKind::Hll, |out| out.extend_from_slice(long));
            let error = unframe(SketchKind::Hll, &bytes).unwrap().varint().unwrap_err();
            assert!(error.to_string().contains("longer than 64 bits"), "{error}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_frame_is_said() {
        let good = frame(SketchKind::Hll, |out| out.push(7));
        let read =
            |bytes: &[u8]| unframe(SketchKind::Hll, bytes).map(|payload| payload.rest().to_vec());
        assert_eq!(read(&good), Ok(vec![7]));
        let said = |bytes: &[u8]| read(bytes).unwrap_err().to_string();
        assert!(said(b"").starts_with("these 0 bytes are no hll sketch"));
        assert!(said(b"1fsk\x01\x01").starts_with("these 6 bytes are no hll sketch"));
        let with = |index: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[index] = byte;
            said(&bytes)
        };
        assert!(with(0, 0).starts_with("these 11 bytes are no hll sketch"));
        assert!(with(4, 9).starts_with("sketch of kind 9, format version 1"));
        assert!(with(5, 2).starts_with("sketch of kind 1, format version 2"));
        assert!(with(6, 8).starts_with("hll sketch is damaged: the checksum of its 11 bytes"));
        let other = frame(SketchKind::Bitmap, |_| ());
        assert!(said(&other).starts_with("this is a bitmap sketch, and a hll sketch is needed"));
    }
}
