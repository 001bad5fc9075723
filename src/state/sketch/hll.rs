//! `HyperLogLog`: how many different values went in.
//!
//! A value is a 64-bit hash. Its *coupon* is the first 26 bits, the index, and the rank of the
//! rest: one more than its leading zeros, 1 to 39. A set is kept as its coupons, of each index
//! the highest rank, which counts it almost exactly; once they are too many, as the registers of
//! the classic sketch: of each of `2^lg_k` indexes the highest rank. Either form is a function of
//! the set, and so is the moment of the change.
//!
//! # Payload, version 1
//!
//! ```text
//!   offset  bytes
//!   0       1      lg_k, 4 to 18
//!   1       1      form: 0 coupons, 1 registers
//!   2       4 * n  coupons: index << 6 | rank as u32, ascending by index, each index once;
//!                  n = 0 to min(3 * 2^lg_k / 16, 4096)
//!   2       3 * n  registers, four at a time: r0 | r1 << 6 | r2 << 12 | r3 << 18 as 24 bits LE;
//!                  n = 2^lg_k / 4; a rank is 0 (no value) to 65 - lg_k
//! ```
//!
//! The register of a hash `h` has index `h >> (64 - lg_k)`, and its rank is one more than the
//! leading zeros of the other bits. The estimate of coupons is linear counting among `2^26`; that
//! of registers is Ertl's improved raw estimate, which needs no table and no change of method.

use super::format::{Payload, frame, unframe};
use super::{Sketch, SketchError, SketchKind};

const COUPON_LG: u8 = 26;
const RANK_BITS: u32 = 6;
const RANK_MASK: u32 = (1 << RANK_BITS) - 1;
const COUPON_RANK_MAX: u32 = 65 - COUPON_LG as u32;
const COUPONS_MAX: usize = 4096;
const FORM_COUPONS: u8 = 0;
const FORM_REGISTERS: u8 = 1;

/// Counts different values with a standard error of `1.04 / sqrt(2^lg_k)`, 1.6 % by default.
///
/// Up to `min(3 * 2^lg_k / 16, 4096)` different values, 768 by default, the count is exact but
/// for hashes that share 26 bits: one too few in one of 200 sketches of 768 values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HllSketch {
    lg_k: u8,
    form: Form,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    Coupons(Vec<u32>),
    Registers(Vec<u8>),
}

impl HllSketch {
    /// The least and the most precision.
    pub const LG_K: std::ops::RangeInclusive<u8> = 4..=18;
    /// The precision unless another is asked for: a standard error of 1.6 %, 3 KiB.
    pub const LG_K_DEFAULT: u8 = 12;

    /// An empty sketch of `2^lg_k` registers.
    ///
    /// # Errors
    ///
    /// [`SketchError::Parameter`] for an `lg_k` outside [`Self::LG_K`].
    pub fn try_new(lg_k: u8) -> Result<Self, SketchError> {
        let (min, max) = (*Self::LG_K.start(), *Self::LG_K.end());
        if !Self::LG_K.contains(&lg_k) {
            let (min, max) = (u32::from(min), u32::from(max));
            return Err(SketchError::Parameter { name: "lg_k", min, max, found: lg_k.to_string() });
        }
        Ok(Self { lg_k, form: Form::Coupons(Vec::new()) })
    }

    /// Adds the value whose hash is `hash`: 64 bits that look random. A value that is in already
    /// changes nothing.
    pub fn insert(&mut self, hash: u64) {
        let rank = |lg: u8| (hash << lg).leading_zeros().min(64 - u32::from(lg)) + 1;
        match &mut self.form {
            Form::Registers(registers) => {
                raise(registers, (hash >> (64 - self.lg_k)) as usize, rank(self.lg_k) as u8);
            }
            Form::Coupons(_) => {
                let index = (hash >> (64 - COUPON_LG)) as u32;
                self.insert_coupon(index << RANK_BITS | rank(COUPON_LG));
            }
        }
    }

    /// About how many different values went in.
    #[must_use]
    pub fn estimate(&self) -> u64 {
        let estimate = match &self.form {
            Form::Coupons(coupons) => {
                let all = f64::from(1_u32 << COUPON_LG);
                -all * (-(coupons.len() as f64) / all).ln_1p()
            }
            Form::Registers(registers) => estimate(registers, self.lg_k),
        };
        estimate.round() as u64
    }

