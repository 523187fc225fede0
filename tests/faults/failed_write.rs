//! A sync or a write that fails: nothing is acknowledged after it, the node ends with a clear last word, and the next
//! start finds everything that was acknowledged.

use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::harness::{Mesh, Publisher, exit, lines};
use crate::needs::{self, Need};

const TOPIC: &str = "orders.placed";

/// Makes a system call of a running process fail from now on, until it is dropped.
struct Injection(Child);

impl Injection {
    #[track_caller]
    fn into(pid: u32, call: &str, error: &str) -> Self {
        let inject = format!("inject={call}:error={error}:when=1+");
        let mut strace = Command::new("strace");
        strace.args(["-qq", "-f", "-p", &pid.to_string(), "-e", &format!("trace={call}"), "-e", &inject]);
        strace.args(["-o", "/dev/null"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(strace.spawn().expect("strace starts"))
    }
}

impl Drop for Injection {
    fn drop(&mut self) {
        drop((self.0.kill(), self.0.wait()));
    }
}

#[test]
fn nothing_is_acknowledged_after_a_sync_that_failed() {
    fails("fdatasync", "EIO", &["Input/output error"]);
}

#[test]
fn nothing_is_acknowledged_after_a_write_that_found_no_room() {
    fails("pwrite64", "ENOSPC", &["No space left"]);
}

fn fails(call: &str, error: &str, words: &[&str]) {
    if !needs::has(&[Need::Strace]) {
        return;
    }
    let mesh = Mesh::star(1);
    let node = &mesh[0];
    let mut acknowledged = node.publish_lines(TOPIC, &lines("before", 200));
    let publisher = Publisher::start(node, TOPIC, "under-way", 1_000);
    publisher.wait_for_more(100);
    let injection = Injection::into(node.pid().expect("it runs"), call, error);
    let code = node.wait_for_its_end();
    drop(injection);
    assert_eq!(code, Some(exit::FAILURE), "{}", node.said());
    acknowledged.extend(publisher.finish_without_node());
    let said = node.said();
    assert!(words.iter().any(|word| said.contains(word)) && said.contains("the node stopped"), "last word:\n{said}");
    sleep(Duration::from_millis(100));
    node.start();
    assert!(node.said().contains("checking the whole log"), "{}", node.said());
    mesh.holds_at_least(TOPIC, &acknowledged, [0]);
    assert!(node.status().healthy());
    node.publish_lines(TOPIC, &lines("after", 10));
    node.verify();
    node.stop();
    node.verify();
}
