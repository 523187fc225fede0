//! The network between the nodes: each is reached through a TCP proxy of its own, and only through it.
//!
//! A proxy knows which node dialled by looking up the connection among the open files of the node processes. So every
//! connection has two ends that are known, and each direction between two nodes obeys a rule that tests can change
//! while bytes flow. It needs no privileges.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::procfs;

const CHUNK_BYTES: usize = 16 * 1024;
/// Chunks read and not yet passed on, each way: what a wire with a delay holds.
const CHUNKS_UNDERWAY: usize = 64;

/// What happens to bytes in one direction between two nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Way {
    #[default]
    Open,
    /// Connections are reset at once, new ones refused.
    Cut,
    /// Bytes vanish and nobody is told; what lost bytes is reset when the way opens.
    Swallow,
    /// Bytes wait, as when a cable is pulled, and arrive when the way opens.
    Hold,
}

/// One direction between two nodes.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    way: Way,
    delay: Duration,
    bytes_per_s: Option<u64>,
}

/// (from, to) of the bytes; whoever dialled
type Direction = (usize, usize);
type Rules = BTreeMap<Direction, Link>;

#[derive(Clone, Copy)]
struct Station {
    pid: Option<u32>,
    hidden_port: u16,
    public_port: u16,
}

/// The proxies and their rules.
pub(crate) struct Network {
    runtime: Option<Runtime>,
    shared: Arc<Shared>,
}

struct Shared {
    rules: watch::Sender<Rules>,
    stations: Mutex<Vec<Station>>,
    carried_bytes: Mutex<BTreeMap<Direction, u64>>,
}

impl Network {
    pub(crate) fn new() -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let shared = Shared {
            rules: watch::Sender::new(Rules::new()),
            stations: Mutex::default(),
            carried_bytes: Mutex::default(),
        };
        Self { runtime: Some(runtime), shared: Arc::new(shared) }
    }

    /// A place for one more node: the port it listens on, which the others don't learn, and the port they know.
    pub(crate) fn add(&self) -> (usize, u16, u16) {
        let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port for a proxy");
        listener.set_nonblocking(true).expect("a socket of tokio");
        let public_port = listener.local_addr().expect("its port").port();
        let hidden_port = free_port();
        let index = {
            let mut stations = self.shared.stations.lock().expect("stations");
            stations.push(Station { pid: None, hidden_port, public_port });
            stations.len() - 1
        };
        let runtime = self.runtime.as_ref().expect("until dropped");
        runtime.spawn(serve(self.shared.clone(), index, listener));
        (index, hidden_port, public_port)
    }

    /// Tells which process is node `index` now.
    pub(crate) fn set_pid(&self, index: usize, pid: Option<u32>) {
        self.shared.stations.lock().expect("stations")[index].pid = pid;
    }

    /// Rules one direction.
    pub(crate) fn one_way(&self, from: usize, to: usize, way: Way) {
        self.shared.rules.send_modify(|rules| rules.entry((from, to)).or_default().way = way);
    }

    /// Rules both directions at once.
    pub(crate) fn both_ways(&self, a: usize, b: usize, way: Way) {
        self.shared.rules.send_modify(|rules| {
            for direction in [(a, b), (b, a)] {
                rules.entry(direction).or_default().way = way;
            }
        });
    }

    /// Cuts two nodes off from each other.
    pub(crate) fn cut(&self, a: usize, b: usize) {
        self.both_ways(a, b, Way::Cut);
    }

    /// Lets only the nodes of a group reach each other.
    pub(crate) fn partition(&self, groups: &[&[usize]]) {
        for (position, group) in groups.iter().enumerate() {
            for other in &groups[position + 1..] {
                group.iter().for_each(|a| other.iter().for_each(|b| self.cut(*a, *b)));
            }
        }
    }

    /// Opens every way; delays and limits stay.
    #[track_caller]
    pub(crate) fn heal(&self) {
        self.assert_no_bypass();
        self.shared.rules.send_modify(|rules| rules.values_mut().for_each(|link| link.way = Way::Open));
    }

    /// Makes a link slow, both ways.
    pub(crate) fn slow(&self, a: usize, b: usize, delay: Duration, bytes_per_s: Option<u64>) {
        self.shared.rules.send_modify(|rules| {
            for direction in [(a, b), (b, a)] {
                let link = rules.entry(direction).or_default();
                (link.delay, link.bytes_per_s) = (delay, bytes_per_s);
            }
        });
    }

    /// How many bytes went from one node to another.
    pub(crate) fn carried_bytes(&self, from: usize, to: usize) -> u64 {
        self.shared.carried_bytes.lock().expect("counters").get(&(from, to)).copied().unwrap_or(0)
    }

    /// Fails when a node has found another's hidden port: then what this network says means nothing.
    #[track_caller]
    pub(crate) fn assert_no_bypass(&self) {
        // The proxies themselves are in this process.
        let pids: Vec<_> = self.shared.pids().into_iter().filter(|(_, pid)| *pid != std::process::id()).collect();
        let stations = self.shared.stations.lock().expect("stations").clone();
        for (to, station) in stations.iter().enumerate() {
            if let Some(from) = procfs::connected_to(&pids, station.hidden_port) {
                panic!("node {from} is connected to node {to} past its proxy, though only the proxy is advertised");
            }
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    fn pids(&self) -> Vec<(usize, u32)> {
        let stations = self.stations.lock().expect("stations");
        stations.iter().enumerate().filter_map(|(index, station)| Some((index, station.pid?))).collect()
    }

    /// Which node dialled; the kernel may show the connection a little later than it can be accepted.
    async fn dialler(&self, client: SocketAddr, public_port: u16) -> Option<usize> {
        for _ in 0..20 {
            if let Some(index) = procfs::dialler(&self.pids(), client.port(), public_port) {
                return Some(index);
            }
            sleep(Duration::from_millis(20)).await;
        }
        None
    }
}

/// A port that nothing else gets: below the range from which the kernel takes ports for outgoing connections, and
/// never the same twice in a test run.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let nth = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 12_000 + (std::process::id().wrapping_mul(127).wrapping_add(nth) % 20_000) as u16;
        if StdListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

async fn serve(shared: Arc<Shared>, to: usize, listener: StdListener) {
    let listener = TcpListener::from_std(listener).expect("a runtime");
    while let Ok((client, address)) = listener.accept().await {
        tokio::spawn(carry(shared.clone(), to, client, address));
    }
}

/// One connection, from accept to close.
async fn carry(shared: Arc<Shared>, to: usize, mut client: TcpStream, address: SocketAddr) {
    let station = shared.stations.lock().expect("stations")[to];
    let mut rules = shared.rules.subscribe();
    let Some(from) = shared.dialler(address, station.public_port).await else { return reset(&client) };
    let (there, back) = (Wire::new(from, to), Wire::new(to, from));
    if there.is_severed(&rules.borrow_and_update()) || back.is_severed(&rules.borrow_and_update()) {
        return reset(&client);
    }
    let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, station.hidden_port)).await else {
        return reset(&client);
    };
    drop((client.set_nodelay(true), server.set_nodelay(true)));
    let severed = rules.wait_for(|rules| there.is_severed(rules) || back.is_severed(rules));
    let carried = async {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        tokio::try_join!(there.pump(&shared, from_client, to_server), back.pump(&shared, from_server, to_client))
    };
    let closed_well = tokio::select! { _ = severed => false, carried = carried => carried.is_ok() };
    if !closed_well {
        reset(&client);
        reset(&server);
    }
}

