//! Quantiles with a bounded relative error, whatever the order and the merges.
//!
//! The bucket of a value is the value itself with its low bits cut off: its sign, exponent and
//! first bits of the mantissa, as the IEEE 754 form has them. So buckets need no logarithm, are
//! the same on every machine, and are ordered as the values are. When there are more buckets than
//! `k`, one more bit is cut, which joins them in pairs. How many bits that takes depends on the
//! values alone, and cutting 2 bits is cutting 1 twice: hence the same bytes for every order.
//!
//! ```text
//!   bits cut   mantissa bits left   relative error   values within k = 2048 buckets
//!   45         7                    0.39 %           16 binary orders: 6.5e4 : 1
//!   46         6                    0.78 %           32 binary orders: 4.3e9 : 1
//!   47         5                    1.5 %            64 binary orders: 1.8e19 : 1
//!   48         4                    3.0 %            128 binary orders: 3.4e38 : 1
//! ```
//!
//! Negative values count as further orders. Below the least normal number, 2.2e-308, the error is
//! absolute. The smallest and the largest value are kept exactly.
//!
//! # Payload, version 1
//!
//! ```text
//!   offset  bytes
//!   0       4      k, 16 to 65536, u32
//!   4       1      bits cut, 45 to 63
//!   5       8      values, u64; nothing follows if 0
//!   13      8      smallest value, f64; never NaN, and 0 has no sign
//!   21      8      largest value, f64
//!   29      n      buckets, ascending by number, each two varints:
//!                  the first number, zigzag-coded; later the distance from the one before
//!                  how many values, at least 1
//! ```
//!
//! The bucket of `v` is `b = bits(|v|) >> cut`, where `bits` is the IEEE 754 form; its number is
//! `b`, or `-b - 1` for negative `v`.

use super::format::{Payload, frame, put_varint, unframe};
use super::{Sketch, SketchError, SketchKind};

const CUT_MIN: u8 = 45;
const CUT_MAX: u8 = 63;
const MANTISSA_BITS: u8 = 52;

/// The value at any rank, with a relative error of 0.39 % for values within a factor of 65 536
/// of each other, and twice that for each time the range of exponents doubles.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantileSketch {
    k: u32,
    cut: u8,
    count: u64,
    min: f64,
    max: f64,
    /// By number, with how many values are in it.
    buckets: Vec<(i32, u64)>,
}

impl QuantileSketch {
    /// The least and the most buckets that can be asked for.
    pub const K: std::ops::RangeInclusive<u32> = 16..=65_536;
    /// The buckets unless others are asked for.
    pub const K_DEFAULT: u32 = 2048;

    /// An empty sketch of at most `k` buckets.
    ///
    /// # Errors
    ///
    /// [`SketchError::Parameter`] for a `k` outside [`Self::K`].
    pub fn try_new(k: u32) -> Result<Self, SketchError> {
        if !Self::K.contains(&k) {
            let (min, max) = (*Self::K.start(), *Self::K.end());
            return Err(SketchError::Parameter { name: "k", min, max, found: k.to_string() });
        }
        let (min, max) = (f64::INFINITY, f64::NEG_INFINITY);
        Ok(Self { k, cut: CUT_MIN, count: 0, min, max, buckets: Vec::new() })
    }

    /// Adds `value`; NaN has no rank and is passed over.
    ///
    /// # Errors
    ///
    /// [`SketchError::Full`]; nothing is added.
    pub fn insert(&mut self, value: f64) -> Result<(), SketchError> {
        if value.is_nan() {
            return Ok(());
        }
        let value = value + 0.0; // -0 + 0 is 0
        self.count = self.count.checked_add(1).ok_or(SketchError::Full)?;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.add(number(value, self.cut), 1);
        self.settle();
        Ok(())
    }

    /// How many values went in.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The value of rank `q * count`, rounded up to a whole rank from 1 to `count`; `None` if no
    /// value went in. Off by at most [`Self::relative_error`]; exact for the first and the last.
    ///
    /// # Errors
    ///
    /// [`SketchError::Rank`] unless `q` lies between 0 and 1.
    pub fn estimate(&self, q: f64) -> Result<Option<f64>, SketchError> {
        if !(0.0..=1.0).contains(&q) {
            return Err(SketchError::Rank { q });
        }
        if self.count == 0 {
            return Ok(None);
        }
        // Less one rounding, so that 0.07 of 100 values is the seventh.
        let rank = (q * self.count as f64 * (1.0 - f64::EPSILON)).ceil() as u64;
        if rank <= 1 {
            return Ok(Some(self.min));
        }
        if rank >= self.count {
            return Ok(Some(self.max));
        }
        let mut below = 0;
        let found = self.buckets.iter().find(|(_, count)| {
            below += count;
            below >= rank
        });
        let middle = found.map_or(self.max, |(number, _)| middle(*number, self.cut));
        Ok(Some(middle.clamp(self.min, self.max)))
    }

    /// The most by which an estimate can be off, as a part of the value.
    #[must_use]
    pub fn relative_error(&self) -> f64 {
        let bits = i32::from(MANTISSA_BITS) - i32::from(self.cut);
        // The end of the widest bucket, of those that begin at a power of two, by its beginning.
        let ratio = if bits >= 0 { 1.0 + 0.5_f64.powi(bits) } else { 2_f64.powi(1 << -bits) };
        if ratio.is_finite() { (ratio - 1.0) / (ratio + 1.0) } else { 1.0 }
    }

    fn add(&mut self, number: i32, count: u64) {
        let at = self.buckets.partition_point(|(other, _)| *other < number);
        match self.buckets.get_mut(at) {
            Some((other, held)) if *other == number => *held += count,
            _ => self.buckets.insert(at, (number, count)),
        }
    }

