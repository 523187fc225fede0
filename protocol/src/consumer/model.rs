//! A consumer against a model that only knows what is promised.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const MAX_DELIVER: u32 = 3;
const RULES: Rules = Rules {
    ack_wait_ms: 50,
    max_deliver: MAX_DELIVER,
    max_in_flight: 4,
    backoff_ms: 10,
    max_backoff_ms: 40,
    window: 12,
};

#[derive(Debug, Clone)]
enum Step {
    Arrive { key: Option<u8>, repeat: bool },
    Fetch { member: u64, max: usize },
    Ack { pick: usize, written: bool, elsewhere: bool },
    AckLate { pick: usize },
    TakeBack { pick: usize },
    AckUpto { pick: usize },
    Nack { pick: usize, delay_ms: u64 },
    Extend { pick: usize },
    Later { ms: u64 },
    Leave { member: u64 },
    Redrive { pick: usize },
    Restart,
    Seek { pick: usize },
    Share { mine: bool },
    Elsewhere { pick: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (proptest::option::weighted(0.8, 0..3_u8), prop::bool::weighted(0.15))
            .prop_map(|(key, repeat)| Step::Arrive { key, repeat }),
        6 => (1..3_u64, 1..4_usize).prop_map(|(member, max)| Step::Fetch { member, max }),
        5 => (any::<usize>(), prop::bool::weighted(0.8), prop::bool::weighted(0.1))
            .prop_map(|(pick, written, elsewhere)| Step::Ack { pick, written, elsewhere }),
        1 => any::<usize>().prop_map(|pick| Step::AckLate { pick }),
        1 => any::<usize>().prop_map(|pick| Step::TakeBack { pick }),
        1 => any::<usize>().prop_map(|pick| Step::AckUpto { pick }),
        3 => (any::<usize>(), 0..30_u64).prop_map(|(pick, delay_ms)| Step::Nack { pick, delay_ms }),
        1 => any::<usize>().prop_map(|pick| Step::Extend { pick }),
        3 => (1..40_u64).prop_map(|ms| Step::Later { ms }),
        1 => (1..3_u64).prop_map(|member| Step::Leave { member }),
        1 => any::<usize>().prop_map(|pick| Step::Redrive { pick }),
        1 => Just(Step::Restart),
        1 => any::<usize>().prop_map(|pick| Step::Seek { pick }),
        1 => any::<bool>().prop_map(|mine| Step::Share { mine }),
        1 => any::<usize>().prop_map(|pick| Step::Elsewhere { pick }),
    ]
}

/// What arrived, what is done, and what is out.
struct Model {
    consumer: Consumer,
    now_ms: u64,
    log: Vec<Offer>,
    /// Events that are no repeats.
    events: BTreeSet<Place>,
    offered: usize,
    done: BTreeSet<Place>,
    dead: BTreeMap<Place, u64>,
    /// Dead letters that are delivered again.
    again: BTreeSet<Slot>,
    out: BTreeMap<Slot, u64>,
    failures: BTreeMap<Slot, u32>,
    letters: u64,
    mine: bool,
    /// What others said that they did: it is read again after a restart.
    told: Vec<Identity>,
}

