//! What is gossiped: nothing unverified reaches a log, and whoever keeps sending it is shown the door.

use crate::arena::{Arena, TOPIC, pause};
use crate::forge::{self, Line};
use crate::peer::Hostile;

/// Gossips what is not valid until the nodes have had enough.
#[track_caller]
fn gossips_what_is_not_valid(attack: &str, why: &str, mut make: impl FnMut(&Hostile, u64) -> Vec<u8>) {
    let mut arena = Arena::new();
    let peer = arena.hostile();
    for node in arena.mesh.all() {
        peer.connect(&arena.mesh[node]);
    }
    for node in arena.mesh.all() {
        peer.wait_for_subscriber(&arena.mesh[node], TOPIC);
    }
    for nth in 0..60 {
        peer.gossip(TOPIC, make(&peer, nth));
        pause(20);
    }
    arena.goes_on();
    let away_s: Vec<u64> = arena.mesh.all().map(|node| arena.is_kept_away(node, &peer, why)).collect();
    assert!(away_s.iter().all(|away_s| *away_s <= 10), "{away_s:?}");
    arena.ends_well(attack, "kept it out of their logs, and the peer away for 10 s");
}

#[test]
fn forged_signatures_reach_no_log_and_cost_the_link() {
    gossips_what_is_not_valid("forged signatures", "signature", |peer, nth| {
        forge::with_forged_signature(&Line::new(&peer.signer, TOPIC).one(&format!("forged-{nth}")))
    });
}

#[test]
fn nobody_adds_to_the_log_of_somebody_else() {
    let mut victim = None;
    gossips_what_is_not_valid("someone else's log", "signature", |peer, nth| {
        let victim = victim.get_or_insert_with(|| Hostile::new([]).author);
        forge::in_the_name_of(&Line::new(&peer.signer, TOPIC).one(&format!("false-{nth}")), &victim.0)
    });
}

#[test]
fn a_false_body_under_a_true_header_is_refused() {
    gossips_what_is_not_valid("a false body under a true header", "body", |peer, nth| {
        forge::with_false_body(&Line::new(&peer.signer, TOPIC).one(&format!("false-{nth}")))
    });
}

#[test]
fn events_taken_out_of_a_gossiped_batch_are_refused() {
    gossips_what_is_not_valid("stripped events, gossiped", "taken out", |peer, nth| {
        forge::stripped(&Line::new(&peer.signer, TOPIC).one(&format!("stripped-{nth}")))
    });
}

#[test]
fn a_batch_is_gossiped_under_its_own_topic_only() {
    gossips_what_is_not_valid("batches under another topic", "another topic", |peer, nth| {
        Line::new(&peer.signer, "another.topic").one(&format!("elsewhere-{nth}")).bytes().to_vec()
    });
}
