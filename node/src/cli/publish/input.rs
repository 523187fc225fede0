//! Reads stdin on a thread of its own, ahead of what is published, within bounds.

use std::io::{self, BufRead, Read};

use roundelay_protocol::limits::MAX_EVENT_BYTES;
use tokio::sync::mpsc;

use super::super::error::CliError;

/// Bytes that are read at once; what they hold of lines becomes one chunk.
const READ_BYTES: usize = 64 * 1024;
/// Chunks that are read ahead.
const MAX_CHUNKS: usize = 32;

/// What was read.
pub(super) enum Chunk {
    /// Whole lines without their ends.
    Lines(Vec<Vec<u8>>),
    /// Nothing more can be read.
    Failed(CliError),
}

/// The lines of stdin.
pub(super) struct Lines {
    chunks: mpsc::Receiver<Chunk>,
}

impl Lines {
    /// Starts to read.
    pub(super) fn of_stdin() -> Result<Self, CliError> {
        let (sender, chunks) = mpsc::channel(MAX_CHUNKS);
        let reader = || io::BufReader::with_capacity(READ_BYTES, io::stdin());
        let thread = std::thread::Builder::new().name("stdin".into());
        thread.spawn(move || read_lines(reader(), &sender)).map_err(CliError::io("standard input"))?;
        Ok(Self { chunks })
    }

    /// The next lines; none at the end.
    pub(super) async fn next(&mut self) -> Option<Chunk> {
        self.chunks.recv().await
    }

    /// The next lines, if some were read already.
    pub(super) fn try_next(&mut self) -> Option<Chunk> {
        self.chunks.try_recv().ok()
    }
}

fn read_lines(mut input: impl BufRead, chunks: &mpsc::Sender<Chunk>) {
    let mut begun = Vec::new();
    loop {
        let (lines, used, ended) = match input.fill_buf() {
            Ok([]) => (begun_line(&mut begun), 0, true),
            Ok(bytes) => (split(bytes, &mut begun), bytes.len(), false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                let _ = chunks.blocking_send(Chunk::Failed(CliError::io("standard input")(error)));
                return;
            }
        };
        input.consume(used);
        let too_large = begun.len() > MAX_EVENT_BYTES || lines.iter().any(|line| line.len() > MAX_EVENT_BYTES);
        let sound = lines.into_iter().take_while(|line| line.len() <= MAX_EVENT_BYTES).collect::<Vec<_>>();
        // Nobody receives when publishing has failed; there is nothing to read for then.
        if !sound.is_empty() && chunks.blocking_send(Chunk::Lines(sound)).is_err() {
            return;
        }
        if too_large {
            let _ = chunks.blocking_send(Chunk::Failed(too_large_error("a line")));
            return;
        }
        if ended {
            return;
        }
    }
}

/// Cuts bytes into lines; what follows the last newline stays in `begun`. Empty lines are left out.
fn split(bytes: &[u8], begun: &mut Vec<u8>) -> Vec<Vec<u8>> {
    let mut lines = Vec::new();
    let mut rest = bytes;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        begun.extend_from_slice(&rest[..end]);
        lines.append(&mut begun_line(begun));
        rest = &rest[end + 1..];
    }
    begun.extend_from_slice(rest);
    lines
}

fn begun_line(begun: &mut Vec<u8>) -> Vec<Vec<u8>> {
    let mut line = std::mem::take(begun);
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    if line.is_empty() { Vec::new() } else { vec![line] }
}

/// All of stdin, up to what an event can hold.
pub(super) async fn read_all() -> Result<Vec<u8>, CliError> {
    let read = tokio::task::spawn_blocking(|| {
        let mut bytes = Vec::new();
        io::stdin().take(MAX_EVENT_BYTES as u64 + 1).read_to_end(&mut bytes).map(|_| bytes)
    });
    let bytes = read.await.map_err(|error| CliError::failure(error.to_string(), None))?;
    let bytes = bytes.map_err(CliError::io("standard input"))?;
    if bytes.len() > MAX_EVENT_BYTES { Err(too_large_error("the input")) } else { Ok(bytes) }
}

fn too_large_error(what: &str) -> CliError {
    CliError::usage(
        format!("{what} is too large for an event: the limit is 1 MiB ({MAX_EVENT_BYTES} bytes) with all attributes"),
        "store the payload elsewhere and publish a reference to it",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(input: &[u8], capacity: usize) -> (Vec<String>, bool) {
        let (sender, mut chunks) = mpsc::channel(1000);
        read_lines(io::BufReader::with_capacity(capacity, input), &sender);
        drop(sender);
        let (mut lines, mut failed) = (Vec::new(), false);
        while let Ok(chunk) = chunks.try_recv() {
            match chunk {
                Chunk::Lines(more) => lines.extend(more.into_iter().map(|line| String::from_utf8(line).unwrap())),
                Chunk::Failed(_) => failed = true,
            }
        }
        (lines, failed)
    }

    #[test]
    fn lines_are_cut_wherever_reads_end() {
        for capacity in 1..12 {
            assert_eq!(read(b"a\n\nbb\r\nccc", capacity), (vec!["a".into(), "bb".into(), "ccc".into()], false));
            assert_eq!(read(b"a\n", capacity), (vec!["a".into()], false));
            assert_eq!(read(b"", capacity), (vec![], false));
        }
    }

    #[test]
    fn a_line_too_large_ends_it_after_those_before() {
        let input = ["ok\n".into(), "x".repeat(MAX_EVENT_BYTES + 1), "\nlater\n".into()].concat();
        assert_eq!(read(input.as_bytes(), READ_BYTES), (vec!["ok".into()], true));
        let without_end = "x".repeat(3 * MAX_EVENT_BYTES);
        assert_eq!(read(without_end.as_bytes(), READ_BYTES), (vec![], true));
    }
}