impl Model {
    fn new() -> Self {
        Self {
            consumer: Consumer::new(RULES, Snapshot::default(), BTreeMap::new()),
            now_ms: 1_000,
            log: Vec::new(),
            events: BTreeSet::new(),
            offered: 0,
            done: BTreeSet::new(),
            dead: BTreeMap::new(),
            again: BTreeSet::new(),
            out: BTreeMap::new(),
            failures: BTreeMap::new(),
            letters: 0,
            mine: true,
            told: Vec::new(),
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Arrive { key, repeat } => self.arrive(key, repeat),
            Step::Fetch { member, max } => self.fetch(member, max),
            Step::Ack { pick, written, elsewhere } => {
                if let Some(slot) = self.pick(pick) {
                    self.ack(&[slot.place], written, elsewhere && slot.letter == 0);
                }
            }
            Step::AckLate { pick } => self.ack_late(pick),
            Step::TakeBack { pick } => {
                if let Some(slot) = self.pick(pick) {
                    self.consumer.take_back(&[slot]);
                    self.out.remove(&slot);
                }
            }
            Step::AckUpto { pick } => {
                if let Some(slot) = self.pick(pick) {
                    let places = self.consumer.delivered_upto(slot.place);
                    let out: Vec<Place> = self.out.keys().map(|slot| slot.place).filter(|p| *p <= slot.place).collect();
                    assert_eq!(places, out);
                    self.ack(&places, true, false);
                }
            }
            Step::Nack { pick, delay_ms } => {
                if let Some(slot) = self.pick(pick) {
                    let (failed, failure) =
                        self.consumer.fail(self.now_ms, slot.place, delay_ms).expect("it was delivered");
                    assert_eq!(failed, slot);
                    self.failed(slot, failure);
                }
            }
            Step::Extend { pick } => {
                if let Some(slot) = self.pick(pick) {
                    assert_eq!(self.consumer.extend(self.now_ms, &[slot.place]), 1);
                }
            }
            Step::Later { ms } => {
                self.now_ms += ms;
                self.tick();
            }
            Step::Leave { member } => {
                for expired in self.consumer.release(self.now_ms, member) {
                    assert_eq!(self.out.get(&expired.slot), Some(&member));
                    self.failed(expired.slot, expired.failure);
                }
                assert!(!self.out.values().any(|by| *by == member));
            }
            Step::Redrive { pick } => self.redrive(pick),
            Step::Restart => self.restart(),
            Step::Seek { pick } => self.seek(pick),
            Step::Share { mine } => self.share(mine),
            Step::Elsewhere { pick } => self.elsewhere(pick),
        }
        self.offer();
        self.check();
    }

    fn arrive(&mut self, key: Option<u8>, repeat: bool) {
        let number = self.log.len();
        let place = Place { arrival: Arrival(number as u64 / 2 + 1), index: number as u32 % 2 };
        let key = key.map(|key| Key::new(&key.to_string()));
        let offer = match self.log.last() {
            Some(last) if repeat => Offer { place, ..*last },
            _ => {
                self.events.insert(place);
                Offer { place, key, identity: Identity::new("t", "s", &number.to_string()) }
            }
        };
        self.log.push(offer);
    }

    fn offer(&mut self) {
        while self.consumer.room() > 0
            && let Some(offer) = self.log.get(self.offered)
        {
            self.offered += 1;
            self.consumer.offer(*offer);
            if offer.place.index > 0 {
                self.consumer.pass(Place::end_of(offer.place.arrival));
            }
        }
    }

    fn fetch(&mut self, member: u64, max: usize) {
        for delivery in self.consumer.fetch(self.now_ms, member, max) {
            let slot = delivery.slot;
            let offer = *self.log.iter().find(|offer| offer.place == slot.place).expect("it arrived");
            assert!(self.events.contains(&slot.place), "a repeat was delivered");
            assert!(self.again.contains(&slot) == (slot.letter > 0));
            assert!(self.mine || slot.letter > 0, "another member's event was delivered");
            if slot.letter == 0 {
                assert!(
                    !self.done.contains(&slot.place) && !self.dead.contains_key(&slot.place),
                    "done, and delivered"
                );
            }
            if offer.key.is_some() {
                let same = |other: &Place| self.log.iter().any(|o| o.place == *other && o.key == offer.key);
                assert!(!self.out.keys().any(|other| same(&other.place)), "two of one key are out");
                let open = |place: &&Place| !self.done.contains(*place) && !self.dead.contains_key(*place);
                let earlier = self.events.range(..slot.place).filter(open).find(|place| same(place));
                assert!(earlier.is_none(), "{earlier:?} of the same key is not done");
            }
            assert_eq!(delivery.attempt, self.failures.get(&slot).copied().unwrap_or(0) + 1);
            assert!(self.out.insert(slot, member).is_none(), "delivered twice at once");
        }
        assert!(self.out.len() <= RULES.max_in_flight);
    }

    fn pick(&self, pick: usize) -> Option<Slot> {
        (!self.out.is_empty()).then(|| *self.out.keys().nth(pick % self.out.len()).expect("there is one"))
    }

