//! Services in Python, Node and Rust work together through two nodes, as `examples/polyglot` has them.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use roundelay::api::client::Client;
use roundelay::home::Home;

use super::languages::has_program;
use crate::harness::{DEADLINE, Mesh, Node, eventually};

#[path = "../../examples/polyglot/orders.rs"]
mod orders;

/// A service that ends with the test.
struct Service(Child);

impl Service {
    fn start(program: &str, script: &str, node: &Node) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/polyglot");
        let mut command = Command::new(program);
        command.arg(folder.join(script)).arg(node.home.join("api.sock")).arg(node.home.join("place"));
        command.stdin(Stdio::null()).stdout(node.log("err")).stderr(node.log("err"));
        Self(command.spawn().expect("a service starts"))
    }

    fn kill(mut self) {
        self.0.kill().expect("SIGKILL");
        self.0.wait().expect("it is dead");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop((self.0.kill(), self.0.wait()));
    }
}

#[test]
fn they_get_every_order_done_once_across_a_partition_a_crash_and_a_restart() {
    if !has_program("python3") || !has_program("node") {
        return;
    }
    let mesh = Mesh::star(2);
    mesh.connected([0, 1]);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let client = Client::new(&Home::at(&mesh[0].home)).expect("a client");
    let place = |numbers: std::ops::Range<u64>| {
        for number in numbers {
            runtime.block_on(orders::place(&client, number)).expect("an order");
        }
    };
    let shipped = |count| {
        let shipped = async { tokio::time::timeout(DEADLINE, orders::shipped(&client, count)).await };
        runtime.block_on(shipped).expect("in time").expect("shipped orders")
    };
    let ship = Service::start("node", "ship.mjs", &mesh[0]);
    let charge = Service::start("python3", "charge.py", &mesh[1]);
    place(1..11);
    assert_eq!(shipped(10)["order-10"], 52);

    mesh.network.partition(&[&[0], &[1]]);
    place(11..21);
    // A service dies and comes back while the nodes are apart; the other side knows nothing of the new orders.
    charge.kill();
    let _charge = Service::start("python3", "charge.py", &mesh[1]);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!((mesh[0].count("orders.placed"), mesh[0].count("orders.shipped")), (20, 10));
    assert_eq!(mesh[1].count("orders.placed"), 10);

    mesh.network.heal();
    let done = shipped(20);
    assert!((1..21).all(|number| done[&format!("order-{number}")] == 5 * number + 2), "{done:?}");

    // A node dies, with the place of the service beside it intact.
    mesh[0].kill();
    mesh[0].start();
    place(21..26);
    assert_eq!(shipped(25).len(), 25);
    drop(ship);
    mesh.converge([0, 1]);
    for topic in ["orders.placed", "payments.charged", "orders.shipped"] {
        eventually(&format!("25 events of {topic}"), || mesh[1].count(topic) == 25);
        assert_eq!(mesh[0].count(topic), 25, "{topic}: no more than one an order");
    }
}
