//! A service that plays a role is killed in the middle of its work, again and again, and answers every order once.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;

use serde_json::{Value, json};

use super::orders::json;
use crate::harness::{self, Dice, Mesh, Node, eventually, exit};

const DECLARATION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/declarations/order.toml");
const NAME: &str = "order";
/// How often it is killed.
const KILLS: usize = 6;
/// Orders that are placed at once, each time it has to be killed.
const ORDERS: usize = 400;

/// `examples/payment.rs` on a node of its own.
struct Payment {
    program: PathBuf,
    bank: PathBuf,
    address: String,
    child: Option<Child>,
}

impl Payment {
    fn start(&mut self, home: &Node) {
        let mut command = Command::new(&self.program);
        command.arg(&self.bank).arg(&home.home).arg(&self.address).stdin(Stdio::null());
        self.child = Some(command.stdout(home.log("out")).stderr(home.log("err")).spawn().expect("the service starts"));
    }

    /// Sends SIGKILL.
    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("SIGKILL");
            child.wait().expect("it is dead");
        }
    }

    /// What was charged: the bank's files, each an order and its amount.
    fn charges(&self) -> Vec<String> {
        let files = fs::read_dir(&self.bank).expect("a bank").map(|file| file.expect("a file").path());
        files.map(|file| fs::read_to_string(file).expect("a charge")).collect()
    }
}

impl Drop for Payment {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Places orders of these numbers.
#[track_caller]
fn place(node: &Node, orders: std::ops::Range<usize>) {
    let order = |number: usize| {
        json!({"specversion": "1.0", "type": "order.placed", "source": "/shop", "id": format!("placed-{number}"),
            "correlationid": format!("order-{number}"), "partitionkey": format!("order-{number}"), "data": {"amount": 5}})
    };
    let body = Value::from_iter(orders.map(order)).to_string();
    node.http().post("/v1/topics/orders.shop/events", "application/cloudevents-batch+json", body).expect(201);
}

/// The answers that a node holds, by order.
fn answers(node: &Node) -> BTreeMap<String, Vec<String>> {
    let mut answers = BTreeMap::<_, Vec<String>>::new();
    for line in node.cli(&["log", "export", "orders.payment"]).expect(exit::OK).stdout.lines() {
        let event: Value = serde_json::from_str(line).expect("an event");
        let text = |member: &str| event[member].as_str().expect("a text").to_owned();
        answers.entry(text("correlationid")).or_default().push(text("type"));
    }
    answers
}

#[test]
fn a_service_that_is_killed_in_its_work_answers_every_order_once_and_owes_nothing() {
    // A proxy lets only daemons through.
    let mut mesh = Mesh::empty();
    mesh.prepare_bare(&["--listen", "/ip4/127.0.0.1/tcp/0"]);
    mesh[0].start();
    // The home of the service, whose process is no daemon.
    let home = mesh.prepare_bare(&[]);
    mesh[0].cli(&["choreography", "publish", DECLARATION]).expect(exit::OK);
    let program = harness::build(&["--example", "payment"]).join("examples/payment");
    let (bank, address) = (mesh.folder().join("bank"), mesh[0].address());
    fs::create_dir(&bank).expect("a bank");
    let mut payment = Payment { program, bank, address, child: None };
    payment.start(&mesh[home]);

    let mut dice = Dice::thrown();
    for nth in 0..KILLS {
        let before = payment.charges().len();
        // It charges before it answers, so that the answers to some of these are on their way when it dies.
        let charges = before + 1 + dice.below(ORDERS);
        place(&mesh[0], nth * ORDERS..(nth + 1) * ORDERS);
        eventually("it is at work", || payment.charges().len() >= charges);
        sleep(dice.time(0, 60));
        payment.kill();
        payment.start(&mesh[home]);
    }
    let all = KILLS * ORDERS;
    let limit = (all + 1).to_string();
    let instances = |node: &Node| json(node, &["instances", NAME, "--limit", &limit])["instances"].clone();
    let count = |instances: &Value, member: &str| {
        instances.as_array().expect("a list").iter().map(|it| it[member].as_u64().expect("a number")).sum::<u64>()
    };
    eventually("every order is paid", || {
        let instances = instances(&mesh[0]);
        let instances = instances.as_array().expect("a list");
        instances.len() == all && instances.iter().all(|it| it["state"] == "paid")
    });
    // Time for what would be too much.
    let consumer = || json(&mesh[home], &["consumer", "ls"])[0]["lag"].clone();
    eventually("nothing waits to be done", || consumer()["events"] == 0);
    mesh.converge(mesh.all());
    assert_eq!(consumer()["dead"], 0);
    for node in [0, home] {
        let instances = instances(&mesh[node]);
        for member in ["owed", "superseded", "violations"] {
            assert_eq!(count(&instances, member), 0, "{member} on node {node}");
        }
        let answers = answers(&mesh[node]);
        assert_eq!(answers.len(), all, "orders with answers on node {node}");
        let odd: Vec<_> = answers.iter().filter(|(_, kinds)| **kinds != ["payment.accepted"]).collect();
        assert!(odd.is_empty(), "node {node}: {odd:?}");
    }
    let charges = payment.charges();
    assert_eq!(charges.len(), all, "every order is charged once");
    let odd: Vec<_> = charges.iter().filter(|charge| !charge.ends_with(" 5\n")).collect();
    assert!(odd.is_empty(), "no charge was half made or taken back: {odd:?}");
}
