//! The life of sync streams: who opens them, when they are opened again, and what the engine hears of it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use futures::StreamExt;
use libp2p::{PeerId, Stream, StreamProtocol};
use libp2p_stream::Control;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::driver::Driver;
use super::link::{self, LinkEnd};
use super::peers::opens;
use super::{MeshError, MeshEvent};

/// Opening a stream to a peer that is just going hangs, so it has a deadline.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);
/// New streams and ends of links that may wait for the swarm's task.
const QUEUE: usize = 256;

static NEXT_LINK: AtomicU64 = AtomicU64::new(1);

/// A stream that was asked for, or came by itself.
pub(crate) enum NewStream {
    Accepted(PeerId, Stream),
    Opened(PeerId, Result<Stream, String>),
}

/// The channels between the swarm's task and those that open, accept and run streams.
pub(crate) struct SyncStreams {
    control: Control,
    protocol: StreamProtocol,
    opened: mpsc::Sender<NewStream>,
    pub(crate) streams: mpsc::Receiver<NewStream>,
    end: mpsc::Sender<LinkEnd>,
    pub(crate) ended: mpsc::Receiver<LinkEnd>,
}

impl SyncStreams {
    /// Accepts streams from now on, in a task that does nothing else: those that are not taken at once get lost.
    pub(crate) fn new(mut control: Control, protocol: StreamProtocol) -> Result<Self, MeshError> {
        let (opened, streams) = mpsc::channel(QUEUE);
        let (end, ended) = mpsc::channel(QUEUE);
        let mut incoming = control
            .accept(protocol.clone())
            .map_err(|error| MeshError::Setup { what: "sync streams", reason: error.to_string() })?;
        let accepted = opened.clone();
        tokio::spawn(async move {
            while let Some((peer, stream)) = incoming.next().await {
                // Without room the stream is dropped, and the peer opens another after a while.
                if let Err(mpsc::error::TrySendError::Closed(_)) = accepted.try_send(NewStream::Accepted(peer, stream))
                {
                    break;
                }
            }
        });
        Ok(Self { control, protocol, opened, streams, end, ended })
    }

    fn open(&self, peer: PeerId) {
        let (mut control, protocol, opened) = (self.control.clone(), self.protocol.clone(), self.opened.clone());
        tokio::spawn(async move {
            let result = match timeout(OPEN_DEADLINE, control.open_stream(peer, protocol)).await {
                Ok(Ok(stream)) => Ok(stream),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("the peer did not answer within 10 s".to_owned()),
            };
            // The swarm's task may be gone: then nobody wants the stream.
            let _ = opened.send(NewStream::Opened(peer, result)).await;
        });
    }
}

impl Driver {
    /// Opens the streams that are due: ours to open, connected, and not there.
    pub(crate) fn open_due(&mut self, now_ms: u64) {
        for (peer, state) in &mut self.peers {
            if state.closing.is_none() && state.link.is_none() && state.open_at_ms.is_some_and(|at_ms| now_ms >= at_ms)
            {
                state.open_at_ms = None;
                self.sync.open(*peer);
            }
        }
    }

    /// A stream came up, or could not be opened.
    pub(crate) fn on_stream(&mut self, stream: NewStream) {
        let now_ms = self.now_ms();
        match stream {
            NewStream::Opened(peer, Err(error)) => {
                tracing::debug!(%peer, %error, "no sync stream yet");
                if let Some(state) = self.peers.get_mut(&peer) {
                    state.plan_reopen(now_ms, 0);
                }
            }
            NewStream::Opened(peer, Ok(stream)) => self.start_link(peer, stream, now_ms),
            NewStream::Accepted(peer, stream) => {
                // Only one of the two may open, or each would end the other's stream for ever.
                if opens(self.me, peer) {
                    tracing::debug!(%peer, "refused a sync stream that was ours to open");
                    return;
                }
                self.drop_link(peer, "the peer opened another link");
                self.start_link(peer, stream, now_ms);
            }
        }
    }

    fn start_link(&mut self, peer: PeerId, stream: Stream, now_ms: u64) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        let Some(connection) = state.connections.first() else { return };
        if state.closing.is_some() || state.link.is_some() {
            return;
        }
        let number = NEXT_LINK.fetch_add(1, Relaxed);
        let (running, outbound, inbound) =
            link::run(stream, peer, number, self.counters.clone(), self.sync.end.clone());
        let (address, dialed) = (connection.address.clone(), connection.dialed);
        state.link = Some(running);
        state.link_since_ms = now_ms;
        state.open_at_ms = None;
        self.counters.links_up.fetch_add(1, Relaxed);
        self.tell(MeshEvent::LinkUp { peer, link: number, outbound, inbound, address, dialed });
    }

    /// A link's stream ended by itself.
    pub(crate) fn on_link_end(&mut self, end: LinkEnd) {
        let now_ms = self.now_ms();
        let Some(state) = self.peers.get_mut(&end.peer) else { return };
        if state.link.as_ref().is_none_or(|running| running.link != end.link) {
            return;
        }
        let mut reason = end.reason;
        if let Some(closing) = &mut state.closing {
            closing.at_ms = 0;
            reason.clone_from(&closing.reason);
        } else if opens(self.me, end.peer) {
            state.plan_reopen(now_ms, now_ms.saturating_sub(state.link_since_ms));
        }
        self.drop_link(end.peer, &reason);
        if end.breach {
            self.tell(MeshEvent::Misconduct { peer: end.peer, what: reason, breach: true });
        }
        self.close_due(now_ms);
    }

    /// Ends the running link of a peer, if there is one, and says so.
    pub(crate) fn drop_link(&mut self, peer: PeerId, reason: &str) {
        let Some(running) = self.peers.get_mut(&peer).and_then(|state| state.link.take()) else { return };
        running.close.cancel();
        self.counters.links_down.fetch_add(1, Relaxed);
        self.tell(MeshEvent::LinkDown { peer, link: running.link, reason: reason.to_owned() });
    }
}
