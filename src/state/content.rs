//! What is in a state file: held in memory while it is small, else in a file on local disk that
//! vanishes with the process.

use super::StateError;
use bytes::Bytes;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use tempfile::{SpooledData, SpooledTempFile};

/// Bytes that are read from local disk together.
const READ_BYTES: usize = 128 << 10;
/// Bytes that are written to it together.
const WRITE_BYTES: usize = 64 << 10;

/// The content of a state file. It can be read several times, one after the other.
#[derive(Debug)]
pub struct StateContent(Kept);

#[derive(Debug)]
enum Kept {
    Held(Bytes),
    Local { file: File, bytes: u64 },
}

impl StateContent {
    /// How many bytes it has.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        match &self.0 {
            Kept::Held(held) => held.len() as u64,
            Kept::Local { bytes, .. } => *bytes,
        }
    }

    /// The bytes, if they are in memory.
    #[must_use]
    pub const fn held(&self) -> Option<&Bytes> {
        match &self.0 {
            Kept::Held(held) => Some(held),
            Kept::Local { .. } => None,
        }
    }

    /// Reads it from its beginning.
    ///
    /// # Errors
    ///
    /// A disk that fails, as all errors of this type.
    pub fn reader(&self) -> Result<Box<dyn Read + Send + '_>, StateError> {
        match &self.0 {
            Kept::Held(held) => Ok(Box::new(held.as_ref())),
            Kept::Local { file, .. } => {
                let mut file = file;
                file.rewind().map_err(StateError::disk)?;
                Ok(Box::new(BufReader::with_capacity(READ_BYTES, file)))
            }
        }
    }

    /// All its bytes, in memory.
    ///
    /// # Errors
    ///
    /// A disk that fails.
    pub fn to_bytes(&self) -> Result<Bytes, StateError> {
        if let Some(held) = self.held() {
            return Ok(held.clone());
        }
        let mut all = Vec::with_capacity(self.bytes() as usize);
        self.reader()?.read_to_end(&mut all).map_err(StateError::disk)?;
        Ok(all.into())
    }
}

impl From<Bytes> for StateContent {
    fn from(held: Bytes) -> Self {
        Self(Kept::Held(held))
    }
}

/// Writes a [`StateContent`]: to memory, and to local disk once it is larger than a limit.
#[derive(Debug)]
pub struct ContentWriter(BufWriter<SpooledTempFile>);

impl ContentWriter {
    /// An empty content, of which `held_max` bytes stay in memory.
    #[must_use]
    pub fn new(held_max: usize) -> Self {
        Self(BufWriter::with_capacity(WRITE_BYTES.min(held_max), SpooledTempFile::new(held_max)))
    }

    /// What was written.
    ///
    /// # Errors
    ///
    /// A disk that fails.
    pub fn finish(self) -> Result<StateContent, StateError> {
        let file = self.0.into_inner().map_err(|error| StateError::disk(error.into_error()))?;
        Ok(StateContent(match file.into_inner() {
            SpooledData::InMemory(held) => Kept::Held(held.into_inner().into()),
            SpooledData::OnDisk(file) => {
                let bytes = file.metadata().map_err(StateError::disk)?.len();
                Kept::Local { file, bytes }
            }
        }))
    }
}

impl Write for ContentWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_again_and_again_wherever_it_is() {
        let all: Vec<u8> = (0..100_000_u32).map(|at| (at % 251) as u8).collect();
        for held_max in [1 << 20, 100_000, 99_999, 10] {
            let mut writer = ContentWriter::new(held_max);
            all.chunks(777).for_each(|part| writer.write_all(part).unwrap());
            let content = writer.finish().unwrap();
            assert_eq!(content.held().is_some(), held_max >= 100_000);
            assert_eq!(content.bytes(), 100_000);
            for _ in 0..2 {
                assert_eq!(content.to_bytes().unwrap(), all);
                let mut some = [0; 5];
                content.reader().unwrap().read_exact(&mut some).unwrap();
                assert_eq!(some, [0, 1, 2, 3, 4]);
            }
        }
    }
}
