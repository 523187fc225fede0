//! The services of the story: each sits at a node, reacts to events of others, and answers to nobody.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;
use roundelay_protocol::event::{Event, EventError, Item};
use roundelay_protocol::topic::{Pattern, Topic, TopicError};

use crate::log::LogError;
use crate::node::{CallError, Node};
use crate::subscription::From;

/// Why a service stopped before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum RoleError {
    /// Its event was refused.
    #[error(transparent)]
    Event(#[from] EventError),
    /// Its topic was refused.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// Its node refused to publish, or stopped.
    #[error(transparent)]
    Call(#[from] CallError),
    /// Its node's log could not be read.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// The ids of all events that were acknowledged to anybody.
#[derive(Clone, Default)]
pub(super) struct Ledger(Arc<Mutex<HashSet<String>>>);

impl Ledger {
    pub(super) fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// How many of them are not among `held`.
    pub(super) fn missing_from(&self, held: &HashSet<String>) -> usize {
        self.0.lock().difference(held).count()
    }
}

/// A service that answers every event of one topic with one of another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Role {
    pub(super) hears: &'static str,
    pub(super) says: &'static str,
}

pub(super) const PAYMENTS: Role = Role { hears: "orders.placed", says: "payments.charged" };
pub(super) const SHIPPING: Role = Role { hears: "payments.charged", says: "shipments.sent" };

/// Plays a role until its node stops.
pub(super) async fn play(node: Node, role: Role, ledger: Ledger) -> Result<(), RoleError> {
    let mut subscription = node.subscribe(vec![Pattern::new(role.hears)?], From::Start);
    loop {
        let mut answers = Vec::new();
        for delivery in subscription.next().await? {
            for (_, item) in delivery.batch.items().skip(delivery.skip) {
                if let Item::Event(event) = item {
                    let order = event.correlation.unwrap_or(event.id);
                    answers.push(Fact { order: order.to_owned(), cause: Some(event.id.to_owned()) });
                }
            }
        }
        tell(&node, role.says, answers, &ledger).await?;
    }
}

/// What happened to an order, and the event that caused it.
pub(super) struct Fact {
    pub(super) order: String,
    pub(super) cause: Option<String>,
}

/// Publishes one event about each order, and notes what was acknowledged.
pub(super) async fn tell(node: &Node, what: &str, facts: Vec<Fact>, ledger: &Ledger) -> Result<(), RoleError> {
    if facts.is_empty() {
        return Ok(());
    }
    let (mut ids, mut events) = (Vec::new(), Vec::new());
    for fact in facts {
        let event = Event {
            kind: what.to_owned(),
            id: format!("{}:{what}", fact.order),
            source: format!("/{}", what.split('.').next().unwrap_or(what)),
            content_type: Some("application/json".into()),
            causes: fact.cause.into_iter().collect(),
            data: serde_json::json!({ "order": fact.order }).to_string().into(),
            correlation: Some(fact.order),
            ..Event::default()
        };
        events.push(event.encode()?);
        ids.push(event.id);
    }
    node.publish(Topic::new(what)?, events, 0).await?;
    ledger.0.lock().extend(ids);
    Ok(())
}
