//! A stream of bytes cut into whole lines, in one buffer of fixed size.
//!
//! Must never grow and never split a line. The hard case is a line that does not end: past `LINE_BYTES_MAX` it is
//! thrown away up to its end, and the caller is told once.

use vedette_common::limits::LINE_BYTES_MAX;

/// Bytes of the buffer: enough that several lines are handed over at a time.
pub const LINE_BUFFER_BYTES: usize = 4 * LINE_BYTES_MAX;

/// The buffer of one stream; 16 KiB.
#[derive(Debug)]
pub struct LineBuffer {
    bytes: Box<[u8]>,
    filled: usize,
    skipping: bool,
}

/// What the bytes just taken in amounted to, besides the lines handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Nothing else.
    Lines,
    /// A line went over `LINE_BYTES_MAX`; what comes up to its end is thrown away.
    LineTooLong,
}

impl Default for LineBuffer {
    fn default() -> Self {
        Self { bytes: vec![0; LINE_BUFFER_BYTES].into_boxed_slice(), filled: 0, skipping: false }
    }
}

impl LineBuffer {
    /// Room to read into; never empty.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[self.filled..]
    }

    /// Takes in `count` bytes that were read into [`room`](Self::room), and hands every whole line to `sink` in as few
    /// pieces as can be.
    pub fn take(&mut self, count: usize, mut sink: impl FnMut(&[u8])) -> Taken {
        let end = (self.filled + count).min(self.bytes.len());
        let mut begin = 0;
        if self.skipping {
            let Some(line_end) = find(&self.bytes[..end]) else {
                self.filled = 0;
                return Taken::Lines;
            };
            self.skipping = false;
            begin = line_end + 1;
        }
        if let Some(last) = self.bytes[begin..end].iter().rposition(|byte| *byte == b'\n') {
            sink(&self.bytes[begin..=begin + last]);
            begin += last + 1;
        }
        self.bytes.copy_within(begin..end, 0);
        self.filled = end - begin;
        if self.filled <= LINE_BYTES_MAX {
            return Taken::Lines;
        }
        self.filled = 0;
        self.skipping = true;
        Taken::LineTooLong
    }

    /// Hands over a last line that has no line end, as at the end of a connection or of standard input.
    pub fn finish(&mut self, mut sink: impl FnMut(&[u8])) {
        if self.filled > 0 {
            sink(&self.bytes[..self.filled]);
        }
        self.forget();
    }

    /// Forgets an unfinished line, as when a file was replaced.
    pub fn forget(&mut self) {
        self.filled = 0;
        self.skipping = false;
    }
}

fn find(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(buffer: &mut LineBuffer, bytes: &[u8], out: &mut Vec<u8>) -> Vec<Taken> {
        bytes
            .chunks(1000)
            .map(|chunk| {
                buffer.room()[..chunk.len()].copy_from_slice(chunk);
                buffer.take(chunk.len(), |lines| out.extend_from_slice(lines))
            })
            .collect()
    }

    #[test]
    fn lines_are_whole_however_they_arrive() {
        let (mut buffer, mut out) = (LineBuffer::default(), Vec::new());
        feed(&mut buffer, b"a 1\nb", &mut out);
        assert_eq!(out, b"a 1\n");
        feed(&mut buffer, b" 2\nc 3", &mut out);
        assert_eq!(out, b"a 1\nb 2\n");
        buffer.finish(|lines| out.extend_from_slice(lines));
        assert_eq!(out, b"a 1\nb 2\nc 3");
        buffer.finish(|_| panic!("nothing is left"));
    }

    #[test]
    fn an_endless_line_is_told_once_and_the_next_line_is_kept() {
        let (mut buffer, mut out) = (LineBuffer::default(), Vec::new());
        let mut endless = vec![b'x'; 50_000];
        endless.extend_from_slice(b"\nnext 1\n");
        let taken = feed(&mut buffer, &endless, &mut out);
        assert_eq!(taken.iter().filter(|taken| **taken == Taken::LineTooLong).count(), 1);
        assert_eq!(out, b"next 1\n");
    }

    #[test]
    fn the_longest_allowed_line_passes() {
        let (mut buffer, mut out) = (LineBuffer::default(), Vec::new());
        let mut line = vec![b'x'; LINE_BYTES_MAX];
        line.push(b'\n');
        assert!(feed(&mut buffer, &line, &mut out).iter().all(|taken| *taken == Taken::Lines));
        assert_eq!(out, line);
    }
}
