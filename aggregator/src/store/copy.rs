//! A copy of the database while it is in use, and looks at whether a database is whole.
//! It must never hold up the one who commits: readers of a WAL database see one moment and lock nobody out. The hard case is a copy that was cut short:
//! it stands beside its name until it is on the disk, was read again from end to end and found whole.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process;

use rusqlite::{Connection, OpenFlags, params};

use super::{BUSY_TIMEOUT, Store, StoreError, schema};

/// Findings of SQLite's own checks that are listed.
const FINDINGS_MAX: u32 = 20;

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// Something has that name.
    #[error("{0} exists already and is not replaced: move it away first")]
    Exists(PathBuf),
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The copy, or what was to be copied, is damaged.
    #[error("{path} is damaged:\n{}", findings.join("\n"))]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite found.
        findings: Vec<String>,
    },
    /// SQLite failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for CopyError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> CopyError {
    let path = path.to_owned();
    move |source| CopyError::Io { path, source }
}

impl Store {
    /// Opens any database of ours for looking only; it is not brought up to date.
    ///
    /// # Errors
    /// [`StoreError::Newer`] for one of a later program, or what SQLite says.
    pub fn open_to_look(path: &Path) -> Result<Self, StoreError> {
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        let store = Self { connection };
        let (found, known) = (store.schema_version()?, schema::known());
        if found > known { Err(StoreError::Newer { found, known }) } else { Ok(store) }
    }

    /// Everything that `look` reads is of one moment, whatever others commit meanwhile.
    ///
    /// # Errors
    /// Those of `look`, or what SQLite says.
    pub fn at_one_moment<T>(
        &self,
        look: impl FnOnce(&Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let _moment = self.connection.unchecked_transaction()?;
        look(self)
    }

    /// The version of its tables.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn schema_version(&self) -> Result<i64, StoreError> {
        Ok(self.connection.query_row("PRAGMA user_version", [], |row| row.get(0))?)
    }

    /// The version that this program writes.
    #[must_use]
    pub fn schema_known() -> i64 {
        schema::known()
    }

    /// What SQLite finds wrong with every page, index and reference; nothing when it is whole. Reads everything.
    ///
    /// # Errors
    /// What SQLite says when it cannot even look.
    pub fn integrity(&self) -> Result<Vec<String>, StoreError> {
        let mut found = self.findings(&format!("PRAGMA integrity_check({FINDINGS_MAX})"))?;
        let mut references =
            self.connection.prepare("SELECT \"table\", rowid, parent FROM pragma_foreign_key_check")?;
        let rows = references.query_map([], |row| {
            let (table, parent): (String, String) = (row.get(0)?, row.get(2)?);
            Ok(format!("a row of {table} refers to one of {parent} that is not there"))
        })?;
        for row in rows.take(FINDINGS_MAX as usize) {
            found.push(row?);
        }
        Ok(found)
    }

    /// As [`Store::integrity`], without comparing indexes with their tables: several times as fast.
    ///
    /// # Errors
    /// What SQLite says when it cannot even look.
    pub fn quick_integrity(&self) -> Result<Vec<String>, StoreError> {
        self.findings(&format!("PRAGMA quick_check({FINDINGS_MAX})"))
    }

    fn findings(&self, pragma: &str) -> Result<Vec<String>, StoreError> {
        let mut statement = self.connection.prepare(pragma)?;
        let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
        let mut found: Vec<String> = rows.collect::<Result<_, _>>()?;
        found.retain(|line| line != "ok");
        Ok(found)
    }

    /// Copies the database as of one moment to `target`, mode 0600, on the disk and checked.
    ///
    /// # Errors
    /// [`CopyError`]: `target` is there already, is not writable, or the copy is not whole.
    pub fn copy_to(&self, target: &Path) -> Result<(), CopyError> {
        if target.exists() {
            return Err(CopyError::Exists(target.to_owned()));
        }
        let beside = with_end(target, &format!(".{}.new", process::id()));
        let private = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside);
        drop(private.map_err(failed(&beside))?);
        let result = self.copy_beside(&beside).and_then(|()| {
            fs::rename(&beside, target).map_err(failed(target))?;
            sync_folder(target).map_err(failed(target))
        });
        if result.is_err() {
            // Why there is no copy matters more than what is left of it.
            let _ = fs::remove_file(&beside);
        }
        result
    }

    /// Writes into `beside`, which is there and empty.
    fn copy_beside(&self, beside: &Path) -> Result<(), CopyError> {
        let name = beside.to_str().ok_or_else(|| {
            failed(beside)(io::Error::new(io::ErrorKind::InvalidInput, "its name is not UTF-8"))
        })?;
        self.connection.execute("VACUUM INTO ?1", params![name])?;
        File::open(beside).and_then(|file| file.sync_all()).map_err(failed(beside))?;
        let findings = Self::open_to_look(beside)?.integrity()?;
        if findings.is_empty() {
            Ok(())
        } else {
            Err(CopyError::Damaged { path: beside.to_owned(), findings })
        }
    }
}

/// Where a restore puts what it goes on from; a database beside such a file is halfway through one.
pub(super) fn restored(database: &Path) -> PathBuf {
    database.with_extension("restored")
}

/// Puts a backup in place of the database `database`, which nobody may have open; what was there is kept beside it, and its name given.
///
/// One that was cut short leaves a file that keeps everybody else from the database, and is finished by the next.
///
/// # Errors
/// [`CopyError`]: the backup is damaged or of a later program, something was kept before, or the operating system refuses. Until the old
/// database is put aside as a whole, all is as it was.
pub fn restore(backup: &Path, database: &Path) -> Result<Option<PathBuf>, CopyError> {
    let store = Store::open_to_look(backup)?;
    let findings = store.integrity()?;
    if !findings.is_empty() {
        return Err(CopyError::Damaged { path: backup.to_owned(), findings });
    }
    let kept = database.exists().then(|| database.with_extension("before-restore"));
    if let Some(kept) = &kept {
        put_aside(database, kept)?;
    }
    let fresh = restored(database);
    remove(&fresh)?;
    store.copy_to(&fresh)?;
    // The log of the former database would be taken for one of the new.
    remove(&with_end(database, "-wal"))?;
    remove(&with_end(database, "-shm"))?;
    fs::rename(&fresh, database).map_err(failed(database))?;
    sync_folder(database).map_err(failed(database))?;
    Ok(kept)
}

/// Gives a database a second name, and its log likewise: what that holds was committed too.
fn put_aside(database: &Path, kept: &Path) -> Result<(), CopyError> {
    for end in ["", "-wal"] {
        let (from, to) = (with_end(database, end), with_end(kept, end));
        match fs::hard_link(&from, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // By a restore that was cut short.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_same(&from, &to) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(CopyError::Exists(to)),
            Err(error) => return Err(failed(&to)(error)),
            Ok(()) => {}
        }
    }
    sync_folder(kept).map_err(failed(kept))
}

fn is_same(one: &Path, other: &Path) -> bool {
    let place = |path| fs::metadata(path).map(|it| (it.dev(), it.ino())).ok();
    place(one).is_some_and(|it| Some(it) == place(other))
}

fn remove(path: &Path) -> Result<(), CopyError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(path)(error)),
        _ => Ok(()),
    }
}

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}
