//! One side of a link between two nodes: what the peer was told of our heads, what it told us, and whether the two
//! agree. Both sides run the same machine; see ARCHITECTURE.md, "Reconciliation".

use std::collections::{BTreeMap, BTreeSet};

use crate::frame::{Hello, Memory, Position};
use crate::heads::{LogKey, LogRecord, Sum, SumKey, Tip, Tips};
use crate::ids::{Author, BatchHash};
use crate::interest::Interest;
use crate::replica::Now;

/// Durable heads are announced together, at most this long after they changed.
pub const ANNOUNCE_MS: u64 = 100;
/// As long as the peer said that somebody waits, they are announced at once.
pub const HURRY_MS: u64 = 5_000;
/// A link that is quiet for so long is audited if anything changed since the last audit.
pub const QUIET_MS: u64 = 500;
/// Audits come at most so often, and when all is well this often, give or take a quarter.
pub const AUDIT_MS: u64 = 15_000;
/// A difference that lasts so long, with nothing on its way, leads back to comparing sums by topic.
pub const GRACE_MS: u64 = 3_000;
/// It doubles with every comparison that does not help: up to a minute, and up to this where heads are refused here.
pub const REFUSED_GRACE_MS: u64 = 600_000;
/// Heads in one page of announcements.
pub const PAGE_HEADS: usize = 2_048;
/// Bytes of heads in one page, about.
pub const PAGE_BYTES: usize = 512 * 1024;
/// Sums in one page.
pub const PAGE_SUMS: usize = 2_048;

/// How far we are in telling the peer our heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Informing {
    /// Its hello has not come.
    Greeting,
    /// Our sums are with it; it will say which topics differ.
    Comparing,
    /// It knows our heads but for those that are dirty, and some of these from the time before we met.
    CatchingUp,
    /// It knows our heads but for those that are dirty.
    Live,
}

/// What is known of the peer since its hello.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) interest: Interest,
    /// Its wall clock less ours when they met, in milliseconds.
    pub(crate) clock_ahead_ms: i64,
    /// Our wall clock less our monotonic one then: it changes where the wall clock is set.
    set_ms: i64,
    pub(crate) key: SumKey,
}

impl Peer {
    /// Its wall clock less ours, which may have been set since they met.
    pub(crate) fn clock_ahead_by_now_ms(&self, now: Now) -> i64 {
        let set_by_ms = difference(now.wall_ms, now.mono_ms).saturating_sub(self.set_ms);
        self.clock_ahead_ms.saturating_sub(set_by_ms)
    }
}

fn difference(one_ms: u64, other_ms: u64) -> i64 {
    i64::try_from(i128::from(one_ms) - i128::from(other_ms)).unwrap_or(if one_ms < other_ms {
        i64::MIN
    } else {
        i64::MAX
    })
}

/// A moment in the life of a replica.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    /// Wants up to this one existed.
    pub(crate) serial: u64,
    /// Writes up to this one were on their way.
    pub(crate) token: u64,
}

/// A question whether all is converged, to be answered when it is.
#[derive(Debug)]
pub(crate) struct Probe {
    pub(crate) id: u64,
    /// What must be settled first.
    pub(crate) mark: Mark,
    /// Whether we have said that our heads were told.
    pub(crate) seen_sent: bool,
}

/// A link to a peer.
#[derive(Debug)]
pub struct Link {
    /// The driver's number for it; frames of an earlier link to the same peer are ignored.
    pub(crate) id: u64,
    pub(crate) nonce: u64,
    pub(crate) memory: Option<Memory>,
    pub(crate) peer: Option<Peer>,
    pub(crate) informing: Informing,
    /// Whether the peer has told us all its heads once.
    pub(crate) informed: bool,
    /// Up to where the peer's heads are known, and which memory of it is stored.
    pub(crate) known: Option<Position>,
    /// The greatest want serial when `known` was reached.
    pub(crate) known_serial: u64,
    /// Up to where the peer told its heads, while the store is still being asked which of them are here.
    told: Option<Position>,
    /// Questions to the store that are not answered yet.
    checks: u32,
    pub(crate) dirty: BTreeSet<LogKey>,
    /// The peer's floors in logs where they reach up to a tip: what ends there is gone at its side, so it is no part of
    /// the sums.
    floors: BTreeMap<LogKey, u64>,
    pub(crate) announce_at_ms: Option<u64>,
    /// The driver's queue to the peer has room.
    pub(crate) writable: bool,
    pub(crate) hurry_until_ms: u64,
    pub(crate) hurry_sent_ms: u64,
    /// Sum and number of our durable heads in what we have in common.
    pub(crate) sum: Sum,
    pub(crate) events: u64,
    /// The peer's number of events, as it last said.
    pub(crate) peer_events: u64,
    pub(crate) audit_at_ms: u64,
    pub(crate) last_change_ms: u64,
    pub(crate) last_audit_ms: u64,
    pub(crate) in_sync: bool,
    pub(crate) differing_since_ms: Option<u64>,
    /// Doubles with every comparison that did not help.
    pub(crate) grace_ms: u64,
    /// Heads of the peer were not taken since both sides last agreed: there are limits.
    pub(crate) refused: bool,
    pub(crate) serving: u32,
    /// Comparisons of sums whose answer is still to come.
    pub(crate) comparing: u32,
    /// Pages of sums whose answer is still to come.
    pub(crate) pages: u32,
    /// The peer was asked what it holds of our own logs.
    pub(crate) announced_asked: bool,
    /// Holes that this peer was asked to fill, by their anchors: when it may be asked again, and after how long.
    pub(crate) holes_asked: BTreeMap<BatchHash, (u64, u64)>,
    pub(crate) probes: Vec<Probe>,
}

