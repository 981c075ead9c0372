//! What the spool needs of a medium: numbered segments that can be read, written, cut and removed.
//!
//! It must never hide a failure: each comes back as the medium's own error and is sorted into a
//! [`StorageFault`]. The hard case is a write that fails half-way; the caller knows where it began and writes
//! there again, so a medium needs no undo.

/// Numbered segments of bytes on some medium. Two implementations: [`MemoryStorage`](super::MemoryStorage)
/// here, and the segment files of the agent.
pub trait Storage {
    /// What went wrong, in the medium's own terms, for people.
    type Error: core::error::Error;

    /// Sorts an error into what the spool does about it.
    fn fault(error: &Self::Error) -> StorageFault;

    /// Bytes in `segment`; none when it does not exist.
    ///
    /// # Errors
    /// The medium's own, when it cannot tell.
    fn length(&mut self, segment: u16) -> Result<Option<u32>, Self::Error>;

    /// Reads into `out` from offset `at` and gives the bytes read: fewer than asked only at the segment's end.
    ///
    /// # Errors
    /// The medium's own; also when the segment does not exist.
    fn read(&mut self, segment: u16, at: u32, out: &mut [u8]) -> Result<usize, Self::Error>;

    /// Writes `bytes` at offset `at`, which is at most the segment's length; creates the segment.
    ///
    /// # Errors
    /// The medium's own. Any part of `bytes` may have been written then.
    fn write(&mut self, segment: u16, at: u32, bytes: &[u8]) -> Result<(), Self::Error>;

    /// Returns once what was written to `segment` would survive a power cut.
    ///
    /// # Errors
    /// The medium's own.
    fn sync(&mut self, segment: u16) -> Result<(), Self::Error>;

    /// Cuts `segment` to `length` bytes; cutting what does not exist is no error.
    ///
    /// # Errors
    /// The medium's own.
    fn truncate(&mut self, segment: u16, length: u32) -> Result<(), Self::Error>;

    /// Removes `segment`; removing what does not exist is no error.
    ///
    /// # Errors
    /// The medium's own.
    fn remove(&mut self, segment: u16) -> Result<(), Self::Error>;
}

/// Kinds of failure of a medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StorageFault {
    /// No room left on the medium.
    Full,
    /// The medium cannot be written, or this user may not.
    ReadOnly,
    /// Anything else: a broken medium, a folder that went away.
    Broken,
}

impl StorageFault {
    /// Every kind, in the order of its [`index`](Self::index).
    pub const ALL: [Self; 3] = [Self::Full, Self::ReadOnly, Self::Broken];

    /// The place in an array over the kinds.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The name for counters and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::ReadOnly => "read_only",
            Self::Broken => "broken",
        }
    }
}
