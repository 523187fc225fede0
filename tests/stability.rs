//! What is undone, and what cannot be undone, waits until nothing earlier can come any more, where a participant asks for that.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use roundelay::choreography::publish;
use roundelay::choreography::read_draft;
use roundelay::dev::{LocalMesh, LocalMeshOptions};
use roundelay::node::Node;
use roundelay::participant::{PlayOptions, Playing};
use roundelay::stability::Scope;
use roundelay::views::Fold;
use roundelay_protocol::choreography::participant::{Call, Emission};
use roundelay_protocol::choreography::view::Bounds;
use roundelay_protocol::choreography::{Draft, Participant};
use roundelay_protocol::event::Event;
use roundelay_protocol::topic::{Pattern, Topic};

const LIMIT: Duration = Duration::from_secs(60);
const NAME: &str = "order-saga";
const SETTLE_MS: u64 = 500;

async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < LIMIT, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Nodes that give heartbeats.
async fn mesh(nodes: usize) -> LocalMesh {
    let names = (0..nodes).map(|nth| format!("n{nth}"));
    let heartbeat = Duration::from_millis(200);
    LocalMesh::start(LocalMeshOptions { heartbeat, ..LocalMeshOptions::new(names) }).await.expect("a mesh")
}

fn orders() -> Draft {
    read_draft(include_str!("../examples/declarations/order_saga.toml")).expect("a draft")
}

async fn publish_step(node: &Node, topic: &str, kind: &str, cause: Option<&str>) {
    publish_step_of(node, "o-1", topic, kind, cause).await;
}

async fn publish_step_of(node: &Node, order: &str, topic: &str, kind: &str, cause: Option<&str>) {
    let id = |kind: &str| if order == "o-1" { kind.to_owned() } else { format!("{kind}-{order}") };
    let event = Event {
        kind: kind.to_owned(),
        id: id(kind),
        source: "/by-hand".to_owned(),
        key: Some(order.to_owned()),
        correlation: Some(order.to_owned()),
        causes: cause.map(id).into_iter().collect(),
        ..Event::default()
    };
    let topic = Topic::new(topic).expect("a topic");
    node.publish(topic, vec![event.encode().expect("an event")], 0).await.expect("published");
}

