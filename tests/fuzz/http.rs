//! Fuzzes what comes to the agent's own sockets: the head of a request to its health server, and a stream that is cut into lines.
//!
//! The hard case is a line that is nearly a request, and one that ends just past the longest that is taken.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vedette_agent::http::path;
use vedette_agent::source::lines::LineBuffer;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(path) = path(bytes) {
        assert!(!path.contains(['?', ' ', '\r', '\n']));
    }
    // The first byte says in what pieces the rest comes.
    let Some((&piece, stream)) = bytes.split_first() else { return };
    let (mut buffer, mut lines) = (LineBuffer::default(), Vec::new());
    for piece in stream.chunks(1 + usize::from(piece)) {
        buffer.room()[..piece.len()].copy_from_slice(piece);
        buffer.take(piece.len(), |whole| lines.extend_from_slice(whole));
    }
    buffer.finish(|last| lines.extend_from_slice(last));
    assert_eq!(lines, stream, "short lines come out as they went in");
});
