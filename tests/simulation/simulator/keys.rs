//! What must hold of topics that are kept by key.

use std::collections::BTreeMap;

use roundelay::log::Store;
use roundelay_protocol::event::Item;
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::{Arrival, BatchHash};
use roundelay_protocol::topic::Topic;

use super::checker::Promise;
use super::plan::{Action, RuleChange, TOPICS};
use super::world::World;

type Last = BTreeMap<String, (Hlc, BatchHash)>;

impl World<'_> {
    /// A machine that does not have the last event of a key, which another has, where nothing but keys lets events go.
    pub(super) fn find_outdated(&self) -> Option<(Promise, String)> {
        let topics = (0..TOPICS.len()).filter(|topic| self.is_kept_by_key_alone(*topic));
        topics.filter_map(|topic| Topic::new(TOPICS[topic]).ok()).find_map(|topic| {
            let everywhere: Vec<Last> =
                (0..self.plan.machines).map(|number| self.last_of_keys(number, &topic)).collect();
            let mut last = Last::new();
            for (key, at) in everywhere.iter().flatten() {
                let known = last.entry(key.clone()).or_insert(*at);
                *known = (*known).max(*at);
            }
            let outdated = everywhere.iter().enumerate().filter(|(number, _)| !self.is_full(*number));
            let mut found = outdated.flat_map(|(number, of_machine)| {
                let differing = last.iter().filter(|(key, at)| of_machine.get(*key) != Some(at));
                differing.map(move |(key, _)| (number, key))
            });
            let found = found.next();
            found.map(|(number, key)| {
                (Promise::LastOfKeyStays, format!("machine {number} lacks the last event of {key} in {topic}"))
            })
        })
    }

    /// Whether every machine takes part in the topic, no disk was lost or full, and the topic has no other rule.
    fn is_kept_by_key_alone(&self, topic: usize) -> bool {
        let other = |action: &Action| match action {
            Action::Rule { topic: of, rule, .. } => *of == topic && *rule != RuleChange::Keyed,
            Action::Cap { .. }
            | Action::Damage { .. }
            | Action::Restore { .. }
            | Action::Twin { .. }
            | Action::Subscribe { .. }
            | Action::Block { .. } => true,
            _ => false,
        };
        self.plan.has_keyed() && !self.plan.steps.iter().any(|step| other(&step.action))
    }

    fn last_of_keys(&self, machine: usize, topic: &Topic) -> Last {
        let mut last = Last::new();
        let scan = self.machines[machine].store.scan_topic(&|other| other == topic, Arrival(0), usize::MAX, usize::MAX);
        for (_, batch) in scan.map(|scan| scan.batches).unwrap_or_default() {
            for (_, item) in batch.items() {
                if let Item::Event(event) = item
                    && let Some(key) = event.key
                {
                    let at = (event.hlc, batch.hash());
                    let known = last.entry(key.to_owned()).or_insert(at);
                    *known = (*known).max(at);
                }
            }
        }
        last
    }
}
