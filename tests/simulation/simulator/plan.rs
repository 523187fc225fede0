//! What happens to a mesh in one run: drawn from a seed, and a value of its own, so that a failing run can be shrunk.

use std::fmt;
use std::ops::Range;

use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use roundelay_protocol::replica::Room;

/// How often a thing goes wrong, in percent.
type Percent = u32;

/// Topics that are published to.
pub(crate) const TOPICS: [&str; 4] = ["a", "a.x", "b", "c.y"];
/// Subscriptions that a machine may change to.
const SUBSCRIPTIONS: [&[&str]; 5] = [&[">"], &["a", "a.>"], &["b", "c.*"], &["*"], &[]];
const YEAR_MS: i64 = 365 * 24 * 3_600_000;

/// One run of a mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) machines: usize,
    /// Pairs that keep a link whenever they can.
    pub(crate) links: Vec<(usize, usize)>,
    pub(crate) weather: Weather,
    /// Batches are signed and verified with ed25519 instead of a stand-in.
    pub(crate) real_signatures: bool,
    /// Machines give heartbeats, so often at most.
    pub(crate) heartbeat_ms: Option<u64>,
    /// In order of time.
    pub(crate) steps: Vec<Step>,
    /// When everything is mended, after the last step.
    pub(crate) healed_at_ms: u64,
}

/// What the network and the disks are like all the time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Weather {
    pub(crate) gossip_lost: Percent,
    pub(crate) gossip_repeated: Percent,
    pub(crate) gossip_ms: Range<u64>,
    pub(crate) frame_ms: Range<u64>,
    pub(crate) sync_ms: Range<u64>,
    /// Batches above this are not gossiped.
    pub(crate) max_gossip_bytes: usize,
    /// Bytes after which a pull is cut short.
    pub(crate) pull_bytes: u64,
}

/// Something that happens at some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) at_ms: u64,
    pub(crate) action: Action,
}

/// What happens. Machines are named by their number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    Publish {
        machine: usize,
        topic: usize,
        events: usize,
        bytes: usize,
        acks: u32,
    },
    /// The process dies, and with it what was not synced, but for the first so many percent of it.
    Crash {
        machine: usize,
        survives: Percent,
    },
    Start {
        machine: usize,
    },
    /// The next sync fails: what was written is or is not on the disk, and the process ends.
    FailSync {
        machine: usize,
        survives: Percent,
    },
    /// The disk takes so long for a sync.
    Stall {
        machine: usize,
        for_ms: u64,
    },
    /// Bits flip: so many percent of the batches are unreadable. The store is set aside and salvaged.
    Damage {
        machine: usize,
        lost: Percent,
    },
    /// The disk has so much room from now on.
    Room {
        machine: usize,
        room: Room,
    },
    Copy {
        machine: usize,
    },
    /// The disk is replaced by the copy.
    Restore {
        machine: usize,
    },
    /// A second process starts on a copy of the running store.
    Twin {
        machine: usize,
    },
    /// One of the two is stopped, and its disk is gone.
    EndTwin {
        machine: usize,
        keep_twin: bool,
    },
    Clock {
        machine: usize,
        ahead_ms: i64,
        drift_ppm: i64,
    },
    Subscribe {
        machine: usize,
        patterns: &'static [&'static str],
    },
    Block {
        machine: usize,
        other: usize,
    },
    Unblock {
        machine: usize,
    },
    /// Restart with another cap.
    Cap {
        machine: usize,
        bytes: u64,
    },
    /// Another rule holds for a topic on this machine.
    Rule {
        machine: usize,
        topic: usize,
        rule: RuleChange,
    },
    /// Only machines of one group reach each other.
    Partition {
        groups: Vec<u8>,
    },
    /// Nothing passes this way, and nobody is told for a while.
    OneWay {
        from: usize,
        to: usize,
    },
    /// The link breaks and may be made again.
    Flap {
        a: usize,
        b: usize,
    },
    Mend,
    /// Somebody waits until all is converged.
    Probe {
        machine: usize,
    },
}

/// What a rule says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RuleChange {
    None,
    MaxEvents(u64),
    MaxAge {
        age_ms: u64,
    },
    /// Only these machines may write.
    Writers(Vec<usize>),
    /// Of each key the last event stays.
    Keyed,
}

/// Kinds of trouble. Each run has some of them: runs with few kinds go deep, and no kind hides another (swarm testing;
/// Groce et al., 2012).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Crashes,
    FailedSyncs,
    Stalls,
    Damage,
    FullDisks,
    Restores,
    Twins,
    Clocks,
    Interests,
    Blocks,
    Caps,
    Partitions,
    Flaps,
}

