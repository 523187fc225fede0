//! What a node takes part in: its topics, their rules, and its peers.

use libp2p::{Multiaddr, PeerId};
use roundelay_protocol::heartbeat::Heartbeats;
use roundelay_protocol::ids::Author;
use roundelay_protocol::limits::MAX_PATTERNS;
use roundelay_protocol::rules::{Rule, Rules};
use roundelay_protocol::topic::Pattern;

use super::{CallError, Node};
use crate::engine::Call;
use crate::mesh::MeshCommand;
use crate::stability::Members;

impl Node {
    /// The patterns that the node subscribes to.
    ///
    /// # Errors
    /// When the node stopped.
    pub(crate) async fn patterns(&self) -> Result<Vec<Pattern>, CallError> {
        self.call(Call::Patterns).await
    }

    /// Who takes part besides, as far as it is known.
    pub(crate) async fn members(&self) -> Result<Members, CallError> {
        self.call(Call::Members).await
    }

    /// The last heartbeat of each node.
    pub(crate) fn heartbeats(&self) -> Heartbeats {
        self.0.heartbeats.read().clone()
    }

    /// Subscribes to one more pattern, for good.
    ///
    /// # Errors
    /// When there are too many, or the node stopped.
    pub async fn join_topics(&self, pattern: Pattern) -> Result<(), CallError> {
        if self.call(Call::Patterns).await?.len() >= MAX_PATTERNS {
            return Err(CallError::TooManyPatterns(MAX_PATTERNS));
        }
        self.call(|reply| Call::JoinTopics(pattern, reply)).await
    }

    /// The rules of this node's topics.
    ///
    /// # Errors
    /// When the node stopped.
    pub async fn rules(&self) -> Result<Rules, CallError> {
        self.call(Call::Rules).await
    }

    /// Sets the rule of a pattern, for good.
    ///
    /// # Errors
    /// When the pattern cannot have one, there are too many, or the node stopped.
    pub async fn set_rule(&self, pattern: Pattern, rule: Rule) -> Result<(), CallError> {
        self.call(|reply| Call::SetRule(pattern, Some(rule), reply)).await??;
        Ok(())
    }

    /// Ends the rule of a pattern, for good. False if there was none.
    ///
    /// # Errors
    /// When the node stopped.
    pub async fn unset_rule(&self, pattern: Pattern) -> Result<bool, CallError> {
        self.call(|reply| Call::SetRule(pattern, None, reply)).await?
    }

    /// Subscribes to a pattern, for good, unless the node does already, or to all there is.
    pub(crate) async fn cover(&self, pattern: Pattern) -> Result<(), CallError> {
        let patterns = self.call(Call::Patterns).await?;
        let all = !pattern.as_str().starts_with('_') && patterns.contains(&Pattern::all());
        if all || patterns.contains(&pattern) { Ok(()) } else { self.join_topics(pattern).await }
    }

    /// The nodes whose records name a pattern, each with whether it is linked.
    pub(crate) async fn subscribers(&self, pattern: Pattern) -> Result<Vec<(Author, bool)>, CallError> {
        self.call(|reply| Call::Subscribers(pattern, reply)).await
    }

    /// Ends a subscription, for good. False if there was none.
    ///
    /// # Errors
    /// When the node stopped.
    pub async fn leave_topics(&self, pattern: Pattern) -> Result<bool, CallError> {
        self.call(|reply| Call::LeaveTopics(pattern, reply)).await
    }

    /// Joins through an address, and remembers it.
    ///
    /// # Errors
    /// When the node stopped.
    pub async fn add_peer(&self, address: Multiaddr) -> Result<(), CallError> {
        self.call(|reply| Call::AddPeer(address, reply)).await
    }

    /// Forgets how to reach a peer.
    ///
    /// # Errors
    /// When the node stopped.
    pub async fn forget_peer(&self, peer: PeerId) -> Result<(), CallError> {
        self.call(|reply| Call::ForgetPeer(peer, reply)).await
    }

    /// Has nothing to do with a peer and its events any more, until unblocked.
    ///
    /// # Errors
    /// When the node stopped.
    pub async fn block_peer(&self, peer: PeerId, blocked: bool) -> Result<(), CallError> {
        self.call(|reply| Call::BlockPeer(peer, blocked, reply)).await
    }

    /// True: closes all links and has none, until false.
    pub async fn set_offline(&self, offline: bool) {
        self.0.mesh.send(MeshCommand::SetOffline(offline)).await;
    }
}
