//! The only way to chance, so that tests can replace it.

use std::fmt::Debug;

/// Random bits for names, transaction ids and hash keys.
pub trait Entropy: Debug + Send + Sync {
    /// Sixteen fresh random bytes.
    fn bits(&self) -> [u8; 16];

    /// A fresh name: 32 lower-case hexadecimal digits.
    fn name(&self) -> String {
        self.bits().iter().fold(String::with_capacity(32), |mut text, byte| {
            text.push(char::from(b"0123456789abcdef"[usize::from(byte >> 4)]));
            text.push(char::from(b"0123456789abcdef"[usize::from(byte & 15)]));
            text
        })
    }
}

/// The random source of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn bits(&self) -> [u8; 16] {
        let mut bits = *uuid::Uuid::new_v4().as_bytes();
        let more = *uuid::Uuid::new_v4().as_bytes();
        bits[6] ^= more[0]; // the two bytes of a version 4 UUID that hold fixed bits
        bits[8] ^= more[1];
        bits
    }
}
