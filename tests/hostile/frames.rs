//! What is said on a sync stream, and how: whoever breaks the protocol is cut off, and kept away for a growing while.

use roundelay_protocol::frame::Frame;

use crate::arena::Arena;
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
