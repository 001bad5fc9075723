//! `FloatSum`: a sum of floats that is rounded once, when it is asked for, and so does not depend on
//! their order.
//!
//! ```text
//!   bit 0 is 2^-1074, the least float                         bit 2175
//!   |...............[ near: i128, from bit `base` on ]...............|
//!   |                 far: 34 limbs, two's complement                |     sum = far + near
//!
//!   stored   byte 0: 1 NaN | 2 +infinity | 4 -infinity | 8 below zero | 16 bit 8 of the place
//!            byte 1: the place of the lowest byte of the magnitude that is not 0, in bytes
//!            then the magnitude, lowest byte first, without zeros at its ends; all absent for 0
//! ```
//!
//! # Invariants
//!
//! 1. The sum is exact: no bit of any value is lost, and 2^64 of the largest fit.
//! 2. Equal sums have equal bytes, whatever was added in whichever order.
//! 3. The value is the float nearest to the sum, of two the even one; infinite only if the sum is.
//!
//! A NaN, or infinities of both signs, make it NaN. The sum of nothing but -0 is 0.
//!
//! # Memory
//!
//! 32 bytes; 272 more while values lie so far apart that `near` was moved.
//!
//! # Sources
//!
//! Kulisch, "Computer Arithmetic and Validity", 2008; Neal, "Fast exact summation using small and
//! large superaccumulators", arXiv:1505.05571, 2015.

use crate::state::StateError;
use std::mem::size_of;

/// The limbs that hold every finite sum, with its sign.
const LIMBS: usize = 34;
const LIMB_BITS: u32 = u64::BITS;
const BYTES: usize = LIMBS * size_of::<u64>();
/// Bits of a float's fraction, without the one that is not stored.
const FRACTION_BITS: u32 = f64::MANTISSA_DIGITS - 1;
const EXPONENT_MAX: u16 = 0x7FF;
/// Bits of `near` that a value may reach: one below its sign, so that two add up.
const NEAR_BITS: u32 = 126;
/// How far a float may begin above `base`.
const SHIFT_MAX: u16 = (NEAR_BITS - f64::MANTISSA_DIGITS) as u16;
/// Bytes of a stored magnitude that `near` takes at once.
const NEAR_BYTES: usize = 14;

const NAN: u8 = 1;
const INFINITE: u8 = 2;
const MINUS_INFINITE: u8 = 4;
const BELOW_ZERO: u8 = 8;
const HIGH_PLACE: u8 = 16;

/// An exact sum of floats.
#[derive(Clone, Debug, Default)]
pub struct FloatSum {
    near: i128,
    far: Option<Box<[u64; LIMBS]>>,
    /// The bit where `near` begins; a multiple of 8.
    base: u16,
    /// Which values came that are not finite.
    special: u8,
    is_some: bool,
}

