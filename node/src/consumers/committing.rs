//! Commits: what was processed and what came of it, in one write.

use std::collections::BTreeMap;

use roundelay_protocol::consumer::{Identity, Place, Slot};
use roundelay_protocol::event::{EncodedEvent, Event};
use roundelay_protocol::limits::MAX_CAUSES;
use roundelay_protocol::topic::Topic;
use serde::Deserialize;

use super::actor::Actor;
use super::commits::{Digest, Given};
use super::error::ConsumersError;
use super::held::{Held, log_error};
use super::requests::{Content, Product};
use super::types::CommitAnswer;
use super::writes::{Change, Written};
use super::{MAX_COMMIT_EVENTS, Reply};
use crate::cloudevents::{Defaults, Object, Reading, read_event};
use crate::peer_id::text_of;

/// The type of events that name none.
const DEFAULT_KIND: &str = "event";

/// What is common to the events of a commit that do not say it themselves.
struct Origin {
    source: String,
    causes: Vec<String>,
    correlation: Option<String>,
    base: [u8; 16],
}

impl Actor {
    pub(super) fn commit(
        &mut self,
        name: &str,
        processed: &[String],
        events: Vec<Product>,
        reply: Reply<CommitAnswer>,
    ) {
        match self.try_commit(name, processed, &events) {
            Err(error) => drop(reply.send(Err(error))),
            Ok(Begun::Answered(answer)) => drop(reply.send(Ok(answer))),
            Ok(Begun::Underway(digest)) => {
                self.committing.entry((name.to_owned(), digest)).or_default().push(reply);
            }
        }
    }

    fn try_commit(&mut self, name: &str, processed: &[String], events: &[Product]) -> Result<Begun, ConsumersError> {
        if events.len() > MAX_COMMIT_EVENTS {
            let words = format!("{} events in one commit are too many: at most {MAX_COMMIT_EVENTS}", events.len());
            return Err(ConsumersError::TooLarge(words));
        }
        let places = self.places(processed)?;
        let digest = digest(name, &places, events);
        let (reader, me) = (self.reader.clone(), self.me);
        if self.committing.contains_key(&(name.to_owned(), digest)) {
            return Ok(Begun::Underway(digest));
        }
        let held = self.held(name)?;
        // What was processed comes again after a seek, and then the same commit is another one.
        let is_anew = places.iter().any(|place| held.core.is_open(*place));
        if let Some(base) = held.commits.base(&digest).filter(|_| !is_anew) {
            let given = given(events, &base)?;
            let answer = held.commits.answer(&reader, me, &digest, &given).map_err(|error| log_error(&error))?;
            return answer.map(Begun::Answered).ok_or(ConsumersError::Stopped);
        }
        let (slots, already) = self.settle(name, &places)?;
        let begun = match already.first() {
            Some(place) => self.held(name).and_then(|held| Err(ConsumersError::AlreadyDone(held.cursor(*place)))),
            None => self.begin_commit(name, &slots, digest, events),
        };
        if begun.is_err()
            && let Some(held) = self.held.get_mut(name)
        {
            held.core.revert(&slots);
        }
        begun
    }

    fn begin_commit(
        &mut self,
        name: &str,
        slots: &[Slot],
        digest: Digest,
        events: &[Product],
    ) -> Result<Begun, ConsumersError> {
        let (after, me) = (self.reader.last_arrival(), self.me);
        let held = self.held(name)?;
        let origin = held.origin(slots, &text_of(&me), !events.is_empty())?;
        let given = given(events, &origin.base)?;
        let mut parts: BTreeMap<Topic, Vec<EncodedEvent>> = BTreeMap::new();
        for ((event, (topic, id)), number) in events.iter().zip(&given).zip(1..) {
            let encoded = encode(event, id, &origin).map_err(|words| ConsumersError::BadEvent(number, words))?;
            parts.entry(topic.clone()).or_default().push(encoded);
        }
        let processed = slots.len() as u64;
        let (made, mark) = held.commits.draw(name, digest, origin.base, processed, after);
        let mut change = self.done_with(name, slots.to_vec())?;
        let topics: Vec<Topic> = parts.keys().cloned().collect();
        change.parts.extend(parts);
        change.marks.push(mark);
        let (then, owned) = (change.done, name.to_owned());
        let done = Box::new(move |actor: &mut Self, outcome: Written<'_>| {
            let places = outcome.clone().map(|places| topics.into_iter().zip(places.iter().cloned()).collect());
            then(actor, outcome);
            let answer = places.and_then(|places| Ok(actor.held(&owned)?.commits.put(made, &places, &given)));
            for reply in actor.committing.remove(&(owned, digest)).unwrap_or_default() {
                let _ = reply.send(answer.clone());
            }
        });
        self.change(Change { done, ..change });
        Ok(Begun::Underway(digest))
    }
}

/// How a commit began.
enum Begun {
    /// It was made before.
    Answered(CommitAnswer),
    /// It is being written.
    Underway(Digest),
}

