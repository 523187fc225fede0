//! Four services handle orders together and nobody directs them: shop, stock, payment and shipping, each on a node of
//! its own. Some refuse, some fail and are tried again, the bank is down for a while, the payment service restarts, and the shop is
//! cut off, so that it gives orders up which the others go on with. In the end every order has ended, all nodes say the
//! same of it, and goods, money and parcels balance: what was done for an order that lost is undone, and a parcel, which nobody
//! can undo, is sent only when nothing can come any more with which its order had lost.
//!
//! `cargo run --release --example order_saga -- [ORDERS]`
#![allow(clippy::print_stderr, clippy::print_stdout)]

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use roundelay::choreography::{Judged, publish, read_draft};
use roundelay::dev::{LocalMesh, LocalMeshOptions, agreed};
use roundelay::participant::{PlayOptions, Playing};
use roundelay_protocol::choreography::Participant;
use roundelay_protocol::choreography::conformance::Verdict;
use roundelay_protocol::choreography::participant::{Call, Emission, Failure, Outcome};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const NAME: &str = "order-saga";
const ROLES: [&str; 4] = ["shop", "stock", "payment", "shipping"];
/// How long everything may take to end.
const LIMIT: Duration = Duration::from_secs(120);
/// How long the bank is down while the shop is cut off: longer than the shop waits for an answer. Payments that come
/// afterwards have lost, which nobody knows where they are made.
const BANK_IS_DOWN: Duration = Duration::from_secs(7);
/// How long the shop is cut off after that.
const CUT_OFF: Duration = Duration::from_secs(4);
/// How soon the nodes tell that nothing earlier will come of them.
const HEARTBEAT: Duration = Duration::from_millis(500);

/// A world outside the mesh: what was done under a key is done once, however often it is asked for.
#[derive(Default)]
struct Ledger(Mutex<BTreeMap<String, bool>>);

impl Ledger {
    fn entries(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, bool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, key: String) {
        self.entries().entry(key).or_insert(true);
    }

    fn give_back(&self, key: String) {
        self.entries().insert(key, false);
    }

    fn held(&self) -> usize {
        self.entries().values().filter(|held| **held).count()
    }
}

/// What the services share with the world.
#[derive(Default)]
struct World {
    goods: Ledger,
    money: Ledger,
    parcels: Ledger,
    bank_is_down: AtomicBool,
}