    fn ack(&mut self, places: &[Place], written: bool, elsewhere: bool) {
        let settling = self.consumer.settle(places);
        assert_eq!(settling.begun.len(), places.len());
        let begun: BTreeSet<Slot> = settling.begun.iter().copied().collect();
        let written_as = self.consumer.snapshot(&begun);
        let is_written = |place: &Place| *place <= written_as.floor || written_as.done.contains(place);
        assert!(
            settling.begun.iter().all(|slot| slot.letter > 0 || is_written(&slot.place)),
            "it would not be written"
        );
        let again = self.consumer.settle(places);
        assert!(again.begun.is_empty() && again.unknown.is_empty());
        if elsewhere {
            let offer = self.log.iter().find(|offer| offer.place == places[0]).expect("it arrived");
            self.told.push(offer.identity);
            self.consumer.done_elsewhere(offer.identity);
        }
        if written {
            self.consumer.confirm(&settling.begun);
        } else {
            self.consumer.revert(&settling.begun);
        }
        if !written && !elsewhere {
            return;
        }
        settling.begun.iter().for_each(|slot| self.finish(*slot));
    }

    /// An answer to a delivery that was given up, or by somebody who never had it.
    fn ack_late(&mut self, pick: usize) {
        let open: Vec<Place> = self.events.iter().copied().filter(|place| self.consumer.is_open(*place)).collect();
        if !open.is_empty() {
            self.ack(&[open[pick % open.len()]], true, false);
        }
    }

    fn finish(&mut self, slot: Slot) {
        self.out.remove(&slot);
        self.failures.remove(&slot);
        if self.again.remove(&slot) {
            self.dead.remove(&slot.place);
        }
        self.done.insert(slot.place);
    }

    fn failed(&mut self, slot: Slot, failure: Failure) {
        self.out.remove(&slot).expect("it was out");
        let failures = self.failures.entry(slot).or_default();
        *failures += 1;
        match failure {
            Failure::Again { .. } => assert!(*failures < MAX_DELIVER),
            Failure::Dead => {
                assert_eq!(*failures, MAX_DELIVER);
                self.failures.remove(&slot);
                self.consumer.confirm(&[slot]);
                self.again.remove(&slot);
                self.letters += 1;
                self.dead.insert(slot.place, self.letters);
            }
        }
    }

    fn tick(&mut self) {
        for expired in self.consumer.tick(self.now_ms, |rules, failures| rules.backoff_ms(failures, 0)) {
            self.failed(expired.slot, expired.failure);
        }
        assert!(self.consumer.deadline_ms().is_none_or(|at_ms| at_ms > self.now_ms));
    }

    fn redrive(&mut self, pick: usize) {
        if self.dead.is_empty() {
            return;
        }
        let (place, letter) =
            self.dead.iter().nth(pick % self.dead.len()).map(|(p, l)| (*p, *l)).expect("there is one");
        let slot = Slot { place, letter };
        let offer = *self.log.iter().find(|offer| offer.place == place).expect("it arrived");
        assert_eq!(self.consumer.redrive(letter, offer), !self.again.contains(&slot));
        self.again.insert(slot);
    }

    fn restart(&mut self) {
        let snapshot = self.consumer.snapshot(&BTreeSet::new());
        let read_back = Snapshot::decode(&snapshot.encode());
        assert_eq!(read_back.as_ref(), Ok(&snapshot));
        let failures = self.failures.iter().filter(|(slot, _)| slot.letter == 0);
        let failures = failures.map(|(slot, failures)| (slot.place, (*failures, 0))).collect();
        let share = self.consumer.share.clone();
        self.consumer = Consumer::new(RULES, snapshot.clone(), failures);
        self.consumer.set_share(share);
        for identity in &self.told {
            self.consumer.done_elsewhere(*identity);
        }
        self.offered = self.log.iter().position(|offer| offer.place > snapshot.floor).unwrap_or(self.log.len());
        self.log[..self.offered].iter().for_each(|offer| self.consumer.remember(offer.identity));
        self.out.clear();
        self.failures.retain(|slot, _| slot.letter == 0);
        self.again.clear();
    }