impl Link {
    pub(crate) fn new(id: u64, nonce: u64, memory: Option<Memory>, now_ms: u64) -> Self {
        Self {
            id,
            nonce,
            memory,
            peer: None,
            informing: Informing::Greeting,
            informed: false,
            known: None,
            known_serial: 0,
            told: None,
            checks: 0,
            dirty: BTreeSet::new(),
            floors: BTreeMap::new(),
            announce_at_ms: None,
            writable: true,
            hurry_until_ms: 0,
            hurry_sent_ms: 0,
            sum: Sum::default(),
            events: 0,
            peer_events: 0,
            audit_at_ms: now_ms + QUIET_MS,
            last_change_ms: now_ms,
            last_audit_ms: 0,
            in_sync: false,
            differing_since_ms: None,
            grace_ms: GRACE_MS,
            refused: false,
            serving: 0,
            comparing: 0,
            pages: 0,
            announced_asked: false,
            holes_asked: BTreeMap::new(),
            probes: Vec::new(),
        }
    }

    pub(crate) fn meet(&mut self, hello: &Hello, now: Now) {
        self.peer = Some(Peer {
            interest: hello.interest.clone(),
            clock_ahead_ms: difference(hello.clock_ms, now.wall_ms),
            set_ms: difference(now.wall_ms, now.mono_ms),
            key: SumKey::of_link(self.nonce, hello.nonce),
        });
    }

    /// The peer told all its heads up to a position.
    pub(crate) fn note_told(&mut self, upto: Position, serial: u64) {
        self.told = Some(upto);
        self.learn(serial);
    }

    /// The store is asked which of the peer's heads are here.
    pub(crate) fn note_check(&mut self) {
        self.checks += 1;
    }

    /// The store answered, and what is not here is wanted.
    pub(crate) fn note_checked(&mut self, serial: u64) {
        self.checks = self.checks.saturating_sub(1);
        self.learn(serial);
    }

    /// What the peer told is known once all of it that is not here is wanted.
    fn learn(&mut self, serial: u64) {
        if let Some(upto) = self.told.take_if(|_| self.checks == 0) {
            (self.known, self.known_serial) = (Some(upto), serial);
        }
    }

    /// The peer's heads are to be told anew.
    pub(crate) fn forget_heads(&mut self) {
        (self.informed, self.known, self.told) = (false, None, None);
    }

    /// Whether both ends hold the log, or ought to.
    pub(crate) fn shares(&self, me: &Author, mine: &Interest, peer: &Author, log: &LogKey) -> bool {
        let theirs = self.peer.as_ref().map(|known| &known.interest);
        theirs.is_some_and(|theirs| mine.holds(me, log) && theirs.holds(peer, log))
    }

    /// A log's tips as far as both sides may have something of what leads up to them.
    pub(crate) fn common_tips(&self, record: &LogRecord) -> Tips {
        record.tips_above(self.floors.get(&record.key).copied().unwrap_or(0))
    }

    /// Takes note that a shared log's durable tips changed here, or which of them have events.
    pub(crate) fn note_change(&mut self, old: Option<&LogRecord>, new: &LogRecord, now_ms: u64) {
        let before = old.map(|old| self.common_tips(old)).unwrap_or_default();
        self.swap(&new.key, &before, &self.common_tips(new));
        self.touch(now_ms);
        self.make_dirty(new.key.clone(), now_ms);
    }

    /// Takes note of the peer's floor in a shared log.
    pub(crate) fn note_floor(&mut self, record: &LogRecord, floor: u64, now_ms: u64) {
        let before = self.common_tips(record);
        if record.tips.iter().any(|tip| tip.seq <= floor) {
            self.floors.insert(record.key.clone(), floor);
        } else {
            self.floors.remove(&record.key);
        }
        let after = self.common_tips(record);
        if before != after {
            self.swap(&record.key, &before, &after);
            self.touch(now_ms);
        }
    }

    fn swap(&mut self, log: &LogKey, old: &[Tip], new: &[Tip]) {
        let Some(peer) = &self.peer else { return };
        self.sum.remove(&peer.key, log, old);
        self.sum.add(&peer.key, log, new);
        self.events = self.events.saturating_add(count(new)).saturating_sub(count(old));
    }

    pub(crate) fn make_dirty(&mut self, log: LogKey, now_ms: u64) {
        self.dirty.insert(log);
        let wait_ms = if now_ms < self.hurry_until_ms { 0 } else { ANNOUNCE_MS };
        let at_ms = now_ms + wait_ms;
        self.announce_at_ms = Some(self.announce_at_ms.map_or(at_ms, |old| old.min(at_ms)));
    }

    /// Something moved: sync has to be shown anew.
    pub(crate) fn touch(&mut self, now_ms: u64) {
        self.last_change_ms = now_ms;
        if self.in_sync || self.audit_at_ms > now_ms + QUIET_MS {
            self.audit_at_ms = now_ms + QUIET_MS;
        }
        self.in_sync = false;
    }

    pub(crate) fn is_live(&self) -> bool {
        self.informing == Informing::Live
    }
}

pub(crate) fn count(tips: &[Tip]) -> u64 {
    tips.iter().fold(0, |sum, tip| tip.seq.saturating_add(sum))
}