impl FloatSum {
    /// Whether nothing was added.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        !self.is_some
    }

    /// Adds a value; returns how many bytes of memory that took.
    #[inline]
    #[must_use]
    pub fn add(&mut self, value: f64) -> usize {
        self.is_some = true;
        let bits = value.to_bits();
        let exponent = (bits >> FRACTION_BITS) as u16 & EXPONENT_MAX;
        let hidden = u64::from(exponent != 0) << FRACTION_BITS;
        let magnitude = bits & ((1 << FRACTION_BITS) - 1) | hidden;
        let place = exponent.saturating_sub(1);
        let shift = place.wrapping_sub(self.base);
        if shift <= SHIFT_MAX && exponent != EXPONENT_MAX {
            let term = i128::from(magnitude) << shift;
            let sum = self.near.checked_add(if value.is_sign_negative() { -term } else { term });
            if let Some(sum) = sum {
                self.near = sum;
                return 0;
            }
        }
        if exponent == EXPONENT_MAX {
            self.special |= match (value.is_nan(), value.is_sign_negative()) {
                (true, _) => NAN,
                (false, false) => INFINITE,
                (false, true) => MINUS_INFINITE,
            };
            return 0;
        }
        self.move_near(u128::from(magnitude), place, value.is_sign_negative())
    }

    /// Adds what [`Self::write`] wrote; returns how many bytes of memory that took.
    ///
    /// # Errors
    ///
    /// Bytes that it did not write; the sum is then in no known state.
    pub fn merge(&mut self, stored: &[u8]) -> Result<usize, StateError> {
        let corrupt = || StateError::Corrupt { reason: "a float sum is damaged".to_owned() };
        let (flags, rest) = stored.split_first().ok_or_else(corrupt)?;
        self.is_some = true;
        self.special |= flags & (NAN | INFINITE | MINUS_INFINITE);
        let Some((low, magnitude)) = rest.split_first() else { return Ok(0) };
        let place = usize::from(*low) + if flags & HIGH_PLACE == 0 { 0 } else { 256 };
        if place + magnitude.len() > BYTES {
            return Err(corrupt());
        }
        let is_negative = flags & BELOW_ZERO != 0;
        let mut taken = 0;
        for (index, part) in magnitude.chunks(NEAR_BYTES).enumerate() {
            let mut bytes = [0; size_of::<u128>()];
            bytes[..part.len()].copy_from_slice(part);
            let place = ((place + index * NEAR_BYTES) * 8) as u16;
            taken += self.add_part(u128::from_le_bytes(bytes), place, is_negative);
        }
        Ok(taken)
    }

    /// Writes the sum behind what is there.
    pub fn write(&self, out: &mut Vec<u8>) {
        if let Some(far) = &self.far {
            let (is_negative, limbs) = self.settled(far);
            let mut bytes = [0; BYTES];
            for (bytes, limb) in bytes.chunks_mut(size_of::<u64>()).zip(limbs) {
                bytes.copy_from_slice(&limb.to_le_bytes());
            }
            return self.write_magnitude(out, is_negative, 0, &bytes);
        }
        let bytes = self.near.unsigned_abs().to_le_bytes();
        self.write_magnitude(out, self.near < 0, usize::from(self.base) / 8, &bytes);
    }

    /// The float nearest to the sum; 0 if it is empty.
    #[must_use]
    pub fn value(&self) -> f64 {
        let has = |flag: u8| self.special & flag != 0;
        match (has(INFINITE), has(MINUS_INFINITE)) {
            (false, false) if !has(NAN) => {}
            (true, false) if !has(NAN) => return f64::INFINITY,
            (false, true) if !has(NAN) => return f64::NEG_INFINITY,
            _ => return f64::NAN,
        }
        let (is_negative, magnitude) = match &self.far {
            None => (self.near < 0, rounded(self.near.unsigned_abs(), self.base.into(), false)),
            Some(far) => {
                let (is_negative, limbs) = self.settled(far);
                let top = limbs.iter().rposition(|limb| *limb != 0).unwrap_or_default().max(1);
                let window = u128::from(limbs[top]) << LIMB_BITS | u128::from(limbs[top - 1]);
                let has_more = limbs[..top - 1].iter().any(|limb| *limb != 0);
                (is_negative, rounded(window, (top as u32 - 1) * LIMB_BITS, has_more))
            }
        };
        if is_negative { -magnitude } else { magnitude }
    }

    /// Bytes of memory behind the struct itself.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.far.as_ref().map_or(0, |_| BYTES)
    }

    #[inline]
    fn add_part(&mut self, magnitude: u128, place: u16, is_negative: bool) -> usize {
        let shift = u32::from(place.wrapping_sub(self.base));
        if shift + (u128::BITS - magnitude.leading_zeros()) <= NEAR_BITS {
            let term = (magnitude << shift) as i128;
            let sum = self.near.checked_add(if is_negative { -term } else { term });
            if let Some(sum) = sum {
                self.near = sum;
                return 0;
            }
        }
        self.move_near(magnitude, place, is_negative)
    }

    /// Puts `near` into `far`, and begins it anew around a value.
    #[cold]
    fn move_near(&mut self, magnitude: u128, place: u16, is_negative: bool) -> usize {
        if magnitude == 0 {
            return 0;
        }
        let mut taken = 0;
        if self.near != 0 {
            let far = self.far.get_or_insert_with(|| {
                taken = BYTES;
                Box::new([0; LIMBS])
            });
            add_at(far, self.near.unsigned_abs(), self.base, self.near < 0);
        }
        // As much room above it as below.
        let length = u128::BITS - magnitude.leading_zeros();
        let below = (NEAR_BITS - 7 - length) / 2;
        self.base = place.saturating_sub(below as u16) & !7;
        let term = (magnitude << (place - self.base)) as i128;
        self.near = if is_negative { -term } else { term };
        taken
    }

    /// The whole sum: whether it is below zero, and its magnitude.
    fn settled(&self, far: &[u64; LIMBS]) -> (bool, [u64; LIMBS]) {
        let mut limbs = *far;
        add_at(&mut limbs, self.near.unsigned_abs(), self.base, self.near < 0);
        let is_negative = limbs[LIMBS - 1] >> (LIMB_BITS - 1) == 1;
        if is_negative {
            let mut carry = true;
            for limb in &mut limbs {
                (*limb, carry) = (!*limb).overflowing_add(u64::from(carry));
            }
        }
        (is_negative, limbs)
    }

    /// Writes the flags and the bytes of a magnitude, the first of which has the place `place`.
    fn write_magnitude(&self, out: &mut Vec<u8>, is_negative: bool, place: usize, bytes: &[u8]) {
        let Some(first) = bytes.iter().position(|byte| *byte != 0) else {
            out.push(self.special);
            return;
        };
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(bytes.len(), |last| last + 1);
        let place = place + first;
        let sign = if is_negative { BELOW_ZERO } else { 0 };
        let high = if place < 256 { 0 } else { HIGH_PLACE };
        out.extend_from_slice(&[self.special | sign | high, place as u8]);
        out.extend_from_slice(&bytes[first..end]);
    }
}