const TROUBLES: [Trouble; 13] = [
    Trouble::Crashes,
    Trouble::FailedSyncs,
    Trouble::Stalls,
    Trouble::Damage,
    Trouble::FullDisks,
    Trouble::Restores,
    Trouble::Twins,
    Trouble::Clocks,
    Trouble::Interests,
    Trouble::Blocks,
    Trouble::Caps,
    Trouble::Partitions,
    Trouble::Flaps,
];

impl Plan {
    /// Whether any machine keeps a topic by key.
    pub(crate) fn has_keyed(&self) -> bool {
        self.steps.iter().any(|step| matches!(step.action, Action::Rule { rule: RuleChange::Keyed, .. }))
    }

    /// The plan of a seed. Without `machines` the seed chooses from 2 to 8, and once in a while up to 30.
    pub(crate) fn draw(seed: u64, machines: Option<usize>) -> Self {
        let rng = &mut Pcg64Mcg::seed_from_u64(seed);
        let drawn = if rng.random_ratio(1, 64) { rng.random_range(9..=30) } else { rng.random_range(2..=8) };
        let machines = machines.unwrap_or(drawn);
        let links = draw_links(rng, machines);
        let weather = Weather::draw(rng);
        let real_signatures = rng.random_ratio(1, 32);
        let kinds = rng.random_range(1..=6);
        let mut troubles: Vec<Trouble> = TROUBLES.sample(rng, kinds).copied().collect();
        if machines > 8 {
            // There not everyone is linked to everyone, and who does not subscribe would come between.
            troubles.retain(|trouble| !matches!(trouble, Trouble::Interests | Trouble::Blocks));
        }
        let length_ms = rng.random_range(2_000..15_000);
        let mut steps = Vec::new();
        for _ in 0..rng.random_range(5..40) {
            let at_ms = rng.random_range(100..length_ms);
            let machine = rng.random_range(0..machines);
            steps.push(Step { at_ms, action: publication(rng, machine) });
        }
        for _ in 0..rng.random_range(1..12) {
            if let Some(trouble) = troubles.choose(rng) {
                let at_ms = rng.random_range(100..length_ms);
                trouble.draw(rng, machines, at_ms, length_ms, &mut steps);
            }
        }
        if machines <= 8 {
            draw_rules(seed, machines, length_ms, &mut steps);
            draw_keyed(seed, machines, length_ms, &mut steps);
        }
        let heartbeat_ms = draw_heartbeats(seed, machines, length_ms, &mut steps);
        steps.sort_by_key(|step| step.at_ms);
        Self { seed, machines, links, weather, real_signatures, heartbeat_ms, steps, healed_at_ms: length_ms }
    }
}

/// In one plan of three, rules that come and go. From a stream of random numbers of its own, so that all else of a seed's
/// story stays as it is without them.
fn draw_rules(seed: u64, machines: usize, length_ms: u64, steps: &mut Vec<Step>) {
    let rng = &mut Pcg64Mcg::seed_from_u64(seed ^ 0x72_75_6c_65);
    if !rng.random_ratio(1, 3) {
        return;
    }
    for _ in 0..rng.random_range(1..8) {
        let rule = match rng.random_range(0..6) {
            0 => RuleChange::None,
            1 => RuleChange::MaxEvents(rng.random_range(1..300)),
            2 => RuleChange::MaxAge { age_ms: rng.random_range(500..8_000) },
            _ => RuleChange::Writers((0..machines).filter(|_| rng.random_ratio(1, 2)).collect()),
        };
        let (machine, topic) = (rng.random_range(0..machines), rng.random_range(0..TOPICS.len()));
        steps.push(Step { at_ms: rng.random_range(100..length_ms), action: Action::Rule { machine, topic, rule } });
    }
}

/// In one plan of four, topics that are kept by key on some machines. From a stream of its own, too.
fn draw_keyed(seed: u64, machines: usize, length_ms: u64, steps: &mut Vec<Step>) {
    let rng = &mut Pcg64Mcg::seed_from_u64(seed ^ 0x6b_65_79_73);
    if !rng.random_ratio(1, 4) {
        return;
    }
    for topic in 0..rng.random_range(1..=TOPICS.len()) {
        for machine in 0..machines {
            if rng.random_ratio(3, 4) {
                let action = Action::Rule { machine, topic, rule: RuleChange::Keyed };
                steps.push(Step { at_ms: rng.random_range(100..length_ms), action });
            }
        }
        // Enough events for something to be superseded.
        for _ in 0..rng.random_range(0..60) {
            let action =
                Action::Publish { machine: rng.random_range(0..machines), topic, events: 4, bytes: 8, acks: 0 };
            steps.push(Step { at_ms: rng.random_range(100..length_ms), action });
        }
    }
}