    fn insert_coupon(&mut self, coupon: u32) {
        let lg_k = self.lg_k;
        match &mut self.form {
            Form::Registers(registers) => {
                let (index, rank) = fold(coupon >> RANK_BITS, coupon & RANK_MASK, COUPON_LG, lg_k);
                raise(registers, index as usize, rank as u8);
            }
            Form::Coupons(coupons) => {
                let index = coupon >> RANK_BITS;
                let at = coupons.partition_point(|other| other >> RANK_BITS < index);
                match coupons.get_mut(at) {
                    Some(other) if *other >> RANK_BITS == index => *other = coupon.max(*other),
                    _ => coupons.insert(at, coupon),
                }
                self.settle();
            }
        }
    }

    /// Changes to registers if there are more coupons than this precision keeps.
    fn settle(&mut self) {
        if matches!(&self.form, Form::Coupons(coupons) if coupons.len() > coupons_max(self.lg_k)) {
            self.fill_registers();
        }
    }

    fn fill_registers(&mut self) {
        if let Form::Coupons(coupons) = &self.form {
            let mut registers = vec![0; 1 << self.lg_k];
            for coupon in coupons {
                let (index, rank) = (coupon >> RANK_BITS, coupon & RANK_MASK);
                let (index, rank) = fold(index, rank, COUPON_LG, self.lg_k);
                raise(&mut registers, index as usize, rank as u8);
            }
            self.form = Form::Registers(registers);
        }
    }

    /// Lowers the precision to `lg_k`: the same sketch as if it had been so from the start.
    fn coarsen(&mut self, lg_k: u8) {
        if lg_k >= self.lg_k {
            return;
        }
        if let Form::Registers(registers) = &self.form {
            let mut coarse = vec![0; 1 << lg_k];
            raise_all(&mut coarse, lg_k, registers, self.lg_k);
            self.form = Form::Registers(coarse);
        }
        self.lg_k = lg_k;
        self.settle();
    }

    fn read_coupons(lg_k: u8, mut payload: Payload<'_>) -> Result<Form, SketchError> {
        let mut coupons: Vec<u32> = Vec::new();
        while !payload.is_empty() {
            let coupon = u32::from_le_bytes(payload.array()?);
            if !(1..=COUPON_RANK_MAX).contains(&(coupon & RANK_MASK)) {
                return Err(payload.corrupt(format!("coupon {coupon:08x} has no such rank")));
            }
            if coupons.last().is_some_and(|last| last >> RANK_BITS >= coupon >> RANK_BITS) {
                return Err(payload.corrupt("its coupons are out of order"));
            }
            coupons.push(coupon);
        }
        if coupons.len() > coupons_max(lg_k) {
            return Err(payload.corrupt(format!("{} coupons are too many", coupons.len())));
        }
        coupons.shrink_to_fit();
        Ok(Form::Coupons(coupons))
    }

    fn read_registers(lg_k: u8, mut payload: Payload<'_>) -> Result<Form, SketchError> {
        let mut registers = Vec::with_capacity(1 << lg_k);
        while registers.len() < 1 << lg_k {
            let [a, b, c] = payload.array()?;
            let four = u32::from_le_bytes([a, b, c, 0]);
            registers.extend([0, 6, 12, 18].map(|shift| (four >> shift & RANK_MASK) as u8));
        }
        if !payload.is_empty() {
            return Err(payload.corrupt("bytes follow its registers"));
        }
        if let Some(rank) = registers.iter().find(|rank| **rank > 65 - lg_k) {
            return Err(payload.corrupt(format!("a register holds {rank}")));
        }
        Ok(Form::Registers(registers))
    }
}

impl Sketch for HllSketch {
    const KIND: SketchKind = SketchKind::Hll;

    fn is_empty(&self) -> bool {
        matches!(&self.form, Form::Coupons(coupons) if coupons.is_empty())
    }

