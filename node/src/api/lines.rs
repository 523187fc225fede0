//! Cuts a stream of chunks into lines.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures::Stream;

/// Bytes of the longest line: the largest event, its data in base64 or all escaped, and its attributes.
pub(crate) const MAX_LINE_BYTES: usize = 8 * 1024 * 1024;

/// Why no more lines come.
#[derive(Debug)]
pub(crate) enum LinesError<E> {
    /// The stream of chunks failed.
    Input(E),
    /// A line is longer than [`MAX_LINE_BYTES`].
    TooLong,
}

/// Lines without their ends; empty ones are left out. A last line needs no end. Lines share the memory of their chunks.
#[derive(Debug)]
pub(crate) struct Lines<S> {
    chunks: S,
    chunk: Bytes,
    /// The beginning of a line whose end is in a later chunk.
    begun: BytesMut,
    ended: bool,
}

impl<S> Lines<S> {
    pub(crate) fn new(chunks: S) -> Self {
        Self { chunks, chunk: Bytes::new(), begun: BytesMut::new(), ended: false }
    }

    /// The next line whose end is here.
    fn cut(&mut self) -> Option<Bytes> {
        let end = self.chunk.iter().position(|byte| *byte == b'\n')?;
        let mut line = self.chunk.split_to(end + 1);
        line.truncate(end);
        if !self.begun.is_empty() {
            self.begun.extend_from_slice(&line);
            line = self.begun.split().freeze();
        }
        Some(without_return(line))
    }
}

fn without_return(mut line: Bytes) -> Bytes {
    if line.last() == Some(&b'\r') {
        line.truncate(line.len() - 1);
    }
    line
}

impl<S: Stream<Item = Result<Bytes, E>> + Unpin, E> Stream for Lines<S> {
    type Item = Result<Bytes, LinesError<E>>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(line) = this.cut() {
                if line.is_empty() {
                    continue;
                }
                return Poll::Ready(Some(Ok(line)));
            }
            this.begun.extend_from_slice(&std::mem::take(&mut this.chunk));
            if this.begun.len() > MAX_LINE_BYTES {
                this.begun.clear();
                this.ended = true;
                return Poll::Ready(Some(Err(LinesError::TooLong)));
            }
            if this.ended {
                let rest = without_return(this.begun.split().freeze());
                return Poll::Ready((!rest.is_empty()).then_some(Ok(rest)));
            }
            match ready!(Pin::new(&mut this.chunks).poll_next(context)) {
                Some(Ok(chunk)) => this.chunk = chunk,
                Some(Err(error)) => {
                    this.begun.clear();
                    this.ended = true;
                    return Poll::Ready(Some(Err(LinesError::Input(error))));
                }
                None => this.ended = true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt, stream};

    use super::*;

    #[tokio::test]
    async fn chunks_become_lines() {
        let chunks =
            ["a", "b\n\nc\r\nd", "", "e\n", "\nf"].map(|chunk| Ok::<_, ()>(Bytes::from_static(chunk.as_bytes())));
        let lines: Vec<_> = Lines::new(stream::iter(chunks)).map(|line| line.unwrap()).collect().await;
        assert_eq!(lines, ["ab", "c", "de", "f"]);
    }
}
