//! A set of integers, exactly, as a Roaring bitmap.
//!
//! # Payload, version 1
//!
//! The portable 64-bit form of the Roaring format specification, as Java's
//! `Roaring64NavigableMap` (portable), C++ `Roaring64Map` and Delta's deletion vectors have it:
//!
//! ```text
//!   offset  bytes
//!   0       8      n, how many 32-bit bitmaps follow, u64
//!   then n times, ascending by high half and none of them empty:
//!           4      the high half of the values, u32
//!           ..     a 32-bit bitmap of their low halves, in the standard form
//! ```
//!
//! A value is its 64 bits as two's complement, so negative ones come last. Each block of 65 536
//! values is an array (up to 4 096 values) or a bit set, or the runs of neighbours, where these
//! are strictly smaller: this makes the form a function of the set.

use super::format::{frame, unframe};
use super::{Sketch, SketchError, SketchKind};
use roaring::{RoaringBitmap, RoaringTreemap};

/// The most memory that one more value can take: an entry of its own with one block.
const VALUE_BYTES_MAX: usize = 320;
/// An entry of the tree of bitmaps, and a block in it, without the values.
const BITMAP_BYTES: usize = 64;
const BLOCK_BYTES: usize = 48;
/// One bit for each value of a block.
const SET_BYTES: usize = 8192;

/// Which integers went in. Exact; the size follows the distinct values: 2 bytes each where a few
/// lie in a block of 65 536, an eighth of a byte or less where a block is full, 22 bytes where
/// they lie all over the 64-bit range.
#[derive(Clone, Debug, Default)]
pub struct BitmapSketch {
    values: RoaringTreemap,
    /// Bytes of memory when last counted, and values that came since.
    counted_bytes: usize,
    values_since: usize,
}

impl BitmapSketch {
    /// An empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `value`.
    pub fn insert(&mut self, value: i64) {
        if self.values.insert(value.cast_unsigned()) {
            self.values_since += 1;
            if self.values_since * VALUE_BYTES_MAX > self.counted_bytes / 4 + 256 {
                self.count_bytes();
            }
        }
    }

    /// How many integers are in the set.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.values.len()
    }

    /// Leaves the integers that are in `other` too.
    pub fn intersect(&mut self, other: &Self) {
        self.values &= &other.values;
        self.count_bytes();
    }

    /// Takes out the integers that are in `other`.
    pub fn subtract(&mut self, other: &Self) {
        self.values -= &other.values;
        self.count_bytes();
    }

    fn count_bytes(&mut self) {
        let bitmap_bytes = |bitmap: &RoaringBitmap| {
            let found = bitmap.statistics();
            let blocks = (found.n_containers as usize).next_power_of_two().max(4);
            let values = found.n_bytes_array_containers + found.n_bytes_run_containers;
            let sets = found.n_bitset_containers as usize * SET_BYTES; // it says bits
            BITMAP_BYTES + blocks * BLOCK_BYTES + values as usize + sets
        };
        self.counted_bytes = self.values.bitmaps().map(|(_, bitmap)| bitmap_bytes(bitmap)).sum();
        self.values_since = 0;
    }
}

impl PartialEq for BitmapSketch {
    fn eq(&self, other: &Self) -> bool {
        self.values == other.values
    }
}

impl Sketch for BitmapSketch {
    const KIND: SketchKind = SketchKind::Bitmap;

    fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    fn merge(&mut self, other: &Self) -> Result<(), SketchError> {
        self.values |= &other.values;
        self.count_bytes();
        Ok(())
    }

    fn to_bytes(&self) -> Vec<u8> {
        let bitmaps = || self.values.bitmaps().filter(|(_, bitmap)| !bitmap.is_empty());
        frame(Self::KIND, |out| {
            out.extend_from_slice(&(bitmaps().count() as u64).to_le_bytes());
            for (high, bitmap) in bitmaps() {
                let mut bitmap = bitmap.clone();
                bitmap.remove_run_compression(); // else a tie of sizes would go by history
                bitmap.optimize();
                out.extend_from_slice(&high.to_le_bytes());
                let written = bitmap.serialize_into(&mut *out);
                debug_assert!(written.is_ok(), "a Vec takes all bytes");
            }
        })
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, SketchError> {
        let payload = unframe(Self::KIND, bytes)?;
        let values = RoaringTreemap::deserialize_from(payload.rest())
            .map_err(|error| payload.corrupt(error.to_string()))?;
        if values.serialized_size() != payload.rest().len()
            || values.bitmaps().any(|(_, bitmap)| bitmap.is_empty())
        {
            return Err(payload.corrupt("its bitmaps do not fill its bytes"));
        }
        let mut read = Self { values, counted_bytes: 0, values_since: 0 };
        read.count_bytes();
        Ok(read)
    }

    fn heap_bytes(&self) -> usize {
        self.counted_bytes + self.values_since * VALUE_BYTES_MAX
    }
}