    /// Cuts bits until there are no more buckets than `k`.
    fn settle(&mut self) {
        while self.buckets.len() > self.k as usize {
            self.cut_to(self.cut + 1);
        }
    }

    fn cut_to(&mut self, cut: u8) {
        let bits = cut.saturating_sub(self.cut);
        self.buckets.iter_mut().for_each(|(number, _)| *number >>= bits);
        self.buckets.dedup_by(|next, kept| {
            let is_same = next.0 == kept.0;
            kept.1 += if is_same { next.1 } else { 0 };
            is_same
        });
        self.cut += bits;
    }

    fn read_buckets(&mut self, mut payload: Payload<'_>) -> Result<(), SketchError> {
        let mut count = 0_u64;
        while !payload.is_empty() {
            let coded = payload.varint()?;
            let number = match self.buckets.last() {
                None => Some((coded >> 1) as i64 ^ -((coded & 1) as i64)),
                Some((last, _)) => {
                    let distance = i64::try_from(coded).ok().filter(|distance| *distance > 0);
                    distance.and_then(|distance| i64::from(*last).checked_add(distance))
                }
            };
            let number = number.and_then(|number| i32::try_from(number).ok());
            let number = number.ok_or_else(|| payload.corrupt("its buckets are out of order"))?;
            let held = payload.varint()?;
            let sum = count.checked_add(held).filter(|_| held > 0);
            count = sum.ok_or_else(|| payload.corrupt("the count of a bucket is out of range"))?;
            self.buckets.push((number, held));
        }
        let ends = |value| Some(number(value, self.cut));
        let numbers = || self.buckets.iter().map(|(number, _)| *number);
        if count != self.count
            || self.buckets.len() > self.k as usize
            || numbers().next() != ends(self.min)
            || numbers().next_back() != ends(self.max)
        {
            return Err(payload.corrupt("its buckets contradict its count, its ends or k"));
        }
        self.buckets.shrink_to_fit();
        Ok(())
    }
}

impl Sketch for QuantileSketch {
    const KIND: SketchKind = SketchKind::Quantile;

    fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn merge(&mut self, other: &Self) -> Result<(), SketchError> {
        match (self.is_empty(), other.is_empty()) {
            (false, true) => {}
            (true, false) => self.clone_from(other),
            (true, true) => self.k = self.k.min(other.k),
            (false, false) => {
                self.count = self.count.checked_add(other.count).ok_or(SketchError::Full)?;
                self.k = self.k.min(other.k);
                self.min = self.min.min(other.min);
                self.max = self.max.max(other.max);
                self.cut_to(other.cut);
                let bits = self.cut - other.cut.min(self.cut);
                for (number, count) in &other.buckets {
                    self.add(number >> bits, *count);
                }
                self.settle();
            }
        }
        Ok(())
    }

    fn to_bytes(&self) -> Vec<u8> {
        frame(Self::KIND, |out| {
            out.extend_from_slice(&self.k.to_le_bytes());
            out.push(self.cut);
            out.extend_from_slice(&self.count.to_le_bytes());
            if self.count == 0 {
                return;
            }
            out.extend_from_slice(&self.min.to_le_bytes());
            out.extend_from_slice(&self.max.to_le_bytes());
            let mut last = None;
            for (number, count) in &self.buckets {
                let number = i64::from(*number);
                let coded = last.map_or(number << 1 ^ number >> 63, |last| number - last);
                put_varint(coded as u64, out);
                put_varint(*count, out);
                last = Some(number);
            }
        })
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, SketchError> {
        let mut payload = unframe(Self::KIND, bytes)?;
        let k = u32::from_le_bytes(payload.array()?);
        let mut read = Self::try_new(k).map_err(|_| payload.corrupt(format!("k is {k}")))?;
        read.cut = payload.byte()?;
        read.count = u64::from_le_bytes(payload.array()?);
        if !(CUT_MIN..=CUT_MAX).contains(&read.cut) {
            return Err(payload.corrupt(format!("it cuts {} bits", read.cut)));
        }
        if read.count == 0 {
            return if payload.is_empty() && read.cut == CUT_MIN {
                Ok(read)
            } else {
                Err(payload.corrupt("it is empty and holds buckets"))
            };
        }
        read.min = f64::from_le_bytes(payload.array()?);
        read.max = f64::from_le_bytes(payload.array()?);
        let is_plain = |value: f64| (value + 0.0).to_bits() == value.to_bits() && !value.is_nan();
        if !is_plain(read.min) || !is_plain(read.max) || read.min > read.max {
            return Err(payload.corrupt("its smallest and largest values are none"));
        }
        read.read_buckets(payload)?;
        Ok(read)
    }

    fn heap_bytes(&self) -> usize {
        self.buckets.capacity() * size_of::<(i32, u64)>()
    }
}

/// The number of the bucket of `value` if `cut` bits are cut.
fn number(value: f64, cut: u8) -> i32 {
    let bucket = (value.abs().to_bits() >> cut) as i32;
    if value.is_sign_negative() { !bucket } else { bucket }
}

/// The value whose distance from both ends of a bucket is the same part of them.
fn middle(number: i32, cut: u8) -> f64 {
    let bucket = u64::from(if number < 0 { !number } else { number }.unsigned_abs());
    let start = f64::from_bits(bucket << cut);
    let end = f64::from_bits(((bucket + 1) << cut).min(f64::INFINITY.to_bits()));
    let middle = if start.is_infinite() { start } else { start * (2.0 / (1.0 + start / end)) };
    if number < 0 { -middle } else { middle }
}
