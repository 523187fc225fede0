//! Publishing and subscribing in the background.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::event::{self, Event};
use super::node::Node;
use super::{DEADLINE, eventually, exit, run};

/// Lines between two pauses of a publisher.
const BURST: u64 = 20;

/// A `pub` that is fed with lines until it is told to finish, or until its node dies.
pub(crate) struct Publisher {
    child: Child,
    feeding: Arc<AtomicBool>,
    feeder: Option<JoinHandle<()>>,
    acknowledged: Arc<Mutex<Vec<String>>>,
    collector: Option<JoinHandle<()>>,
}

impl Publisher {
    /// Publishes `prefix-0`, `prefix-1`, ... at about `per_second`.
    pub(crate) fn start(node: &Node, topic: &str, prefix: &str, per_second: u64) -> Self {
        let mut command = node.command(&["pub", topic, "-", "--send-on", "newline", "--json"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(node.log("err"));
        let mut child = command.spawn().expect("roundelay starts");
        let feeding = Arc::new(AtomicBool::new(true));
        let acknowledged = Arc::<Mutex<Vec<String>>>::default();

        let (mut stdin, go_on, prefix) = (child.stdin.take().expect("piped"), feeding.clone(), prefix.to_owned());
        let feeder = thread::spawn(move || {
            for burst in 0.. {
                let lines: String =
                    (burst * BURST..(burst + 1) * BURST).map(|nth| format!("{prefix}-{nth}\n")).collect();
                // Its node was killed and it has ended, as it should.
                if !go_on.load(Ordering::Relaxed) || stdin.write_all(lines.as_bytes()).is_err() {
                    return;
                }
                thread::sleep(Duration::from_millis(1000 * BURST / per_second));
            }
        });
        let (stdout, collected) = (BufReader::new(child.stdout.take().expect("piped")), acknowledged.clone());
        let collector = thread::spawn(move || {
            let ids = stdout.lines().map_while(Result::ok).filter_map(|line| event::acknowledged_id(&line));
            ids.for_each(|id| collected.lock().expect("ids").push(id));
        });
        Self { child, feeding, feeder: Some(feeder), acknowledged, collector: Some(collector) }
    }

    /// Waits until `count` more events have been acknowledged.
    #[track_caller]
    pub(crate) fn wait_for_more(&self, count: usize) {
        let goal = self.acknowledged() + count;
        eventually("a publisher gets acknowledgements", || self.acknowledged() >= goal);
    }

    fn acknowledged(&self) -> usize {
        self.acknowledged.lock().expect("ids").len()
    }

    /// Ends the input and returns the ids of everything that was acknowledged, which must be all.
    #[track_caller]
    pub(crate) fn finish(self) -> Vec<String> {
        self.feeding.store(false, Ordering::Relaxed);
        let (code, ids) = self.end();
        assert_eq!(code, Some(exit::OK), "exit code of a publisher");
        ids
    }

    /// The same when its node went away under it: then it must fail, and not hang. It is fed until it does, or it might
    /// end well, with nothing left to do.
    #[track_caller]
    pub(crate) fn finish_without_node(self) -> Vec<String> {
        let (code, ids) = self.end();
        assert!(matches!(code, Some(exit::FAILURE | exit::UNREACHABLE)), "exit code of a publisher: {code:?}");
        ids
    }

    fn end(mut self) -> (Option<i32>, Vec<String>) {
        let code = run::wait(&mut self.child, DEADLINE).expect("a publisher ends with its input or its node");
        self.feeder.take().expect("once").join().expect("feeder");
        self.collector.take().expect("once").join().expect("collector");
        (code, std::mem::take(&mut *self.acknowledged.lock().expect("ids")))
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.feeding.store(false, Ordering::Relaxed);
        drop((self.child.kill(), self.child.wait()));
    }
}

/// A `sub` from the start that runs until it is dropped.
pub(crate) struct Subscriber {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Subscriber {
    pub(crate) fn start(node: &Node, pattern: &str) -> Self {
        let mut command = node.command(&["sub", pattern, "--from", "start", "--json"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(node.log("err"));
        let mut child = command.spawn().expect("roundelay starts");
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let (stdout, collected) = (BufReader::new(child.stdout.take().expect("piped")), lines.clone());
        thread::spawn(move || {
            stdout.lines().map_while(Result::ok).for_each(|line| collected.lock().expect("lines").push(line));
        });
        Self { child, lines }
    }

    /// Waits until it was delivered `count` events, and returns all that it was.
    #[track_caller]
    pub(crate) fn wait_for(&self, count: usize) -> Vec<Event> {
        eventually(&format!("{count} events at a running sub"), || {
            let got = self.lines.lock().expect("lines").len();
            assert!(got <= count, "a running sub got {got} events of {count}");
            got == count
        });
        self.lines.lock().expect("lines").iter().map(|line| Event::parse(line)).collect()
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        drop((self.child.kill(), self.child.wait()));
    }
}
