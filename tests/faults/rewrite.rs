//! The change of stores at the end of a rewrite has to be on the disk before anything is written that only the fresh store
//! has, and that store has to be there whole: otherwise a power cut brings back the old one, or half of a new one. No copy of
//! the files shows that, so the system calls are looked at.

use std::fs;
use std::process::{Command, Stdio};

use crate::harness::{Mesh, eventually, exit, lines};
use crate::needs::{self, Need};

const TOPIC: &str = "orders.placed";

#[test]
fn a_fresh_store_is_synced_before_it_takes_the_place_of_the_old_one_and_that_before_anything_else() {
    if !needs::has(&[Need::Strace]) {
        return;
    }
    let mesh = Mesh::star(1);
    let node = &mesh[0];
    let calls = node.home.with_extension("calls");
    let mut strace = Command::new("strace");
    strace.args(["-qq", "-f", "-y", "-p", &node.pid().expect("it runs").to_string(), "-o"]).arg(&calls);
    strace.args(["-e", "trace=renameat2,fsync,fdatasync,pwrite64"]);
    strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut strace = strace.spawn().expect("strace starts");
    let said = || fs::read_to_string(&calls).unwrap_or_default();
    eventually("strace sees what the node syncs", || {
        node.publish_lines(TOPIC, &lines("before", 1));
        said().contains("fdatasync")
    });
    node.cli(&["log", "compact"]).expect(exit::OK);
    node.publish_lines(TOPIC, &lines("after", 10));
    node.stop();
    drop(strace.wait());

    let said = said();
    let calls: Vec<&str> = said.lines().collect();
    let exchange = calls.iter().position(|call| call.contains("renameat2(") && call.contains("RENAME_EXCHANGE"));
    let (before, after) = calls.split_at(exchange.expect("the stores change their names"));
    let fresh = format!("{}/log.rewriting/db>", node.home.display());
    let last = |name: &str| before.iter().rposition(|call| call.contains(name) && call.contains(&fresh));
    let (written, synced) = (last("pwrite64("), last("fdatasync("));
    assert!(
        written.is_some() && written < synced,
        "the fresh store was written in call {written:?}, synced in {synced:?}"
    );
    let (thread, _) = after[0].split_once(' ').expect("a thread");
    let next = after[1..].iter().find(|call| call.starts_with(&format!("{thread} ")) && call.contains("sync("));
    let above = format!("<{}>", node.home.display());
    assert!(
        next.is_some_and(|call| call.contains(" fsync(") && call.contains(&above)),
        "after the change came {next:?}"
    );
}