    fn merge(&mut self, other: &Self) -> Result<(), SketchError> {
        match (self.is_empty(), other.is_empty()) {
            (false, true) => {}
            (true, false) => self.clone_from(other),
            (true, true) => self.lg_k = self.lg_k.min(other.lg_k),
            (false, false) => {
                self.coarsen(other.lg_k);
                match &other.form {
                    Form::Coupons(coupons) => {
                        for coupon in coupons {
                            self.insert_coupon(*coupon);
                        }
                    }
                    Form::Registers(theirs) => {
                        self.fill_registers();
                        if let Form::Registers(registers) = &mut self.form {
                            raise_all(registers, self.lg_k, theirs, other.lg_k);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn to_bytes(&self) -> Vec<u8> {
        frame(Self::KIND, |out| match &self.form {
            Form::Coupons(coupons) => {
                out.extend_from_slice(&[self.lg_k, FORM_COUPONS]);
                out.extend(coupons.iter().flat_map(|coupon| coupon.to_le_bytes()));
            }
            Form::Registers(registers) => {
                out.extend_from_slice(&[self.lg_k, FORM_REGISTERS]);
                for four in registers.chunks(4) {
                    let four = four.iter().rev().fold(0, |sum, rank| sum << 6 | u32::from(*rank));
                    out.extend_from_slice(&four.to_le_bytes()[..3]);
                }
            }
        })
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, SketchError> {
        let mut payload = unframe(Self::KIND, bytes)?;
        let [lg_k, form] = payload.array()?;
        if !Self::LG_K.contains(&lg_k) {
            return Err(payload.corrupt(format!("lg_k is {lg_k}")));
        }
        let form = match form {
            FORM_COUPONS => Self::read_coupons(lg_k, payload)?,
            FORM_REGISTERS => Self::read_registers(lg_k, payload)?,
            other => return Err(payload.corrupt(format!("it has form {other}"))),
        };
        Ok(Self { lg_k, form })
    }

    fn heap_bytes(&self) -> usize {
        match &self.form {
            Form::Coupons(coupons) => coupons.capacity() * size_of::<u32>(),
            Form::Registers(registers) => registers.capacity(),
        }
    }
}

/// Coupons kept before registers: as many as take no more bytes, and few enough to sort in.
const fn coupons_max(lg_k: u8) -> usize {
    let as_large = (3 << lg_k) / 16;
    if as_large < COUPONS_MAX { as_large } else { COUPONS_MAX }
}

/// The index and rank of a hash among `2^to`, from those among `2^from`.
fn fold(index: u32, rank: u32, from: u8, to: u8) -> (u32, u32) {
    let cut = u32::from(from - to);
    let low = index & ((1 << cut) - 1);
    let rank = if low == 0 { cut + rank } else { low.leading_zeros() - (32 - cut) + 1 };
    (index >> cut, rank)
}

fn raise(registers: &mut [u8], index: usize, rank: u8) {
    if let Some(register) = registers.get_mut(index) {
        *register = rank.max(*register);
    }
}

/// Raises the registers of precision `to` by those of the same precision or a finer one.
fn raise_all(registers: &mut [u8], to: u8, finer: &[u8], from: u8) {
    for (index, rank) in finer.iter().enumerate().filter(|(_, rank)| **rank > 0) {
        let (index, rank) = fold(index as u32, u32::from(*rank), from, to);
        raise(registers, index as usize, rank as u8);
    }
}

/// Ertl's improved raw estimate, his algorithm 6.
fn estimate(registers: &[u8], lg_k: u8) -> f64 {
    let mut counts = [0_u32; 64];
    for rank in registers {
        counts[usize::from(*rank)] += 1;
    }
    let k = f64::from(1_u32 << lg_k);
    let top = 65 - usize::from(lg_k);
    let mut sum = k * tau(1.0 - f64::from(counts[top]) / k);
    for count in counts[1..top].iter().rev() {
        sum = 0.5 * (sum + f64::from(*count));
    }
    sum += k * sigma(f64::from(counts[0]) / k);
    k * k / (2.0 * std::f64::consts::LN_2 * sum)
}

/// `x + x^2 + 2 x^4 + 4 x^8 + ..`: what registers without a value stand for.
fn sigma(mut x: f64) -> f64 {
    if x >= 1.0 {
        return f64::INFINITY;
    }
    let (mut sum, mut factor, mut before) = (x, 1.0, f64::NAN);
    while sum.to_bits() != before.to_bits() {
        x *= x;
        before = sum;
        sum += x * factor;
        factor *= 2.0;
    }
    sum
}

/// What registers at the highest rank stand for.
fn tau(mut x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return 0.0;
    }
    let (mut sum, mut factor, mut before) = (1.0 - x, 1.0, f64::NAN);
    while sum.to_bits() != before.to_bits() {
        x = x.sqrt();
        before = sum;
        factor *= 0.5;
        sum -= (1.0 - x).powi(2) * factor;
    }
    sum / 3.0
}
