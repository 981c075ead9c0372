//! Real processes of the project and of others: started, watched, killed, and ended when dropped.
//!
//! It must never end a process that it did not start. The hard case is a program that was not built yet:
//! [`program`] builds it once, with the profile of the test itself.
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Once;

use super::eventually;

/// Set by whoever has built the programs already, to spare a second build.
pub(super) const PROGRAMS_BUILT: &str = "VEDETTE_PROGRAMS_BUILT";

/// The path of one of the project's programs (`vedette-agent`, `vedette-aggregator`), built if need be. `VEDETTE_AGENT`
/// names another agent, as one for another machine with what runs it there.
///
/// # Panics
/// When it does not build.
pub fn program(name: &str) -> PathBuf {
    if let Some(agent) = std::env::var_os("VEDETTE_AGENT").filter(|_| name == "vedette-agent") {
        return agent.into();
    }
    static BUILD: Once = Once::new();
    let this = std::env::current_exe().expect("a test runs from a file");
    let folder = this.ancestors().find(|folder| folder.join("deps").is_dir()).expect("tests live in deps");
    let built = std::env::var_os(PROGRAMS_BUILT).is_some() && folder.join(name).exists();
    BUILD.call_once(|| {
        if built {
            return;
        }
        let mut build = Command::new(env!("CARGO"));
        build.args([
            "build",
            "--locked",
            "--quiet",
            "--bins",
            "-p",
            "vedette-agent",
            "-p",
            "vedette-aggregator",
        ]);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        let status = build.current_dir(env!("CARGO_MANIFEST_DIR")).status().expect("cargo starts");
        assert!(status.success(), "the programs do not build");
    });
    folder.join(name)
}

/// A child process with its output in a file.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program`; what it prints goes to `log`, appended, so that a restart keeps what was said before.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(program: &Path, args: &[&str], log: &Path) -> Self {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut command = Command::new(program);
        command.args(args);
        Self::start_command(command, name, log)
    }

    /// Starts `command` likewise; `name` is what it is called when it fails.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_command(mut command: Command, name: String, log: &Path) -> Self {
        let out = File::options().create(true).append(true).open(log).expect("the log can be written");
        let err = out.try_clone().expect("a file handle can be copied");
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        let child = child.unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self { name, child, log: log.to_owned() }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has printed so far.
    pub fn printed(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// `kill -9`, and waits for its end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, and waits up to `seconds` for its end.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn terminate(&mut self, seconds: u64) -> ExitStatus {
        let status = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "{} cannot be signalled", self.name);
        let what = format!("the end of {} after SIGTERM", self.name);
        eventually(&what, seconds, || self.child.try_wait().ok().flatten())
    }

    /// Resident memory in bytes, from /proc; none once it has ended.
    pub fn resident_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- {} printed:\n{}", self.name, self.printed());
        }
    }
}
