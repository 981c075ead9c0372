//! The state folder: where the CA, the database and the local enrolment token live.
//! It owns paths and permissions: the folder is 0700 and every file in it 0600.
//! It must never widen or silently repair a permission: what others could already read may be copied, so only a person can decide what to do.
//! The hard case is a crash halfway through a write: files are written beside their final name, synced, then renamed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Permission bits of the folder.
const FOLDER_MODE: u32 = 0o700;
/// Permission bits of each file.
const FILE_MODE: u32 = 0o600;
/// The file whose lock says that an aggregator is running.
const LOCK_FILE: &str = "lock";
/// The file whose lock is held while something in the folder is made for the first time.
const MAKING_FILE: &str = "making";
/// How long another process may take to make it.
const MAKING_MAX: Duration = Duration::from_secs(30);
/// How long to wait before looking again.
const MAKING_PAUSE: Duration = Duration::from_millis(10);

/// What is wrong with the state folder or a file in it.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The environment does not say where state goes.
    #[error(
        "no state folder: set `state_dir` in the config, or VEDETTE_AGGREGATOR_STATE, XDG_STATE_HOME or HOME in the environment"
    )]
    Nowhere,
    /// Group or others may reach what only the owner may.
    #[error(
        "{path} has mode {found:04o}, which lets other users in; only its owner may have access: run `chmod {wanted:o} {path}` if nobody else can have read it, else replace its secrets"
    )]
    TooOpen {
        /// The folder or file.
        path: PathBuf,
        /// Its permission bits.
        found: u32,
        /// The permission bits it should have.
        wanted: u32,
    },
    /// Another process works with this folder.
    #[error(
        "{path}: another aggregator is running on this state folder; stop it, or set another `state_dir`"
    )]
    Locked {
        /// The lock's file.
        path: PathBuf,
    },
    /// Another process makes the CA or the database, and does not come to an end.
    #[error("{path}: another command has been at work in this state folder for {} s; see what it does and try again", MAKING_MAX.as_secs())]
    Making {
        /// The lock's file.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// The folder or file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl StateError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

/// An existing folder that only its owner can enter.
#[derive(Debug, Clone)]
pub struct StateFolder {
    path: PathBuf,
}

impl StateFolder {
    /// The folder used when the config names none: `$VEDETTE_AGGREGATOR_STATE`, else `$STATE_DIRECTORY` (systemd),
    /// else `$XDG_STATE_HOME/vedette-aggregator`, else `~/.local/state/vedette-aggregator`.
    ///
    /// # Errors
    /// [`StateError::Nowhere`] when none of these variables is set.
    pub fn default_path() -> Result<PathBuf, StateError> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        variable("VEDETTE_AGGREGATOR_STATE")
            .or_else(|| variable("STATE_DIRECTORY"))
            .or_else(|| variable("XDG_STATE_HOME").map(|base| base.join("vedette-aggregator")))
            .or_else(|| variable("HOME").map(|home| home.join(".local/state/vedette-aggregator")))
            .ok_or(StateError::Nowhere)
    }

    /// Opens the folder at `path`, creating it (mode 0700) when missing.
    ///
    /// # Errors
    /// [`StateError::TooOpen`] when group or others have any access, else what the operating system says.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(FOLDER_MODE).create(path).map_err(StateError::io(path))?;
        check_mode(path, FOLDER_MODE)?;
        Ok(Self { path: path.to_owned() })
    }

    /// The folder itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of the file `name` in the folder.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The content of the file `name`, or `None` when there is no such file.
    ///
    /// # Errors
    /// [`StateError::TooOpen`] when group or others have any access to it.
    pub fn read(&self, name: &str) -> Result<Option<String>, StateError> {
        let path = self.file(name);
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StateError::Io { path, source }),
            Ok(_) => check_mode(&path, FILE_MODE)?,
        }
        fs::read_to_string(&path).map(Some).map_err(StateError::io(&path))
    }

    /// Replaces the file `name` (mode 0600) so that a crash leaves either the former content or the new.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn write(&self, name: &str, content: &str) -> Result<(), StateError> {
        let path = self.file(name);
        self.replace(&path, content).map_err(StateError::io(&path))
    }

    /// Creates the file `name` empty with mode 0600 when it is missing, so that a library that opens it later keeps that mode.
    ///
    /// # Errors
    /// [`StateError::TooOpen`] when it exists and group or others have any access to it.
    pub fn reserve(&self, name: &str) -> Result<PathBuf, StateError> {
        let path = self.file(name);
        private_file().create_new(true).open(&path).map(drop).or_else(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Ok(()),
            _ => Err(StateError::Io { path: path.clone(), source: error }),
        })?;
        check_mode(&path, FILE_MODE)?;
        Ok(path)
    }

    /// Keeps other aggregators out of this folder for as long as the returned file is open, whatever ends the process.
    ///
    /// # Errors
    /// [`StateError::Locked`] when another one is running.
    pub fn lock(&self) -> Result<File, StateError> {
        let path = self.reserve(LOCK_FILE)?;
        let file = File::open(&path).map_err(StateError::io(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(fs::TryLockError::WouldBlock) => Err(StateError::Locked { path }),
            Err(fs::TryLockError::Error(source)) => Err(StateError::Io { path, source }),
        }
    }

    /// Makes what is missing in this folder while no other process does: of two that start together in a new folder, one makes
    /// the CA and the database, and the other finds them.
    ///
    /// # Errors
    /// [`StateError::Making`] when another one takes too long, else what `make` or the operating system says.
    pub fn make<T, E: From<StateError>>(&self, make: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let path = self.reserve(MAKING_FILE)?;
        let file = File::open(&path).map_err(StateError::io(&path))?;
        let began = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return make(),
                Err(fs::TryLockError::WouldBlock) if began.elapsed() < MAKING_MAX => {
                    std::thread::sleep(MAKING_PAUSE);
                }
                Err(fs::TryLockError::WouldBlock) => return Err(StateError::Making { path }.into()),
                Err(fs::TryLockError::Error(source)) => return Err(StateError::Io { path, source }.into()),
            }
        }
    }

    fn replace(&self, path: &Path, content: &str) -> io::Result<()> {
        let beside = path.with_extension("new");
        let mut file = private_file().create(true).truncate(true).open(&beside)?;
        file.set_permissions(fs::Permissions::from_mode(FILE_MODE))?;
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        File::open(&self.path)?.sync_all()
    }
}

fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(FILE_MODE);
    options
}

fn check_mode(path: &Path, wanted: u32) -> Result<(), StateError> {
    let found = fs::metadata(path).map_err(StateError::io(path))?.mode() & 0o7777;
    if found & 0o077 == 0 {
        Ok(())
    } else {
        Err(StateError::TooOpen { path: path.to_owned(), found, wanted })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn creates_the_folder_and_its_files_for_the_owner_only() {
        let base = tempfile::tempdir().unwrap();
        let folder = StateFolder::open(&base.path().join("a/state")).unwrap();
        folder.write("secret", "s").unwrap();
        folder.reserve("database").unwrap();
        assert_eq!(mode(folder.path()), 0o700);
        assert_eq!(mode(&folder.file("secret")), 0o600);
        assert_eq!(mode(&folder.file("database")), 0o600);
        assert_eq!(folder.read("secret").unwrap().as_deref(), Some("s"));
        assert_eq!(folder.read("absent").unwrap(), None);
    }

    #[test]
    fn refuses_what_others_can_read_and_says_what_to_do() {
        let base = tempfile::tempdir().unwrap();
        let folder = StateFolder::open(&base.path().join("state")).unwrap();
        folder.write("secret", "s").unwrap();
        fs::set_permissions(folder.file("secret"), fs::Permissions::from_mode(0o640)).unwrap();
        let error = folder.read("secret").unwrap_err().to_string();
        assert!(error.contains("mode 0640") && error.contains("chmod 600"), "{error}");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let error = StateFolder::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("mode 0755") && error.contains("chmod 700"), "{error}");
    }

    #[test]
    fn one_aggregator_at_a_time() {
        let base = tempfile::tempdir().unwrap();
        let folder = StateFolder::open(&base.path().join("state")).unwrap();
        let lock = folder.lock().unwrap();
        assert!(folder.lock().unwrap_err().to_string().contains("another aggregator is running"));
        drop(lock);
        folder.lock().unwrap();
    }

    #[test]
    fn a_second_write_replaces_the_first() {
        let base = tempfile::tempdir().unwrap();
        let folder = StateFolder::open(base.path().join("state").as_path()).unwrap();
        folder.write("secret", "first").unwrap();
        folder.write("secret", "second").unwrap();
        assert_eq!(folder.read("secret").unwrap().as_deref(), Some("second"));
        assert_eq!(folder.read("another").unwrap(), None);
    }
}
