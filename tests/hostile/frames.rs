//! What is said on a sync stream, and how: whoever breaks the protocol is cut off, and kept away for a growing while.

use std::time::Duration;

use roundelay_protocol::frame::Frame;

use crate::arena::{Arena, pause};
use crate::harness::{exit, within};
use crate::peer::{Sync, hello};

/// Breaks a rule on a sync stream to each node.
#[track_caller]
fn breaks_the_protocol(attack: &str, why: &str, greet: bool, act: impl Fn(&mut Sync) -> bool) {
    let mut arena = Arena::new();
    let peer = arena.hostile();
    for node in arena.mesh.all() {
        peer.connect(&arena.mesh[node]);
        let mut sync = peer.open(&arena.mesh[node]);
        if greet {
            sync.send(&hello());
        }
        act(&mut sync);
        let away_s = arena.is_kept_away(node, &peer, why);
        assert!(away_s <= 10, "{away_s}");
    }
    arena.goes_on();
    arena.ends_well(attack, "cut it off, and kept it away for 10 s");
}

#[test]
fn a_frame_that_announces_gigabytes_is_not_waited_for() {
    breaks_the_protocol("a frame that announces gigabytes", "a frame of 4294967295 bytes", true, |sync| {
        sync.write([0xff; 4])
    });
}

#[test]
fn hello_is_said_once() {
    breaks_the_protocol("hello twice", "said hello twice", true, |sync| sync.send(&hello()));
}

#[test]
fn nothing_is_said_before_hello() {
    breaks_the_protocol("frames before hello", "before saying hello", false, |sync| sync.send(&Frame::Hurry));
}

#[test]
fn frames_of_an_unknown_kind_are_no_frames() {
    breaks_the_protocol("unknown frame kinds", "malformed frame", true, |sync| sync.send_bytes(&[0x81, 0x18, 99]));
}

#[test]
fn nested_cbor_is_not_followed_down() {
    let mut frame = vec![0x84, 0x04, 0x00, 0xf6];
    frame.extend(std::iter::repeat_n(0x81, 1_000_000));
    breaks_the_protocol("CBOR nested a million deep", "malformed frame", true, |sync| sync.send_bytes(&frame));
}

#[test]
fn cbor_that_announces_what_does_not_come_takes_no_memory() {
    // Heads: a list of 2^32 - 1 items in a frame of 9 bytes.
    let frame = [0x84, 0x04, 0x00, 0xf6, 0x9a, 0xff, 0xff, 0xff, 0xff];
    breaks_the_protocol("CBOR lists of billions in a few bytes", "malformed frame", true, |sync| {
        sync.send_bytes(&frame)
    });
}

#[test]
fn padding_behind_a_frame_is_refused() {
    let frame = [Frame::Hurry.encode().to_vec(), vec![0; 1_000_000]].concat();
    breaks_the_protocol("a megabyte of padding", "malformed frame", true, |sync| sync.send_bytes(&frame));
}

#[test]
fn each_further_breach_costs_twice_as_much_and_the_operator_can_pardon() {
    let mut arena = Arena::new();
    let peer = arena.hostile();
    let id = peer.id.to_base58();
    let address = arena.mesh[1].address().replace(arena.mesh[1].id(), &id);
    let offend = || {
        let mut sync = peer.meet(&arena.mesh[0]);
        sync.send(&hello());
        arena.is_kept_away(0, &peer, "said hello twice")
    };
    assert!((1..=10).contains(&offend()));
    // It comes back as soon as it may.
    assert!((11..=20).contains(&offend()));
    let refused = || {
        peer.dial(&arena.mesh[0]);
        pause(500);
        !peer.is_connected_to(&arena.mesh[0])
    };
    assert!(refused());
    for pardon in [vec!["peers", "unblock", &id], vec!["peers", "add", &address], vec!["peers", "forget", &id]] {
        arena.mesh[0].cli(&pardon).expect(exit::OK);
        // Pardoned, it is let in before its time is up, and its next breach costs as little as a first one.
        within(Duration::from_secs(6), "it is let in", || {
            peer.dial(&arena.mesh[0]);
            pause(300);
            peer.is_connected_to(&arena.mesh[0])
        });
        assert!((1..=10).contains(&offend()), "after {pardon:?}");
        assert!(refused());
    }
    arena.mesh[0].cli(&["peers", "forget", &id]).expect(exit::OK);
    arena.goes_on();
    arena.ends_well("one offence after another", "kept it away for 10 s, then 20 s; pardoned it when told to");
}
