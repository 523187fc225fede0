//! A story with real nodes: they join, events flow, one is cut off, both sides go on, it heals, and nothing is missing.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

pub use super::roles::RoleError;
use super::roles::{Fact, Ledger, PAYMENTS, SHIPPING, play, tell};
use super::{LocalMesh, LocalMeshError, LocalMeshOptions, LocalNode, agreed, held_ids, topic_digests};
use crate::log::LogError;
use crate::node::{CallError, Node};
use roundelay_protocol::topic::Pattern;

/// Nodes that the story has parts for.
pub const MIN_NODES: usize = 3;
/// The nodes of the story, by name; further ones listen.
const CAST: [&str; 8] = ["orders", "payments", "shipping", "billing", "support", "returns", "reports", "archive"];
/// Orders before the break, and during it.
const ORDERS: usize = 40;
const ORDERS_APART: usize = 60;
/// Between two orders.
const ORDER_EVERY: Duration = Duration::from_millis(30);
/// How long anything may take before the story is called off.
const LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);
/// Characters of a digest that people are shown.
const SHOWN_DIGEST: usize = 8;

/// How a step is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mood {
    /// It goes on.
    Plain,
    /// Something is wrong, as intended.
    Broken,
    /// Something is right.
    Good,
}

/// One thing that happened.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// Milliseconds since the start.
    pub at_ms: u64,
    /// What it was, for programs.
    pub step: &'static str,
    /// How it is meant.
    pub mood: Mood,
    /// What it was, for people: one line, or a few for a table.
    pub text: String,
    /// Figures and names that belong to it.
    pub details: Value,
}

/// How it ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Events that a publisher was told are durable.
    pub acknowledged: usize,
    /// Acknowledged events that some node does not hold, summed over the nodes.
    pub lost: usize,
    /// Whether all nodes had equal digests.
    pub agreed: bool,
    /// The nodes' homes, by name. They are gone unless they were to be kept.
    pub homes: Vec<(String, PathBuf)>,
}

