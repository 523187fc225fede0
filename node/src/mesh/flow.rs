//! How much of what was published has left: gossipsub's queues are short and drop what does not fit without a word,
//! so publishing waits while a neighbour's queue fills up.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use futures::{AsyncRead, AsyncWrite};
use libp2p::PeerId;
use libp2p::core::muxing::{StreamMuxer, StreamMuxerBox, StreamMuxerEvent, SubstreamBox};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::counters::Counters;
use super::limits;

/// Messages on the way to one neighbour at which publishing waits. The rest of its queue is for forwarding, and for
/// what the estimate misses.
const PAUSE_AT: usize = limits::GOSSIP_QUEUE_MESSAGES / 4;
/// A neighbour to which nothing went for so long is slow, or told gossipsub that it has those messages from elsewhere.
/// Which of the two cannot be seen, so a few messages go on, and no more: opening up would overflow a queue that is
/// really full.
const STALL_MS: u64 = 20;
const TRICKLE: usize = 16;
/// A neighbour to which nothing went for so long is not waited for until it moves again.
const STUCK_MS: u64 = 1_000;

/// Bytes that streams to each peer have taken, over all its connections.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    written: Mutex<BTreeMap<PeerId, Weak<AtomicU64>>>,
    /// Rung when something was written.
    pub(crate) moved: Notify,
}

impl Flow {
    /// The count of a peer. It is forgotten when nobody holds it.
    pub(crate) fn of(&self, peer: PeerId) -> Arc<AtomicU64> {
        let mut written = self.written.lock();
        if let Some(count) = written.get(&peer).and_then(Weak::upgrade) {
            return count;
        }
        written.retain(|_, count| count.strong_count() > 0);
        let count = Arc::new(AtomicU64::new(0));
        written.insert(peer, Arc::downgrade(&count));
        count
    }

    /// Counts what goes over a connection's streams.
    pub(crate) fn watch(
        self: &Arc<Self>,
        peer: PeerId,
        muxer: StreamMuxerBox,
        counters: Arc<Counters>,
    ) -> StreamMuxerBox {
        let count = Count { written: self.of(peer), flow: self.clone(), counters };
        StreamMuxerBox::new(Watched { inner: muxer, count })
    }
}

#[derive(Clone)]
struct Count {
    written: Arc<AtomicU64>,
    flow: Arc<Flow>,
    counters: Arc<Counters>,
}

struct Watched<T> {
    inner: T,
    count: Count,
}

impl Watched<StreamMuxerBox> {
    fn watch(&self, inner: SubstreamBox) -> Watched<SubstreamBox> {
        Watched { inner, count: self.count.clone() }
    }
}

impl StreamMuxer for Watched<StreamMuxerBox> {
    type Substream = Watched<SubstreamBox>;
    type Error = io::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Self::Substream>> {
        let stream = ready!(Pin::new(&mut self.inner).poll_inbound(cx))?;
        Poll::Ready(Ok(self.watch(stream)))
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Self::Substream>> {
        let stream = ready!(Pin::new(&mut self.inner).poll_outbound(cx))?;
        Poll::Ready(Ok(self.watch(stream)))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

impl AsyncRead for Watched<SubstreamBox> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = ready!(Pin::new(&mut self.inner).poll_read(cx, buffer))?;
        self.count.counters.stream_bytes_in.fetch_add(read as u64, Relaxed);
        Poll::Ready(Ok(read))
    }
}

impl AsyncWrite for Watched<SubstreamBox> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, buffer))?;
        self.count.written.fetch_add(written as u64, Relaxed);
        self.count.counters.stream_bytes_out.fetch_add(written as u64, Relaxed);
        self.count.flow.moved.notify_one();
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

/// What was published to one neighbour and has, by the bytes its streams took since, not left yet. Other traffic
/// makes the estimate too low, never too high for long.
#[derive(Debug)]
pub(crate) struct Backlog {
    written: Arc<AtomicU64>,
    /// The count of written bytes at which each message has left.
    ends: VecDeque<u64>,
    /// The count when it was last looked at, and when it was last found to have grown.
    seen: u64,
    moved_ms: u64,
    trickled_ms: u64,
}

impl Backlog {
    pub(crate) fn new(written: Arc<AtomicU64>) -> Self {
        Self { written, ends: VecDeque::new(), seen: 0, moved_ms: 0, trickled_ms: 0 }
    }

    /// A message of so many bytes was queued.
    pub(crate) fn add(&mut self, bytes: usize, now_ms: u64) {
        if self.ends.is_empty() {
            self.moved_ms = now_ms;
        }
        if self.ends.len() < limits::GOSSIP_QUEUE_MESSAGES {
            let begin = self.ends.back().copied().unwrap_or(0).max(self.written.load(Relaxed));
            self.ends.push_back(begin + bytes as u64);
        }
    }

    /// Whether publishing should wait for this neighbour.
    pub(crate) fn is_full(&mut self, now_ms: u64) -> bool {
        let written = self.written.load(Relaxed);
        if written != self.seen {
            (self.seen, self.moved_ms) = (written, now_ms);
        }
        while self.ends.front().is_some_and(|end| *end <= written) {
            self.ends.pop_front();
        }
        if self.ends.len() < PAUSE_AT || now_ms >= self.moved_ms + STUCK_MS {
            return false;
        }
        if now_ms >= self.moved_ms.max(self.trickled_ms) + STALL_MS {
            self.trickled_ms = now_ms;
            self.ends.drain(..TRICKLE.min(self.ends.len()));
        }
        self.ends.len() >= PAUSE_AT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publishing_waits_for_a_full_queue_trickles_on_a_stall_and_gives_up_on_the_stuck() {
        let written = Arc::new(AtomicU64::new(500));
        let mut backlog = Backlog::new(written.clone());
        (0..PAUSE_AT).for_each(|_| backlog.add(10, 0));
        assert!(backlog.is_full(1));
        written.fetch_add(9, Relaxed);
        assert!(backlog.is_full(2), "the first has not left yet");
        written.fetch_add(1, Relaxed);
        assert!(!backlog.is_full(3));

        backlog.add(10, 3);
        assert!(backlog.is_full(2 + STALL_MS));
        assert!(!backlog.is_full(3 + STALL_MS), "a trickle");
        (0..TRICKLE).for_each(|_| backlog.add(10, 3 + STALL_MS));
        assert!(backlog.is_full(4 + STALL_MS), "and no more than that");
        assert!(!backlog.is_full(3 + STUCK_MS), "stuck");
        written.fetch_add(1, Relaxed);
        assert!(backlog.is_full(4 + STUCK_MS), "it moves again");
    }

    #[test]
    fn a_peers_count_is_shared_and_forgotten() {
        let (flow, peer) = (Flow::default(), PeerId::random());
        let first = flow.of(peer);
        first.store(5, Relaxed);
        assert_eq!(flow.of(peer).load(Relaxed), 5);
        drop(first);
        assert_eq!(flow.of(peer).load(Relaxed), 0);
    }
}