    /// Only a consumer without a group seeks: nobody else did anything of it.
    fn seek(&mut self, pick: usize) {
        if self.log.is_empty() || self.consumer.share.is_some() || !self.told.is_empty() {
            return;
        }
        let to = self.log[pick % self.log.len()].place;
        self.consumer.seek(to, Hlc(0));
        self.offered = self.log.iter().position(|offer| offer.place > to).unwrap_or(self.log.len());
        self.log[..self.offered].iter().for_each(|offer| self.consumer.remember(offer.identity));
        // What lies before is skipped, and what follows comes again, done or dead before.
        self.done = self.events.range(..=to).copied().collect();
        self.dead.clear();
        self.again.clear();
        self.out.clear();
        self.failures.clear();
    }

    fn share(&mut self, mine: bool) {
        // A group of one other has everything, or nothing.
        let members = vec![if mine { [1; 32] } else { [2; 32] }];
        self.mine = mine;
        self.consumer.set_share(Some(Share { group: "g".into(), me: [1; 32], members, before: None }));
    }

    /// Another member says that it did an event.
    fn elsewhere(&mut self, pick: usize) {
        if self.log.is_empty() {
            return;
        }
        let identity = self.log[pick % self.log.len()].identity;
        let place = self.log.iter().find(|offer| offer.identity == identity).expect("it is there").place;
        if self.dead.contains_key(&place) || self.done.contains(&place) {
            return;
        }
        self.consumer.done_elsewhere(identity);
        self.told.push(identity);
        self.finish(Slot { place, letter: 0 });
    }

    fn check(&self) {
        let snapshot = self.consumer.snapshot(&BTreeSet::new());
        let over = |place: &Place| self.done.contains(place) || self.dead.contains_key(place);
        let passed = self.events.range(..=snapshot.floor).find(|place| !over(place));
        assert!(passed.is_none(), "the floor passed {passed:?}");
        assert!(snapshot.done.iter().all(|place| *place > snapshot.floor && over(place)));
        let read = self.log.get(self.offered.wrapping_sub(1)).map(|offer| offer.place).unwrap_or_default();
        let lost = self
            .events
            .range(..=read)
            .find(|place| over(place) && **place > snapshot.floor && !snapshot.done.contains(place));
        assert!(lost.is_none(), "{lost:?} is done, and not written");
        assert!(self.consumer.entries.len() - self.consumer.redriven <= RULES.window);
        let progress = self.consumer.progress();
        assert_eq!(progress.in_flight, self.out.len());
        assert_eq!(self.consumer.in_flight(), self.out.len());
        assert_eq!(self.consumer.undone(), progress.waiting + progress.in_flight + progress.foreign);
        let open = self.events.range(..=read).find(|place| !over(place) && !self.consumer.knows(**place));
        assert!(open.is_none(), "{open:?} was read, and is not known");
    }

