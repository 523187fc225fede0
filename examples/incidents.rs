//! Nine organisations handle incidents together: each publishes what it did at its own node, one of them is cut off for
//! a third of the events, and in the end every node holds everything.
//!
//! `cargo run --release --example incidents -- incidents.ndjson.gz`
#![allow(clippy::print_stderr)]

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use flate2::read::MultiGzDecoder;
use futures::{StreamExt, TryStreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use roundelay::dev::{LocalMesh, LocalMeshOptions, agreed, held_ids};
use roundelay::node::Node;
use roundelay_protocol::event::{EncodedEvent, Event, Value};
use roundelay_protocol::topic::{Pattern, Topic};
use serde_json::Value as Json;

type Incident = BTreeMap<String, Json>;
type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Organisations with a node of their own; the others share one.
const BUSIEST: usize = 8;
/// The one that is cut off: the second busiest.
const CUT_OFF: usize = 1;
/// Events that are looked at together, to publish those of one node and topic in one call.
const WINDOW: usize = 1024;
/// Calls under way at once.
const IN_FLIGHT: usize = 64;
/// How long the nodes may take to agree.
const LIMIT: Duration = Duration::from_secs(60);

/// What an organisation did, the node that publishes it, and where.
struct Deed {
    node: usize,
    topic: Topic,
    event: EncodedEvent,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("usage: incidents FILE\nFILE has one incident event a line, as JSON, gzipped or not.");
        return Ok(ExitCode::from(2));
    };
    let (names, deeds) = read(&path)?;
    let mesh = LocalMesh::start(LocalMeshOptions::new(names)).await?;
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg}")?;
    let bar = ProgressBar::new(deeds.len() as u64).with_style(style).with_message("all are connected");
    let (first, rest) = deeds.split_at(deeds.len() / 3);
    let (second, third) = rest.split_at(rest.len() / 2);

    let start = Instant::now();
    let mut publishing = publish(&mesh, first, &bar).await?;
    agreed(mesh.nodes(), LIMIT).await?;
    let before = batch_bytes(&mesh[0]).await?;
    mesh[CUT_OFF].set_offline(true).await;
    bar.set_message(format!("{} is cut off", mesh.nodes()[CUT_OFF].name));
    publishing += publish(&mesh, second, &bar).await?;
    let healed = heal(&mesh, before, &bar).await?;
    publishing += publish(&mesh, third, &bar).await?;
    let equal = agreed(mesh.nodes(), LIMIT).await?;
    let whole = start.elapsed();
    bar.finish_and_clear();

    let mut complete = equal;
    for node in mesh.nodes() {
        let (ids, events) = held_ids(&node.node, Pattern::all()).await?;
        println!("{:12} holds {events} events, {} distinct, of {}", node.name, ids.len(), deeds.len());
        complete &= ids.len() == deeds.len() && events == deeds.len() as u64;
    }
    let rate = |time: Duration| deeds.len() as f64 / time.as_secs_f64();
    println!("digests are {} on all nodes", if equal { "equal" } else { "NOT EQUAL" });
    println!("published in {:.2} s: {:.0} events/s", publishing.as_secs_f64(), rate(publishing));
    println!("on all nodes in {:.2} s, break and healing included: {:.0} events/s", whole.as_secs_f64(), rate(whole));
    println!("{healed}");
    mesh.shutdown().await;
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Publishes deeds in order of time; those of one node and topic that are close together in one call.
async fn publish(mesh: &LocalMesh, deeds: &[Deed], bar: &ProgressBar) -> Result<Duration> {
    let start = Instant::now();
    let calls = deeds.chunks(WINDOW).flat_map(|window| {
        let mut calls = BTreeMap::<_, Vec<_>>::new();
        window.iter().for_each(|deed| calls.entry((deed.node, &deed.topic)).or_default().push(deed.event.clone()));
        calls
    });
    let publish = |((node, topic), events): ((usize, &Topic), Vec<EncodedEvent>)| {
        let (node, topic, count) = (mesh[node].clone(), topic.clone(), events.len() as u64);
        async move { node.publish(topic, events, 0).await.map(|_| count) }
    };
    let published = stream::iter(calls).map(publish).buffer_unordered(IN_FLIGHT);
    let counted = published.try_for_each(async |count| {
        bar.inc(count);
        Ok(())
    });
    counted.await?;
    Ok(start.elapsed())
}

