//! Roles of a choreography on real nodes: shared by replicas, done once, refused, failed, timed, and told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use roundelay::choreography::{Judged, publish};
use roundelay::dev::{LocalMesh, LocalMeshOptions};
use roundelay::node::Node;
use roundelay::participant::{PlayOptions, Playing};
use roundelay_protocol::choreography::declaration::End;
use roundelay_protocol::choreography::participant::{Call, Emission, Failure};
use roundelay_protocol::choreography::{Draft, Participant};
use roundelay_protocol::event::{Event, Item};
use roundelay_protocol::topic::Topic;

const LIMIT: Duration = Duration::from_secs(60);
const NAME: &str = "greeting";

/// Somebody greets, and the host answers, or tells after a second that the greeting was ignored.
fn draft() -> Draft {
    Draft::new(NAME, "new")
        .role("guest", &["answered", "ignored"])
        .role("host", &["greeted"])
        .event("greeted", "guest")
        .topic("greeted", "greetings")
        .event("answered", "host")
        .topic("answered", "answers")
        .event("ignored", "host")
        .topic("ignored", "answers")
        .on("new", "greeted", "waiting")
        .on("waiting", "answered", "done")
        .deadline("waiting", "4s", "ignored", "over")
        .end("done", End::Success)
        .end("over", End::Failure)
}

fn quick() -> PlayOptions {
    PlayOptions { settle_ms: 500, backoff_ms: 50, max_backoff_ms: 200, max_attempts: 3, ..PlayOptions::default() }
}

