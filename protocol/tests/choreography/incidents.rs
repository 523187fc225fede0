//! The verdicts on cases of incidents, counted here and by `scripts/count-incidents.py`, which reads the rules by itself.
//!
//! `ROUNDELAY_INCIDENTS` names the file of real incidents; without it only cases that are drawn are counted.
#![allow(clippy::print_stderr)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::read::MultiGzDecoder;
use roundelay_protocol::choreography::conformance::{Conformance, Judgement, Taken, Versions};
use roundelay_protocol::choreography::flow::Flow;
use roundelay_protocol::choreography::{Observed, Rank};
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::BatchHash;
use roundelay_protocol::topic::Topic;
use serde_json::{Value, json};

use crate::examples::{declaration, path};

const DAY_MS: u64 = 86_400_000;

/// `2010-03-31T14:59:42Z`, perhaps with milliseconds, in milliseconds since 1970.
fn parse_time_ms(text: &str) -> u64 {
    let numbers: Vec<i64> = text.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect();
    let (year, month, day) = (numbers[0], numbers[1], numbers[2]);
    // Days of the civil calendar, counted in years that begin with March.
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1 - 719_468;
    let seconds = days * 86_400 + numbers[3] * 3600 + numbers[4] * 60 + numbers[5];
    (seconds * 1000 + numbers.get(6).copied().unwrap_or(0)) as u64
}

fn format_time(ms: u64) -> String {
    // Cases are drawn within the first month of 2020.
    let (day, rest) = ((ms - 1_577_836_800_000) / DAY_MS, ms % DAY_MS);
    let (h, m, s) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1000 % 60);
    let (month, day) = (1 + day / 28, 1 + day % 28);
    assert!(month == 1, "the first four weeks");
    format!("2020-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{:03}Z", ms % 1000)
}

fn read(file: &Path) -> Vec<Observed> {
    let opened = std::fs::File::open(file).unwrap();
    let gzipped = file.extension().is_some_and(|extension| extension == "gz");
    let reader: Box<dyn Read> = if gzipped { Box::new(MultiGzDecoder::new(opened)) } else { Box::new(opened) };
    let topic = Topic::new("incidents.all").unwrap();
    let lines = BufReader::new(reader).lines().enumerate();
    let event = |(nth, line): (usize, std::io::Result<String>)| {
        let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let text = |name: &str| event[name].as_str().map(str::to_owned);
        let causes = event["causes"].as_array().into_iter().flatten();
        let stamp = Hlc::from_ms(parse_time_ms(event["time"].as_str().unwrap()));
        Observed {
            rank: Rank { stamp, batch: BatchHash::NONE, index: nth as u32 },
            topic: topic.clone(),
            author: None,
            source: text("source").unwrap_or_else(|| "/".to_owned()),
            id: text("id").unwrap_or_else(|| nth.to_string()),
            kind: text("type").unwrap(),
            causes: causes.map(|cause| cause.as_str().unwrap().to_owned()).collect(),
            correlation: text("case"),
            role: None,
            version: None,
        }
    };
    lines.map(event).collect()
}

/// The counts, by the names that the script gives them.
fn count(conformance: &Conformance) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    let mut add = |name: String, by: usize| *counts.entry(name).or_default() += by as u64;
    for (correlation, instance) in conformance.instances() {
        add("instances".to_owned(), 1);
        add(format!("verdict {}", instance.verdict().as_str()), 1);
        add(format!("state {}", instance.state), 1);
        add("waits late".to_owned(), instance.late.len());
        for (_, judgement) in conformance.judgements(correlation) {
            let word = match judgement {
                Judgement::Step { .. } => "step",
                Judgement::Repeat => "repeat",
                Judgement::Foreign => "foreign",
                Judgement::Superseded { .. } => "superseded",
                Judgement::Violating(why) => why.code(),
            };
            add(format!("event {word}"), 1);
            add("events".to_owned(), 1);
        }
    }
    counts
}

/// What the script counts, or `None` where there is no Python that runs it.
fn count_by_script(declaration: &Path, file: &Path) -> Option<BTreeMap<String, u64>> {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../scripts/count-incidents.py");
    let has_toml = Command::new("python3").args(["-c", "import tomllib"]).output();
    if !has_toml.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: the comparison with scripts/count-incidents.py needs Python 3.11");
        return None;
    }
    let output = Command::new("python3").arg(script).arg(declaration).arg(file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    Some(
        text.lines()
            .map(|line| line.rsplit_once(' ').unwrap())
            .map(|(name, n)| (name.to_owned(), n.parse().unwrap()))
            .collect(),
    )
}

fn fold(name: &str, events: Vec<Observed>) -> (Conformance, Taken) {
    let mut conformance = Conformance::new(Versions::new(declaration(name)));
    let taken = conformance.take(events);
    (conformance, taken)
}

