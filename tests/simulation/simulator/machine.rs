//! A machine: a disk that outlives its processes, a clock, and perhaps a running process.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use roundelay::log::{Appended, MemoryStore, Store};
use roundelay_protocol::arrival_times::ArrivalTimes;
use roundelay_protocol::frame::{Memory, Position};
use roundelay_protocol::heads::{Hole, LogKey};
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::{Arrival, Author, BatchHash, Incarnation};
use roundelay_protocol::interest::Interest;
use roundelay_protocol::quota::LogLimits;
use roundelay_protocol::replica::{Config, Input, MEMORY_MARK, Now, Replica, Room};
use roundelay_protocol::rules::Rules;
use roundelay_protocol::sign::{Ed25519Signer, Ed25519Verifier, Signature, Signer, Verifier};
use roundelay_protocol::topic::{Pattern, Topic};
use roundelay_protocol::wants::Place;

use super::stability::Beat;

/// When virtual time begins, in milliseconds since 1970.
const EPOCH_MS: u64 = 1_700_000_000_000;

/// Signs for a machine: a stand-in that costs one hash, since the core takes what its driver has verified; or ed25519.
#[derive(Clone)]
pub(super) enum SimSigner {
    StandIn(Author),
    Real(Ed25519Signer),
}

impl SimSigner {
    pub(super) fn new(number: usize, real: bool) -> Self {
        let secret = [number as u8; 32];
        if real { Self::Real(Ed25519Signer::from_secret(&secret)) } else { Self::StandIn(Author(secret)) }
    }
}

impl Signer for SimSigner {
    fn author(&self) -> Author {
        match self {
            Self::StandIn(author) => *author,
            Self::Real(signer) => signer.author(),
        }
    }

    fn sign(&self, message: &[u8]) -> Signature {
        match self {
            Self::StandIn(author) => {
                let mut signature = [0; Signature::BYTES];
                signature[..32].copy_from_slice(blake3::hash(message).as_bytes());
                signature[32..].copy_from_slice(&author.0);
                Signature(signature)
            }
            Self::Real(signer) => signer.sign(message),
        }
    }
}

/// Checks what [`SimSigner`] makes.
pub(super) struct SimVerifier {
    pub(super) real: bool,
}

impl Verifier for SimVerifier {
    fn verify(&self, author: &Author, message: &[u8], signature: &Signature) -> bool {
        if self.real {
            Ed25519Verifier.verify(author, message, signature)
        } else {
            SimSigner::StandIn(*author).sign(message) == *signature
        }
    }
}

/// Something that was published in this life of a process.
pub(super) struct Publication {
    pub(super) topic: Topic,
    pub(super) ids: Vec<String>,
    /// The batches that hold it, once they are durable.
    pub(super) batches: Vec<BatchHash>,
}

/// The end of a line of a log.
pub(super) type Tip = (LogKey, u64, BatchHash);

/// Somebody waits until all is converged.
pub(super) struct Probe {
    /// What was durable then, on this machine and on those that it was linked to.
    pub(super) heads: Vec<(usize, u64, Vec<Tip>)>,
    pub(super) own: Vec<Tip>,
}

/// A running process.
pub(super) struct Process {
    pub(super) replica: Replica<SimSigner>,
    pub(super) incarnation: Incarnation,
    /// Writes that were appended and not synced, by token.
    pub(super) writing: VecDeque<(u64, Appended)>,
    pub(super) syncing: bool,
    /// The next sync fails, and so many percent of what it should have written survives.
    pub(super) sync_fails: Option<u32>,
    /// When the next tick comes.
    pub(super) tick_at_ms: u64,
    pub(super) gossip_seen: BTreeSet<BatchHash>,
    /// The links that the replica was told of: number and machine by author.
    pub(super) links: BTreeMap<Author, (u64, usize)>,
    pub(super) in_sync: BTreeSet<Author>,
    pub(super) publications: BTreeMap<u64, Publication>,
    pub(super) probes: BTreeMap<u64, Probe>,
    pub(super) last_id: u64,
    pub(super) beat: Beat,
}

/// A subscriber to everything on a machine, that remembers its place.
#[derive(Default)]
pub(super) struct Reader {
    pub(super) after: Arrival,
    pub(super) delivered: BTreeSet<BatchHash>,
    /// Holes that it was told of.
    pub(super) holes: BTreeMap<LogKey, Vec<Hole>>,
}

