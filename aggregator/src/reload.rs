//! The config's file while the aggregator runs: when its content has changed for good, and which content is in force.
//! It must never take over a config with mistakes. The hard case is an editor or a deployment halfway through its writing: a content counts once
//! it has been seen twice in a row, and one that was refused is not tried again until it changes or somebody asks.

use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

use crate::config::{Config, ConfigErrors};

/// SHA-256 of a content.
type Digest = [u8; 32];

/// The file, if there is one, and what is known of its contents.
#[derive(Debug)]
pub(crate) struct ConfigFile {
    path: Option<PathBuf>,
    active: Option<Digest>,
    tried: Option<Digest>,
    seen: Option<Digest>,
}

impl ConfigFile {
    /// Reads the config to start with; without a file, the defaults.
    ///
    /// # Errors
    /// Every mistake in it.
    pub(crate) fn open(path: Option<PathBuf>) -> Result<(Self, Config), ConfigErrors> {
        let mut file = Self { path, active: None, tried: None, seen: None };
        let config = file.read()?;
        file.accept();
        Ok((file, config))
    }

    /// Reads it again.
    ///
    /// # Errors
    /// Every mistake in it; then what is in force stays so.
    pub(crate) fn read(&mut self) -> Result<Config, ConfigErrors> {
        let Some(path) = &self.path else { return Ok(Config::default()) };
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigErrors::of_file(path, format!("cannot be read: {error}")))?;
        self.tried = Some(digest(&text));
        Config::parse(path, &text)
    }

    /// What was read last is in force from now on.
    pub(crate) fn accept(&mut self) {
        self.active = self.tried;
    }

    /// Looks at the content; true once it has changed since it was last read and has come to rest.
    pub(crate) fn look(&mut self) -> bool {
        let Some(path) = &self.path else { return false };
        // A file that is away for a moment is on its way back.
        let Ok(text) = std::fs::read_to_string(path) else { return false };
        let now = Some(digest(&text));
        let settled = std::mem::replace(&mut self.seen, now) == now;
        settled && now != self.tried
    }

    /// A short name of the content in force, `defaults` without a file.
    #[must_use]
    pub(crate) fn active(&self) -> String {
        short(self.active)
    }

    /// A short name of the content that was read last.
    #[must_use]
    pub(crate) fn tried(&self) -> String {
        short(self.tried)
    }
}

fn digest(text: &str) -> Digest {
    Sha256::digest(text).into()
}

/// Twelve digits, as `sha256sum` begins.
fn short(digest: Option<Digest>) -> String {
    let Some(digest) = digest else { return "defaults".into() };
    digest[..6].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_counts_once_it_rests_and_a_refused_one_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.toml");
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        write("");
        let (mut file, config) = ConfigFile::open(Some(path.clone())).unwrap();
        assert_eq!(config, Config::default());
        assert_eq!(file.active(), "e3b0c44298fc");
        assert!(!file.look() && !file.look(), "nothing changed");
        write("[log]\nlevel = ");
        assert!(!file.look(), "it may be half written");
        write("[log]\nlevel = \"debug\"\n");
        assert!(!file.look());
        std::fs::remove_file(&path).unwrap();
        assert!(!file.look(), "away for a moment");
        write("[log]\nlevel = \"debug\"\n");
        assert!(file.look(), "at rest");
        file.read().unwrap();
        file.accept();
        let active = file.active();
        assert!(!file.look(), "read");
        write("[log]\nlevel = \"loud\"\n");
        assert!(!file.look() && file.look());
        assert!(file.read().is_err());
        assert!(!file.look(), "refused, and not tried again");
        assert_eq!(file.active(), active);
        assert_ne!(file.tried(), active);
    }

    #[test]
    fn without_a_file_nothing_ever_changes() {
        let (mut file, _) = ConfigFile::open(None).unwrap();
        assert!(!file.look());
        assert_eq!(file.active(), "defaults");
    }
}
