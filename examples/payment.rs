//! The role `payment` of `declarations/order.toml`, played on a node of its own. Its bank is a folder, in which a charge is a file
//! that is named by its key: what is charged again is charged once. Without the folder, the bank does not answer.
//!
//! `cargo run --example payment -- BANK HOME ADDRESS`; docs/choreography.md does so step by step.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::future::ready;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use roundelay::api::server::Server;
use roundelay::config::{Options, Settings};
use roundelay::home::Home;
use roundelay::identity;
use roundelay::node::Node;
use roundelay::participant::{PlayOptions, Playing};
use roundelay_protocol::choreography::Participant;
use roundelay_protocol::choreography::participant::{Call, Emission, Failure, Outcome};
use serde_json::Value;

fn payment(bank: PathBuf) -> Participant {
    let (charging, undoing) = (bank.clone(), bank.clone());
    let refund = move |call: Call| ready(refund(&bank, &call));
    Participant::new("order", "payment")
        .on("order.placed", move |call| ready(charge(&charging, &call)))
        .on("order.late", refund.clone())
        .on("payment.refund-due", refund)
        .undo("payment.accepted", move |call| ready(undo(&undoing, &call)))
}

fn charge(bank: &Path, call: &Call) -> Outcome {
    let order: Value = call.json()?;
    let Some(amount) = order["amount"].as_u64() else {
        return Err(Failure::terminal("the order has no amount"));
    };
    if amount > 1_000 {
        return Ok(vec![Emission::new("payment.refused")]);
    }
    println!("{}, attempt {}: charging {amount}", call.event.correlation, call.attempt);
    // A key that is there already was charged before, or is not to be charged any more.
    if !bank.join(call.effect_key("charge")).exists() {
        keep(bank, &call.effect_key("charge"), &format!("{} {amount}\n", call.event.correlation))?;
    }
    Ok(vec![Emission::json("payment.accepted", &order)?])
}

/// What was charged did not count. The key is that of the charge.
fn undo(bank: &Path, call: &Call) -> Outcome {
    keep(bank, &call.effect_key("charge"), &format!("{} 0\n", call.event.correlation))?;
    Ok(vec![Emission::new("payment.refunded")])
}

/// Writes a file of the bank, all of it or nothing: a process that is killed meanwhile leaves no half of a charge.
fn keep(bank: &Path, key: &str, text: &str) -> io::Result<()> {
    let draft = bank.with_file_name(key);
    fs::write(&draft, text)?;
    fs::rename(draft, bank.join(key))
}

/// What was charged counted, and the order has failed since.
fn refund(bank: &Path, call: &Call) -> Outcome {
    for file in fs::read_dir(bank)? {
        let (path, key) = file.map(|file| (file.path(), file.file_name()))?;
        if fs::read_to_string(path)?.starts_with(&format!("{} ", call.event.correlation)) {
            keep(bank, &key.to_string_lossy(), &format!("{} 0\n", call.event.correlation))?;
        }
    }
    Ok(vec![Emission::new("payment.refunded")])
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let [bank, home, address] =
        env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|_| "name a bank, a home, an address")?;
    let home = Home::at(home);
    home.create()?;
    let _lock = home.lock()?;
    let said = Options { name: Some("payment".to_owned()), join: vec![address], ..Options::default() };
    let settings = Settings::load(&home, &said)?;
    let node = Node::start(settings.node_config(&home, identity::load_or_create(&home.identity_path())?)?).await?;
    // So that `roundelay --home payment` has something to ask.
    let _server = Server::start(&home.socket_path(), node.clone())?;
    // A bank that is down for minutes is nobody's fault here.
    let options = PlayOptions { max_attempts: 64, max_backoff_ms: 2_000, ..PlayOptions::default() };
    let playing = Playing::start(&node, payment(bank.into()), options).await?;
    println!("ready");
    tokio::signal::ctrl_c().await?;
    playing.stop().await;
    node.shutdown().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use roundelay_protocol::choreography::Draft;
    use roundelay_protocol::choreography::simulated::Mesh;
    use serde_json::json;

    use super::*;

    #[test]
    fn every_order_ends_and_the_bank_holds_what_was_sent() {
        let declaration = Draft::from_toml(include_str!("declarations/order.toml")).unwrap().declare().unwrap();
        for seed in 0..20 {
            let bank = tempfile::tempdir().unwrap();
            let mut mesh = Mesh::simulated(seed, declaration.clone());
            let [a, b] = ["a", "b"].map(|name| mesh.add(name));
            let send = |_: Call| ready(Ok(vec![Emission::new("order.sent")]));
            mesh.play(a, Participant::new("order", "shop").on("payment.accepted", send)).unwrap();
            mesh.play(b, payment(bank.path().to_owned())).unwrap();
            mesh.disturb(120_000); // crashes, cuts and isolation, for two minutes
            for order in 0..60 {
                let placed = Emission::json("order.placed", &json!({ "amount": 5 })).unwrap();
                // A node that is down takes no orders.
                let _ = mesh.begin(a, "shop", &format!("order-{order}"), placed);
                mesh.advance(2_000);
            }
            mesh.advance(120_000);
            assert!(mesh.settle(86_400_000), "seed {seed}: an order has not ended, or something is owed");
            let orders = || mesh.conformance(a).instances().map(|(_, order)| order);
            assert!(orders().all(|order| order.violations.is_empty()), "seed {seed}");
            let sent = orders().filter(|order| order.state == "done").count();
            let files =
                fs::read_dir(bank.path()).unwrap().map(|file| fs::read_to_string(file.unwrap().path()).unwrap());
            let charged = files.filter(|charge| !charge.ends_with(" 0\n")).count();
            assert_eq!(charged, sent, "seed {seed}: orders that are charged, and that were sent");
        }
    }
}