/// In one plan of four, heartbeats, and now and then a clock that is wrong when a machine starts anew. From a stream of its
/// own, too, which gives none to the seeds that once broke a promise, so that these tell what they told.
fn draw_heartbeats(seed: u64, machines: usize, length_ms: u64, steps: &mut Vec<Step>) -> Option<u64> {
    let rng = &mut Pcg64Mcg::seed_from_u64(seed ^ 0x74_69_63_6b);
    if !rng.random_ratio(1, 4) {
        return None;
    }
    for _ in 0..rng.random_range(0..4) {
        let (machine, at_ms) = (rng.random_range(0..machines), rng.random_range(100..length_ms));
        let ahead_ms = *[YEAR_MS, -YEAR_MS, 0].choose(rng).unwrap_or(&0);
        steps.push(Step { at_ms, action: Action::Clock { machine, ahead_ms, drift_ppm: 0 } });
        steps.push(Step { at_ms: at_ms + 1, action: Action::Crash { machine, survives: 0 } });
        steps.push(Step { at_ms: at_ms + 2, action: Action::Start { machine } });
        for _ in 0..rng.random_range(0..4) {
            let at_ms = at_ms + rng.random_range(3..1_000);
            steps.push(Step { at_ms, action: publication(rng, machine) });
        }
    }
    [100, 500, 2_000].choose(rng).copied()
}

/// Few machines are all linked to each other; of many, each is linked to the next and to some others.
fn draw_links(rng: &mut impl Rng, machines: usize) -> Vec<(usize, usize)> {
    let pairs = (0..machines).flat_map(|a| (a + 1..machines).map(move |b| (a, b)));
    if machines <= 8 {
        return pairs.collect();
    }
    pairs.filter(|(a, b)| b - a == 1 || rng.random_ratio(1, 10)).collect()
}

impl Weather {
    fn draw(rng: &mut impl Rng) -> Self {
        let slow_ms = *[20, 80, 400].choose(rng).unwrap_or(&20);
        Self {
            gossip_lost: *[0, 10, 40, 100].choose(rng).unwrap_or(&0),
            gossip_repeated: *[0, 10, 40].choose(rng).unwrap_or(&0),
            gossip_ms: 1..rng.random_range(5..slow_ms * 2),
            frame_ms: 1..rng.random_range(5..slow_ms),
            sync_ms: 1..*[4, 30, 200].choose(rng).unwrap_or(&4),
            max_gossip_bytes: *[400, 65_536].choose(rng).unwrap_or(&65_536),
            pull_bytes: *[1_000, 8_000, 1_048_576].choose(rng).unwrap_or(&1_048_576),
        }
    }
}

fn publication(rng: &mut impl Rng, machine: usize) -> Action {
    Action::Publish {
        machine,
        topic: rng.random_range(0..TOPICS.len()),
        events: if rng.random_ratio(1, 8) { rng.random_range(20..1_500) } else { rng.random_range(1..6) },
        bytes: if rng.random_ratio(1, 20) { 700 } else { 8 },
        acks: if rng.random_ratio(1, 4) { rng.random_range(1..3) } else { 0 },
    }
}

