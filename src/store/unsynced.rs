//! Small files that are written, and get to disk together before anything can name them.
//!
//! A file system writes its journal as often as it is asked to, one time after the other, and each
//! takes as long as ten files that are asked for at once.

use super::durable::sync_folder;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Files up to this size wait; of larger ones the bytes themselves take long.
const BYTES_MAX: usize = 1 << 20;
/// Files that wait at most.
const FILES_MAX: usize = 64;
/// Threads that fsync side by side.
const THREADS_MAX: usize = 16;

/// Files of one store that are written and perhaps not on disk.
#[derive(Debug, Default)]
pub(super) struct Unsynced {
    files: Mutex<Vec<(File, PathBuf)>>,
    /// Held while files get to disk; the first that never will.
    lost: Mutex<Option<String>>,
}

impl Unsynced {
    /// Takes a file that was written, or gives it back if it had better not wait.
    pub(super) fn take(&self, file: File, path: &Path, bytes: usize) -> Result<(), File> {
        let mut files = locked(&self.files);
        if bytes > BYTES_MAX || files.len() >= FILES_MAX {
            return Err(file);
        }
        files.push((file, path.to_owned()));
        Ok(())
    }

    /// How many files wait.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        locked(&self.files).len()
    }

    /// Brings all files that wait to disk, with their names, and `staged` with them.
    ///
    /// # Errors
    ///
    /// A disk that failed, now or before: what may name such a file must not be written any more.
    pub(super) fn sync(&self, staged: &File) -> io::Result<()> {
        let mut lost = locked(&self.lost);
        if let Some(lost) = lost.as_ref() {
            return Err(io::Error::other(lost.clone()));
        }
        let files = std::mem::take(&mut *locked(&self.files));
        let (failed, own) = sync_all(&files, staged);
        if let Some((path, error)) = failed {
            let reason = format!(
                "{} did not get to disk: {error}; nothing that could name it is written until the \
                 program is started again",
                path.display()
            );
            *lost = Some(reason.clone());
            return Err(io::Error::other(reason));
        }
        own
    }
}

/// Fsyncs files and `staged` side by side, and then the folders of the files; says which failed.
fn sync_all<'a>(
    files: &'a [(File, PathBuf)],
    staged: &File,
) -> (Option<(&'a Path, io::Error)>, io::Result<()>) {
    let sync = |own: &'a [(File, PathBuf)]| {
        own.iter().find_map(|(file, path)| Some((path.as_path(), file.sync_all().err()?)))
    };
    let per_thread = files.len().div_ceil(THREADS_MAX).max(1);
    std::thread::scope(|scope| {
        let tasks: Vec<_> =
            files.chunks(per_thread).map(|own| scope.spawn(move || sync(own))).collect();
        let own = staged.sync_all();
        let failed = tasks.into_iter().find_map(|task| match task.join() {
            Ok(failed) => failed,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        let folders: BTreeSet<&Path> = files.iter().filter_map(|(_, path)| path.parent()).collect();
        // A folder that is gone was taken away with what was in it.
        let is_there = |error: &io::Error| error.kind() != ErrorKind::NotFound;
        let folder = |folder: &&Path| sync_folder(folder).err().filter(is_there);
        let failed = failed.or_else(|| folders.iter().find_map(|own| Some((*own, folder(own)?))));
        (failed, own)
    })
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_lost_keeps_all_later_ones_from_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let staged = File::create(folder.path().join("staged")).unwrap();
        let waiting = Unsynced::default();
        let gone = folder.path().join("gone").join("file");
        waiting.take(File::create(folder.path().join("file")).unwrap(), &gone, 1).unwrap();
        waiting.sync(&staged).unwrap();
        #[cfg(unix)]
        {
            // A pipe is not on any disk.
            let (_reader, pipe) = io::pipe().unwrap();
            let pipe = File::from(std::os::fd::OwnedFd::from(pipe));
            waiting.take(pipe, &folder.path().join("pipe"), 1).unwrap();
            for _ in 0..2 {
                let error = waiting.sync(&staged).unwrap_err().to_string();
                assert!(error.contains("pipe did not get to disk"), "{error}");
            }
        }
    }

    #[test]
    fn many_files_and_large_ones_do_not_wait() {
        let folder = tempfile::tempdir().unwrap();
        let waiting = Unsynced::default();
        let path = |number: usize| folder.path().join(number.to_string());
        let take = |number: usize, bytes| {
            let file = File::create(path(number)).unwrap();
            waiting.take(file, &path(number), bytes).is_ok()
        };
        assert!(!take(0, BYTES_MAX + 1));
        assert!((0..FILES_MAX).all(|number| take(number, BYTES_MAX)));
        assert!(!take(FILES_MAX, 1));
        waiting.sync(&File::create(path(1_000)).unwrap()).unwrap();
        assert!(take(FILES_MAX, 1), "the others are on disk");
    }
}
