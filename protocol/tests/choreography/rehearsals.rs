//! Participants in simulated meshes: whatever goes wrong and heals, every instance ends, and all nodes say the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use roundelay_protocol::choreography::conformance::{Instance, Superseded, Verdict};
use roundelay_protocol::choreography::declaration::End;
use roundelay_protocol::choreography::participant::{Call, Emission, Failure, Outcome};
use roundelay_protocol::choreography::simulated::{Mesh, NodeId};
use roundelay_protocol::choreography::{Declaration, Draft, Participant, check};

use crate::examples::declaration;

const DAY_MS: u64 = 86_400_000;

/// A number that an instance has, always the same.
fn draw(correlation: &str, salt: u64) -> u64 {
    let mixed = |sum: u64, byte: u8| (sum ^ u64::from(byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    correlation.bytes().fold(salt, mixed) % 100
}

async fn emit(kind: &str) -> Outcome {
    Ok(vec![Emission::new(kind)])
}

/// The four roles of the order saga. Some refuse, some fail now and then, and some are too late.
fn players() -> Vec<Participant> {
    let of = |role: &str| Participant::new("order-saga", role);
    let release = |_: Call| emit("stock.released");
    let refund = |_: Call| emit("payment.refunded");
    vec![
        of("shop"),
        of("stock")
            .on("order.placed", |call: Call| async move {
                let kind = if draw(&call.event.correlation, 1) < 15 { "stock.refused" } else { "stock.reserved" };
                emit(kind).await
            })
            .on("order.unpaid", release)
            .on("payment.refused", release)
            .on("payment.refunded", release)
            .on("stock.release-due", release)
            .undo("stock.reserved", release),
        of("payment")
            .on("stock.reserved", |call: Call| async move {
                match draw(&call.event.correlation, 2) {
                    0..15 => emit("payment.refused").await,
                    15..25 if call.attempt < 3 => Err(Failure::transient("the bank does not answer")),
                    25..30 => Err(Failure::terminal("the card is unknown")),
                    _ => emit("payment.accepted").await,
                }
            })
            .on("shipping.refused", refund)
            .on("shipping.late", refund)
            .on("payment.refund-due", refund)
            .undo("payment.accepted", refund),
        of("shipping").on("payment.accepted", |call: Call| async move {
            let kind = if draw(&call.event.correlation, 3) < 15 { "shipping.refused" } else { "shipping.sent" };
            emit(kind).await
        }),
    ]
}

/// Four nodes; every role on two of them.
fn saga(seed: u64) -> (Mesh, Vec<NodeId>) {
    let mut mesh = Mesh::simulated(seed, declaration("order_saga.toml"));
    let nodes: Vec<NodeId> = (0..4).map(|nth| mesh.add(&format!("n{nth}"))).collect();
    for (nth, player) in players().into_iter().enumerate() {
        mesh.play(nodes[nth], player.clone()).unwrap();
        mesh.play(nodes[(nth + 1) % 4], player).unwrap();
    }
    (mesh, nodes)
}

fn place(mesh: &mut Mesh, nodes: &[NodeId], orders: u64) {
    for order in 0..orders {
        // One that is down takes no orders.
        let _ = mesh.begin(nodes[0], "shop", &format!("o-{order}"), Emission::new("order.placed"));
        mesh.advance(500);
    }
}

#[test]
fn in_quiet_every_order_conforms() {
    let (mut mesh, nodes) = saga(1);
    place(&mut mesh, &nodes, 60);
    assert!(mesh.settle(3 * DAY_MS));
    let mut ends = BTreeSet::new();
    for (correlation, instance) in mesh.conformance(nodes[3]).instances() {
        assert!(matches!(instance.verdict(), Verdict::Conforming { .. }), "{correlation}: {instance:?}");
        ends.insert(instance.state.clone());
    }
    assert_eq!(ends.into_iter().collect::<Vec<_>>(), ["cancelled", "declined", "shipped"]);
    let failed = mesh.events(nodes[0]).filter(|planned| planned.event.kind == "payment.failed").count();
    let dead: usize = nodes.iter().map(|node| mesh.dead_letters(*node).count()).sum();
    assert!(failed > 0 && failed == dead, "{failed} told of, {dead} dead");
}

/// Lets an order saga meet faults, and checks what has to hold in the end.
fn endure(seed: u64) -> BTreeSet<&'static str> {
    let (mut mesh, nodes) = saga(seed);
    mesh.disturb(120_000);
    place(&mut mesh, &nodes, 30);
    mesh.advance(200_000);
    let settled = mesh.settle(DAY_MS / 8);
    let rests = |found: &Instance| found.end.is_some() && found.owed.is_empty();
    let open: Vec<_> = mesh.conformance(nodes[0]).instances().filter(|(_, found)| !rests(found)).collect();
    let dead: Vec<_> = nodes.iter().flat_map(|node| mesh.dead_letters(*node)).collect();
    assert!(settled, "seed {seed}: not settled; open are {open:#?}; given up were {dead:#?}");
    let all = |node: NodeId| -> Vec<String> {
        mesh.conformance(node).instances().map(|(id, found)| format!("{id} {found:?}")).collect()
    };
    for node in &nodes {
        assert_eq!(all(*node), all(nodes[0]), "seed {seed}");
    }
    for (correlation, instance) in mesh.conformance(nodes[0]).instances() {
        assert_eq!(instance.violations, [], "seed {seed}: {correlation}");
        // Nothing can undo that something was sent.
        assert!(instance.owed.iter().all(|owed| owed.compensation.is_none()), "seed {seed}: {correlation}");
    }
    mesh.conformance(nodes[0]).instances().map(|(_, instance)| instance.verdict().as_str()).collect()
}

#[test]
fn whatever_breaks_and_heals_every_order_ends_and_nothing_is_owed() {
    let seen: BTreeSet<&str> = (0..150).flat_map(endure).collect();
    // Partitions led to decisions that were taken twice.
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["conforming", "superseded"]);
}

