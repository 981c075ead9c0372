//! The spool's segments as files: `segment-0000.spool` and so on in one folder, readable by their owner only.
//!
//! It must never touch a file that is not one of its segments, and never be shared by two processes: a lock
//! file keeps a second one out. The hard case is a disk that fails in the middle: every error names the file
//! and what was tried, and nothing here remembers a failure, so that the next try finds a disk that recovered.
//!
//! Calls block. They are small (a record, a header), made from one place in the agent.
use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use vedette_agent_core::spool::{Storage, StorageFault};

const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
const LOCK_NAME: &str = "lock";

/// Why a segment file, or the folder of them, could not be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What it answered.
        source: io::Error,
    },
    /// Another process uses the folder.
    #[error("the spool folder {} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// Something else than a file stands under a segment's name.
    #[error("{} is not a regular file", .0.display())]
    Foreign(PathBuf),
}

/// Segment files in one folder. Holds two file handles: the lock and the folder.
#[derive(Debug)]
pub struct FileStorage {
    folder: PathBuf,
    folder_handle: File,
    /// A file was made or removed since the folder was last made safe.
    folder_changed: bool,
    _lock: File,
}

impl FileStorage {
    /// Opens `folder`, creating it and its parents for this user only, and takes its lock. An existing folder
    /// is closed to others.
    ///
    /// # Errors
    /// [`FileError::InUse`] when another process holds the lock, otherwise [`FileError::Io`].
    pub fn open(folder: &Path) -> Result<Self, FileError> {
        let made = DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder);
        made.map_err(error("create", folder))?;
        let handle = File::open(folder).map_err(error("open", folder))?;
        let mode = handle.metadata().map_err(error("examine", folder))?.permissions().mode();
        if mode & 0o077 != 0 {
            let closed = handle.set_permissions(Permissions::from_mode(FOLDER_MODE));
            closed.map_err(error("close to others", folder))?;
        }
        let path = folder.join(LOCK_NAME);
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(FILE_MODE).open(&path);
        let lock = lock.map_err(error("open", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(FileError::InUse(folder.to_owned())),
            Err(TryLockError::Error(source)) => return Err(error("lock", &path)(source)),
        }
        // What the process before this one removed may not be gone for good.
        Ok(Self { folder: folder.to_owned(), folder_handle: handle, folder_changed: true, _lock: lock })
    }

    fn path(&self, segment: u16) -> PathBuf {
        self.folder.join(format!("segment-{segment:04}.spool"))
    }

    fn writable(&mut self, segment: u16) -> Result<(File, PathBuf), FileError> {
        let path = self.path(segment);
        match OpenOptions::new().write(true).open(&path) {
            Ok(file) => Ok((file, path)),
            Err(source) if source.kind() == io::ErrorKind::NotFound => {
                let made = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&path);
                let file = made.map_err(error("create", &path))?;
                self.folder_changed = true;
                Ok((file, path))
            }
            Err(source) => Err(error("open", &path)(source)),
        }
    }
}

fn error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError::Io { action, path, source }
}

impl Storage for FileStorage {
    type Error = FileError;

