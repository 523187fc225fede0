use futures::TryStreamExt;
use prometheus_client::registry::Registry;
use roundelay_protocol::batch::{Link, VerifiedBatch, seal};
use roundelay_protocol::event::Event;
use roundelay_protocol::heads::{LogKey, LogRecord};
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::Incarnation;
use roundelay_protocol::sign::{Ed25519Signer, Signer as _};
use roundelay_protocol::topic::{Pattern, Topic};
use roundelay_protocol::write_set::WriteSet;

use super::*;
use crate::log::{LogOptions, SledStore, Store};
use crate::metrics::{LogMeters, Metrics};
use crate::subscription::From;

/// A batch of one event behind another one, and the log's record with it.
fn batch(topic: &str, parent: Option<&VerifiedBatch>) -> (VerifiedBatch, LogRecord) {
    let signer = Ed25519Signer::from_secret(&[1; 32]);
    let link = parent.map_or(Link::default(), |parent| Link { seq: parent.header().last_seq(), parent: parent.hash() });
    let id = format!("{topic}{}", link.seq + 1);
    let event = Event { kind: "t".into(), id, source: "/s".into(), ..Event::default() };
    let topic = Topic::new(topic).unwrap();
    let batch = seal(&signer, &topic, Incarnation(1), link, Hlc((link.seq + 1) << 16), &[event.encode().unwrap()]);
    let mut record = LogRecord::new(LogKey { topic, author: signer.author() });
    record.tips = [batch.tip()].into_iter().collect();
    (batch, record)
}

fn outflow(store: &SledStore, from: Arrival, form: Form) -> Outflow {
    let meters = Metrics::new(&LogMeters::default(), Registry::default()).delivery;
    let subscription = Subscription::new(store.reader(), meters, vec![Pattern::all()], From::After(from));
    Outflow::new(subscription, Continuity::new(store.reader(), Some(from)), StoreEpoch(1), form)
}

fn permit() -> OwnedSemaphorePermit {
    std::sync::Arc::new(tokio::sync::Semaphore::new(1)).try_acquire_owned().unwrap()
}

async fn lines(store: &SledStore, from: Arrival, last: Arrival) -> Vec<serde_json::Value> {
    page(store, from, last, u64::MAX).await
}

