//! Buffers of large reads, used again: in a new one each 4 KiB cost a page fault, and together
//! those cost more than the read.

use bytes::Bytes;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Reads of fewer bytes are not worth it.
pub(super) const LARGE_BYTES: u64 = 256 << 10;
/// Bytes of buffers that nobody uses, at most.
const SPARE_BYTES_MAX: usize = 64 << 20;

/// Buffers that nobody uses, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Buffers(Mutex<Vec<Vec<u8>>>);

/// A buffer in use; it goes back when nobody needs what is in it.
struct Lent {
    buffer: Vec<u8>,
    used: usize,
    home: Arc<Buffers>,
}

impl Buffers {
    /// Reads a range of a file.
    ///
    /// # Errors
    ///
    /// A disk that fails, or a file that ends before the range does.
    pub(super) fn read(self: &Arc<Self>, mut file: &File, range: &Range<u64>) -> io::Result<Bytes> {
        let used =
            usize::try_from(range.end.saturating_sub(range.start)).map_err(io::Error::other)?;
        let mut lent = Lent { buffer: self.take(used), used, home: Arc::clone(self) };
        file.seek(SeekFrom::Start(range.start))?;
        file.read_exact(&mut lent.buffer[..used])?;
        Ok(Bytes::from_owner(lent))
    }

    /// A buffer of at least so many bytes, and not of many more.
    fn take(&self, bytes: usize) -> Vec<u8> {
        let step = bytes.next_power_of_two() / 8;
        let size = bytes.next_multiple_of(step.max(1));
        let mut spare = self.spare();
        match spare.iter().position(|own| (size..=size + step).contains(&own.len())) {
            Some(fits) => spare.remove(fits),
            None => vec![0; size],
        }
    }

    fn give_back(&self, buffer: Vec<u8>) {
        let mut spare = self.spare();
        spare.push(buffer);
        let mut bytes: usize = spare.iter().map(Vec::len).sum();
        let surplus = spare.iter().take_while(|own| {
            let is_surplus = bytes > SPARE_BYTES_MAX;
            bytes -= own.len();
            is_surplus
        });
        let surplus = surplus.count();
        spare.drain(..surplus);
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.used]
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.home.give_back(std::mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_buffer_is_used_again_when_nobody_needs_what_is_in_it() {
        let mut file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..3 << 20).map(|at: u32| (at % 251) as u8).collect();
        file.write_all(&content).unwrap();
        let buffers = Arc::new(Buffers::default());
        let read = |range: Range<u64>| {
            let own = buffers.read(&file, &range).unwrap();
            assert!(own == content[range.start as usize..range.end as usize], "{range:?}");
            own
        };
        let first = read(5..1_000_000);
        let part = first.slice(10..20);
        let second = read(7..1_000_001);
        assert_ne!(first.as_ptr(), second.as_ptr());
        let place = first.as_ptr();
        drop(first);
        assert!(buffers.spare().is_empty(), "a part of it is still needed");
        assert_eq!(part, content[15..25]);
        drop(part);
        let third = read(1_000..1_000_900);
        assert_eq!(third.as_ptr(), place);
        drop((second, third));
        assert_eq!(buffers.spare().len(), 2);
        drop(read(0..3 << 20));
        assert_eq!(buffers.spare().len(), 3, "those that were there are too small");
        assert!(buffers.read(&file, &(0..(3 << 20) + 1)).is_err(), "the file ends before");
    }

    #[test]
    fn of_buffers_that_nobody_uses_few_are_kept() {
        let buffers = Buffers::default();
        for _ in 0..10 {
            buffers.give_back(vec![0; SPARE_BYTES_MAX / 4]);
        }
        buffers.give_back(vec![0; 1]);
        let kept: Vec<usize> = buffers.spare().iter().map(Vec::len).collect();
        assert_eq!(kept, [SPARE_BYTES_MAX / 4, SPARE_BYTES_MAX / 4, SPARE_BYTES_MAX / 4, 1]);
    }
}
