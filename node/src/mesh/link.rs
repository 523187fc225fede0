//! One sync stream: length-prefixed frames in both directions, with bounded queues on either side.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::PeerId;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::counters::Counters;
use super::limits::{MAX_FRAME_BYTES, MAX_LINK_INBOUND_FRAMES, MAX_LINK_QUEUE_BYTES, MAX_LINK_QUEUE_FRAMES};

/// Frames that are queued are written together up to about so many bytes: each write is a yamux frame or more.
const COALESCE_BYTES: usize = 64 * 1024;
/// Smaller frames get an allocation of their own, so that keeping one does not keep its neighbours.
const COPY_BYTES: usize = 8 * 1024;
/// A peer that takes not a byte for so long loses the link.
const STALL: Duration = Duration::from_secs(60);
/// A frame that was begun has to be whole after so long: the largest then comes at 9 KiB a second.
const FRAME_DEADLINE: Duration = Duration::from_secs(120);
/// What is still queued when a link is closed has so long to get out.
const FAREWELL: Duration = Duration::from_millis(500);

/// The queue of a link is full. Try again when some of it is written, or give the peer up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the link's queue is full: the peer takes frames slower than they come")]
pub struct LinkFull;

/// The way out of a link. Clones share one queue.
#[derive(Clone, Debug)]
pub struct LinkSender {
    frames: mpsc::Sender<Bytes>,
    queued_bytes: Arc<AtomicUsize>,
}

impl LinkSender {
    /// Queues one encoded frame, without length prefix. Ok is no promise: a frame given to a link that is down
    /// already, or goes down before it is written, is lost, and `LinkDown` tells.
    pub fn try_send(&self, frame: Bytes) -> Result<(), LinkFull> {
        let bytes = frame.len();
        if self.queued_bytes.fetch_add(bytes, Relaxed) + bytes > MAX_LINK_QUEUE_BYTES {
            self.queued_bytes.fetch_sub(bytes, Relaxed);
            return Err(LinkFull);
        }
        match self.frames.try_send(frame) {
            Ok(()) => Ok(()),
            Err(error) => {
                self.queued_bytes.fetch_sub(bytes, Relaxed);
                if matches!(error, mpsc::error::TrySendError::Full(_)) { Err(LinkFull) } else { Ok(()) }
            }
        }
    }

    /// Whether the link is down. What is queued then is never written.
    pub fn is_closed(&self) -> bool {
        self.frames.is_closed()
    }

    /// Bytes of frames that are queued and not yet written.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes.load(Relaxed)
    }
}

/// The end of a link, for the swarm's task.
#[derive(Debug)]
pub(crate) struct LinkEnd {
    pub(crate) peer: PeerId,
    pub(crate) link: u64,
    pub(crate) reason: String,
    /// The peer broke the protocol.
    pub(crate) breach: bool,
}

/// What the swarm's task keeps of a running link.
#[derive(Debug)]
pub(crate) struct RunningLink {
    pub(crate) link: u64,
    pub(crate) close: CancellationToken,
}

/// Runs a link over `stream` until either side ends it; then one [`LinkEnd`] goes to `ended`.
pub(crate) fn run<S>(
    stream: S,
    peer: PeerId,
    link: u64,
    counters: Arc<Counters>,
    ended: mpsc::Sender<LinkEnd>,
) -> (RunningLink, LinkSender, mpsc::Receiver<Bytes>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (outbound, queue) = mpsc::channel(MAX_LINK_QUEUE_FRAMES);
    let (inbound, frames) = mpsc::channel(MAX_LINK_INBOUND_FRAMES);
    let queued_bytes = Arc::new(AtomicUsize::new(0));
    let close = CancellationToken::new();
    let sender = LinkSender { frames: outbound, queued_bytes: queued_bytes.clone() };
    let token = close.clone();
    tokio::spawn(async move {
        let (reading, writing) = stream.split();
        let writer = Writer { queue, queued_bytes, stream: writing, counters: counters.clone() };
        let (reason, breach) = tokio::select! {
            end = read_frames(reading, inbound, counters, FRAME_DEADLINE) => (end.to_string(), end.is_breach()),
            reason = writer.run(token) => (reason, false),
        };
        // The swarm's task may be gone already: then nobody needs to know.
        let _ = ended.send(LinkEnd { peer, link, reason, breach }).await;
    });
    (RunningLink { link, close }, sender, frames)
}

struct Writer<W> {
    queue: mpsc::Receiver<Bytes>,
    queued_bytes: Arc<AtomicUsize>,
    stream: W,
    counters: Arc<Counters>,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    async fn run(mut self, close: CancellationToken) -> String {
        let mut buffer = Vec::with_capacity(4096);
        loop {
            let frame = tokio::select! {
                frame = self.queue.recv() => frame,
                () = close.cancelled() => return self.say_farewell(buffer).await,
            };
            let Some(frame) = frame else { return "this node let go of the link".to_owned() };
            let written = tokio::select! {
                written = self.write_batch(frame, &mut buffer) => written,
                () = close.cancelled() => return "closed by this node".to_owned(),
            };
            if let Err(error) = written {
                return format!("could not write: {error}");
            }
        }
    }