/// Why the story did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The nodes did not start.
    #[error(transparent)]
    Mesh(#[from] LocalMeshError),
    /// A service stopped.
    #[error(transparent)]
    Role(#[from] RoleError),
    /// A node stopped.
    #[error(transparent)]
    Call(#[from] CallError),
    /// A log could not be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Something that should happen did not.
    #[error("this did not happen in {limit}: {0}; the machine is overloaded, or this is a defect", limit = "30 s")]
    Stalled(String),
}

/// The names of a mesh of `count` nodes.
#[must_use]
pub fn names(count: usize) -> Vec<String> {
    (0..count).map(|nth| CAST.get(nth).map_or_else(|| format!("node-{}", nth + 1), |&name| name.into())).collect()
}

/// Tells the story with `count` nodes, at least [`MIN_NODES`]. `teller` gets each step as it happens.
///
/// # Errors
/// When the mesh does not come about, a node stops, or something takes more than 30 s. Lost events are no error here:
/// see [`Outcome::lost`].
pub async fn run(count: usize, keep: bool, teller: &mut (dyn FnMut(Step) + Send)) -> Result<Outcome, DemoError> {
    let start = Instant::now();
    let names = names(count.max(MIN_NODES));
    let options = LocalMeshOptions::new(names[..1].iter().cloned());
    let mesh = LocalMesh::start(options.clone()).await?;
    let mut story = Story { mesh, ledger: Ledger::default(), start, teller, orders: 0 };
    if keep {
        story.mesh.keep();
    }
    story.introduce(&names, &options).await?;
    let mut services = JoinSet::new();
    services.spawn(play(story.mesh[1].clone(), PAYMENTS, story.ledger.clone()));
    services.spawn(play(story.mesh[2].clone(), SHIPPING, story.ledger.clone()));
    let outcome = tokio::select! {
        outcome = story.tell() => outcome,
        Some(Ok(Err(error))) = services.join_next() => Err(error.into()),
    };
    services.shutdown().await;
    story.mesh.shutdown().await;
    outcome
}

struct Story<'a> {
    mesh: LocalMesh,
    ledger: Ledger,
    start: Instant,
    teller: &'a mut (dyn FnMut(Step) + Send),
    orders: usize,
}

impl Story<'_> {
    async fn tell(&mut self) -> Result<Outcome, DemoError> {
        self.flow().await?;
        self.part().await?;
        self.heal().await?;
        self.judge().await
    }

    /// Lets the others join the first.
    async fn introduce(&mut self, names: &[String], options: &LocalMeshOptions) -> Result<(), DemoError> {
        self.say_joined(0, "is up".into());
        for (nth, name) in names.iter().enumerate().skip(1) {
            self.mesh.add(name, options).await?;
            self.say_joined(nth, format!("joined through {}", names[0]));
        }
        self.mesh.linked(LIMIT).await?;
        let text = format!("{} nodes are linked; payments answers orders, shipping answers payments", names.len());
        self.say("linked", Mood::Good, text, json!({ "nodes": names.len() }));
        Ok(())
    }

    fn say_joined(&mut self, nth: usize, how: String) {
        let LocalNode { name, node, .. } = &self.mesh.nodes()[nth];
        let address = node.addresses().first().map(ToString::to_string).unwrap_or_default();
        let text = format!("{name:9} {how}, on {}", short_address(&address));
        let details = json!({ "node": name, "address": address });
        self.say("joined", Mood::Plain, text, details);
    }

    async fn flow(&mut self) -> Result<(), DemoError> {
        self.place_orders(ORDERS).await?;
        let expected = [("orders.placed", ORDERS), ("payments.charged", ORDERS), ("shipments.sent", ORDERS)];
        self.until_held(&expected, 0..self.mesh.nodes().len()).await?;
        let text =
            format!("{ORDERS} orders placed, charged and sent: every node holds all {} events", self.ledger.len());
        self.say("flowing", Mood::Good, text, json!({ "orders": ORDERS, "acknowledged": self.ledger.len() }));
        self.show_digests("digests_equal").await
    }

    /// Cuts shipping off; both sides publish.
    async fn part(&mut self) -> Result<(), DemoError> {
        self.mesh[2].set_offline(true).await;
        let start = Instant::now();
        while self.mesh.nodes()[2].links().await? > 0 {
            if start.elapsed() > LIMIT {
                return Err(DemoError::Stalled("shipping has no links".into()));
            }
            sleep(POLL).await;
        }
        self.say(
            "cut_off",
            Mood::Broken,
            "shipping is cut off: no connection in or out".into(),
            json!({ "node": "shipping" }),
        );
        let delivered =
            (1..=ORDERS).map(|nth| Fact { order: order(nth), cause: Some(format!("{}:shipments.sent", order(nth))) });
        let delivered: Vec<_> = delivered.collect();
        tell(&self.mesh[2], "shipments.delivered", delivered, &self.ledger).await?;
        self.place_orders(ORDERS_APART).await?;
        let together = (0..self.mesh.nodes().len()).filter(|&node| node != 2);
        let all = ORDERS + ORDERS_APART;
        self.until_held(&[("orders.placed", all), ("payments.charged", all)], together).await?;
        let text = format!("meanwhile {ORDERS_APART} more orders are placed and charged on one side,");
        self.say("apart", Mood::Plain, text, json!({ "orders": ORDERS_APART }));
        let text = format!("and shipping reports {ORDERS} deliveries on the other, to nobody but its own disk");
        self.say("apart", Mood::Plain, text, json!({ "deliveries": ORDERS }));
        self.show_digests("digests_differ").await
    }

    async fn heal(&mut self) -> Result<(), DemoError> {
        let healing = Instant::now();
        self.mesh[2].set_offline(false).await;
        self.say("healing", Mood::Plain, "shipping may connect again".into(), json!({ "node": "shipping" }));
        let all = ORDERS + ORDERS_APART;
        let expected = [
            ("orders.placed", all),
            ("payments.charged", all),
            ("shipments.delivered", ORDERS),
            ("shipments.sent", all),
        ];
        self.until_held(&expected, 0..self.mesh.nodes().len()).await?;
        let took_ms = healing.elapsed().as_millis();
        let text = format!(
            "healed after {took_ms} ms: shipping saw {ORDERS_APART} payments that it had missed, and sent the goods"
        );
        self.say("healed", Mood::Good, text, json!({ "took_ms": took_ms as u64 }));
        if !agreed(self.mesh.nodes(), LIMIT).await? {
            return Err(DemoError::Stalled("all nodes have equal digests".into()));
        }
        self.show_digests("digests_equal").await
    }

    /// Counts every acknowledged event in every node's log.
    async fn judge(&mut self) -> Result<Outcome, DemoError> {
        let (acknowledged, mut lost) = (self.ledger.len(), 0);
        for nth in 0..self.mesh.nodes().len() {
            let (held, stored) = held_ids(&self.mesh[nth], Pattern::all()).await?;
            let (name, missing) = (self.mesh.nodes()[nth].name.clone(), self.ledger.missing_from(&held));
            lost += missing;
            let text = format!("{name:9} holds {} of {acknowledged} acknowledged events", acknowledged - missing);
            let details = json!({ "node": name, "stored": stored, "distinct": held.len(), "missing": missing });
            self.say("counted", if missing == 0 { Mood::Good } else { Mood::Broken }, text, details);
        }
        let agreed = agreed(self.mesh.nodes(), Duration::ZERO).await?;
        let homes = self.mesh.nodes().iter().map(|node| (node.name.clone(), node.home.clone())).collect();
        Ok(Outcome { acknowledged, lost, agreed, homes })
    }

    async fn place_orders(&mut self, count: usize) -> Result<(), DemoError> {
        for _ in 0..count {
            self.orders += 1;
            let placed = Fact { order: order(self.orders), cause: None };
            tell(&self.mesh[0], "orders.placed", vec![placed], &self.ledger).await?;
            sleep(ORDER_EVERY).await;
        }
        Ok(())
    }

    /// Waits until these nodes hold so many events of these topics.
    async fn until_held(
        &self,
        expected: &[(&str, usize)],
        nodes: impl IntoIterator<Item = usize>,
    ) -> Result<(), DemoError> {
        let start = Instant::now();
        for node in nodes {
            while let Some((topic, count)) = lacks(&self.mesh[node], expected).await? {
                if start.elapsed() > LIMIT {
                    let name = &self.mesh.nodes()[node].name;
                    return Err(DemoError::Stalled(format!("{name} holds {count} events of {topic}")));
                }
                sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// A table of the topics' digests on every node.
    async fn show_digests(&mut self, step: &'static str) -> Result<(), DemoError> {
        let mut by_node = Vec::new();
        for node in self.mesh.nodes() {
            by_node.push((node.name.clone(), topic_digests(&node.node).await?));
        }
        let topics: std::collections::BTreeSet<String> =
            by_node.iter().flat_map(|(_, digests)| digests.keys().cloned()).collect();
        let mut text = format!("digests   {:20}", "");
        by_node.iter().for_each(|(name, _)| text += &format!(" {name:9}"));
        for topic in topics {
            text += &format!("\n          {topic:20}");
            let row: Vec<_> = by_node.iter().map(|(_, digests)| digests.get(&topic)).collect();
            for digest in &row {
                text += &format!(" {:9}", digest.and_then(|digest| digest.get(..SHOWN_DIGEST)).unwrap_or("-"));
            }
            text += if row.iter().all(|digest| *digest == row[0]) { " equal" } else { " differ" };
        }
        let equal = by_node.iter().all(|(_, digests)| *digests == by_node[0].1);
        let mood = if equal { Mood::Good } else { Mood::Broken };
        let details =
            json!({ "equal": equal, "digests": by_node.into_iter().collect::<std::collections::BTreeMap<_, _>>() });
        self.say(step, mood, text, details);
        Ok(())
    }

    fn say(&mut self, step: &'static str, mood: Mood, text: String, details: Value) {
        let at_ms = self.start.elapsed().as_millis() as u64;
        (self.teller)(Step { at_ms, step, mood, text, details });
    }
}

fn order(nth: usize) -> String {
    format!("order-{nth:03}")
}

/// The first topic of which the node lacks events.
async fn lacks<'a>(node: &Node, expected: &[(&'a str, usize)]) -> Result<Option<(&'a str, usize)>, CallError> {
    let status = node.status().await?;
    let held = |name: &str| status.topics.iter().find(|topic| topic.topic == name).map_or(0, |topic| topic.events);
    Ok(expected.iter().copied().find(|(topic, count)| held(topic) < *count as u64))
}

fn short_address(address: &str) -> &str {
    address.split("/p2p/").next().unwrap_or(address)
}