/// Adds a magnitude that begins at bit `place`, or takes it away.
fn add_at(limbs: &mut [u64; LIMBS], magnitude: u128, place: u16, is_negative: bool) {
    let (first, shift) = (usize::from(place) / LIMB_BITS as usize, u32::from(place) % LIMB_BITS);
    let low = magnitude << shift;
    let high = if shift == 0 { 0 } else { (magnitude >> (u128::BITS - shift)) as u64 };
    let parts = [low as u64, (low >> LIMB_BITS) as u64, high];
    let mut carry = false;
    for (index, limb) in limbs[first..].iter_mut().enumerate() {
        if index >= parts.len() && !carry {
            break;
        }
        let part = parts.get(index).copied().unwrap_or_default();
        (*limb, carry) = if is_negative {
            limb.borrowing_sub(part, carry)
        } else {
            limb.carrying_add(part, carry)
        };
    }
}

/// The float nearest to `window`, whose lowest bit is bit `place`; `has_more` says whether there are
/// lower bits, and then the window is full.
fn rounded(window: u128, place: u32, has_more: bool) -> f64 {
    let length = u128::BITS - window.leading_zeros();
    if length == 0 || place + length <= f64::MANTISSA_DIGITS {
        return f64::from_bits((window << place.min(FRACTION_BITS)) as u64);
    }
    let kept = if length <= f64::MANTISSA_DIGITS {
        (window as u64) << (f64::MANTISSA_DIGITS - length)
    } else {
        let dropped = length - f64::MANTISSA_DIGITS;
        let (kept, half) = ((window >> dropped) as u64, 1_u128 << (dropped - 1));
        let rest = window & ((1 << dropped) - 1);
        let is_up = rest > half || rest == half && (has_more || kept & 1 == 1);
        kept + u64::from(is_up)
    };
    // The bit of `kept` that a float does not store raises the exponent by one.
    let exponent = place + length - f64::MANTISSA_DIGITS;
    if exponent >= u32::from(EXPONENT_MAX) - 1 {
        return f64::INFINITY;
    }
    f64::from_bits((u64::from(exponent) << FRACTION_BITS) + kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Digits behind the point of the least float.
    const DIGITS: usize = 1074;

    /// The float nearest to the sum, by decimal digits: the standard library writes and reads floats
    /// without an error.
    fn by_digits(values: &[f64]) -> f64 {
        let mut digits = vec![0_i64; DIGITS + 330];
        for value in values {
            let text = format!("{:.DIGITS$}", value.abs());
            let shown = text.bytes().rev().filter(u8::is_ascii_digit);
            for (digit, shown) in digits.iter_mut().zip(shown) {
                let shown = i64::from(shown - b'0');
                *digit += if value.is_sign_negative() { -shown } else { shown };
            }
        }
        let is_negative = carried(&mut digits) < 0;
        if is_negative {
            for digit in &mut digits {
                *digit = -*digit;
            }
            carried(&mut digits);
        }
        let mut text: String = digits.iter().rev().map(ToString::to_string).collect();
        text.insert(text.len() - DIGITS, '.');
        let magnitude: f64 = text.parse().unwrap();
        if is_negative { -magnitude } else { magnitude }
    }

    fn carried(digits: &mut [i64]) -> i64 {
        digits.iter_mut().fold(0, |carry, digit| {
            let sum = *digit + carry;
            *digit = sum.rem_euclid(10);
            sum.div_euclid(10)
        })
    }

    fn sum_of(values: &[f64]) -> FloatSum {
        let mut sum = FloatSum::default();
        let taken: usize = values.iter().map(|value| sum.add(*value)).sum();
        assert_eq!(taken, sum.heap_bytes());
        sum
    }

    fn stored(sum: &FloatSum) -> Vec<u8> {
        let mut bytes = Vec::new();
        sum.write(&mut bytes);
        bytes
    }

    fn merged(parts: &[Vec<u8>]) -> FloatSum {
        let mut sum = FloatSum::default();
        let taken: usize = parts.iter().map(|part| sum.merge(part).unwrap()).sum();
        assert_eq!(taken, sum.heap_bytes());
        sum
    }

    fn value() -> impl Strategy<Value = f64> {
        let any = any::<u64>().prop_map(f64::from_bits);
        let finite = any.prop_filter("finite", |value| value.is_finite());
        let money = (-1_000_000_i64..1_000_000).prop_map(|cents| cents as f64 / 100.0);
        let edge = prop_oneof![
            Just(0.0),
            Just(-0.0),
            Just(f64::MAX),
            Just(f64::MIN),
            Just(f64::MIN_POSITIVE),
            Just(2_f64.powi(970)),
            Just(-(2_f64.powi(970))),
        ];
        let subnormal = (0..1_u64 << 53).prop_map(f64::from_bits);
        prop_oneof![finite, money, edge, subnormal.clone(), subnormal.prop_map(|value| -value)]
    }

    proptest! {
        #[test]
        fn it_is_the_nearest_float_by_every_order_and_every_tree(
            values in proptest::collection::vec(value(), 0..40),
            order in any::<prop::sample::Index>(),
            cuts in proptest::collection::vec(1..9_usize, 40),
            backwards in any::<bool>(),
        ) {
            let expected = by_digits(&values);
            let sum = sum_of(&values);
            prop_assert_eq!(sum.value().to_bits(), expected.to_bits());
            let bytes = stored(&sum);
            let mut other = values.clone();
            if !values.is_empty() {
                other.rotate_left(order.index(values.len()));
            }
            if backwards {
                other.reverse();
            }
            prop_assert_eq!(stored(&sum_of(&other)), bytes.clone());
            let mut parts = Vec::new();
            let mut rest = other.as_slice();
            for cut in cuts {
                let (part, after) = rest.split_at(cut.min(rest.len()));
                parts.push(stored(&sum_of(part)));
                rest = after;
            }
            let (left, right) = parts.split_at(order.index(parts.len()));
            let halves = [stored(&merged(right)), stored(&merged(left))];
            let tree = merged(&halves);
            prop_assert_eq!(tree.value().to_bits(), expected.to_bits());
            prop_assert_eq!(stored(&tree), bytes.clone());
            prop_assert_eq!(stored(&merged(&parts)), bytes);
        }

        #[test]
        fn what_cancels_leaves_nothing(values in proptest::collection::vec(value(), 1..30)) {
            let back = values.iter().rev().map(|value| -value);
            let all: Vec<f64> = values.iter().copied().chain(back).collect();
            let sum = sum_of(&all);
            prop_assert_eq!(sum.value().to_bits(), 0);
            prop_assert_eq!(stored(&sum), [0]);
        }

        #[test]
        fn no_bytes_make_it_fail_otherwise_than_by_an_error(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            value in value(),
        ) {
            let mut sum = FloatSum::default();
            if sum.merge(&bytes).is_ok() {
                let _ = sum.add(value);
                let _ = sum.value();
            }
        }
    }

    #[test]
    fn it_is_infinite_only_if_the_sum_is() {
        let half = 2_f64.powi(970);
        for (values, expected) in [
            (vec![f64::MAX, f64::MAX, f64::MIN], f64::MAX),
            (vec![f64::MAX, f64::MAX], f64::INFINITY),
            (vec![f64::MAX, half], f64::INFINITY), // of two the even one, which is no float
            (vec![f64::MAX, half, -f64::from_bits(1)], f64::MAX),
        ] {
            assert_eq!(sum_of(&values).value().to_bits(), expected.to_bits(), "{values:?}");
        }
    }

    #[test]
    fn what_is_not_finite_stays_so_whatever_the_order() {
        let (nan, infinity) = (f64::NAN, f64::INFINITY);
        for (values, expected) in [
            (vec![1.0, infinity, -2.0], infinity),
            (vec![f64::MIN, -infinity], -infinity),
            (vec![infinity, 1.0, -infinity], nan),
            (vec![1.0, nan], nan),
            (vec![-nan, -infinity, infinity], nan),
        ] {
            let mut backwards = values.clone();
            backwards.reverse();
            let (one, other) = (sum_of(&values), sum_of(&backwards));
            assert_eq!(stored(&one), stored(&other));
            let merged = merged(&[stored(&one), stored(&sum_of(&[3.0]))]);
            for sum in [one, other, merged] {
                assert_eq!(sum.value().to_bits(), expected.to_bits(), "{values:?}");
            }
        }
    }

    /// Values as far above the first as it reaches: the sum of some does not fit any more.
    #[test]
    fn what_does_not_fit_beside_the_first_value_is_kept() {
        for power in 25..75 {
            let large = (2.0 - f64::EPSILON) * 2_f64.powi(power);
            for sign in [1.0, -1.0] {
                let values = [1.0, large, large, large, -1.0, large].map(|value| sign * value);
                let (sum, expected) = (sum_of(&values), by_digits(&values));
                let parts: Vec<_> = values.iter().map(|value| stored(&sum_of(&[*value]))).collect();
                for sum in [sum, merged(&parts)] {
                    assert_eq!(sum.value().to_bits(), expected.to_bits(), "{values:?}");
                }
            }
        }
    }

    #[test]
    fn zeros_have_no_sign_and_nothing_is_told_from_zero() {
        assert_eq!(sum_of(&[-0.0, -0.0]).value().to_bits(), 0);
        assert!(sum_of(&[]).is_empty());
        assert!(!sum_of(&[-0.0]).is_empty());
        assert!(!merged(&[stored(&sum_of(&[0.0]))]).is_empty());
    }

    #[test]
    fn many_of_the_largest_fit_and_come_back() {
        let mut sum = sum_of(&[f64::MAX]);
        let mut back = sum_of(&[f64::MIN]);
        for _ in 0..64 {
            let (own, other) = (stored(&sum), stored(&back));
            sum = merged(&[own.clone(), own]);
            back = merged(&[other.clone(), other]);
        }
        assert!(sum.value().is_infinite());
        assert_eq!(merged(&[stored(&sum), stored(&back)]).value().to_bits(), 0);
    }

    #[test]
    fn it_takes_few_bytes() {
        assert_eq!(size_of::<FloatSum>(), 32);
        assert_eq!(stored(&sum_of(&[7.0])), [0, 134, 1 << 4 | 1 << 3 | 1 << 2]);
        let cents: Vec<f64> = (1..100_000).map(|cents| f64::from(cents) / 100.0).collect();
        let sum = sum_of(&cents);
        assert!(stored(&sum).len() <= 14, "{}", stored(&sum).len());
        assert_eq!(sum.heap_bytes(), 0);
        let error = sum_of(&[]).merge(&[]).unwrap_err();
        assert!(error.to_string().contains("float sum is damaged"), "{error}");
        assert!(sum_of(&[]).merge(&[HIGH_PLACE, 15, 1, 1]).is_err());
        assert!(sum_of(&[]).merge(&[HIGH_PLACE, 15, 1]).is_ok());
    }
}