fn instances(node: &Node) -> Vec<Judged> {
    node.observer().instances(NAME, None, usize::MAX, |_, _| true)
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < LIMIT, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until a replica knows of so many, itself included.
async fn knows_of(node: &Node, consumer: &str, replicas: usize) {
    let begun = Instant::now();
    while node.consumers().get(consumer.to_owned()).await.expect("a consumer").lag.members.len() < replicas {
        assert!(begun.elapsed() < LIMIT, "the replicas do not find each other");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whether a node sees so many instances, all of them ended so.
fn all_in(node: &Node, count: usize, state: &str) -> bool {
    let found = instances(node);
    found.len() == count && found.iter().all(|judged| judged.instance.state == state)
}

async fn mesh(nodes: usize) -> LocalMesh {
    let mesh = LocalMesh::start(LocalMeshOptions::new((0..nodes).map(|nth| format!("n{nth}")))).await.expect("a mesh");
    publish(&mesh[0], &draft(), false).await.expect("a declaration");
    mesh
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_share_the_work_and_what_a_stop_leaves_is_done_later_and_once() {
    let mesh = mesh(3).await;
    // How often each was answered, and by which replica.
    let answered: Arc<Mutex<BTreeMap<String, Vec<usize>>>> = Arc::default();
    let host = |replica: usize| {
        let answered = answered.clone();
        Participant::new(NAME, "host").on("greeted", move |call: Call| {
            let answered = answered.clone();
            async move {
                let key = call.effect_key("answer");
                answered.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().push(replica);
                Ok(vec![Emission::json("answered", &serde_json::json!({ "by": replica }))?])
            }
        })
    };
    let guest = Playing::start(&mesh[0], Participant::new(NAME, "guest"), quick()).await.expect("a guest");
    let first = Playing::start(&mesh[1], host(1), quick()).await.expect("a host");
    let second = Playing::start(&mesh[2], host(2), quick()).await.expect("another host");
    for node in [&mesh[1], &mesh[2]] {
        knows_of(node, first.consumers().next().expect("a consumer"), 2).await;
    }
    for nth in 0..100 {
        guest.begin(&format!("g-{nth}"), Emission::new("greeted")).await.expect("a greeting");
    }
    for nth in 0..3 {
        eventually("all are answered", || all_in(&mesh[nth], 100, "done")).await;
    }
    let by: Vec<Vec<usize>> = answered.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
    assert_eq!(by.len(), 100);
    for replica in [1, 2] {
        assert!(by.iter().any(|by| by.contains(&replica)), "replica {replica} did nothing");
    }

    // One stops for good and the other for a while; what comes meanwhile waits for it.
    first.stop().await;
    second.stop().await;
    for nth in 100..120 {
        guest.begin(&format!("g-{nth}"), Emission::new("greeted")).await.expect("a greeting");
    }
    let again = Playing::start(&mesh[1], host(1), quick()).await.expect("a host");
    eventually("the rest has ended", || instances(&mesh[0]).iter().all(|judged| judged.instance.end.is_some())).await;
    again.stop().await;
    // The next release of the service handles one more type.
    let more = host(3).on("ignored", |_: Call| std::future::ready(Ok(Vec::new())));
    let again = Playing::start(&mesh[1], more, quick()).await.expect("a host");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let by: Vec<Vec<usize>> = answered.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
    assert!(!by.iter().flatten().any(|replica| *replica == 3), "what was done was done again: {by:?}");
    for judged in instances(&mesh[2]) {
        assert!(judged.instance.violations.is_empty(), "{judged:?}");
    }
    again.stop().await;
    guest.stop().await;
    mesh.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_tried_again_and_at_last_told_to_everybody() {
    let mesh = mesh(2).await;
    let is_open = Arc::new(AtomicBool::new(false));
    let open = is_open.clone();
    let host = Participant::new(NAME, "host").on("greeted", move |call: Call| {
        let is_open = open.load(Ordering::Relaxed);
        async move {
            match call.event.correlation.as_str() {
                "slow" if call.attempt < 3 => Err(Failure::transient("not yet")),
                "never" => Err(Failure::terminal("unwelcome")),
                "closed" if !is_open => Err(Failure::transient("closed")),
                "forger" => Ok(vec![Emission::new("greeted")]),
                _ => Ok(vec![Emission::new("answered")]),
            }
        }
    });
    let guest = Playing::start(&mesh[0], Participant::new(NAME, "guest"), quick()).await.expect("a guest");
    let host = Playing::start(&mesh[1], host, quick()).await.expect("a host");
    for correlation in ["slow", "never", "closed", "forger"] {
        guest.begin(correlation, Emission::new("greeted")).await.expect("a greeting");
    }
    let again = guest.begin("slow", Emission::new("greeted")).await.expect_err("it waits already");
    assert!(again.to_string().starts_with("'greeted' is not allowed now"), "{again}");
    let refused = guest.begin("x", Emission::new("answered")).await.expect_err("the host's to say");
    assert_eq!(refused.to_string(), "'answered' is emitted by 'host', not by 'guest'");
    let consumer = host.consumers().next().expect("a consumer").to_owned();
    let consumers = mesh[1].consumers();
    let begun = Instant::now();
    let letters = loop {
        let letters = consumers.dead(consumer.clone(), 0, 10).await.expect("letters");
        if letters.len() == 3 {
            break letters;
        }
        assert!(begun.elapsed() < LIMIT, "{letters:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let attempts: Vec<usize> = letters.iter().map(|letter| letter.attempts.len()).collect();
    assert!(attempts.contains(&1) && attempts.contains(&3), "{attempts:?}");
    // One is delivered again, in vain.
    let closed = letters.iter().find(|letter| letter.attempts.len() == 3).expect("a letter").number;
    consumers.redrive(consumer.clone(), Some(closed)).await.expect("delivered again");
    // Those that were given up end by their deadline, which the host sees to, and everybody has read why.
    for node in mesh.nodes() {
        eventually("all have ended", || instances(&node.node).iter().all(|judged| judged.instance.end.is_some())).await;
    }
    let states: BTreeMap<String, String> =
        instances(&mesh[0]).into_iter().map(|judged| (judged.correlation, judged.instance.state)).collect();
    let expected = [("closed", "over"), ("forger", "over"), ("never", "over"), ("slow", "done")];
    assert_eq!(states, expected.map(|(id, state)| (id.to_owned(), state.to_owned())).into());
    // The failures are events of their instances' topic.
    let mut events = mesh[0].subscribe(
        vec![roundelay_protocol::topic::Pattern::new("answers").expect("a pattern")],
        roundelay::subscription::From::Start,
    );
    let mut times = Vec::new();
    while times.len() < 4 {
        let found = tokio::time::timeout(LIMIT, events.next()).await.expect("events").expect("a log");
        for (_, item) in found.iter().flat_map(|delivery| delivery.batch.items()) {
            if let Item::Event(event) = item
                && event.kind == "host.failed"
            {
                let data: serde_json::Value = serde_json::from_slice(event.data).expect("JSON");
                times.push((event.correlation.unwrap_or_default().to_owned(), data["time"].clone()));
            }
        }
    }
    times.sort_by_key(|(correlation, time)| (correlation.clone(), time.as_u64()));
    let expected = [("closed", 1), ("closed", 2), ("forger", 1), ("never", 1)];
    assert_eq!(times, expected.map(|(correlation, time)| (correlation.to_owned(), serde_json::json!(time))));
    is_open.store(true, Ordering::Relaxed);
    host.stop().await;
    guest.stop().await;
    mesh.shutdown().await;
}

/// A step of the guest, as a service without a participant publishes it.
async fn publish_step(node: &Node, kind: &str, correlation: &str) {
    let event = Event {
        kind: kind.to_owned(),
        id: format!("{kind}-{correlation}"),
        source: "/guest".to_owned(),
        key: Some(correlation.to_owned()),
        correlation: Some(correlation.to_owned()),
        ..Event::default()
    };
    let topic = Topic::new("meetings").expect("a topic");
    node.publish(topic, vec![event.encode().expect("an event")], 0).await.expect("published");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_passed_over_and_is_a_step_by_what_comes_late_is_answered_also_after_a_restart() {
    let mesh = LocalMesh::start(LocalMeshOptions::new(["n0", "n1", "n2"])).await.expect("a mesh");
    let mut draft = Draft::new("meeting", "new").role("guest", &["answered"]).role("host", &["came", "spoke"]);
    for (kind, by) in [("came", "guest"), ("spoke", "guest"), ("left", "guest"), ("answered", "host"), ("late", "host")]
    {
        draft = draft.event(kind, by).topic(kind, "meetings");
    }
    draft = draft.on("new", "came", "here").on("here", "spoke", "asking").on("asking", "answered", "done");
    draft = draft.deadline("here", "1h", "left", "over").deadline("asking", "1h", "late", "over");
    let draft = draft.end("done", End::Success).end("over", End::Failure);
    publish(&mesh[0], &draft, true).await.expect("a declaration");
    eventually("all know it", || (0..3).all(|nth| mesh[nth].observer().declared("meeting").is_ok())).await;
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let host = || {
        let heard = heard.clone();
        Participant::new("meeting", "host").on("spoke", move |call: Call| {
            heard.lock().unwrap_or_else(PoisonError::into_inner).push(call.event.correlation.clone());
            std::future::ready(Ok(vec![Emission::new("answered")]))
        })
    };
    let state = |nth: usize| {
        let judged = mesh[nth].observer().instance("meeting", "m-1");
        judged.map(|judged| judged.instance.state).unwrap_or_default()
    };
    let playing = Playing::start(&mesh[1], host(), quick()).await.expect("a host");

    // Who came is on a node that nobody reaches. What was spoken seems to come out of nowhere.
    mesh[0].set_offline(true).await;
    publish_step(&mesh[0], "came", "m-1").await;
    publish_step(&mesh[2], "spoke", "m-1").await;
    eventually("it is here", || state(1) == "new").await;
    let consumer = playing.consumers().next().expect("a consumer").to_owned();
    let begun = Instant::now();
    while mesh[1].consumers().get(consumer.clone()).await.expect("a consumer").lag.events > 0 {
        assert!(begun.elapsed() < LIMIT, "it is not passed over");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    playing.stop().await;
    let playing = Playing::start(&mesh[1], host(), quick()).await.expect("a host again");
    assert_eq!(heard.lock().unwrap_or_else(PoisonError::into_inner).len(), 0);

    mesh[0].set_offline(false).await;
    eventually("the meeting has ended", || (0..3).all(|nth| state(nth) == "done")).await;
    assert_eq!(*heard.lock().unwrap_or_else(PoisonError::into_inner), ["m-1"]);
    // Nothing is remembered of what has ended.
    eventually("it is forgotten", || mesh[1].log().marks(b"passed/").expect("marks").is_empty()).await;
    playing.stop().await;
    mesh.shutdown().await;
}