/// So many events and what is told with them.
async fn page(store: &SledStore, from: Arrival, last: Arrival, limit: u64) -> Vec<serde_json::Value> {
    let outflow = outflow(store, from, Form::Lines { with_gaps: true }).until(Some(last), None).limited(limit);
    let chunks: Vec<Bytes> = outflow.into_stream(permit()).try_collect().await.unwrap();
    let text = chunks.concat();
    text.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

#[tokio::test]
async fn what_was_pruned_at_the_end_of_a_log_is_told_by_a_stream_that_ends_before_the_store_does() {
    let folder = tempfile::tempdir().unwrap();
    let (mut store, _) = SledStore::open(folder.path(), &LogOptions::default()).unwrap();
    let (a1, _) = batch("a", None);
    let (a2, a) = batch("a", Some(&a1));
    let (b1, _) = batch("b", None);
    let (b2, b) = batch("b", Some(&b1));
    let write = WriteSet { batches: vec![a1, a2, b1, b2], logs: vec![a.clone(), b], ..WriteSet::default() };
    store.append(write).unwrap();
    let emptied = LogRecord { floor: 2, ..a };
    store.append(WriteSet { logs: vec![emptied], pruned: vec![Arrival(2)], ..WriteSet::default() }).unwrap();
    store.sync().unwrap();
    for last in [3, 4] {
        let lines = lines(&store, Arrival(1), Arrival(last)).await;
        let gaps: Vec<_> = lines.iter().filter(|line| line["gap"].is_object()).collect();
        assert_eq!(gaps.len(), 1, "up to {last}: {lines:?}");
        assert_eq!((&gaps[0]["gap"]["topic"], &gaps[0]["gap"]["to_seq"]), (&"a".into(), &2.into()), "{lines:?}");
        assert_eq!(lines.len() as u64, 1 + last - 2, "{lines:?}");
    }
}

#[tokio::test]
async fn what_was_pruned_before_the_end_is_told_also_of_a_log_that_goes_on_beyond_it() {
    let folder = tempfile::tempdir().unwrap();
    let (mut store, _) = SledStore::open(folder.path(), &LogOptions::default()).unwrap();
    let (a1, _) = batch("a", None);
    let (a2, _) = batch("a", Some(&a1));
    let (a3, _) = batch("a", Some(&a2));
    let (a4, a) = batch("a", Some(&a3));
    let (b1, b) = batch("b", None);
    let write = WriteSet { batches: vec![a1, a2, a3, b1, a4], logs: vec![a.clone(), b], ..WriteSet::default() };
    store.append(write).unwrap();
    store.sync().unwrap();
    // Nothing is missing where nothing was removed.
    assert!(lines(&store, Arrival(0), Arrival(4)).await.iter().all(|line| line["gap"].is_null()));
    let emptied = LogRecord { floor: 3, ..a };
    let pruned = vec![Arrival(2), Arrival(3)];
    store.append(WriteSet { logs: vec![emptied], pruned, ..WriteSet::default() }).unwrap();
    store.sync().unwrap();
    let found = lines(&store, Arrival(0), Arrival(4)).await;
    let gaps: Vec<_> = found.iter().filter(|line| line["gap"].is_object()).map(|line| &line["gap"]).collect();
    assert_eq!(gaps.len(), 1, "{found:?}");
    let (from, to, certain) = (&gaps[0]["from_seq"], &gaps[0]["to_seq"], &gaps[0]["certain"]);
    assert_eq!((from, to, certain), (&2.into(), &3.into(), &false.into()), "{found:?}");
    // Who reads on is told by what follows, and once.
    let found = lines(&store, Arrival(0), Arrival(5)).await;
    assert_eq!(found.iter().filter(|line| line["gap"].is_object()).count(), 1, "{found:?}");
}

/// A store in which events arrived in this order of topics. Of topics named in `pruned` the first and so many last ones are left.
fn pruned_store(folder: &std::path::Path, order: &str, pruned: &str, left: usize) -> SledStore {
    let (mut store, _) = SledStore::open(folder, &LogOptions::default()).unwrap();
    let mut lines: std::collections::BTreeMap<char, Vec<(Arrival, VerifiedBatch, LogRecord)>> = Default::default();
    let mut set = WriteSet::default();
    for (arrival, topic) in (1..).zip(order.chars()) {
        let line = lines.entry(topic).or_default();
        let (batch, record) = batch(&topic.to_string(), line.last().map(|(_, batch, _)| batch));
        set.batches.push(batch.clone());
        line.push((Arrival(arrival), batch, record));
    }
    set.logs = lines.values().filter_map(|line| Some(line.last()?.2.clone())).collect();
    store.append(set).unwrap();
    for topic in pruned.chars() {
        let line = &lines[&topic];
        let gone = &line[1..line.len() - left];
        let record = LogRecord { floor: gone.len() as u64 + 1, ..line[line.len() - 1].2.clone() };
        let pruned = gone.iter().map(|(arrival, ..)| *arrival).collect();
        store.append(WriteSet { logs: vec![record], pruned, ..WriteSet::default() }).unwrap();
    }
    store.sync().unwrap();
    store
}

/// Reads page by page: the topics of the events of each, and its gaps.
async fn pages(store: &SledStore, last: u64, limit: u64) -> Vec<(String, Vec<serde_json::Value>)> {
    let (mut pages, mut from) = (Vec::new(), 0);
    while from < last {
        let lines = page(store, Arrival(from), Arrival(last), limit).await;
        let events = lines.iter().filter(|line| line["gap"].is_null());
        from = events.clone().next_back().unwrap()["rdlarrival"].as_str().unwrap().parse().unwrap();
        let topics = events.map(|event| event["rdltopic"].as_str().unwrap()).collect();
        pages.push((topics, lines.iter().filter(|line| line["gap"].is_object()).map(|l| l["gap"].clone()).collect()));
    }
    pages
}

#[tokio::test]
async fn what_was_pruned_behind_the_end_of_a_page_is_told_by_it_or_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let store = pruned_store(folder.path(), "ababaab", "", 1);
    for limit in 1..8 {
        assert!(pages(&store, 7, limit).await.iter().all(|(_, gaps)| gaps.is_empty()), "{limit} at a time");
    }
    let folder = tempfile::tempdir().unwrap();
    let store = pruned_store(folder.path(), "ababaabbba", "a", 1);
    let told = |pages: Vec<(String, Vec<serde_json::Value>)>| {
        let gap = |gap: &serde_json::Value| (gap["from_seq"].as_u64(), gap["to_seq"].as_u64().unwrap());
        pages.iter().map(|(topics, gaps)| (topics.clone(), gaps.iter().map(gap).collect())).collect()
    };
    let told: Vec<Vec<(String, Vec<_>)>> =
        vec![told(pages(&store, 10, 1).await), told(pages(&store, 10, 2).await), told(pages(&store, 10, 4).await)];
    let page = |topics: &str, gaps: &[(Option<u64>, u64)]| (topics.to_owned(), gaps.to_vec());
    let gone = (None, 4);
    let alone = ["a", "b", "b", "b", "b", "b", "a"].map(|topic| page(topic, &[]));
    let mut alone = alone.to_vec();
    (alone[2].1, alone[3].1) = (vec![gone], vec![gone]);
    assert_eq!(told[0], alone);
    assert_eq!(told[1], [page("ab", &[]), page("bb", &[gone]), page("bb", &[]), page("a", &[])]);
    assert_eq!(told[2], [page("abbb", &[(Some(2), 4)]), page("bba", &[])]);
}

