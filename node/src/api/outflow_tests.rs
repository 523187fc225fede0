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

async fn lines(store: &SledStore, from: Arrival, last: Arrival) -> Vec<serde_json::Value> {
    let subscription = Subscription::new(
        store.reader(),
        Metrics::new(&LogMeters::default(), Registry::default()).delivery,
        vec![Pattern::all()],
        From::After(from),
    );
    let continuity = Continuity::new(store.reader(), Some(from));
    let form = Form::Lines { with_gaps: true };
    let outflow = Outflow::new(subscription, continuity, StoreEpoch(1), form).until(Some(last), None);
    let permit = std::sync::Arc::new(tokio::sync::Semaphore::new(1)).try_acquire_owned().unwrap();
    let chunks: Vec<Bytes> = outflow.into_stream(permit).try_collect().await.unwrap();
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
