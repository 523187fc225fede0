//! Incidents that are published through one node are judged alike on all, and as the fold and another program judge them.
//!
//! On real nodes the stamps are those of publishing, so that the deadlines of this declaration are tenths of a second.
//! `ROUNDELAY_INCIDENTS` names a file of real incidents; without it cases are drawn that wander as those do.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use flate2::read::MultiGzDecoder;
use roundelay_protocol::choreography::conformance::{Conformance, Versions};
use roundelay_protocol::choreography::{Declaration, Draft, Observed, Rank};
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::BatchHash;
use roundelay_protocol::topic::Topic;
use serde_json::{Value, json};

use super::orders::json;
use crate::harness::{Dice, Mesh, Node, eventually, exit};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const NAME: &str = "incident";
const TOPIC: &str = "incidents.all";
/// Cases that are drawn, and their events together: about as many of each as real cases have.
const CASES: usize = 300;
const EVENTS: usize = 2_600;
/// Events of one request.
const PER_REQUEST: usize = 200;
/// Between two requests, so that some waits are late and others are not.
const PAUSE: Duration = Duration::from_millis(20);

/// Something that happened: the case, and the type.
type Happening = (String, String);

/// The declaration of `examples/declarations/incidents.toml`, with other deadlines.
fn quick_declaration() -> String {
    let text = fs::read_to_string(format!("{ROOT}/examples/declarations/incidents.toml")).expect("the example");
    let quick = [("7d", "70ms"), ("8d", "80ms"), ("30d", "300ms")].into_iter().fold(text, |text, (slow, quick)| {
        text.replace(&format!("after = \"{slow}\""), &format!("after = \"{quick}\""))
    });
    assert!(!quick.contains("d\"\nevent"), "a deadline of days is left");
    quick
}

/// The cases of a file, in its order.
fn read(file: &Path) -> Vec<Happening> {
    let opened = File::open(file).expect("the file that ROUNDELAY_INCIDENTS names");
    let gzipped = file.extension().is_some_and(|extension| extension == "gz");
    let reader: Box<dyn Read> = if gzipped { Box::new(MultiGzDecoder::new(opened)) } else { Box::new(opened) };
    let happening = |line: std::io::Result<String>| {
        let event: Value = serde_json::from_str(&line.expect("a line")).expect("an event");
        let text = |member: &str| event[member].as_str().expect("a text").to_owned();
        (text("case"), text("type"))
    };
    BufReader::new(reader).lines().map(happening).collect()
}

/// Cases that take mostly one of the steps that they have, now this one and now that.
fn draw(declaration: &Declaration, dice: &mut Dice) -> Vec<Happening> {
    let kinds: Vec<&String> = declaration.events().keys().collect();
    let mut states = vec![declaration.start(); CASES];
    let mut happenings = Vec::with_capacity(EVENTS);
    while happenings.len() < EVENTS {
        let case = dice.below(CASES);
        let state = &declaration.states()[states[case]];
        // What has ended is mostly left alone.
        if state.end.is_some() && dice.below(10) > 0 {
            continue;
        }
        let usual: Vec<&String> = state.on.keys().collect();
        let is_odd = usual.is_empty() || dice.below(20) == 0;
        let kind = if is_odd { kinds[dice.below(kinds.len())] } else { usual[dice.below(usual.len())] };
        if let Some(next) = state.transition(kind) {
            states[case] = &next.to;
        }
        happenings.push((format!("case-{case}"), kind.clone()));
    }
    happenings
}

#[track_caller]
fn publish(node: &Node, happenings: &[Happening]) {
    let http = node.http();
    let events = happenings.iter().enumerate().map(|(nth, (case, kind))| {
        json!({"specversion": "1.0", "type": kind, "source": "/support", "id": nth.to_string(), "correlationid": case})
    });
    let events: Vec<Value> = events.collect();
    for some in events.chunks(PER_REQUEST) {
        let body = Value::from(some).to_string();
        http.post(&format!("/v1/topics/{TOPIC}/events"), "application/cloudevents-batch+json", body).expect(201);
        sleep(PAUSE);
    }
}

/// What is said of an instance: state, verdict, stamp of its last step; steps, violations, superseded events, late waits.
type Said = (String, String, Option<u64>, [u64; 4]);

/// What a node says of all instances.
#[track_caller]
fn said(node: &Node) -> BTreeMap<String, Said> {
    let listed = || json(node, &["instances", NAME, "--limit", "100000"]);
    eventually("the node has judged what it holds", || listed()["is_up_to_date"] == true);
    let listed = listed();
    let one = |it: &Value| {
        let text = |member: &str| it[member].as_str().expect("a text").to_owned();
        let counts = ["steps", "violations", "superseded", "late"].map(|member| it[member].as_u64().expect("a number"));
        (text("correlation"), (text("state"), text("verdict"), it["since_ms"].as_u64(), counts))
    };
    listed["instances"].as_array().expect("a list").iter().map(one).collect()
}

