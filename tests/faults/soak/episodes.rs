//! The faults of a soak: each is caused, lasts a while, and is taken back.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{BAD_CLOCK, NODES, OWN_DISK, Soak};
use crate::clocks::set_off;
use crate::harness::{Dice, Node, exit};
use crate::slow_disk::slow_down;

/// Something that goes wrong with one node, or between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Kill,
    Pause,
    Loss,
    NarrowLink,
    Partition,
    WrongClock,
    SlowDisk,
    OldCopy,
    DiskFull,
    PowerLoss,
    Restart,
}

const MIB: u64 = 1 << 20;

/// How often a node's disk is replaced: each time makes one more line of its logs, of which 16 are kept.
const MAX_COPIES: usize = 12;

/// As often as they are listed.
const FAULTS: [Fault; 15] = [
    Fault::Kill,
    Fault::Kill,
    Fault::Kill,
    Fault::Pause,
    Fault::Loss,
    Fault::Loss,
    Fault::NarrowLink,
    Fault::Partition,
    Fault::WrongClock,
    Fault::SlowDisk,
    Fault::OldCopy,
    Fault::OldCopy,
    Fault::DiskFull,
    Fault::PowerLoss,
    Fault::Restart,
];

impl Fault {
    pub(super) fn random(dice: &mut Dice) -> Self {
        FAULTS[dice.below(FAULTS.len())]
    }

    /// A node that it can happen to.
    pub(super) fn victim(self, dice: &mut Dice) -> usize {
        match self {
            Self::WrongClock => BAD_CLOCK,
            Self::DiskFull | Self::PowerLoss => OWN_DISK,
            _ => dice.below(NODES),
        }
    }

    /// Whether it needs a node's process for itself, rather than its network.
    pub(super) fn is_of_process(self) -> bool {
        !matches!(self, Self::Loss | Self::NarrowLink | Self::Partition)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill -9",
            Self::Pause => "pause",
            Self::Loss => "packet loss",
            Self::NarrowLink => "narrow link",
            Self::Partition => "partition",
            Self::WrongClock => "clock off by a year",
            Self::SlowDisk => "slow disk",
            Self::OldCopy => "backup, or restore of one",
            Self::DiskFull => "disk full",
            Self::PowerLoss => "power loss",
            Self::Restart => "restart",
        }
    }
}

impl Soak {
    /// Lets a fault happen to a node and takes it back.
    pub(super) fn suffer(&self, fault: Fault, node: usize, dice: &mut Dice) {
        self.count(fault.name());
        let victim = &self.mesh[node];
        match fault {
            Fault::Kill => {
                victim.kill();
                sleep(dice.time(0, 5_000));
                victim.start();
            }
            Fault::Restart => {
                victim.stop();
                victim.start();
            }
            Fault::Pause => {
                victim.pause();
                sleep(dice.time(1_000, 35_000));
                victim.resume();
            }
            Fault::Loss => {
                self.mesh.lan().lose(node, 5 + dice.below(36) as u8);
                sleep(dice.time(5_000, 30_000));
                self.mesh.lan().lose(node, 0);
            }
            Fault::NarrowLink => {
                self.mesh.lan().limit(node, Some(256 << dice.below(3)));
                sleep(dice.time(5_000, 30_000));
                self.mesh.lan().limit(node, None);
            }
            Fault::Partition => self.fall_apart(dice),
            Fault::WrongClock => {
                let offset = ["+365d", "-365d"][dice.below(2)];
                self.restart_with(node, dice, |victim| set_off(victim, offset));
            }
            Fault::SlowDisk => self.restart_with(node, dice, slow_down),
            Fault::OldCopy => self.lose_disk(node),
            Fault::DiskFull => {
                self.disk.fill_but(dice.below(100) as u64 * MIB);
                sleep(dice.time(3_000, 20_000));
                self.disk.empty();
            }
            Fault::PowerLoss => {
                self.disk.cut_power();
                victim.kill();
                self.disk.unmount();
                self.disk.mount();
                victim.start();
            }
        }
    }

    /// Two or three groups that cannot hear each other.
    fn fall_apart(&self, dice: &mut Dice) {
        let count = 2 + dice.below(2);
        let mut groups = vec![Vec::new(); count];
        self.mesh.all().for_each(|node| groups[dice.below(count)].push(node));
        let groups: Vec<&[usize]> = groups.iter().map(Vec::as_slice).collect();
        self.mesh.lan().partition(&groups);
        sleep(dice.time(5_000, 40_000));
        self.mesh.lan().heal();
    }

    fn restart_with(&self, node: usize, dice: &mut Dice, fault: impl Fn(&Node)) {
        let victim = &self.mesh[node];
        victim.stop();
        fault(victim);
        victim.start();
        sleep(dice.time(15_000, 45_000));
        victim.stop();
        victim.run_through(&[]);
        victim.start();
    }

    /// The first time its log is backed up, the next time the backup takes the place of the log.
    fn lose_disk(&self, node: usize) {
        let victim = &self.mesh[node];
        let taken = self.copies.lock().expect("copies").remove(&node);
        let Some((file, copied)) = taken else {
            if self.replaced.lock().expect("replaced").iter().filter(|other| **other == node).count() == MAX_COPIES {
                return;
            }
            let file = self.mesh.folder().join(format!("{node}-{}.backup", self.nth()));
            let copied = Instant::now();
            victim.cli(&["log", "backup", file.to_str().expect("text")]).expect(exit::OK);
            self.copies.lock().expect("copies").insert(node, (file, copied));
            return;
        };
        victim.kill();
        // What it acknowledged before its end is read to the end.
        sleep(Duration::from_secs(1));
        self.collect();
        self.stop_following(node);
        fs::remove_dir_all(victim.home.join("log")).expect("the lost log");
        victim.cli(&["log", "restore", file.to_str().expect("text")]).expect(exit::OK);
        drop(fs::remove_file(file));
        self.ledger.lock().expect("ledger").replace_disk(node, copied);
        self.replaced.lock().expect("replaced").push(node);
        self.count("disks replaced by an old copy");
        victim.start();
        self.follow(node);
    }
}
