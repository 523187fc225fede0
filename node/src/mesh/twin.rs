//! Telling ourselves from another process with our identity.
//!
//! Whoever dials its own identity gets the same error at both ends. When it is one process, it sees both ends; when
//! it sees one end only, a second live process has our identity.

use libp2p::Multiaddr;

/// How long the other end's error may take to show up here.
const PATIENCE_MS: u64 = 3_000;

#[derive(Debug)]
struct Sighting {
    at_ms: u64,
    address: Multiaddr,
    outgoing: bool,
}

/// What came of a sighting once it is understood.
#[derive(Debug, PartialEq)]
pub(crate) enum Verdict {
    /// The address leads to this very process.
    Ourselves(Multiaddr),
    /// Another live process has our identity.
    Twin(Multiaddr),
}

/// The ends seen so far that have no other end yet.
#[derive(Debug, Default)]
pub(crate) struct TwinWatch {
    open: Vec<Sighting>,
}

/// Sightings that wait for their other end. More than a few at once is a loop of our own making.
const MAX_OPEN: usize = 32;

impl TwinWatch {
    /// We dialled `address` and met our own identity. `listening` if we listen there: then it is certainly us.
    pub(crate) fn saw_outgoing(&mut self, address: Multiaddr, listening: bool, now_ms: u64) -> Option<Verdict> {
        let other_end = self.take(false);
        if listening || other_end {
            if !other_end {
                self.note(address.clone(), true, now_ms);
            }
            return Some(Verdict::Ourselves(address));
        }
        self.note(address, true, now_ms);
        None
    }

    /// Somebody with our own identity dialled us.
    pub(crate) fn saw_incoming(&mut self, address: Multiaddr, now_ms: u64) -> Option<Verdict> {
        let Some(index) = self.open.iter().position(|sighting| sighting.outgoing) else {
            self.note(address, false, now_ms);
            return None;
        };
        Some(Verdict::Ourselves(self.open.swap_remove(index).address))
    }

    /// The sightings whose other end did not show up in time. `is_ours` tells addresses that we listen on: there the
    /// other end may have failed in another way first.
    pub(crate) fn expire(&mut self, now_ms: u64, is_ours: impl Fn(&Multiaddr) -> bool) -> Vec<Verdict> {
        let (late, open) = self.open.drain(..).partition(|seen: &Sighting| now_ms >= seen.at_ms + PATIENCE_MS);
        self.open = open;
        let late: Vec<Sighting> = late;
        let alone = late.into_iter().filter(|seen| !(seen.outgoing && is_ours(&seen.address)));
        alone.map(|seen| Verdict::Twin(seen.address)).collect()
    }

    fn take(&mut self, outgoing: bool) -> bool {
        let found = self.open.iter().position(|sighting| sighting.outgoing == outgoing);
        found.map(|index| self.open.swap_remove(index)).is_some()
    }

    fn note(&mut self, address: Multiaddr, outgoing: bool, at_ms: u64) {
        if self.open.len() < MAX_OPEN {
            self.open.push(Sighting { at_ms, address, outgoing });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> Multiaddr {
        format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap()
    }

    #[test]
    fn both_ends_are_ourselves_and_one_is_a_twin() {
        let mut watch = TwinWatch::default();
        assert_eq!(watch.saw_outgoing(address(1), false, 0), None);
        assert_eq!(watch.saw_incoming(address(9), 10), Some(Verdict::Ourselves(address(1))));
        assert_eq!(watch.saw_incoming(address(9), 20), None);
        assert_eq!(watch.saw_outgoing(address(1), false, 30), Some(Verdict::Ourselves(address(1))));
        assert!(watch.expire(99_999, |_| false).is_empty());

        watch.saw_outgoing(address(2), false, 100_000);
        assert!(watch.expire(102_999, |_| false).is_empty());
        assert_eq!(watch.expire(103_000, |_| false), [Verdict::Twin(address(2))]);
        watch.saw_incoming(address(3), 200_000);
        assert_eq!(watch.expire(203_000, |_| true), [Verdict::Twin(address(3))]);
    }

    #[test]
    fn where_we_listen_is_ourselves_whatever_the_other_end_says() {
        let mut watch = TwinWatch::default();
        assert_eq!(watch.saw_outgoing(address(1), true, 0), Some(Verdict::Ourselves(address(1))));
        assert!(watch.expire(5_000, |_| true).is_empty());
    }
}