/// Lets the node that was cut off return, and waits until all agree. `before` is what all had in common.
async fn heal(mesh: &LocalMesh, before: u64, bar: &ProgressBar) -> Result<String> {
    let others = || mesh.nodes().iter().enumerate().filter(|(nth, _)| *nth != CUT_OFF).map(|(_, node)| node);
    agreed(others(), LIMIT).await?;
    // One node lacks what the others published meanwhile, and each of the others what that one did.
    let missing_there = batch_bytes(&mesh[0]).await? - before;
    let missing = missing_there + (batch_bytes(&mesh[CUT_OFF]).await? - before) * others().count() as u64;
    let sent = || mesh.nodes().iter().map(|node| node.node.mesh_counters().sync_bytes_out).sum::<u64>();
    let (sent_before, start) = (sent(), Instant::now());
    mesh[CUT_OFF].set_offline(false).await;
    bar.set_message("healing");
    agreed(mesh.nodes(), LIMIT).await?;
    let (took_s, sent) = (start.elapsed().as_secs_f64(), sent() - sent_before);
    bar.set_message("all are connected");
    let (ratio, name) = (sent as f64 / missing as f64, &mesh.nodes()[CUT_OFF].name);
    Ok(format!("{name} came back: healed in {took_s:.2} s, {sent} bytes sent for {missing} missing ({ratio:.2} times)"))
}

async fn batch_bytes(node: &Node) -> Result<u64> {
    Ok(node.status().await?.store.batch_bytes)
}

/// The names of the nodes, and what each is to publish, in order of time.
fn read(path: &str) -> Result<(Vec<String>, Vec<Deed>)> {
    let mut file = BufReader::new(File::open(path)?);
    let gzipped = file.fill_buf()?.starts_with(&[0x1f, 0x8b]);
    let text: Box<dyn Read> = if gzipped { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    let incidents = BufReader::new(text).lines().map(|line| Ok(serde_json::from_str(&line?)?));
    let incidents = incidents.collect::<Result<Vec<Incident>>>()?;

    let org = |incident: &Incident| text_of(incident, "org");
    let mut counts = HashMap::<String, usize>::new();
    incidents.iter().for_each(|incident| *counts.entry(org(incident)).or_default() += 1);
    let mut busiest: Vec<_> = counts.into_iter().collect();
    busiest.sort_by(|(a, a_count), (b, b_count)| b_count.cmp(a_count).then(a.cmp(b)));
    busiest.truncate(BUSIEST);

    let deeds = incidents.iter().map(|incident| {
        let node = busiest.iter().position(|(name, _)| *name == org(incident)).unwrap_or(busiest.len());
        let topic = Topic::new(&format!("incidents.{}", text_of(incident, "impact").to_lowercase()))?;
        let case = text_of(incident, "case");
        let event = Event {
            kind: text_of(incident, "type"),
            id: format!("{case}/{}", incident.get("step").unwrap_or(&Json::Null)),
            source: format!("/{}", text_of(incident, "org").replace(' ', "-")),
            content_type: Some("application/json".into()),
            extensions: vec![("time".into(), Value::Text(text_of(incident, "time")))],
            data: serde_json::to_vec(incident)?.into(),
            correlation: Some(case),
            ..Event::default()
        };
        Ok(Deed { node, topic, event: event.encode()? })
    });
    let deeds = deeds.collect::<Result<_>>()?;
    let names = busiest.into_iter().map(|(name, _)| name.to_lowercase().replace(' ', "-"));
    Ok((names.chain(["the-rest".into()]).collect(), deeds))
}

fn text_of(incident: &Incident, field: &str) -> String {
    incident.get(field).and_then(Json::as_str).unwrap_or("unknown").to_owned()
}
