//! Line protocol from files that grow, and from standard input.
//!
//! Owns where in a file reading stands. Must never read a line twice within one start, nor hold a file that was
//! replaced. The hard case is rotation: a file with another inode, or one shorter than what was read, is a new file and
//! read from its start.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;
use vedette_agent_core::parse::Format;
use vedette_common::DropReason;

use super::lines::{LineBuffer, Taken};
use super::{Stop, line_protocol_format};
use crate::config::{self, ReadFrom};
use crate::engine::Engine;

/// How often a file is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// Reads of one file before others get their turn: half a MiB.
const READS_MAX: usize = 32;

/// The files to follow, and standard input if it is to be read.
#[derive(Debug)]
pub struct FileSources {
    files: Vec<Followed>,
    stdin: bool,
    format: Format,
}

impl FileSources {
    /// Opens nothing yet: a file may come later.
    #[must_use]
    pub fn new(settings: &config::FileSource, precision: config::Precision) -> Self {
        let format = line_protocol_format(precision);
        let files =
            settings.paths.iter().map(|path| Followed::new(path.clone(), settings.from, format)).collect();
        Self { files, stdin: settings.stdin, format }
    }

    /// Starts a task for each.
    pub fn start(self, tasks: &mut JoinSet<()>, engine: &Arc<Engine>, stop: &Stop) {
        for file in self.files {
            tasks.spawn(file.run(engine.clone(), stop.clone()));
        }
        if self.stdin {
            tasks.spawn(read_stdin(engine.clone(), self.format, stop.clone()));
        }
    }
}

/// One file, followed as it grows and through its replacement.
#[derive(Debug)]
struct Followed {
    path: PathBuf,
    open: Option<Open>,
    /// Where the next opening begins: as configured for what is there at the start, later always at the start.
    from: ReadFrom,
    lines: LineBuffer,
    format: Format,
}

#[derive(Debug)]
struct Open {
    file: File,
    inode: u64,
    at: u64,
}

impl Followed {
    fn new(path: PathBuf, from: ReadFrom, format: Format) -> Self {
        Self { path, open: None, from, lines: LineBuffer::default(), format }
    }

    async fn run(mut self, engine: Arc<Engine>, mut stop: Stop) {
        loop {
            let more = self.advance(&engine).unwrap_or_else(|error| {
                tracing::warn!(path = %self.path.display(), %error, "a file cannot be read");
                self.open = None;
                false
            });
            let pause = if more { Duration::ZERO } else { POLL_INTERVAL };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.stopped() => return,
            }
        }
    }

    /// Reads what was added; whether there may be more at once.
    fn advance(&mut self, engine: &Engine) -> io::Result<bool> {
        if self.open.is_none() && !self.open()? {
            return Ok(false);
        }
        let Some(open) = &mut self.open else { return Ok(false) };
        for _ in 0..READS_MAX {
            let count = open.file.read(self.lines.room())?;
            if count == 0 {
                self.leave_if_replaced(engine)?;
                return Ok(false);
            }
            open.at += count as u64;
            if self.lines.take(count, |bytes| engine.take(self.format, bytes)) == Taken::LineTooLong {
                engine.dropped(DropReason::LineTooLong, 1);
            }
        }
        Ok(true)
    }

    /// Opens the file; false when there is none yet.
    fn open(&mut self) -> io::Result<bool> {
        let from = std::mem::replace(&mut self.from, ReadFrom::Start);
        let mut file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            opened => opened?,
        };
        let at = if from == ReadFrom::End { file.seek(SeekFrom::End(0))? } else { 0 };
        self.lines.forget();
        self.open = Some(Open { inode: file.metadata()?.ino(), file, at });
        Ok(true)
    }

    fn leave_if_replaced(&mut self, engine: &Engine) -> io::Result<()> {
        let Some(open) = &self.open else { return Ok(()) };
        let replaced = match std::fs::metadata(&self.path) {
            Ok(now) => now.ino() != open.inode || now.len() < open.at,
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(error),
        };
        if replaced {
            // What stands at the end of a file that nobody writes any more is a whole line.
            self.lines.finish(|bytes| engine.take(self.format, bytes));
            self.open = None;
        }
        Ok(())
    }
}

/// Reads standard input to its end.
async fn read_stdin(engine: Arc<Engine>, format: Format, mut stop: Stop) {
    let (mut input, mut lines) = (tokio::io::stdin(), LineBuffer::default());
    loop {
        let count = tokio::select! {
            read = input.read(lines.room()) => read,
            () = stop.stopped() => break,
        };
        match count {
            Ok(0) => break,
            Ok(count) => {
                if lines.take(count, |bytes| engine.take(format, bytes)) == Taken::LineTooLong {
                    engine.dropped(DropReason::LineTooLong, 1);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "standard input cannot be read");
                break;
            }
        }
    }
    lines.finish(|bytes| engine.take(format, bytes));
}