impl Held {
    fn origin(&self, slots: &[Slot], me: &str, complete: bool) -> Result<Origin, ConsumersError> {
        let group = self.config.group.as_ref();
        // Members of a group must give what they make of one event the same source, or it would not be recognised.
        let source = group.map_or_else(|| format!("/nodes/{me}"), |group| format!("/groups/{group}"));
        let mut identities: Vec<Identity> = slots.iter().filter_map(|slot| self.core.identity(slot)).collect();
        identities.sort_unstable();
        let mut hasher = blake3::Hasher::new_derive_key("roundelay commit v1");
        hasher.update(group.map_or("consumer", |_| "group").as_bytes());
        hasher.update(&[0]).update(group.unwrap_or(&self.name).as_bytes()).update(&[0]);
        for identity in &identities {
            hasher.update(&identity.0);
        }
        let mut origin = Origin { source, causes: Vec::new(), correlation: None, base: first16(&hasher) };
        if complete {
            for slot in slots.iter().take(MAX_CAUSES) {
                let Some((id, correlation)) = self.id_of(slot).map_err(|error| log_error(&error))? else { continue };
                origin.correlation = origin.correlation.or(correlation).or_else(|| Some(id.clone()));
                origin.causes.push(id);
            }
        }
        Ok(origin)
    }
}

fn first16(hasher: &blake3::Hasher) -> [u8; 16] {
    let mut out = [0; 16];
    out.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    out
}

/// What a commit is recognised by: what was processed, and every event, however its JSON is written.
fn digest(name: &str, places: &[Place], events: &[Product]) -> Digest {
    let mut hasher = blake3::Hasher::new_derive_key("roundelay commit digest v1");
    let mut add = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_be_bytes()).update(bytes);
    };
    add(name.as_bytes());
    for place in places {
        add(&[&place.arrival.0.to_be_bytes()[..], &place.index.to_be_bytes()].concat());
    }
    for event in events {
        add(event.topic.as_bytes());
        match &event.content {
            Content::Whole(event) => add(event.as_bytes()),
            Content::Json(json) => match serde_json::from_str::<serde_json::Value>(json.get()) {
                Ok(value) => add(value.to_string().as_bytes()),
                // It nests too deep for that: then it is recognised as it is written.
                Err(_) => add(json.get().as_bytes()),
            },
        }
    }
    first16(&hasher)
}

/// Topics and ids of a commit's events.
fn given(events: &[Product], base: &[u8; 16]) -> Result<Given, ConsumersError> {
    #[derive(Deserialize)]
    struct Named {
        #[serde(default)]
        id: Option<String>,
    }
    let name = |(event, number): (&Product, usize)| {
        let bad = |words: String| ConsumersError::BadTopic(number, words);
        let topic = Topic::new(&event.topic).map_err(|error| bad(error.to_string()))?;
        if topic.is_system() {
            return Err(bad(crate::node::CallError::SystemTopic(topic).to_string()));
        }
        let json = match &event.content {
            Content::Whole(event) => return Ok((topic, event.source_and_id().1.to_owned())),
            Content::Json(json) => json,
        };
        let named: Named =
            serde_json::from_str(json.get()).map_err(|error| ConsumersError::BadEvent(number, error.to_string()))?;
        let id = named.id.filter(|id| !id.is_empty()).unwrap_or_else(|| derive_id(base, number));
        Ok((topic, id))
    };
    events.iter().zip(1..).map(name).collect()
}

/// The id of an event that has none: the same whenever, and wherever, the same events are processed again.
fn derive_id(base: &[u8; 16], number: usize) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("roundelay commit id v1");
    hasher.update(base).update(&(number as u64).to_be_bytes());
    first16(&hasher).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn encode(event: &Product, id: &str, origin: &Origin) -> Result<EncodedEvent, String> {
    let json = match &event.content {
        Content::Whole(event) => return Ok(event.clone()),
        Content::Json(json) => json,
    };
    let object: Object<'_> = serde_json::from_str(json.get()).map_err(|error| error.to_string())?;
    let defaults = Defaults { source: &origin.source, kind: DEFAULT_KIND };
    let mut event: Event = read_event(&object, Reading::Filling(defaults)).map_err(|error| error.to_string())?.event;
    id.clone_into(&mut event.id);
    if event.causes.is_empty() {
        event.causes.clone_from(&origin.causes);
    }
    event.correlation = event.correlation.or_else(|| origin.correlation.clone());
    event.encode().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_that_nest_deeply_are_told_apart() {
        let commit = |text: &str| {
            let event = format!("{{\"data\":{}{text}{}}}", "[".repeat(200), "]".repeat(200));
            let event = serde_json::value::RawValue::from_string(event).unwrap();
            digest("c", &[], &[Product { topic: "t".into(), content: Content::Json(event) }])
        };
        assert_eq!(commit("1"), commit("1"));
        assert_ne!(commit("1"), commit("2"));
    }
}
