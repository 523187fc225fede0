//! Whole meshes of replicas in virtual time, over a network and disks that fail, each named by its seed: runs as many
//! as one likes, and tells the shortest story of the first that breaks a promise.
//!
//! `cargo run --release --example simulate -- --seeds 10000`
#![allow(clippy::print_stderr)]

#[path = "../tests/simulation/simulator/mod.rs"]
mod simulator;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use simulator::{Campaign, Options, Plan, Report, run, shrink, story};

/// Simulates meshes in virtual time and checks every promise.
#[derive(Parser)]
struct Arguments {
    /// How many seeds to run
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Machines of each mesh; otherwise the seed chooses from 2 to 8, and once in a while up to 30
    #[arg(long, value_parser = clap::value_parser!(u64).range(2..=30))]
    machines: Option<u64>,
    /// Go on after a failure, and list the failing seeds with what they broke
    #[arg(long)]
    keep_going: bool,
    /// Tell all that is sent and written in the shortest story
    #[arg(long)]
    narrate: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let machines = arguments.machines.map(|machines| machines as usize);
    let campaign = Campaign { from: arguments.from, seeds: arguments.seeds, machines, options: Options::default() };
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} seeds, {per_sec}, {eta} left");
    let bar = ProgressBar::new(arguments.seeds).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let start = Instant::now();
    let mut total = Report::default();
    let mut failures = 0;
    let failure = campaign.run(arguments.keep_going, |seed, outcome| {
        bar.inc(1);
        match outcome {
            Ok(report) => total.add(report),
            Err(violation) => {
                failures += 1;
                bar.suspend(|| eprintln!("seed {seed}: {violation}"));
            }
        }
    });
    bar.finish_and_clear();
    let seconds = start.elapsed().as_secs_f64();
    println!("{total}\n{:.0} seeds a second", (arguments.seeds as f64) / seconds);
    let Some((seed, violation)) = failure else { return ExitCode::SUCCESS };
    if arguments.keep_going {
        eprintln!("{failures} of {} seeds failed", arguments.seeds);
        return ExitCode::FAILURE;
    }
    eprintln!("seed {seed} failed; looking for the shortest story");
    let (plan, violation) = shrink(&Plan::draw(seed, machines), violation, Options::default());
    eprintln!("{}", story(&plan, &violation));
    if arguments.narrate {
        let _ = run(&plan, Options { narrated: true, ..Options::default() });
    }
    ExitCode::FAILURE
}