#[test]
fn real_incidents_are_counted_as_the_script_counts_them() {
    let Some(file) = std::env::var_os("ROUNDELAY_INCIDENTS").map(PathBuf::from) else {
        eprintln!("skipped: ROUNDELAY_INCIDENTS names no file of incidents");
        return;
    };
    let events = read(&file);
    let (conformance, taken) = fold("incidents.toml", events.clone());
    assert_eq!((taken.refused, taken.foreign, taken.refolded), (0, 0, 0));
    let counts = count(&conformance);
    counts.iter().for_each(|(name, count)| eprintln!("{name} {count}"));
    // The same from the end of the file to its beginning, in parts.
    let mut backwards = Conformance::new(Versions::new(declaration("incidents.toml")));
    events.rchunks(1000).for_each(|part| drop(backwards.take(part.iter().rev().cloned())));
    assert_eq!(count(&backwards), counts);
    if let Some(script) = count_by_script(&path("incidents.toml"), &file) {
        assert_eq!(counts, script);
    }

    // What came after what, as if each event were caused by the one before in its case.
    let mut last = BTreeMap::<String, String>::new();
    let chained: Vec<_> = events
        .into_iter()
        .map(|event| {
            let case = event.correlation.clone().unwrap_or_default();
            let causes = last.insert(case, event.id.clone()).into_iter().collect();
            Observed { causes, ..event }
        })
        .collect();
    let flow = Flow::of(&chained, None);
    let seen: u64 = flow.edges().values().map(|edge| edge.count).sum();
    assert_eq!(seen, counts["events"] - counts["instances"]);
    let difference = flow.compare(&declaration("incidents.toml"));
    eprintln!(
        "edges {}, not declared {}, not seen {}",
        flow.edges().len(),
        difference.undeclared.len(),
        difference.unseen.len()
    );
}

/// Cases of orders that are drawn from a seed, with causes, repeats and decisions that were taken twice.
fn draw(seed: u64, file: &mut impl Write) {
    let mut state = seed;
    let mut below = |n: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % n
    };
    let declaration = declaration("order_saga.toml");
    let kinds: Vec<&String> = declaration.events().keys().collect();
    for case in 0..400 {
        let mut at_ms = 1_577_836_800_000 + below(DAY_MS);
        let mut known: Vec<(String, &str)> = Vec::new();
        let mut now = declaration.start().to_owned();
        for nth in 0..2 + below(12) {
            at_ms += [1, 1000, 31_000, 121_000, 3_700_000][below(5) as usize];
            let possible: Vec<&str> = declaration.states()[&now].possible().collect();
            let goes_on = below(8) > 0 && !possible.is_empty();
            let kind = if goes_on {
                possible[below(possible.len() as u64) as usize]
            } else {
                kinds[below(kinds.len() as u64) as usize]
            };
            let causes: Vec<&str> = match below(5) {
                _ if known.is_empty() => vec!["click"],
                0 => vec![],
                1 => vec![&known[below(known.len() as u64) as usize].0],
                2 => vec![&known[below(known.len() as u64) as usize].0, &known[known.len() - 1].0],
                _ => vec![&known[known.len() - 1].0],
            };
            let id = if below(10) == 0 && !known.is_empty() {
                known[below(known.len() as u64) as usize].0.clone()
            } else {
                format!("{case}-{nth}")
            };
            let event = json!({ "time": format_time(at_ms), "case": case.to_string(), "type": kind, "id": id, "causes": causes });
            writeln!(file, "{event}").unwrap();
            // Where the walk stands, roughly: enough to meet every rule.
            if let Some(next) = declaration.states()[&now].transition(kind) {
                now = next.to.clone();
            }
            known.push((id, kind));
        }
    }
}

#[test]
fn cases_that_are_drawn_are_counted_as_the_script_counts_them() {
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("drawn-orders.ndjson");
    let mut met = BTreeMap::<String, u64>::new();
    for seed in 0..4 {
        draw(seed, &mut std::fs::File::create(&file).unwrap());
        let mut draft = roundelay_protocol::choreography::Draft::from_toml(
            &std::fs::read_to_string(path("order_saga.toml")).unwrap(),
        )
        .unwrap();
        // The script knows of no topics.
        draft.events.values_mut().for_each(|event| event.topic = None);
        let mut conformance = Conformance::new(Versions::new(draft.declare().unwrap()));
        conformance.take(read(&file));
        let counts = count(&conformance);
        for (name, count) in &counts {
            *met.entry(name.clone()).or_default() += count;
        }
        let Some(script) = count_by_script(&path("order_saga.toml"), &file) else { return };
        assert_eq!(counts, script, "seed {seed}");
    }
    for word in ["step", "repeat", "superseded", "early", "unexpected", "after_end"] {
        assert!(met.get(&format!("event {word}")).is_some_and(|count| *count > 20), "{word} is hardly met: {met:?}");
    }
    std::fs::remove_file(file).unwrap();
}
