//! A filter of 128-bit hashes: what it does not know is not there.
//!
//! Split blocks of 256 bits: a hash sets, and asks for, one bit in each of the eight words of one
//! block, so that a question costs one cache miss. Costs 10.7 bits for each hash; about one question
//! in a hundred about what is not there is answered with "perhaps".
//!
//! # Sources
//!
//! Putze, Sanders and Singler, "Cache-, hash- and space-efficient Bloom filters", 2007; the salts
//! are those of the Parquet format's split block Bloom filters.

const WORDS: usize = 8;
/// Hashes for each block.
const PER_BLOCK: usize = 24;
const SALTS: [u32; WORDS] = [
    0x47b6_137b,
    0x4497_4d91,
    0x8824_ad5b,
    0xa2b7_289d,
    0x7054_95c7,
    0x2df1_424b,
    0x9efc_4947,
    0x5c6b_fb31,
];

/// A set of hashes that answers "perhaps" or "no".
#[derive(Clone, Debug, Default)]
pub struct KeyFilter {
    blocks: Vec<[u32; WORDS]>,
}

impl KeyFilter {
    /// An empty filter for about `hashes` hashes. With more, "perhaps" is said more often.
    #[must_use]
    pub fn for_hashes(hashes: usize) -> Self {
        Self { blocks: vec![[0; WORDS]; hashes.div_ceil(PER_BLOCK)] }
    }

    /// Adds `hash`.
    pub fn insert(&mut self, hash: u128) {
        let block = self.block_of(hash);
        if let Some(block) = self.blocks.get_mut(block) {
            for (word, bit) in block.iter_mut().zip(bits(hash)) {
                *word |= bit;
            }
        }
    }

    /// Whether `hash` can be in it; what was inserted always can.
    #[must_use]
    pub fn may_contain(&self, hash: u128) -> bool {
        let block = self.blocks.get(self.block_of(hash));
        block.is_some_and(|block| block.iter().zip(bits(hash)).all(|(word, bit)| word & bit != 0))
    }

    /// Bytes allocated.
    #[must_use]
    pub const fn allocated_bytes(&self) -> usize {
        self.blocks.capacity() * size_of::<[u32; WORDS]>()
    }

    /// By the low half of the hash: tables and runs are ordered by the high one.
    fn block_of(&self, hash: u128) -> usize {
        ((u128::from(hash as u64) * self.blocks.len() as u128) >> 64) as usize
    }
}

/// One bit for each word of a block. The lowest bits of a hash tell its shard, and are left out.
fn bits(hash: u128) -> [u32; WORDS] {
    let key = (hash >> 8) as u32;
    SALTS.map(|salt| 1 << (key.wrapping_mul(salt) >> 27))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_inserted_is_known_and_little_else() {
        let spread = |key: u128| {
            let mixed = key.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
            (mixed ^ mixed >> 67).wrapping_mul(0xD6E8_FEB8_6659_FD93_2545_F491_4F6C_DD1D)
        };
        // Of one shard of 64, as the key index has them.
        let hashes = |from| (from..).map(spread).filter(|hash| hash % 64 == 5).take(100_000);
        let mut filter = KeyFilter::for_hashes(100_000);
        hashes(1).for_each(|hash| filter.insert(hash));
        assert!(hashes(1).all(|hash| filter.may_contain(hash)));
        let wrong = hashes(1 << 40).filter(|hash| filter.may_contain(*hash)).count();
        assert!(wrong < 1_500, "{wrong} of 100 000 are taken for known");
        assert!(filter.allocated_bytes() < 140_000);
        assert!(!KeyFilter::default().may_contain(7));
    }
}