pub(super) struct Machine {
    pub(super) signer: SimSigner,
    pub(super) store: MemoryStore,
    pub(super) process: Option<Process>,
    pub(super) interest: Interest,
    pub(super) interest_at_ms: u64,
    pub(super) rules: Rules,
    pub(super) cap_bytes: u64,
    pub(super) ahead_ms: i64,
    pub(super) drift_ppm: i64,
    pub(super) stalled_until_ms: u64,
    /// How much room the disk has.
    pub(super) room: Room,
    pub(super) reader: Reader,
    pub(super) copy: Option<MemoryStore>,
    /// Up to where each log was taken for received, while it has had this disk.
    pub(super) stable: BTreeMap<LogKey, Hlc>,
    /// It was a twin, and is gone for good.
    pub(super) gone: bool,
}

impl Machine {
    pub(super) fn new(signer: SimSigner, store: MemoryStore) -> Self {
        Self {
            signer,
            store,
            process: None,
            interest: Interest::new(vec![Pattern::all()], Vec::new()),
            interest_at_ms: 0,
            rules: Rules::default(),
            cap_bytes: u64::MAX,
            ahead_ms: 0,
            drift_ppm: 0,
            stalled_until_ms: 0,
            room: Room::Ample,
            reader: Reader::default(),
            copy: None,
            stable: BTreeMap::new(),
            gone: false,
        }
    }

    pub(super) fn author(&self) -> Author {
        self.signer.author()
    }

    pub(super) fn now(&self, now_ms: u64) -> Now {
        let drifted = now_ms as i64 + now_ms as i64 * self.drift_ppm / 1_000_000;
        Now { mono_ms: now_ms, wall_ms: EPOCH_MS.saturating_add_signed(drifted + self.ahead_ms) }
    }

    /// A replica over what the disk holds.
    pub(super) fn replica(&self, incarnation: Incarnation, now_ms: u64, max_gossip_bytes: usize) -> Replica<SimSigner> {
        let snapshot = self.store.snapshot();
        let config = Config {
            incarnation,
            position: Position { epoch: snapshot.epoch, arrival: snapshot.last_arrival, chain: snapshot.chain },
            batch_bytes: snapshot.batch_bytes,
            cap_bytes: self.cap_bytes,
            max_gossip_bytes,
            interest: self.interest.clone(),
            rules: self.rules.clone(),
            arrival_times: ArrivalTimes::default(),
            seed: incarnation.0,
            log_limits: LogLimits::default(),
        };
        Replica::new(self.signer.clone(), config, snapshot.records, self.now(now_ms))
    }

    pub(super) fn start(&mut self, incarnation: Incarnation, now_ms: u64, max_gossip_bytes: usize) {
        let snapshot = self.store.snapshot();
        self.process = Some(Process {
            replica: self.replica(incarnation, now_ms, max_gossip_bytes),
            incarnation,
            writing: VecDeque::new(),
            syncing: false,
            sync_fails: None,
            tick_at_ms: u64::MAX,
            gossip_seen: BTreeSet::new(),
            links: BTreeMap::new(),
            in_sync: BTreeSet::new(),
            publications: BTreeMap::new(),
            probes: BTreeMap::new(),
            last_id: 0,
            beat: Beat::of(&self.store, snapshot.records.iter().map(|record| record.key.author)),
        });
    }

    pub(super) fn is_running(&self) -> bool {
        self.process.is_some()
    }

    pub(super) fn memory_of(&self, peer: &Author) -> Option<Memory> {
        let mark = self.store.mark(&[MEMORY_MARK, &peer.0].concat()).ok().flatten()?;
        Memory::decode(&mark).ok()
    }

    /// The answer to a question of the replica.
    pub(super) fn found(&self, log: &LogKey, place: Place, parent: Place) -> Input {
        let find = |(seq, hash): Place| self.store.find(log, seq, &hash).ok().flatten();
        let next = self.store.range(log, parent.0, parent.0 + 1, usize::MAX).unwrap_or_default();
        let children = next.iter().map(|batch| (batch.hash(), batch.header()));
        let siblings = children.filter(|(_, header)| (header.first_seq - 1, header.parent) == parent);
        let siblings = siblings.map(|(hash, header)| (hash, header.incarnation)).collect();
        Input::Found { hash: place.1, known: find(place).is_some(), parent: find(parent), siblings }
    }

    /// Whether the store has the batch, or says why not: it was pruned, or is in a hole.
    pub(super) fn accounts_for(&self, log: &LogKey, seq: u64, hash: &BatchHash) -> bool {
        self.has(log, seq, hash) || self.explains(log, seq)
    }

    pub(super) fn has(&self, log: &LogKey, seq: u64, hash: &BatchHash) -> bool {
        self.store.find(log, seq, hash).is_ok_and(|found| found.is_some())
    }

    pub(super) fn explains(&self, log: &LogKey, seq: u64) -> bool {
        let record = self.store.record(log).ok().flatten();
        record.is_some_and(|record| {
            seq <= record.floor || record.holes.iter().any(|hole| (hole.from..=hole.to).contains(&seq))
        })
    }
}