/// A number below a hundred that an order has, always the same.
fn draw(order: &str, salt: u64) -> u64 {
    let mixed = |sum: u64, byte: u8| (sum ^ u64::from(byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    order.bytes().fold(salt, mixed) % 100
}

fn emit(kind: &str) -> Outcome {
    Ok(vec![Emission::new(kind)])
}

/// The shop takes orders, and gives up those that nobody answers in time: that follows from the declaration.
fn shop() -> Participant {
    Participant::new(NAME, "shop")
}

fn stock(world: &Arc<World>) -> Participant {
    let (reserving, releasing) = (world.clone(), world.clone());
    let reserve = move |call: Call| {
        let world = reserving.clone();
        async move {
            if draw(&call.event.correlation, 1) < 10 {
                return emit("stock.refused");
            }
            world.goods.take(call.event.correlation.clone());
            emit("stock.reserved")
        }
    };
    let release = move |call: Call| {
        let world = releasing.clone();
        async move {
            world.goods.give_back(call.event.correlation.clone());
            emit("stock.released")
        }
    };
    Participant::new(NAME, "stock")
        .on("order.placed", reserve)
        .on("order.unpaid", release.clone())
        .on("payment.refused", release.clone())
        .on("payment.refunded", release.clone())
        .on("stock.release-due", release.clone())
        .undo("stock.reserved", release)
}

fn payment(world: &Arc<World>) -> Participant {
    let (charging, refunding) = (world.clone(), world.clone());
    let charge = move |call: Call| {
        let world = charging.clone();
        async move {
            if world.bank_is_down.load(Ordering::Relaxed) {
                return Err(Failure::transient("the bank does not answer"));
            }
            if draw(&call.event.correlation, 2) < 10 {
                return emit("payment.refused");
            }
            world.money.take(call.event.correlation.clone());
            emit("payment.accepted")
        }
    };
    let refund = move |call: Call| {
        let world = refunding.clone();
        async move {
            world.money.give_back(call.event.correlation.clone());
            emit("payment.refunded")
        }
    };
    Participant::new(NAME, "payment")
        .on("stock.reserved", charge)
        .on("shipping.refused", refund.clone())
        .on("shipping.late", refund.clone())
        .on("payment.refund-due", refund.clone())
        .undo("payment.accepted", refund)
}

fn shipping(world: &Arc<World>) -> Participant {
    let world = world.clone();
    Participant::new(NAME, "shipping").on_stable("payment.accepted", move |call: Call| {
        let world = world.clone();
        async move {
            if draw(&call.event.correlation, 3) < 10 {
                return emit("shipping.refused");
            }
            world.parcels.take(call.event.correlation.clone());
            emit("shipping.sent")
        }
    })
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let orders: usize = match std::env::args().nth(1).map(|text| text.parse()).transpose() {
        Ok(orders) => orders.unwrap_or(2_000),
        Err(_) => {
            eprintln!("usage: order_saga [ORDERS]");
            return Ok(ExitCode::from(2));
        }
    };
    Ok(if dance(orders).await? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Has orders placed and handled, and says how it went. Whether everything is as it should be.
async fn dance(orders: usize) -> Result<bool> {
    let options = LocalMeshOptions { heartbeat: HEARTBEAT, ..LocalMeshOptions::new(ROLES) };
    let mesh = LocalMesh::start(options).await?;
    let world = Arc::new(World::default());
    // Nobody wants to wait for days here.
    let text = include_str!("declarations/order_saga.toml");
    let text = text
        .replace("\"30s\"", "\"5s\"")
        .replace("\"2m\"", "\"6s\"")
        .replace("\"2d\"", "\"20s\"")
        .replace("\"1h\"", "\"5s\"");
    publish(&mesh[0], &read_draft(&text)?, false).await?;

    let options =
        || PlayOptions { settle_ms: 2_000, undo_when_stable: true, max_backoff_ms: 2_000, ..PlayOptions::default() };
    let shop = Playing::start(&mesh[0], shop(), options()).await?;
    let stock = Playing::start(&mesh[1], stock(&world), options()).await?;
    let mut paying = Playing::start(&mesh[2], payment(&world), options()).await?;
    let shipping = Playing::start(&mesh[3], shipping(&world), options()).await?;

    let (begun, mut place) = (Instant::now(), 0);
    let mut take = async |upto: usize| -> Result<()> {
        while place < upto {
            shop.begin(&format!("order-{place}"), Emission::new("order.placed")).await?;
            place += 1;
        }
        Ok(())
    };
    take(orders / 4).await?;
    eprintln!("the bank is down, and the payment service restarts");
    world.bank_is_down.store(true, Ordering::Relaxed);
    take(orders / 2).await?;
    paying.stop().await;
    paying = Playing::start(&mesh[2], payment(&world), options()).await?;
    world.bank_is_down.store(false, Ordering::Relaxed);
    take(orders * 3 / 4).await?;
    if !ended(&mesh, orders * 3 / 4).await? {
        eprintln!("some orders did not end");
    }
    let cut_off = BANK_IS_DOWN + CUT_OFF;
    eprintln!("the bank is down, and the shop is cut off for {} s and takes orders all the same", cut_off.as_secs());
    world.bank_is_down.store(true, Ordering::Relaxed);
    take(orders * 7 / 8).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    mesh[0].set_offline(true).await;
    take(orders).await?;
    tokio::time::sleep(BANK_IS_DOWN).await;
    world.bank_is_down.store(false, Ordering::Relaxed);
    tokio::time::sleep(CUT_OFF).await;
    mesh[0].set_offline(false).await;

    let is_whole = ended(&mesh, orders).await?;
    let agree = is_whole && agreed(mesh.nodes(), LIMIT).await?;
    let took = begun.elapsed();
    for player in [shop, stock, paying, shipping] {
        player.stop().await;
    }
    let sound = report(&mesh, &world, orders, took) && agree;
    mesh.shutdown().await;
    Ok(sound)
}

/// Waits until every node sees every order ended and nothing owed.
async fn ended(mesh: &LocalMesh, orders: usize) -> Result<bool> {
    let begun = Instant::now();
    while begun.elapsed() < LIMIT {
        let open = mesh.nodes().iter().map(|node| {
            let rests = instances(node)
                .into_iter()
                .filter(|judged| judged.instance.end.is_some() && judged.instance.owed.is_empty());
            orders.saturating_sub(rests.count())
        });
        if open.sum::<usize>() == 0 {
            return Ok(true);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(false)
}

fn instances(node: &roundelay::dev::LocalNode) -> Vec<Judged> {
    node.node.observer().instances(NAME, None, usize::MAX, |_, _| true)
}

/// Says how it went; whether everything is as it should be.
fn report(mesh: &LocalMesh, world: &World, orders: usize, took: Duration) -> bool {
    let seen: Vec<Vec<Judged>> = mesh.nodes().iter().map(instances).collect();
    let brief = |judged: &Judged| (judged.correlation.clone(), judged.instance.clone());
    let same = seen.iter().all(|there| there.iter().map(brief).eq(seen[0].iter().map(brief)));
    let (mut states, mut verdicts) = (BTreeMap::<String, usize>::new(), BTreeMap::<&str, usize>::new());
    let mut shipped = 0;
    for judged in &seen[0] {
        *states.entry(judged.instance.state.clone()).or_default() += 1;
        *verdicts.entry(judged.instance.verdict().as_str()).or_default() += 1;
        shipped += usize::from(judged.instance.state == "shipped");
        if let Verdict::Violating(violation) = judged.instance.verdict() {
            eprintln!("{}: {} violates: {}", judged.correlation, violation.event, violation.why);
        }
    }
    let open: BTreeSet<_> =
        seen[0].iter().filter(|judged| judged.instance.end.is_none()).map(|judged| &judged.correlation).collect();
    println!(
        "{orders} orders in {:.1} s, on {} nodes that say {} of them",
        took.as_secs_f64(),
        seen.len(),
        if same { "the same" } else { "DIFFERENT THINGS" }
    );
    println!("states: {states:?}");
    println!("verdicts: {verdicts:?}");
    let (goods, money, parcels) = (world.goods.held(), world.money.held(), world.parcels.held());
    println!("goods out: {goods}, paid: {money}, parcels: {parcels}, shipped: {shipped}");
    let balanced = [goods, money, parcels] == [shipped; 3];
    let sound = same && open.is_empty() && balanced && !verdicts.contains_key("violating") && seen[0].len() == orders;
    println!(
        "{}",
        if sound { "every order has ended, and goods, money and parcels balance" } else { "SOMETHING IS WRONG" }
    );
    sound
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn goods_money_and_parcels_balance() {
        assert!(dance(400).await.expect("a mesh"));
    }
}