    /// Writes a frame and those queued behind it, and flushes when nothing is left to write.
    async fn write_batch(&mut self, first: Bytes, buffer: &mut Vec<u8>) -> io::Result<()> {
        let mut next = Some(first);
        while let Some(frame) = next.take() {
            buffer.clear();
            let mut payload_bytes = append(buffer, &frame)?;
            while buffer.len() < COALESCE_BYTES {
                let Ok(frame) = self.queue.try_recv() else { break };
                payload_bytes += append(buffer, &frame)?;
            }
            let stalled = || io::Error::new(io::ErrorKind::TimedOut, "the peer took nothing for 60 s");
            timeout(STALL, self.stream.write_all(buffer)).await.map_err(|_| stalled())??;
            self.queued_bytes.fetch_sub(payload_bytes, Relaxed);
            self.counters.sync_bytes_out.fetch_add(buffer.len() as u64, Relaxed);
            next = self.queue.try_recv().ok();
            if next.is_none() {
                timeout(STALL, self.stream.flush()).await.map_err(|_| stalled())??;
            }
        }
        if buffer.capacity() > 4 * COALESCE_BYTES {
            *buffer = Vec::with_capacity(4096);
        }
        Ok(())
    }

    async fn say_farewell(mut self, mut buffer: Vec<u8>) -> String {
        let farewell = async {
            if let Ok(frame) = self.queue.try_recv() {
                self.write_batch(frame, &mut buffer).await?;
            }
            self.stream.close().await
        };
        // Whoever closes a link has nothing to do about an unclean end.
        let _ = timeout(FAREWELL, farewell).await;
        "closed by this node".to_owned()
    }
}

fn append(buffer: &mut Vec<u8>, frame: &Bytes) -> io::Result<usize> {
    let too_long = || io::Error::new(io::ErrorKind::InvalidInput, format!("a frame of {} bytes", frame.len()));
    let length = u32::try_from(frame.len()).map_err(|_| too_long())?;
    buffer.extend_from_slice(&length.to_be_bytes());
    buffer.extend_from_slice(frame);
    Ok(frame.len())
}

/// Why reading from a link ended.
#[derive(Debug, thiserror::Error)]
enum ReadEnd {
    #[error("this node let go of the link")]
    LetGo,
    #[error("the peer closed the link")]
    Closed,
    #[error("could not read: {0}")]
    Failed(#[from] io::Error),
    #[error("sent a frame of {0} bytes, the most is {MAX_FRAME_BYTES}")]
    TooLarge(usize),
    #[error("did not finish a frame within {} s", FRAME_DEADLINE.as_secs())]
    Trickle,
}

impl ReadEnd {
    /// Whether no honest peer does this.
    fn is_breach(&self) -> bool {
        matches!(self, Self::TooLarge(_) | Self::Trickle)
    }
}

/// Reads frames into `inbound`, as fast as they are taken from it. One that was begun has to be whole after `patience`.
/// Returns why it ended.
async fn read_frames<R>(
    mut stream: R,
    inbound: mpsc::Sender<Bytes>,
    counters: Arc<Counters>,
    patience: Duration,
) -> ReadEnd
where
    R: AsyncRead + Unpin,
{
    let mut buffer = BytesMut::new();
    let mut chunk = vec![0; 16 * 1024];
    let mut deadline = None;
    loop {
        loop {
            match take_frame(&mut buffer) {
                Ok(Some(frame)) => {
                    deadline = None;
                    if inbound.send(frame).await.is_err() {
                        return ReadEnd::LetGo;
                    }
                }
                Ok(None) => break,
                Err(length) => return ReadEnd::TooLarge(length),
            }
        }
        // A link may be quiet for as long as it likes, but not in the middle of a frame.
        let due = (!buffer.is_empty()).then(|| *deadline.get_or_insert_with(|| Instant::now() + patience));
        let read = match due {
            Some(due) => match timeout_at(due, stream.read(&mut chunk)).await {
                Ok(read) => read,
                Err(_) => return ReadEnd::Trickle,
            },
            None => stream.read(&mut chunk).await,
        };
        match read {
            Ok(0) => return ReadEnd::Closed,
            Ok(read) => {
                counters.sync_bytes_in.fetch_add(read as u64, Relaxed);
                buffer.extend_from_slice(&chunk[..read]);
            }
            Err(error) => return ReadEnd::Failed(error),
        }
    }
}

/// Takes a whole frame off the front, if there is one. The buffer grows by what arrived, never by what was announced.
fn take_frame(buffer: &mut BytesMut) -> Result<Option<Bytes>, usize> {
    let Some(prefix) = buffer.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*prefix) as usize;
    if length > MAX_FRAME_BYTES {
        return Err(length);
    }
    if buffer.len() < 4 + length {
        return Ok(None);
    }
    let _prefix = buffer.split_to(4);
    let frame = buffer.split_to(length);
    Ok(Some(if length <= COPY_BYTES { Bytes::copy_from_slice(&frame) } else { frame.freeze() }))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::time::sleep;
    use tokio_util::compat::TokioAsyncReadCompatExt;

    use super::*;

    #[tokio::test]
    async fn a_link_may_be_quiet_but_not_in_the_middle_of_a_frame() {
        let (mut peer, here) = tokio::io::duplex(64);
        let (inbound, mut frames) = mpsc::channel(1);
        let patience = Duration::from_millis(200);
        let reading = tokio::spawn(read_frames(here.compat(), inbound, Arc::default(), patience));
        peer.write_all(&[0, 0, 0, 1, 7]).await.unwrap();
        assert_eq!(frames.recv().await.as_deref(), Some(&[7][..]));
        sleep(2 * patience).await;
        assert!(!reading.is_finished());
        // A byte now and then does not put the end off.
        peer.write_all(&[0, 0, 0, 99]).await.unwrap();
        for _ in 0..20 {
            let _ = peer.write_all(&[7]).await;
            sleep(patience / 4).await;
        }
        let end = timeout(Duration::from_secs(5), reading).await.expect("it ends").unwrap();
        assert!(matches!(end, ReadEnd::Trickle) && end.is_breach(), "{end}");
    }
}
