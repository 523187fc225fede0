//! Declarations that come from files and from other nodes, and events that are judged by them.

use roundelay_protocol::choreography::conformance::{Conformance, Versions};
use roundelay_protocol::choreography::trace::Trace;
use roundelay_protocol::choreography::{Declaration, Draft, Observed, Rank, check, diff, show};
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::BatchHash;
use roundelay_protocol::topic::Topic;

/// Events that one case has at most.
const MAX_EVENTS: usize = 64;

/// A declaration in TOML or JSON up to a zero byte, and after it four bytes for each event: stamp, type, id and cause, role.
pub fn choreographies(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let Ok(text) = std::str::from_utf8(parts.next().unwrap_or_default()) else { return };
    let drafts = [Draft::from_toml(text).ok(), Draft::from_json(text).ok()];
    for draft in drafts.into_iter().flatten() {
        let Ok(declaration) = draft.declare() else { continue };
        // However it was written, it is one version.
        for again in [Draft::from_toml(&draft.to_toml()), Draft::from_json(&draft.to_json())] {
            let again = again.expect("what is written can be read").declare().expect("and is sound");
            assert_eq!(again.version(), declaration.version());
            assert!(diff::diff(&declaration, &again).is_empty());
        }
        let findings = check::check(&declaration);
        assert!(findings.is_sorted());
        for picture in [show::text(&declaration), show::mermaid(&declaration), show::dot(&declaration)] {
            assert!(!picture.is_empty());
        }
        judge(declaration, parts.next().unwrap_or_default());
        return;
    }
}

/// Whatever happens, in whatever order it arrives, the same is said of it, and nothing is lost.
fn judge(declaration: Declaration, bytes: &[u8]) {
    let events: Vec<Observed> = bytes
        .chunks_exact(4)
        .take(MAX_EVENTS)
        .enumerate()
        .map(|(nth, bytes)| event(&declaration, nth, bytes))
        .collect();
    // A type that no version declares is no event of the choreography.
    let declared = events.iter().filter(|event| declaration.events().contains_key(&event.kind)).count();
    let mut conformance = Conformance::new(Versions::new(declaration.clone()));
    conformance.take(events.iter().cloned());
    let mut backwards = Conformance::new(Versions::new(declaration));
    events.iter().rev().for_each(|event| drop(backwards.take([event.clone()])));
    for instances in [&conformance, &backwards].map(|found| found.instances().collect::<Vec<_>>()) {
        assert_eq!(instances, conformance.instances().collect::<Vec<_>>());
    }
    if let Some(instance) = conformance.instance("i") {
        let said = instance.steps + instance.superseded.len() + instance.violations.len();
        assert_eq!(said + instance.repeats + instance.foreign, declared);
        assert!(instance.owed.len() <= instance.superseded.len());
    }
    let trace = Trace::of("i", events);
    assert_eq!(trace.text(&trace.forest()).lines().count() > 0, !bytes.is_empty() && bytes.len() >= 4);
}

fn event(declaration: &Declaration, nth: usize, bytes: &[u8]) -> Observed {
    let [stamp, kind, name, role] = [0, 1, 2, 3].map(|at| usize::from(bytes[at]));
    let kinds: Vec<&String> = declaration.events().keys().collect();
    let roles: Vec<&String> = declaration.roles().keys().collect();
    let kind = kinds.get(kind % (kinds.len() + 1)).map_or("unknown", |kind| kind.as_str()).to_owned();
    let topic = declaration.events().get(&kind).and_then(|event| Topic::new(event.topic.as_ref()?.as_str()).ok());
    Observed {
        rank: Rank { stamp: Hlc::from_ms(stamp as u64 * 10_000), batch: BatchHash::NONE, index: nth as u32 },
        topic: topic.unwrap_or_else(|| Topic::new("t").expect("a topic")),
        author: None,
        source: "/s".to_owned(),
        id: (name % 16).to_string(),
        kind,
        causes: vec![(name / 16).to_string()],
        correlation: Some("i".to_owned()),
        role: roles.get(role % (roles.len() + 1)).map(|role| (*role).clone()),
        version: None,
    }
}
