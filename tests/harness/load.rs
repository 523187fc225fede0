//! Publishing and subscribing in the background.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::event::{self, Event};
use super::node::Node;
use super::{DEADLINE, eventually, exit, run};

/// Lines between two pauses of a publisher.
const BURST: u64 = 20;
/// Before a command is tried again on a node that went away.
const RETRY: Duration = Duration::from_millis(150);

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
        Self::start_with(node, topic, prefix, per_second, &[], Arc::default())
    }

    /// The same with further options of `pub`, adding to the ids that others were acknowledged.
    fn start_with(
        node: &Node,
        topic: &str,
        prefix: &str,
        per_second: u64,
        options: &[&str],
        acknowledged: Arc<Mutex<Vec<String>>>,
    ) -> Self {
        let mut command = node.command(&["pub", topic, "-", "--send-on", "newline", "--json"]);
        command.args(options).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(node.log("err"));
        let mut child = command.spawn().expect("roundelay starts");
        let feeding = Arc::new(AtomicBool::new(true));

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

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("wait for a publisher").is_some()
    }

    fn end(mut self) -> (Option<i32>, Vec<String>) {
        let code = self.wait();
        (code, std::mem::take(&mut *self.acknowledged.lock().expect("ids")))
    }

    /// Waits for its end, and for what it has printed to be collected.
    fn wait(&mut self) -> Option<i32> {
        let code = run::wait(&mut self.child, DEADLINE).expect("a publisher ends with its input or its node");
        self.feeder.take().expect("once").join().expect("feeder");
        self.collector.take().expect("once").join().expect("collector");
        code
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

/// A publisher that goes on when its node comes back, each time with a new `pub`: events of the round r are
/// `prefix.r-0`, `prefix.r-1`, ... None is published twice.
pub(crate) struct Stream {
    flowing: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl Stream {
    /// Publishes at about `per_second`, with further options of `pub`.
    pub(crate) fn start(node: &Arc<Node>, topic: &str, prefix: &str, per_second: u64, options: &[&str]) -> Self {
        let (flowing, acknowledged) = (Arc::new(AtomicBool::new(true)), Arc::<Mutex<Vec<String>>>::default());
        let (go_on, ids, node) = (flowing.clone(), acknowledged.clone(), node.clone());
        let (topic, prefix) = (topic.to_owned(), prefix.to_owned());
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        let thread = thread::spawn(move || {
            let options: Vec<&str> = options.iter().map(String::as_str).collect();
            for round in 0.. {
                let prefix = format!("{prefix}.{round}");
                let mut publisher = Publisher::start_with(&node, &topic, &prefix, per_second, &options, ids.clone());
                while go_on.load(Ordering::Relaxed) && !publisher.has_ended() {
                    thread::sleep(RETRY);
                }
                publisher.feeding.store(false, Ordering::Relaxed);
                // Its node may be gone, so any end is right, but not none.
                publisher.wait();
                if !go_on.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        Self { flowing, acknowledged, thread: Some(thread) }
    }

    /// How many events were acknowledged.
    pub(crate) fn count(&self) -> usize {
        self.acknowledged.lock().expect("ids").len()
    }

    /// The ids of what was acknowledged after the first `skip`.
    pub(crate) fn acknowledged_after(&self, skip: usize) -> Vec<String> {
        self.acknowledged.lock().expect("ids")[skip..].to_vec()
    }

    /// Waits until `count` more events have been acknowledged.
    #[track_caller]
    pub(crate) fn wait_for_more(&self, count: usize) {
        let goal = self.count() + count;
        eventually("a publisher gets acknowledgements", || self.count() >= goal);
    }

    /// Stops and returns the ids of everything that was acknowledged.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Vec<String> {
        self.flowing.store(false, Ordering::Relaxed);
        self.thread.take().expect("once").join().expect("a publisher ends");
        std::mem::take(&mut *self.acknowledged.lock().expect("ids"))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.flowing.store(false, Ordering::Relaxed);
    }
}

/// A `sub` that goes on where it was when its node comes back, and finds fault with what it is delivered.
pub(crate) struct Follower {
    following: Arc<AtomicBool>,
    delivered: Arc<AtomicU64>,
    faults: Arc<Mutex<Vec<String>>>,
    child: Arc<Mutex<Option<Child>>>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    /// Follows a pattern from the start, and gives each new event to `sink`.
    pub(crate) fn start(node: &Arc<Node>, pattern: &str, sink: impl Fn(&Event) + Send + 'static) -> Self {
        let following = Arc::new(AtomicBool::new(true));
        let (delivered, faults, child) =
            <(Arc<AtomicU64>, Arc<Mutex<Vec<String>>>, Arc<Mutex<Option<Child>>>)>::default();
        let mut this = Self { following, delivered, faults, child, thread: None };
        let (go_on, delivered, faults, child) =
            (this.following.clone(), this.delivered.clone(), this.faults.clone(), this.child.clone());
        let (node, pattern) = (node.clone(), pattern.to_owned());
        this.thread = Some(thread::spawn(move || {
            let mut reading = Reading::default();
            while go_on.load(Ordering::Relaxed) {
                let place = reading.place();
                let mut command = node.command(&["sub", &pattern, "--from", &place, "--json"]);
                command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
                let mut started = command.spawn().expect("roundelay starts");
                let stdout = BufReader::new(started.stdout.take().expect("piped"));
                {
                    let mut child = child.lock().expect("a child");
                    if !go_on.load(Ordering::Relaxed) {
                        drop((started.kill(), started.wait()));
                        return;
                    }
                    *child = Some(started);
                }
                for line in stdout.lines().map_while(Result::ok) {
                    let event = Event::parse(&line);
                    match reading.take(&event) {
                        Ok(false) => {}
                        Ok(true) => {
                            delivered.fetch_add(1, Ordering::Relaxed);
                            sink(&event);
                        }
                        Err(fault) => faults.lock().expect("faults").push(format!("node {}: {fault}", node.index)),
                    }
                }
                let ended = child.lock().expect("a child").take();
                ended.into_iter().for_each(|mut child| drop((child.kill(), child.wait())));
                thread::sleep(RETRY);
            }
        }));
        this
    }

    /// How many events it was delivered, without repeats after its node came back.
    pub(crate) fn count(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// What was wrong with deliveries since this was asked last.
    pub(crate) fn take_faults(&self) -> Vec<String> {
        std::mem::take(&mut *self.faults.lock().expect("faults"))
    }

    /// Stops following and returns what was wrong.
    pub(crate) fn finish(mut self) -> Vec<String> {
        self.stop();
        self.thread.take().into_iter().for_each(|thread| thread.join().expect("a follower ends"));
        self.take_faults()
    }

    fn stop(&self) {
        self.following.store(false, Ordering::Relaxed);
        // A poisoned lock must not keep the process alive.
        let mut child = self.child.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        child.iter_mut().for_each(|child| drop(child.kill()));
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What a follower has been delivered.
#[derive(Default)]
struct Reading {
    /// The arrival number of the last event
    last_arrival: u64,
    ids: HashSet<String>,
    /// The number of the last event of each run of a publisher
    runs: HashMap<String, u64>,
}

impl Reading {
    /// Where to go on: before the last batch, of which a part may be missing.
    fn place(&self) -> String {
        if self.last_arrival == 0 { "start".to_owned() } else { format!("arrival:{}", self.last_arrival - 1) }
    }

    /// True for an event that is new, false for one of the batch with which the reading went on.
    fn take(&mut self, event: &Event) -> Result<bool, String> {
        if event.arrival < self.last_arrival {
            return Err(format!("arrival {} after {}: {event:?}", event.arrival, self.last_arrival));
        }
        if !self.ids.insert(event.id.clone()) {
            let goes_on = event.arrival == self.last_arrival;
            return if goes_on { Ok(false) } else { Err(format!("delivered twice: {event:?}")) };
        }
        self.last_arrival = event.arrival;
        let data = event.data.as_str().unwrap_or_default();
        let Some((run, number)) = data.rsplit_once('-').and_then(|(run, n)| Some((run, n.parse::<u64>().ok()?))) else {
            return Ok(true);
        };
        // What a publisher sends is one line of a log, so that nothing is left out.
        let due = self.runs.get(run).map_or(0, |last| last + 1);
        self.runs.insert(run.to_owned(), number);
        if number == due { Ok(true) } else { Err(format!("{run}-{due} was due: {event:?}")) }
    }
}