impl Trouble {
    fn draw(self, rng: &mut impl Rng, machines: usize, at_ms: u64, end_ms: u64, steps: &mut Vec<Step>) {
        let machine = rng.random_range(0..machines);
        let other = (machine + rng.random_range(1..machines)) % machines;
        let later_ms = rng.random_range(at_ms..end_ms);
        let survives = *[0, 0, 50, 100].choose(rng).unwrap_or(&0);
        let mut step = |at_ms, action| steps.push(Step { at_ms, action });
        match self {
            Self::Crashes => {
                step(at_ms, Action::Crash { machine, survives });
                step(at_ms + rng.random_range(0..3_000), Action::Start { machine });
            }
            Self::FailedSyncs => {
                step(at_ms, Action::FailSync { machine, survives });
                step(at_ms + rng.random_range(300..3_000), Action::Start { machine });
            }
            Self::Stalls => step(at_ms, Action::Stall { machine, for_ms: rng.random_range(200..4_000) }),
            Self::Damage => step(at_ms, Action::Damage { machine, lost: rng.random_range(1..40) }),
            Self::FullDisks => {
                let room = if rng.random() { Room::OwnOnly } else { Room::None };
                step(at_ms, Action::Room { machine, room });
                step(later_ms, Action::Room { machine, room: Room::Ample });
            }
            Self::Restores => {
                step(at_ms, Action::Copy { machine });
                step(later_ms, Action::Restore { machine });
            }
            Self::Twins => {
                step(at_ms, Action::Twin { machine });
                step(later_ms, Action::EndTwin { machine, keep_twin: rng.random() });
                for _ in 0..6 {
                    let publishes = publication(rng, machine);
                    step(rng.random_range(at_ms..end_ms), publishes);
                    step(rng.random_range(at_ms..end_ms), Action::Flap { a: machine, b: other });
                }
            }
            Self::Clocks => {
                let far = [YEAR_MS, -YEAR_MS, 40 * YEAR_MS, -40 * YEAR_MS, 3_600_000, -3_600_000, 0];
                let ahead_ms = *far.choose(rng).unwrap_or(&0);
                step(at_ms, Action::Clock { machine, ahead_ms, drift_ppm: rng.random_range(-100_000..100_000) });
            }
            Self::Interests => {
                let patterns = SUBSCRIPTIONS.choose(rng).copied().unwrap_or(&[]);
                step(at_ms, Action::Subscribe { machine, patterns });
            }
            Self::Blocks => {
                step(at_ms, Action::Block { machine, other });
                if rng.random() {
                    step(later_ms, Action::Unblock { machine });
                }
            }
            Self::Caps => step(at_ms, Action::Cap { machine, bytes: rng.random_range(4_000..60_000) }),
            Self::Partitions => {
                let action = if rng.random_ratio(1, 3) {
                    Action::OneWay { from: machine, to: other }
                } else {
                    let islands = rng.random_range(2..4);
                    let mut groups: Vec<u8> = (0..machines).map(|index| (index % islands) as u8).collect();
                    groups.shuffle(rng);
                    Action::Partition { groups }
                };
                step(at_ms, action);
                step(later_ms, Action::Mend);
            }
            Self::Flaps => {
                for _ in 0..rng.random_range(1..8) {
                    step(rng.random_range(at_ms..end_ms), Action::Flap { a: machine, b: other });
                }
            }
        }
        if rng.random_ratio(1, 4) {
            steps.push(Step { at_ms: later_ms, action: Action::Probe { machine } });
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>7.3} s  {}", self.at_ms as f64 / 1_000.0, self.action)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Publish { machine, topic, events, bytes, acks } => {
                let topic = TOPICS[*topic];
                write!(
                    f,
                    "{machine} publishes {events} events of {bytes} bytes to {topic}, for {acks} acknowledgements"
                )
            }
            Self::Crash { machine, survives } => {
                write!(f, "{machine} crashes; {survives} % of what was not synced survives")
            }
            Self::Start { machine } => write!(f, "{machine} starts, unless it runs"),
            Self::FailSync { machine, survives } => {
                write!(f, "the next sync of {machine} fails, and {survives} % of what was not synced survives")
            }
            Self::Stall { machine, for_ms } => write!(f, "the disk of {machine} stalls for {for_ms} ms"),
            Self::Damage { machine, lost } => {
                write!(f, "bits flip on the disk of {machine}: {lost} % of the batches are lost, the rest is salvaged")
            }
            Self::Room { machine, room } => write!(f, "the room on the disk of {machine}: {room:?}"),
            Self::Copy { machine } => write!(f, "the disk of {machine} is copied"),
            Self::Restore { machine } => write!(f, "the disk of {machine} is replaced by its copy"),
            Self::Twin { machine } => write!(f, "a twin of {machine} starts on a copy of its running store"),
            Self::EndTwin { machine, keep_twin: false } => write!(f, "the twin of {machine} is gone with its disk"),
            Self::EndTwin { machine, keep_twin: true } => {
                write!(f, "{machine} is gone with its disk, and its twin takes its place")
            }
            Self::Clock { machine, ahead_ms, drift_ppm } => {
                write!(f, "the clock of {machine} is {ahead_ms} ms ahead and drifts by {drift_ppm} ppm")
            }
            Self::Subscribe { machine, patterns } => write!(f, "{machine} subscribes to {patterns:?}"),
            Self::Block { machine, other } => write!(f, "{machine} blocks {other}"),
            Self::Unblock { machine } => write!(f, "{machine} blocks nobody any more"),
            Self::Cap { machine, bytes } => write!(f, "{machine} restarts with a cap of {bytes} bytes"),
            Self::Rule { machine, topic, rule } => write!(f, "the rule of {} on {machine}: {rule:?}", TOPICS[*topic]),
            Self::Partition { groups } => write!(f, "only machines of one group reach each other: {groups:?}"),
            Self::OneWay { from, to } => write!(f, "nothing passes from {from} to {to}"),
            Self::Flap { a, b } => write!(f, "the link of {a} and {b} breaks"),
            Self::Mend => write!(f, "the network is whole again"),
            Self::Probe { machine } => write!(f, "somebody waits at {machine} until all is converged"),
        }
    }
}