/// What the fold says of events that were read back, by the stamps that they have.
fn folded(declaration: Declaration, events: &[Value]) -> BTreeMap<String, Said> {
    let topic = Topic::new(TOPIC).expect("a topic");
    let observed = |event: &Value| {
        let text = |member: &str| event[member].as_str().expect("a text").to_owned();
        Observed {
            // All of one author, whose stamps differ.
            rank: Rank { stamp: Hlc(text("rdlhlc").parse().expect("a stamp")), batch: BatchHash::NONE, index: 0 },
            topic: topic.clone(),
            author: None,
            source: text("source"),
            id: text("id"),
            kind: text("type"),
            causes: Vec::new(),
            correlation: Some(text("correlationid")),
            role: None,
            version: None,
        }
    };
    let mut conformance = Conformance::new(Versions::new(declaration));
    let taken = conformance.take(events.iter().map(observed));
    assert_eq!((taken.known, taken.foreign, taken.refused), (0, 0, 0));
    let instances = conformance.instances().map(|(correlation, it)| {
        let since_ms = it.last_step.as_ref().map(|step| step.rank.stamp.as_ms());
        let counts = [it.steps, it.violations.len(), it.superseded.len(), it.late.len()].map(|count| count as u64);
        (correlation.to_owned(), (it.state.clone(), it.verdict().as_str().to_owned(), since_ms, counts))
    });
    instances.collect()
}

/// Totals, by the names that `scripts/count-incidents.py` gives them.
fn totals(said: &BTreeMap<String, Said>) -> BTreeMap<String, u64> {
    let mut totals = BTreeMap::new();
    let mut add = |name: String, by: u64| *totals.entry(name).or_default() += by;
    for (state, verdict, _, [steps, _, _, late]) in said.values() {
        add("instances".to_owned(), 1);
        add(format!("state {state}"), 1);
        add(format!("verdict {verdict}"), 1);
        add("event step".to_owned(), *steps);
        add("waits late".to_owned(), *late);
    }
    totals
}

/// What the script counts of a file of events, or `None` where there is no Python that runs it.
fn count_by_script(declaration: &Path, events: &Path) -> Option<BTreeMap<String, u64>> {
    let has_toml = Command::new("python3").args(["-c", "import tomllib"]).output();
    if !has_toml.is_ok_and(|output| output.status.success()) {
        println!("skipped: the comparison with scripts/count-incidents.py needs Python 3.11");
        return None;
    }
    let mut script = Command::new("python3");
    script.arg(format!("{ROOT}/scripts/count-incidents.py")).args([declaration, events]);
    let output = script.output().expect("python3 starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("a text");
    let counts = text.lines().map(|line| line.rsplit_once(' ').expect("a name and a count"));
    Some(counts.map(|(name, count)| (name.to_owned(), count.parse().expect("a count"))).collect())
}

#[test]
fn incidents_are_judged_alike_on_every_node_and_as_the_fold_judges_them_by_the_same_stamps() {
    let mesh = Mesh::star(2);
    mesh.connected(mesh.all());
    let text = quick_declaration();
    let declaration = Draft::from_toml(&text).expect("a draft").declare().expect("a declaration");
    let file = mesh.folder().join("incidents.toml");
    fs::write(&file, text).expect("a file");
    mesh[0].cli(&["choreography", "publish", file.to_str().expect("a path")]).expect(exit::OK);
    eventually("the other node knows it", || json(&mesh[1], &["choreography", "ls"]).to_string().contains(NAME));

    let happenings = match std::env::var_os("ROUNDELAY_INCIDENTS") {
        Some(file) => read(Path::new(&file)),
        None => draw(&declaration, &mut Dice::thrown()),
    };
    publish(&mesh[0], &happenings);
    mesh.converge(mesh.all());

    let by_first = said(&mesh[0]);
    assert_eq!(by_first, said(&mesh[1]), "both nodes say the same");
    for node in [&mesh[0], &mesh[1]] {
        let path = format!("/v1/events?topic={TOPIC}&from=start&order=time");
        let answer = node.http().get(&path).expect(200);
        let events = answer.lines();
        assert_eq!(events.len(), happenings.len());
        assert_eq!(folded(declaration.clone(), &events), by_first, "the fold says what the nodes say");
        let read_back = mesh.folder().join("read-back.ndjson");
        fs::write(&read_back, answer.body).expect("a file");
        if let Some(counts) = count_by_script(&file, &read_back) {
            for (name, count) in totals(&by_first) {
                assert_eq!(counts.get(&name), Some(&count), "{name}, as the script counts it");
            }
        }
    }
    let totals = totals(&by_first);
    totals.iter().for_each(|(name, count)| println!("{name} {count}"));
    for met in ["waits late", "verdict violating", "verdict pending", "verdict conforming"] {
        assert!(totals.get(met).is_some_and(|count| *count > 0), "{met} is not met: {totals:?}");
    }
}