    fn fault(error: &FileError) -> StorageFault {
        let FileError::Io { source, .. } = error else { return StorageFault::Broken };
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                StorageFault::Full
            }
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => StorageFault::ReadOnly,
            _ => StorageFault::Broken,
        }
    }

    fn length(&mut self, segment: u16) -> Result<Option<u32>, FileError> {
        let path = self.path(segment);
        match path.symlink_metadata() {
            Ok(metadata) if metadata.is_file() => Ok(Some(u32::try_from(metadata.len()).unwrap_or(u32::MAX))),
            Ok(_) => Err(FileError::Foreign(path)),
            Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(error("examine", &path)(source)),
        }
    }

    fn read(&mut self, segment: u16, at: u32, out: &mut [u8]) -> Result<usize, FileError> {
        let path = self.path(segment);
        let file = File::open(&path).map_err(error("open", &path))?;
        let mut read = 0;
        while read < out.len() {
            match file.read_at(&mut out[read..], u64::from(at) + read as u64) {
                Ok(0) => break,
                Ok(bytes) => read += bytes,
                Err(source) if source.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(error("read", &path)(source)),
            }
        }
        Ok(read)
    }

    fn write(&mut self, segment: u16, at: u32, bytes: &[u8]) -> Result<(), FileError> {
        let (file, path) = self.writable(segment)?;
        file.write_all_at(bytes, u64::from(at)).map_err(error("write", &path))
    }

    fn sync(&mut self, segment: u16) -> Result<(), FileError> {
        let (file, path) = self.writable(segment)?;
        file.sync_data().map_err(error("sync", &path))?;
        if self.folder_changed {
            self.folder_handle.sync_all().map_err(error("sync", &self.folder))?;
            self.folder_changed = false;
        }
        Ok(())
    }

    fn truncate(&mut self, segment: u16, length: u32) -> Result<(), FileError> {
        let path = self.path(segment);
        match OpenOptions::new().write(true).open(&path) {
            Ok(file) => file.set_len(u64::from(length)).map_err(error("cut", &path)),
            Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(error("open", &path)(source)),
        }
    }

    fn remove(&mut self, segment: u16) -> Result<(), FileError> {
        let path = self.path(segment);
        match std::fs::remove_file(&path) {
            Ok(()) => self.folder_changed = true,
            Err(source) if source.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(error("remove", &path)(source)),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use vedette_agent_core::spool::{AppendError, Segment, Spool, SpoolMemory, SpoolSettings};
    use vedette_common::{BootId, DropReason, Lane, MonoMs};

    use super::*;

    const SETTINGS: SpoolSettings = SpoolSettings::with_bytes_max(128 * 1024);

    fn with_spool<T>(folder: &Path, boot: u64, body: impl FnOnce(&mut Spool<'_, FileStorage>) -> T) -> T {
        let mut segments = vec![Segment::default(); SETTINGS.segments()];
        let mut buffer = vec![0; SETTINGS.buffer_bytes()];
        let memory = SpoolMemory { segments: &mut segments, buffer: &mut buffer };
        let storage = FileStorage::open(folder).unwrap();
        body(&mut Spool::open(storage, SETTINGS, memory, BootId(boot)).unwrap())
    }

    fn append(spool: &mut Spool<'_, FileStorage>, bytes: usize) -> Result<(), AppendError<Infallible>> {
        let write = |_, buffer: &mut [u8]| {
            buffer[..bytes].fill(7);
            Ok(bytes)
        };
        spool.append(Lane::RollUps, write).map(|_| ())
    }

    fn bytes_in(folder: &Path) -> u64 {
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
    }

    #[test]
    fn records_survive_a_restart_for_their_owner_only() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("made/spool");
        with_spool(&folder, 1, |spool| {
            append(spool, 100).unwrap();
            spool.handle_window_closed(MonoMs(0));
            assert_eq!(spool.counts().faults, [0; 3]);
            let taken = FileStorage::open(&folder);
            assert!(matches!(taken, Err(FileError::InUse(_))), "{taken:?}");
        });
        assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        let file = folder.join("segment-0000.spool").metadata().unwrap();
        assert_eq!(file.permissions().mode() & 0o777, 0o600);
        with_spool(&folder, 2, |spool| {
            let next = spool.next(Lane::RollUps, None).unwrap().unwrap();
            assert_eq!((next.key.boot, next.frame), (BootId(1), &[7; 100][..]));
            let key = next.key;
            assert_eq!(spool.acknowledge(key), Ok(1));
            assert_eq!(bytes_in(&folder), 0);
        });
    }

    #[test]
    fn the_cap_holds_and_foreign_files_stay() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["notes.txt", "segment-1.spool", "segment-0001.spool.bak"] {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        std::fs::create_dir(folder.path().join("segment-0002.spool")).unwrap();
        with_spool(folder.path(), 1, |spool| {
            assert_eq!(spool.recovery().unreadable_segments, 1);
            // Older records may hide in what cannot be read: for a while nothing is put before them, and that is counted.
            let refused = (0..300).take_while(|_| append(spool, 2_000).is_err()).count();
            assert!((1..100).contains(&refused), "{refused}");
            assert_eq!(spool.counts().dropped.get(DropReason::SpoolUnwritable), refused as u64);
            for _ in 0..300 {
                append(spool, 2_000).unwrap();
                let own: u64 = (0..4).filter_map(|n| spool_file(folder.path(), n)).sum();
                assert!(own <= u64::from(SETTINGS.bytes_max));
            }
            assert!(spool.counts().dropped.get(DropReason::SpoolFull) > 200);
        });
        assert_eq!(std::fs::read(folder.path().join("segment-1.spool")).unwrap(), b"x");
        assert!(folder.path().join("segment-0002.spool").is_dir());
    }

    fn spool_file(folder: &Path, number: u16) -> Option<u64> {
        let metadata = folder.join(format!("segment-{number:04}.spool")).metadata().ok()?;
        metadata.is_file().then_some(metadata.len())
    }

    #[test]
    fn a_folder_that_goes_away_costs_records_with_a_reason_until_it_is_back() {
        let parent = tempfile::tempdir().unwrap();
        let (folder, away) = (parent.path().join("spool"), parent.path().join("away"));
        with_spool(&folder, 1, |spool| {
            append(spool, 10).unwrap();
            std::fs::rename(&folder, &away).unwrap();
            let dropped = append(spool, 10);
            let reason = DropReason::SpoolUnwritable;
            assert!(matches!(dropped, Err(AppendError::Dropped { reason: r, .. }) if r == reason));
            assert!(spool.take_error().unwrap().to_string().contains("segment-0000.spool"));
            std::fs::rename(&away, &folder).unwrap();
            append(spool, 10).unwrap();
            assert_eq!((spool.records(Lane::RollUps), spool.counts().dropped.get(reason)), (2, 1));
        });
    }

    #[test]
    fn a_read_only_folder_is_named_so() {
        let folder = tempfile::tempdir().unwrap();
        with_spool(folder.path(), 1, |spool| {
            std::fs::set_permissions(folder.path(), Permissions::from_mode(0o500)).unwrap();
            // The superuser may write all the same; then nothing must be dropped.
            let privileged = File::create(folder.path().join("probe")).is_ok();
            assert_eq!(append(spool, 10).is_ok(), privileged);
            assert_eq!(spool.counts().faults[StorageFault::ReadOnly.index()], u64::from(!privileged));
            std::fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).unwrap();
            append(spool, 10).unwrap();
        });
    }

    #[test]
    fn errors_are_sorted() {
        let fault = |kind: io::ErrorKind| FileStorage::fault(&error("write", Path::new("x"))(kind.into()));
        assert_eq!(fault(io::ErrorKind::StorageFull), StorageFault::Full);
        assert_eq!(fault(io::ErrorKind::ReadOnlyFilesystem), StorageFault::ReadOnly);
        assert_eq!(fault(io::ErrorKind::PermissionDenied), StorageFault::ReadOnly);
        assert_eq!(fault(io::ErrorKind::Other), StorageFault::Broken);
    }
}