    /// Whatever happened: when somebody goes on working, everything is processed.
    fn finish_all(mut self) {
        self.share(true);
        for _ in 0..20_000 {
            self.offer();
            self.fetch(1, 4);
            while let Some(slot) = self.pick(0) {
                self.ack(&[slot.place], true, false);
            }
            self.now_ms += 100;
            self.tick();
            if self.offered == self.log.len() && self.consumer.progress().waiting == 0 {
                break;
            }
        }
        let left: Vec<_> =
            self.events.iter().filter(|p| !self.done.contains(*p) && !self.dead.contains_key(*p)).collect();
        assert!(left.is_empty(), "never delivered: {left:?}");
        assert!(self.again.is_empty(), "never delivered again: {:?}", self.again);
        assert_eq!(self.consumer.progress().done, 0, "the floor stays behind");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn every_event_is_done_once_in_the_order_of_its_key_whatever_happens(steps in prop::collection::vec(step(), 1..120)) {
        let mut model = Model::new();
        for step in steps {
            model.take(step);
        }
        model.finish_all();
    }

    #[test]
    fn a_wait_grows_with_failures_up_to_its_bound(failures in 1..100_u32, jitter in any::<u32>()) {
        let wait_ms = RULES.backoff_ms(failures, jitter);
        prop_assert!((5..=40).contains(&wait_ms));
        prop_assert!(wait_ms <= RULES.backoff_ms(failures, u32::MAX));
        prop_assert!(RULES.backoff_ms(failures, 0) <= RULES.backoff_ms(failures + 1, 0));
    }

    #[test]
    fn a_snapshot_with_a_byte_changed_is_refused_or_another_snapshot(
        floor in any::<u32>(), not_before in any::<u64>(),
        steps in prop::collection::vec((0..300_u64, any::<u32>()), 0..20), at in any::<usize>(), byte in any::<u8>(),
    ) {
        let floor = Place { arrival: Arrival(floor.into()), index: 7 };
        let mut arrival = floor.arrival.0;
        let done = steps.into_iter().map(|(step, index)| {
            arrival += step;
            Place { arrival: Arrival(arrival), index }
        });
        let snapshot = Snapshot { floor, not_before: Hlc(not_before), done: done.collect() };
        let mut bytes = snapshot.encode();
        prop_assert_eq!(Snapshot::decode(&bytes), Ok(snapshot.clone()));
        let at = at % bytes.len();
        let same = bytes[at] == byte;
        bytes[at] = byte;
        if let Ok(changed) = Snapshot::decode(&bytes) {
            prop_assert_eq!(changed == snapshot, same);
            prop_assert_eq!(Snapshot::decode(&changed.encode()), Ok(changed));
        }
    }
}

#[test]
fn what_another_member_did_before_it_came_here_is_not_delivered() {
    let mut consumer = Consumer::new(RULES, Snapshot::default(), BTreeMap::new());
    let identity = Identity::new("t", "s", "1");
    assert!(!consumer.done_elsewhere(identity));
    let place = Place { arrival: Arrival(1), index: 0 };
    assert!(!consumer.offer(Offer { place, key: None, identity }));
    assert!(consumer.fetch(0, 1, 1).is_empty());
    consumer.pass(Place::end_of(Arrival(4)));
    assert_eq!(consumer.snapshot(&BTreeSet::new()).floor, Place::end_of(Arrival(4)));
}

#[test]
fn who_seeks_back_gets_what_was_done_before() {
    let mut consumer = Consumer::new(RULES, Snapshot::default(), BTreeMap::new());
    let offer =
        Offer { place: Place { arrival: Arrival(1), index: 0 }, key: None, identity: Identity::new("t", "s", "1") };
    assert!(consumer.offer(offer));
    let out = consumer.fetch(0, 1, 1);
    let settling = consumer.settle(&[out[0].slot.place]);
    consumer.confirm(&settling.begun);
    consumer.seek(beginning(), Hlc(0));
    assert!(consumer.offer(offer));
    assert_eq!(consumer.fetch(0, 1, 1).len(), 1);
}

#[test]
fn a_place_is_known_when_it_was_read_and_is_for_this_consumer() {
    let mut consumer = Consumer::new(RULES, Snapshot::default(), BTreeMap::new());
    let place = |arrival| Place { arrival: Arrival(arrival), index: 0 };
    consumer.offer(Offer { place: place(2), key: None, identity: Identity::new("t", "s", "1") });
    consumer.pass(place(3));
    assert!(consumer.knows(place(1)) && consumer.knows(place(2)));
    assert!(!consumer.knows(place(3)), "it was skipped");
    assert!(!consumer.knows(place(4)), "it was not read");
}

#[test]
fn what_another_member_did_and_is_gone_here_can_be_told_and_dropped() {
    let mut consumer = Consumer::new(RULES, Snapshot::default(), BTreeMap::new());
    let members = vec![[2; 32]];
    consumer.set_share(Some(Share { group: "g".into(), me: [1; 32], members, before: None }));
    let place = Place { arrival: Arrival(1), index: 0 };
    consumer.offer(Offer { place, key: None, identity: Identity::new("t", "s", "1") });
    consumer.pass(Place::end_of(Arrival(1)));
    assert_eq!(consumer.first_of_others(), Some(Slot { place, letter: 0 }));
    let settling = consumer.settle(&[place]);
    consumer.confirm(&settling.begun);
    assert_eq!(consumer.first_of_others(), None);
    assert_eq!(consumer.snapshot(&BTreeSet::new()).floor, Place::end_of(Arrival(1)));
}