fn verdict(node: &Node) -> String {
    let judged = node.observer().instance(NAME, "o-1");
    judged.map(|judged| judged.instance.verdict().as_str().to_owned()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn undoing_waits_for_a_silent_node_until_it_comes_back_or_is_left_out() {
    for is_left_out in [false, true] {
        let mesh = mesh(3).await;
        let draft = orders();
        publish(&mesh[0], &draft, true).await.expect("a declaration");
        publish_step(&mesh[0], "orders.placed", "order.placed", None).await;
        eventually("the order is everywhere", async || (0..3).all(|nth| verdict(&mesh[nth]) == "pending")).await;
        let refunds = Arc::new(AtomicUsize::new(0));
        let count = refunds.clone();
        let payment = Participant::new(NAME, "payment")
            .on("stock.reserved", |_: Call| std::future::ready(Ok(vec![Emission::new("payment.accepted")])))
            .undo("payment.accepted", move |_: Call| {
                count.fetch_add(1, Ordering::Relaxed);
                std::future::ready(Ok(vec![Emission::new("payment.refunded")]))
            });
        let options =
            PlayOptions { shared: false, settle_ms: SETTLE_MS, undo_when_stable: true, ..PlayOptions::default() };
        let playing = Playing::start(&mesh[1], payment, options).await.expect("a role");

        // Refused on one side and reserved, a little later, on the other, where it is paid.
        mesh[0].set_offline(true).await;
        mesh[2].set_offline(true).await;
        publish_step(&mesh[0], "orders.stock", "stock.refused", Some("order.placed")).await;
        publish_step(&mesh[1], "orders.stock", "stock.reserved", Some("order.placed")).await;
        let is_paid = || mesh[1].observer().instance(NAME, "o-1").is_some_and(|it| it.instance.state == "paid");
        eventually("it is paid", async || is_paid()).await;
        mesh[0].set_offline(false).await;
        eventually("the refusal counts", async || verdict(&mesh[1]) == "superseded").await;

        // Nobody knows what the third node did before, so that nothing is undone however long nothing comes.
        tokio::time::sleep(Duration::from_millis(6 * SETTLE_MS)).await;
        assert_eq!(refunds.load(Ordering::Relaxed), 0, "left out: {is_left_out}");
        let held_up = mesh[1].stability(vec![Pattern::new("orders.>").expect("a pattern")]).await.expect("an answer");
        assert_eq!(held_up.nodes[0].name.as_deref(), Some("n2"), "{held_up:?}");
        match is_left_out {
            true => mesh[1].leave_out(mesh[2].id(), true).await.expect("left out"),
            false => mesh[2].set_offline(false).await,
        }
        eventually("it is refunded", async || refunds.load(Ordering::Relaxed) == 1).await;
        playing.stop().await;
        mesh.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_undone_is_not_done_for_what_may_still_lose() {
    let mesh = mesh(3).await;
    let draft = orders();
    publish(&mesh[0], &draft, true).await.expect("a declaration");
    let state = |node: usize, order: &str| {
        let judged = mesh[node].observer().instance(NAME, order);
        judged.map(|judged| judged.instance.state).unwrap_or_default()
    };
    for order in ["o-1", "o-2"] {
        publish_step_of(&mesh[0], order, "orders.placed", "order.placed", None).await;
        publish_step_of(&mesh[0], order, "orders.stock", "stock.reserved", Some("order.placed")).await;
        eventually("it is reserved everywhere", async || (0..3).all(|nth| state(nth, order) == "reserved")).await;
    }
    let sent: Arc<Mutex<Vec<String>>> = Arc::default();
    let shipping = || {
        let sent = sent.clone();
        Participant::new(NAME, "shipping").on_stable("payment.accepted", move |call: Call| {
            sent.lock().unwrap_or_else(PoisonError::into_inner).push(call.event.correlation.clone());
            std::future::ready(Ok(vec![Emission::new("shipping.sent")]))
        })
    };
    let options = || PlayOptions { shared: false, handling_limit_ms: 1_000, max_attempts: 3, ..PlayOptions::default() };
    let playing = Playing::start(&mesh[1], shipping(), options()).await.expect("a role");
    assert_eq!(playing.consumers().collect::<Vec<_>>(), ["order-saga-shipping-stable"]);

    // One order is refused where nobody sees it, before it is paid here.
    mesh[0].set_offline(true).await;
    mesh[2].set_offline(true).await;
    publish_step_of(&mesh[0], "o-1", "orders.payment", "payment.refused", Some("stock.reserved")).await;
    for order in ["o-1", "o-2"] {
        publish_step_of(&mesh[1], order, "orders.payment", "payment.accepted", Some("stock.reserved")).await;
        eventually("it is paid", async || state(1, order) == "paid").await;
    }
    mesh[0].set_offline(false).await;
    eventually("the refusal counts", async || state(1, "o-1") == "releasing").await;
    // Longer than a handler may take: what waits stays this participant's.
    tokio::time::sleep(Duration::from_secs(4)).await;
    playing.stop().await;
    let playing = Playing::start(&mesh[1], shipping(), options()).await.expect("a role again");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(*sent.lock().unwrap_or_else(PoisonError::into_inner), [""; 0], "nobody has heard of the third node");

    mesh[2].set_offline(false).await;
    eventually("the other order is shipped", async || (0..3).all(|nth| state(nth, "o-2") == "shipped")).await;
    assert_eq!(*sent.lock().unwrap_or_else(PoisonError::into_inner), ["o-2"]);
    playing.stop().await;
    mesh.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_named_in_a_declaration_holds_nothing_up_and_plays_nothing() {
    let mesh = mesh(3).await;
    let mut draft = orders();
    for role in draft.roles.values_mut() {
        role.nodes = [0, 1].map(|nth| mesh[nth].id().to_base58()).to_vec();
    }
    publish(&mesh[0], &draft, true).await.expect("a declaration");
    publish_step(&mesh[0], "orders.placed", "order.placed", None).await;
    eventually("the order is everywhere", async || (0..3).all(|nth| verdict(&mesh[nth]) == "pending")).await;
    mesh[2].set_offline(true).await;
    publish_step(&mesh[0], "orders.stock", "stock.reserved", Some("order.placed")).await;
    let observer = mesh[1].observer();
    let reserved = || {
        let judged = observer.instance(NAME, "o-1").expect("an order").instance;
        judged.last_step.filter(|step| step.kind == "stock.reserved").map(|step| step.rank.stamp)
    };
    eventually("it is reserved", async || reserved().is_some()).await;
    let reserved = reserved().expect("reserved");
    let stable = async |scope: Scope| mesh[1].stability(scope).await.expect("an answer").stable;
    let named = observer.scope(NAME).expect("a choreography");
    assert_eq!(named.nodes.as_ref().map(BTreeSet::len), Some(2));
    eventually("it is stable", async || stable(named.clone()).await >= reserved).await;
    let all = Scope { nodes: None, ..named.clone() };
    assert!(stable(all).await < reserved, "of the third node nothing is known");

    let shop = || Participant::new(NAME, "shop");
    let refused = Playing::start(&mesh[2], shop(), PlayOptions::default()).await.err().expect("another node");
    assert!(refused.to_string().starts_with("'shop' is not played at this node"), "{refused}");
    Playing::start(&mesh[1], shop(), PlayOptions::default()).await.expect("a shop").stop().await;
    // What it publishes all the same changes nothing.
    publish_step(&mesh[2], "orders.payment", "payment.refused", Some("stock.reserved")).await;
    mesh[2].set_offline(false).await;
    eventually("that is told", async || (0..3).all(|nth| verdict(&mesh[nth]) == "violating")).await;
    let judged = observer.instance(NAME, "o-1").expect("an order").instance;
    assert_eq!((judged.state.as_str(), judged.violations[0].why.code()), ("reserved", "wrong_node"));
    mesh.shutdown().await;
}

/// What an order has come to: the amounts in their order.
fn amounts() -> Fold<Vec<u64>, u64> {
    Fold {
        pick: |_, event| {
            let amount = serde_json::from_slice(event.data).ok()?;
            Some((event.correlation?.to_owned(), amount))
        },
        step: |amounts, _, amount| amounts.push(*amount),
        bounds: Bounds::default(),
    }
}

async fn pay(node: &Node, id: &str, amount: u64) {
    let event = Event {
        kind: "paid".to_owned(),
        id: id.to_owned(),
        source: "/till".to_owned(),
        correlation: Some("o-1".to_owned()),
        data: amount.to_string().into(),
        ..Event::default()
    };
    node.publish(Topic::new("tills").expect("a topic"), vec![event.encode().expect("an event")], 0)
        .await
        .expect("paid");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fold_of_ones_own_is_the_same_everywhere_and_says_what_is_stable() {
    let mesh = mesh(2).await;
    let tills = || vec![Pattern::new("tills").expect("a pattern")];
    // One that can roll back hardly anything reads the log again.
    let small = Fold { bounds: Bounds { events: 1, ..Bounds::default() }, ..amounts() };
    let folds = [mesh[0].views().fold(tills(), amounts()), mesh[1].views().fold(tills(), small)];
    pay(&mesh[0], "a", 1).await;
    let read = async |nth: usize| folds[nth].read("o-1").await.expect("a state");
    eventually("the first is stable", async || read(1).await.stable == Some(vec![1])).await;

    mesh[1].set_offline(true).await;
    pay(&mesh[0], "b", 2).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    for (id, amount) in [("c", 3), ("d", 4), ("b", 5)] {
        pay(&mesh[1], id, amount).await;
    }
    assert_eq!(read(1).await.tentative, Some(vec![1, 3, 4, 5]));
    let reading = read(0).await;
    assert_eq!(
        (reading.tentative, reading.stable),
        (Some(vec![1, 2]), Some(vec![1])),
        "nobody knows what the other did"
    );
    mesh[1].set_offline(false).await;
    // What came late is in its place, and what was published twice counts where it is first.
    let whole = Some(vec![1, 2, 3, 4]);
    for nth in 0..2 {
        eventually("all is there", async || read(nth).await.tentative == whole).await;
    }
    eventually("all is stable", async || read(0).await.stable == whole).await;
    for nth in 0..2 {
        let info = read(nth).await.info;
        assert_eq!((info.exceptions, info.is_partial, info.is_subscribed, info.is_up_to_date), (0, false, true, true));
    }
    mesh.shutdown().await;
}
