//! Local files that are written under a name which no listing shows, and then get their own.

use super::durable::{create_folders, sync_folder_of};
use super::unsynced::Unsynced;
use object_store::PutPayload;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path as FilePath, PathBuf};

/// A file that has no name of its own yet. Dropping it removes it; one that a crash leaves behind
/// is never listed and never read.
#[derive(Debug)]
pub(super) struct Staging {
    path: PathBuf,
    file: File,
    /// `None` once it has its name.
    staged: Option<PathBuf>,
}

impl Staging {
    /// Writes what `path` will hold.
    pub(super) fn write(path: &FilePath, payload: &PutPayload) -> io::Result<Self> {
        let (file, staged) = create(path)?;
        let mut staging = Self { path: path.to_owned(), file, staged: Some(staged) };
        payload.iter().try_for_each(|part| staging.file.write_all(part))?;
        Ok(staging)
    }

    /// Gives the file its name, which another may have already unless it `replaces`. With
    /// `unsynced` it is on disk then, as is what waits there.
    pub(super) fn name(mut self, replaces: bool, unsynced: Option<&Unsynced>) -> io::Result<()> {
        if let Some(unsynced) = unsynced {
            unsynced.sync(&self.file)?;
        }
        if let Some(staged) = &self.staged {
            if replaces {
                std::fs::rename(staged, &self.path)?;
            } else {
                std::fs::hard_link(staged, &self.path)?;
                drop(std::fs::remove_file(staged));
            }
            self.staged = None;
        }
        if unsynced.is_some() { sync_folder_of(&self.path) } else { Ok(()) }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Some(staged) = self.staged.take() {
            drop(std::fs::remove_file(staged));
        }
    }
}

/// Creates `path#1`, `path#2`, ...: names that `LocalFileSystem` leaves out of its listings.
fn create(path: &FilePath) -> io::Result<(File, PathBuf)> {
    let mut number = 1_u64;
    loop {
        let mut name = path.as_os_str().to_owned();
        name.push(format!("#{number}"));
        let staged = PathBuf::from(name);
        match OpenOptions::new().write(true).create_new(true).open(&staged) {
            Ok(file) => return Ok((file, staged)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
            Err(error) if error.kind() == ErrorKind::NotFound => create_folders(path)?,
            Err(error) => return Err(error),
        }
    }
}
