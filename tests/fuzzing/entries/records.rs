//! What nodes say of themselves in `_mesh` and `_heartbeats`.

use roundelay::record::{Directory, MAX_LISTED_TOPICS, NodeRecord, RECORD_KIND};
use roundelay_protocol::batch::{Link, seal};
use roundelay_protocol::event::Event;
use roundelay_protocol::heartbeat::{Heartbeat, MAX_HEARTBEAT_TOPICS};
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::Incarnation;
use roundelay_protocol::limits::MAX_PATTERNS;
use roundelay_protocol::topic::Topic;

use super::stand_in::Stamp;

/// Any bytes as the data of a node's record, before and after a sound one, and as a heartbeat.
pub fn records(bytes: &[u8]) {
    if let Ok(heartbeat) = Heartbeat::decode(bytes) {
        assert!(heartbeat.ends.len() <= MAX_HEARTBEAT_TOPICS && heartbeat.upto <= Hlc::CEILING);
        assert_eq!(Heartbeat::decode(&heartbeat.encode()).expect("what was written"), heartbeat);
    }
    let sound = NodeRecord {
        name: "sound".into(),
        addresses: vec![],
        patterns: vec![">".into()],
        topics: vec!["a".into()],
        host: 1,
        version: "0".into(),
        clock_ms: 0,
    };
    let mut directory = Directory::default();
    learn(&mut directory, 1, serde_json::to_vec(&sound).expect("a record is JSON"));
    let changed = learn(&mut directory, 2, bytes.to_vec());
    let known = directory.get(&Stamp::of(7).0).expect("the author is known").clone();
    assert_eq!(changed, known.hlc == Hlc(2 << 40));
    assert!(changed || known.record == sound, "what is no record changes nothing");
    assert!(known.addresses.len() <= 16 && known.interest.patterns.len() <= MAX_PATTERNS);
    assert!(directory.topics().len() <= MAX_LISTED_TOPICS);
    assert!(known.record.says_the_same_as(&known.record));
    // An older record, whoever passes it on, changes nothing.
    assert!(!learn(&mut directory, 1, b"{}".to_vec()));
    // What was understood is told again in the same words.
    let event = known.record.to_event("/nodes/x".into());
    assert_eq!(serde_json::from_slice::<NodeRecord>(&event.data).expect("a record"), known.record);
}

fn learn(directory: &mut Directory, at: u64, data: Vec<u8>) -> bool {
    let event =
        Event { kind: RECORD_KIND.into(), id: "i".into(), source: "s".into(), data: data.into(), ..Event::default() };
    let Ok(event) = event.encode() else { return false };
    let batch = seal(&Stamp::of(7), &Topic::mesh(), Incarnation(1), Link::default(), Hlc(at << 40), &[event]);
    directory.learn(&batch)
}
