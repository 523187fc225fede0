//! Whole meshes of replicas in virtual time, over a network and disks that fail: see `simulator`. `cargo run --release
//! --example simulate` runs as many seeds as one likes.

mod simulator;

use roundelay_protocol::planted::Fault;
use simulator::{Campaign, Options, Plan, run, shrink, story};

/// Seeds that every test run tries.
const SEEDS: u64 = 2_000;
/// Seeds beyond those, which broke a promise once.
const ONCE_BROKEN: [u64; 6] = [201_047, 206_014, 209_003, 214_022, 504_092, 514_974];
/// Seeds within which a planted fault must be caught.
const SEEDS_TO_CATCH: u64 = 1_000;

#[test]
fn the_promises_are_kept_for_every_seed() {
    let options = Options::default();
    let campaign = Campaign { from: 0, seeds: SEEDS, machines: None, options };
    if let Some((seed, violation)) = campaign.run(false, |_, _| {}) {
        let (plan, violation) = shrink(&Plan::draw(seed, None), violation, options);
        panic!("{}", story(&plan, &violation));
    }
}

#[test]
fn seeds_that_once_broke_a_promise_keep_all() {
    for seed in ONCE_BROKEN {
        if let Err(violation) = run(&Plan::draw(seed, None), Options::default()) {
            panic!("seed {seed}: {violation}");
        }
    }
}

#[test]
fn a_seed_names_a_run_to_the_byte() {
    let options = Options { traced: true, ..Options::default() };
    for seed in 0..40 {
        let plan = Plan::draw(seed, None);
        assert_eq!(plan, Plan::draw(seed, None));
        let (one, other) = (run(&plan, options).expect("kept"), run(&plan, options).expect("kept"));
        assert_eq!(one, other, "seed {seed}");
        assert_ne!(one.trace, run(&Plan::draw(seed + 1, None), options).expect("kept").trace);
    }
}

#[test]
fn every_planted_fault_is_caught() {
    let mut missed = Vec::new();
    println!("{:<28} {:>5}  caught by", "planted", "seed");
    for fault in Fault::ALL {
        let options = Options { fault: Some(fault), ..Options::default() };
        let campaign = Campaign { from: 0, seeds: SEEDS_TO_CATCH, machines: None, options };
        match campaign.run(false, |_, _| {}) {
            Some((seed, violation)) => println!("{:<28} {seed:>5}  {}", format!("{fault:?}"), violation.promise),
            None => missed.push(fault),
        }
    }
    assert!(missed.is_empty(), "not caught within {SEEDS_TO_CATCH} seeds: {missed:?}");
}