/// Lets a connection end without a farewell when it is dropped.
fn reset(stream: &TcpStream) {
    drop(stream.set_zero_linger());
}

/// One direction of one connection.
struct Wire {
    direction: Direction,
    /// Bytes were swallowed: what follows would make no sense to the receiver
    lossy: AtomicBool,
}

impl Wire {
    fn new(from: usize, to: usize) -> Self {
        Self { direction: (from, to), lossy: AtomicBool::new(false) }
    }

    fn link(&self, rules: &Rules) -> Link {
        rules.get(&self.direction).copied().unwrap_or_default()
    }

    fn is_severed(&self, rules: &Rules) -> bool {
        match self.link(rules).way {
            Way::Cut => true,
            Way::Open => self.lossy.load(Ordering::Relaxed),
            Way::Swallow | Way::Hold => false,
        }
    }

    async fn pump(&self, shared: &Shared, from: ReadHalf<'_>, to: WriteHalf<'_>) -> io::Result<()> {
        let (sender, receiver) = mpsc::channel(CHUNKS_UNDERWAY);
        let rules = shared.rules.subscribe();
        tokio::try_join!(self.take_in(rules.clone(), from, sender), self.give_out(shared, rules, receiver, to))?;
        Ok(())
    }

    async fn take_in(&self, rules: watch::Receiver<Rules>, mut from: ReadHalf<'_>, sender: Chunks) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let length = from.read(&mut buffer).await?;
            let due = Instant::now() + self.link(&rules.borrow()).delay;
            // An empty chunk is the end of the stream.
            if sender.send((due, buffer[..length].to_vec())).await.is_err() || length == 0 {
                return Ok(());
            }
        }
    }

    async fn give_out(
        &self,
        shared: &Shared,
        mut rules: watch::Receiver<Rules>,
        mut receiver: mpsc::Receiver<(Instant, Vec<u8>)>,
        mut to: WriteHalf<'_>,
    ) -> io::Result<()> {
        while let Some((due, chunk)) = receiver.recv().await {
            sleep_until(due).await;
            let waits = |way| way == Way::Hold || way == Way::Cut || (way == Way::Swallow && chunk.is_empty());
            let link = match rules.wait_for(|rules| !waits(self.link(rules).way)).await {
                Ok(rules) => self.link(&rules),
                Err(_) => return Ok(()),
            };
            if link.way == Way::Swallow {
                self.lossy.store(true, Ordering::Relaxed);
                continue;
            }
            if self.lossy.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            if chunk.is_empty() {
                return to.shutdown().await;
            }
            to.write_all(&chunk).await?;
            *shared.carried_bytes.lock().expect("counters").entry(self.direction).or_default() += chunk.len() as u64;
            if let Some(bytes_per_s) = link.bytes_per_s {
                sleep(Duration::from_secs_f64(chunk.len() as f64 / bytes_per_s as f64)).await;
            }
        }
        Ok(())
    }
}

type Chunks = mpsc::Sender<(Instant, Vec<u8>)>;