#[test]
fn a_seed_brings_about_the_same_again() {
    let run = |seed: u64| {
        let (mut mesh, nodes) = saga(seed);
        mesh.disturb(60_000);
        place(&mut mesh, &nodes, 20);
        mesh.advance(DAY_MS);
        mesh.events(nodes[2]).map(|planned| format!("{planned:?}")).collect::<Vec<_>>()
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn what_a_role_or_a_state_does_not_allow_reaches_nobody() {
    let mut mesh = Mesh::simulated(1, declaration("order_saga.toml"));
    let (shop, stock) = (mesh.add("shop"), mesh.add("stock"));
    mesh.play(shop, Participant::new("order-saga", "shop")).unwrap();
    // It answers an order with what only the shop may say.
    let forger = Participant::new("order-saga", "stock")
        .on("order.placed", |_: Call| emit("order.expired"))
        .undo("stock.reserved", |_: Call| emit("stock.released"));
    mesh.play(stock, forger).unwrap();
    let paid = mesh.begin(stock, "stock", "o-1", Emission::new("stock.released"));
    assert!(paid.unwrap_err().to_string().contains("not possible in 'new'"));
    mesh.begin(shop, "shop", "o-1", Emission::new("order.placed")).unwrap();
    assert!(mesh.begin(shop, "shop", "o-1", Emission::new("order.expired")).unwrap_err().to_string().contains("due"));
    mesh.advance(5_000);
    let letter = mesh.dead_letters(stock).next().expect("a dead letter");
    assert_eq!((letter.attempts, letter.reason.as_str()), (1, "'order.expired' is emitted by 'shop', not by 'stock'"));
    assert!(mesh.settle(DAY_MS));
    assert_eq!(mesh.state(shop, "o-1"), "declined");
    let kinds: Vec<&str> = mesh.events(shop).map(|planned| planned.event.kind.as_str()).collect();
    assert_eq!(kinds, ["order.placed", "stock.failed", "order.expired"]);
}

#[test]
fn both_sides_of_a_partition_decide_and_the_loser_undoes_its_effect() {
    let mut refunds = 0;
    for seed in 0..20 {
        let mut mesh = Mesh::simulated(seed, declaration("order_saga.toml"));
        let nodes: Vec<NodeId> = (0..4).map(|nth| mesh.add(&format!("n{nth}"))).collect();
        let charged: Arc<Mutex<BTreeMap<String, bool>>> = Arc::default();
        let (charging, refunding) = (charged.clone(), charged.clone());
        for (node, player) in nodes.iter().zip(players()) {
            let (charging, refunding) = (charging.clone(), refunding.clone());
            let player = match player.role() {
                "payment" => player
                    .on("stock.reserved", move |call: Call| {
                        // The bank answers only when the shop has given up, on the other side.
                        let is_late = call.attempt > 8;
                        let charge = is_late.then(|| charging.lock().unwrap().insert(call.effect_key("charge"), true));
                        let answer = charge.map(|_| vec![Emission::new("payment.accepted")]);
                        std::future::ready(answer.ok_or_else(|| Failure::transient("the bank does not answer")))
                    })
                    .undo("payment.accepted", move |call: Call| {
                        // It is given the key of the charge that it undoes.
                        *refunding.lock().unwrap().get_mut(&call.effect_key("charge")).unwrap() = false;
                        emit("payment.refunded")
                    }),
                _ => player,
            };
            mesh.play(*node, player).unwrap();
        }
        // The shop hears that the goods are there and nothing more, and gives the order up.
        let order = format!("o-{seed}");
        mesh.begin(nodes[0], "shop", &order, Emission::new("order.placed")).unwrap();
        while mesh.state(nodes[0], &order) == "placed" {
            mesh.advance(1);
        }
        if mesh.state(nodes[0], &order) != "reserved" {
            continue;
        }
        mesh.partition(&[&nodes[..1], &nodes[1..]]);
        mesh.advance(DAY_MS / 24);
        mesh.heal();
        assert!(mesh.settle(3 * DAY_MS), "seed {seed}");
        let instance = mesh.conformance(nodes[0]).instance(&order).unwrap();
        let owed = |found: &&Superseded| found.event.kind == "payment.accepted";
        let given_back = charged.lock().unwrap().values().filter(|charged| !**charged).count();
        assert_eq!(given_back, instance.superseded.iter().filter(owed).count(), "seed {seed}");
        refunds += given_back;
        // What was sent for a payment that does not count stays owed: nothing undoes it.
        let owed: Vec<&str> = instance.owed.iter().map(|owed| owed.event.kind.as_str()).collect();
        assert!(owed.iter().all(|kind| *kind == "shipping.sent"), "seed {seed}: {owed:?}");
        assert_eq!(instance.violations, [], "seed {seed}");
    }
    assert!(refunds > 10, "{refunds} refunds");
}

#[test]
fn what_a_role_intends_is_an_event_that_it_answers_itself() {
    let draft = Draft::new("letters", "new")
        .role("clerk", &["asked"])
        .role("writer", &["sent"])
        .event("asked", "writer")
        .event("intended", "clerk")
        .event("sent", "clerk")
        .event("forgotten", "clerk");
    let kinds = ["asked", "intended", "sent", "forgotten"];
    let mut draft = kinds.into_iter().fold(draft, |draft, kind| draft.topic(kind, "t"));
    draft = draft.on("new", "asked", "open").on("open", "intended", "sealed").on("sealed", "sent", "gone");
    draft = draft.deadline("open", "1h", "forgotten", "lost").deadline("sealed", "1h", "forgotten", "lost");
    let declaration = draft.end("gone", End::Success).end("lost", End::Failure).declare().unwrap();
    let posted: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let post = posted.clone();
    let clerk = Participant::new("letters", "clerk").on("asked", |_: Call| emit("intended")).on(
        "intended",
        move |call: Call| {
            post.lock().unwrap().insert(call.effect_key("post"));
            // The post office does not say at once that it has the letter.
            std::future::ready(if call.attempt < 3 {
                Err(Failure::transient("no receipt yet"))
            } else {
                Ok(vec![Emission::new("sent")])
            })
        },
    );
    for seed in 0..20 {
        let mut mesh = Mesh::simulated(seed, declaration.clone());
        let nodes = ["a", "b", "c"].map(|name| mesh.add(name));
        mesh.play(nodes[0], Participant::new("letters", "writer")).unwrap();
        mesh.play(nodes[1], clerk.clone()).unwrap();
        mesh.play(nodes[2], clerk.clone()).unwrap();
        mesh.disturb(60_000);
        for letter in 0..10 {
            let _ = mesh.begin(nodes[0], "writer", &format!("{seed}-{letter}"), Emission::new("asked"));
            mesh.advance(1_000);
        }
        mesh.advance(120_000);
        assert!(mesh.settle(DAY_MS), "seed {seed}");
        let sent = mesh.conformance(nodes[2]).instances().filter(|(_, instance)| instance.state == "gone").count();
        // Each under one key, whoever posted it and however often.
        assert_eq!(std::mem::take(&mut *posted.lock().unwrap()).len(), sent, "seed {seed}");
        assert!(sent > 0, "seed {seed}");
    }
}

/// What a bank holds, by order and key.
type Bank = Arc<Mutex<BTreeMap<(String, String), bool>>>;

/// A payment whose replicas do not agree, with a bank that takes keys against repeats.
fn divided_payment(player: Participant, replica: u64, bank: &Bank) -> Participant {
    let note = |bank: &Bank, call: &Call, is_charged: bool| {
        bank.lock().unwrap().insert((call.event.correlation.clone(), call.effect_key("charge")), is_charged);
    };
    let (charging, undoing) = (bank.clone(), bank.clone());
    let player = player.on("stock.reserved", move |call: Call| {
        let is_refused = draw(&call.event.correlation, replica) < 50;
        if !is_refused {
            note(&charging, &call, true);
        }
        emit(if is_refused { "payment.refused" } else { "payment.accepted" })
    });
    player.undo("payment.accepted", move |call: Call| {
        note(&undoing, &call, false);
        emit("payment.refunded")
    })
}

/// What came of a mesh that was apart.
#[derive(Default)]
struct Divided {
    /// Orders that were sent and are not paid.
    unpaid: usize,
    /// Parcels that were sent for a payment that does not count.
    sent_in_vain: usize,
    shipped: usize,
    given_back: usize,
}

/// Replicas of the payment answer the same orders, each in its part of a mesh that is apart for far longer than what is owed
/// rests.
fn divide(seed: u64, waits_for_stable: bool) -> Divided {
    let mut mesh = Mesh::simulated(seed, declaration("order_saga.toml"));
    let nodes: Vec<NodeId> = (0..6).map(|nth| mesh.add(&format!("n{nth}"))).collect();
    let bank = Bank::default();
    for (nth, player) in players().into_iter().enumerate() {
        for replica in [nth, (nth + 2) % 6, (nth + 4) % 6] {
            let player = match player.role() {
                "payment" => divided_payment(player.clone(), replica as u64, &bank),
                "shipping" if waits_for_stable => {
                    player.clone().on_stable("payment.accepted", |_: Call| emit("shipping.sent"))
                }
                "shipping" => player.clone().on("payment.accepted", |_: Call| emit("shipping.sent")),
                _ => player.clone(),
            };
            mesh.play(nodes[replica], player).unwrap();
        }
    }
    mesh.give_heartbeats(1_000);
    if waits_for_stable {
        mesh.undo_when_stable();
    }
    for order in 0..10 {
        let _ = mesh.begin(nodes[0], "shop", &format!("o-{order}"), Emission::new("order.placed"));
        mesh.advance(5);
    }
    // One part after the other comes back, some with earlier answers than those that are known.
    mesh.partition(&[&nodes[..2], &nodes[2..4], &nodes[4..]]);
    mesh.advance(20_000);
    mesh.partition(&[&nodes[..4], &nodes[4..]]);
    mesh.advance(20_000);
    mesh.heal();
    assert!(mesh.settle(DAY_MS), "seed {seed}");
    let bank = bank.lock().unwrap();
    let is_paid = |order: &str| bank.iter().any(|((paid, _), is_charged)| paid == order && *is_charged);
    let instances = || mesh.conformance(nodes[0]).instances();
    let shipped: Vec<&str> =
        instances().filter(|(_, found)| found.state == "shipped").map(|(order, _)| order).collect();
    Divided {
        unpaid: shipped.iter().filter(|order| !is_paid(order)).count(),
        sent_in_vain: instances().map(|(_, instance)| instance.owed.len()).sum(),
        shipped: shipped.len(),
        given_back: bank.values().filter(|is_charged| !**is_charged).count(),
    }
}

#[test]
fn what_is_undone_or_done_when_it_is_stable_stays_right() {
    let (mut hasty, mut patient) = (Divided::default(), Divided::default());
    for seed in 0..60 {
        for (sum, waits) in [(&mut hasty, false), (&mut patient, true)] {
            let Divided { unpaid, sent_in_vain, shipped, given_back } = divide(seed, waits);
            assert!(!waits || unpaid + sent_in_vain == 0, "seed {seed}: {unpaid} unpaid, {sent_in_vain} sent in vain");
            sum.unpaid += unpaid;
            sum.sent_in_vain += sent_in_vain;
            sum.shipped += shipped;
            sum.given_back += given_back;
        }
    }
    assert!(hasty.unpaid > 0 && hasty.sent_in_vain > 0, "nothing could go wrong");
    assert!(patient.shipped > 0 && patient.given_back > 0, "nothing was done");
}

/// A choreography of states in layers: in each state one of three roles chooses, and another sees to the deadline, or the
/// same. Some steps have effects that the same role alone decides on.
fn layered() -> impl Strategy<Value = Declaration> {
    let state = (
        0usize..3,
        prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 1..4),
        0usize..3,
        any::<prop::sample::Index>(),
    );
    prop::collection::vec(state, 1..6).prop_map(|states| {
        let roles = ["a", "b", "c"];
        let mut draft = Draft::new("layered", "new").event("begun", "a").topic("begun", "t");
        draft = draft.on("new", "begun", "s0");
        let mut kinds = vec!["begun".to_owned()];
        let last = states.len();
        let name = |nth: usize| {
            if nth >= last { if nth.is_multiple_of(2) { "done" } else { "over" }.to_owned() } else { format!("s{nth}") }
        };
        for (nth, (by, choices, watcher, late)) in states.iter().enumerate() {
            let from = format!("s{nth}");
            for (choice, (to, has_effect)) in choices.iter().enumerate() {
                let kind = format!("k{nth}-{choice}");
                // The first leads on to the next, so that every state can be reached.
                let to = if choice == 0 { nth + 1 } else { nth + 1 + to.index(last + 1 - nth) };
                draft = draft.event(&kind, roles[*by]).topic(&kind, "t").on(&from, &kind, &name(to));
                if *has_effect && by == watcher {
                    draft = draft.effect(&kind, None);
                }
                kinds.push(kind);
            }
            let kind = format!("late{nth}");
            draft = draft.event(&kind, roles[*watcher]).topic(&kind, "t");
            draft = draft.deadline(&from, "1m", &kind, &name(nth + 1 + late.index(last + 1 - nth)));
            kinds.push(kind);
        }
        for role in roles {
            let seen: Vec<&str> = kinds.iter().map(String::as_str).collect();
            draft = draft.role(role, &seen);
        }
        let ends: BTreeSet<String> = (last..=2 * last + 1).map(name).collect();
        for end in ends {
            let how = if end == "done" { End::Success } else { End::Failure };
            draft = draft.end(&end, how);
        }
        draft.declare().unwrap()
    })
}

/// Whoever acts in a state answers whatever led there with one of what it may.
fn answering(declaration: &Declaration, role: &str) -> Participant {
    let mut participant = Participant::new(declaration.name(), role);
    let kinds: Vec<String> =
        declaration.events().keys().filter(|kind| declaration.knows(role, kind)).cloned().collect();
    for kind in kinds {
        let (declaration, role) = (declaration.clone(), role.to_owned());
        participant = participant.on(&kind, move |call: Call| {
            let state = &declaration.states()[&call.instance.state];
            let own: Vec<&String> = state.on.keys().filter(|kind| declaration.emitter(kind) == Some(&role)).collect();
            let number = draw(&call.event.id, 5) as usize;
            let chosen = own.get(number % own.len().max(1)).map(|kind| Emission::new(kind));
            std::future::ready(Ok(chosen.into_iter().collect()))
        });
    }
    participant
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_passes_the_check_always_ends(declaration in layered(), seed in any::<u64>()) {
        let findings = check::check(&declaration);
        prop_assume!(findings.is_empty());
        let mut mesh = Mesh::simulated(seed, declaration.clone());
        let nodes: Vec<NodeId> = (0..3).map(|nth| mesh.add(&format!("n{nth}"))).collect();
        for (nth, role) in ["a", "b", "c"].into_iter().enumerate() {
            let participant = answering(&declaration, role);
            mesh.play(nodes[nth], participant.clone()).unwrap();
            mesh.play(nodes[(nth + 1) % 3], participant).unwrap();
        }
        mesh.disturb(60_000);
        for nth in 0..5 {
            let _ = mesh.begin(nodes[0], "a", &format!("i-{nth}"), Emission::new("begun"));
            mesh.advance(3_000);
        }
        prop_assert!(mesh.settle(DAY_MS), "{:#?}", mesh.conformance(nodes[0]).instances().filter(|(_, found)| found.end.is_none()).collect::<Vec<_>>());
        for (correlation, instance) in mesh.conformance(nodes[2]).instances() {
            prop_assert_eq!(instance.violations.len(), 0, "{}: {:#?}", correlation, instance);
        }
    }
}