#[tokio::test]
async fn of_several_logs_that_are_not_in_a_page_one_gap_tells() {
    let folder = tempfile::tempdir().unwrap();
    let store = pruned_store(folder.path(), "acbacbacba", "a", 1);
    let lines = page(&store, Arrival(2), Arrival(10), 2).await;
    assert_eq!(lines.len(), 3, "{lines:?}");
    let gap = &lines[2]["gap"];
    assert_eq!((gap["topic"].as_str(), &gap["certain"], &gap["reason"]), (Some("a"), &false.into(), &"pruned".into()));
    // Of `b` the page has nothing either, and nothing of it was removed.
    let lines = page(&store, Arrival(3), Arrival(10), 1).await;
    assert_eq!((lines.len(), lines[1]["gap"]["topic"].as_str()), (2, Some("a")), "{lines:?}");
    let folder = tempfile::tempdir().unwrap();
    let store = pruned_store(folder.path(), "acbacbacbac", "ac", 1);
    let lines = page(&store, Arrival(2), Arrival(11), 2).await;
    assert_eq!(lines.len(), 3, "{lines:?}");
    let gap = &lines[2]["gap"];
    assert_eq!((gap["topic"].as_str(), &gap["certain"], &gap["reason"]), (None, &false.into(), &"pruned".into()));
    let folder = tempfile::tempdir().unwrap();
    let store = pruned_store(folder.path(), "daddacada", "ad", 2);
    // What was removed of `d` had arrived before the page begins.
    let lines = page(&store, Arrival(4), Arrival(9), 1).await;
    let gap = &lines[1]["gap"];
    assert_eq!((lines.len(), gap["topic"].as_str(), gap["to_seq"].as_u64()), (2, Some("a"), Some(2)), "{lines:?}");
}

#[tokio::test]
async fn a_stream_does_not_say_that_it_gave_what_it_could_not_write_when_the_store_closed() {
    let folder = tempfile::tempdir().unwrap();
    // One read, and more than a chunk. To say what is missing before the last event the store is asked.
    let order = format!("b{}bb", "a".repeat(250));
    let store = pruned_store(folder.path(), &order, "b", 1);
    let mut stream = Box::pin(outflow(&store, Arrival(0), Form::ServerSent).into_stream(permit()));
    let mut said = Vec::new();
    while said.len() < CHUNK_BYTES {
        said.extend_from_slice(&stream.try_next().await.unwrap().unwrap());
    }
    assert!(!String::from_utf8(said).unwrap().contains("caught-up"));
    drop(store);
    let more = tokio::time::timeout(Duration::from_millis(500), stream.try_next()).await;
    assert!(!matches!(more, Ok(Ok(Some(_)))), "{more:?}");
}

#[tokio::test]
async fn who_goes_on_after_a_page_goes_on_behind_its_last_event_also_when_a_gap_follows_that() {
    let folder = tempfile::tempdir().unwrap();
    let store = pruned_store(folder.path(), "aaba", "a", 1);
    let page = outflow(&store, Arrival(0), Form::ServerSent).limited(2);
    let chunks: Vec<Bytes> = page.into_stream(permit()).try_collect().await.unwrap();
    let text = String::from_utf8(chunks.concat()).unwrap();
    let kinds: Vec<&str> = text.lines().filter(|line| line.starts_with("event:") || line.starts_with("id:")).collect();
    let id = |arrival, index| format!("id: {}", Cursor { epoch: StoreEpoch(1), arrival: Arrival(arrival), index });
    assert_eq!(kinds, [&id(1, 0), "event: event", &id(3, 0), "event: event", "event: gap"]);
}
