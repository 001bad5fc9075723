//! What the key index holds of a key.

use crate::key::KeyValue;

/// A file by its ordinal, and a row of it.
pub(super) type Place = (u32, u32);

/// Where the row of a key is, and the first bytes of its sequence, 0 in a table without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) place: Place,
    pub(super) sequence: u64,
}

/// No file has this ordinal.
const NOWHERE: Place = (u32::MAX, u32::MAX);

/// What an entry of the index holds.
pub(super) trait Placed: KeyValue {
    fn of(slot: Slot) -> Self;
    fn slot(self) -> Slot;
    fn moved(&mut self, place: Place);
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let mut own = [0; 4];
    own.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(own)
}

impl KeyValue for Place {
    const BYTES: usize = 8;
    const GONE: Self = NOWHERE;

    fn is_gone(&self) -> bool {
        *self == NOWHERE
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.0.to_le_bytes());
        bytes.extend_from_slice(&self.1.to_le_bytes());
    }

    fn read(bytes: &[u8]) -> Self {
        (word(bytes, 0), word(bytes, 4))
    }
}

impl KeyValue for Slot {
    const BYTES: usize = 16;
    const GONE: Self = Self { place: NOWHERE, sequence: 0 };

    fn is_gone(&self) -> bool {
        self.place.is_gone()
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        self.place.write(bytes);
        bytes.extend_from_slice(&self.sequence.to_le_bytes());
    }

    fn read(bytes: &[u8]) -> Self {
        let sequence = u64::from(word(bytes, 12)) << 32 | u64::from(word(bytes, 8));
        Self { place: Place::read(bytes), sequence }
    }
}

impl Placed for Place {
    fn of(slot: Slot) -> Self {
        slot.place
    }

    fn slot(self) -> Slot {
        Slot { place: self, sequence: 0 }
    }

    fn moved(&mut self, place: Place) {
        *self = place;
    }
}

impl Placed for Slot {
    fn of(slot: Slot) -> Self {
        slot
    }

    fn slot(self) -> Slot {
        self
    }

    fn moved(&mut self, place: Place) {
        self.place = place;
    }
}
