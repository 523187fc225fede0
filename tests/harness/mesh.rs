//! Several daemons and the network between them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Index, Range};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use tempfile::TempDir;

use super::event::{Event, assert_delivered, ids};
use super::lan::Lan;
use super::network::Network;
use super::node::{Node, Site};
use super::{DEADLINE_ARG, eventually, exit};

/// Nodes by their number. Dropping it kills them all and removes their homes.
pub(crate) struct Mesh {
    nodes: Vec<Arc<Node>>,
    pub(crate) network: Arc<Network>,
    /// Where its nodes are instead, when they are in namespaces
    lan: Option<Arc<Lan>>,
    folder: TempDir,
    _place: Place,
}

impl Mesh {
    /// No nodes yet.
    pub(crate) fn empty() -> Self {
        let place = Place::take();
        // The path of a Unix socket has room for 107 bytes, so not wherever TMPDIR may point.
        let short = |folder: &PathBuf| folder.as_os_str().len() < 60;
        let parent = Some(std::env::temp_dir()).filter(short).unwrap_or_else(|| "/tmp".into());
        let folder = tempfile::Builder::new().prefix("rdl").tempdir_in(parent).expect("a folder for homes");
        Self { nodes: Vec::new(), network: Arc::new(Network::new()), lan: None, folder, _place: place }
    }

    /// No nodes yet, and those to come are in network namespaces of their own, without proxies.
    pub(crate) fn apart() -> Self {
        let mut mesh = Self::empty();
        mesh.lan = Some(Arc::new(Lan::new()));
        mesh
    }

    /// The network of a mesh whose nodes are in namespaces.
    pub(crate) fn lan(&self) -> &Lan {
        self.lan.as_ref().expect("a mesh of namespaces")
    }

    /// `count` running nodes that joined through the first.
    pub(crate) fn star(count: usize) -> Self {
        Self::empty().with(count)
    }

    /// The same mesh with `count` more running nodes that joined through the first.
    pub(crate) fn with(mut self, count: usize) -> Self {
        for _ in 0..count {
            self.start(if self.nodes.is_empty() { &[] } else { &[0] }, &[]);
        }
        self
    }

    /// `count` running nodes in a row, each joined through the one before, that can reach their neighbours only.
    pub(crate) fn row(count: usize) -> Self {
        let mut mesh = Self::empty();
        for index in 0..count {
            for other in 0..index.saturating_sub(1) {
                mesh.network.cut(other, index);
            }
            let before: Vec<usize> = index.checked_sub(1).into_iter().collect();
            mesh.start(&before, &[]);
        }
        mesh
    }

    /// Starts one more node that joins through others.
    #[track_caller]
    pub(crate) fn start(&mut self, join: &[usize], flags: &[&str]) -> usize {
        let index = self.prepare(join, flags);
        self[index].start();
        index
    }

    /// One more node that does not run yet.
    #[track_caller]
    pub(crate) fn prepare(&mut self, join: &[usize], flags: &[&str]) -> usize {
        let mut all: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        for other in join {
            all.extend(["--join".to_owned(), self[*other].address()]);
        }
        let site = match &self.lan {
            Some(lan) => Site::apart(lan.clone()),
            None => Site::proxied(self.network.clone()),
        };
        self.add(site, all)
    }

    /// One more node that does not run yet, on this machine's own network, where its flags tell it to listen.
    pub(crate) fn prepare_bare(&mut self, flags: &[&str]) -> usize {
        self.add(Site::Bare, flags.iter().map(|flag| (*flag).to_owned()).collect())
    }

    fn add(&mut self, site: Site, flags: Vec<String>) -> usize {
        let index = self.nodes.len();
        self.nodes.push(Arc::new(Node::new(self.folder.path(), index, site, flags)));
        index
    }

    /// A node, to be kept.
    pub(crate) fn node(&self, index: usize) -> &Arc<Node> {
        &self.nodes[index]
    }

    /// Where files for a test can be put.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Leaves all homes where they are, for people to look at.
    pub(crate) fn keep_homes(&mut self) -> &Path {
        self.folder.disable_cleanup(true);
        self.folder.path()
    }

    /// The numbers of all nodes.
    pub(crate) fn all(&self) -> Range<usize> {
        0..self.nodes.len()
    }

    /// Waits until these nodes hold the same logs of every topic.
    #[track_caller]
    pub(crate) fn converge(&self, nodes: impl IntoIterator<Item = usize>) {
        let nodes: Vec<usize> = nodes.into_iter().collect();
        eventually(&format!("equal digests on nodes {nodes:?}"), || {
            let first = self[nodes[0]].topics();
            nodes[1..].iter().all(|node| self[*node].topics() == first)
        });
        // Nothing is published any more, so `wait` has to agree, and it must not change anything.
        for node in &nodes {
            self[*node].cli(&["wait", "--converged", "--timeout", DEADLINE_ARG]).expect(exit::OK);
        }
        let digests: BTreeSet<_> = nodes.iter().map(|node| format!("{:?}", self[*node].topics())).collect();
        assert_eq!(digests.len(), 1, "they differ again: {digests:#?}");
        self.network.assert_no_bypass();
    }

    /// Waits until these nodes are in sync with all that they are linked to. Unlike [`Self::converge`] also where their
    /// rules differ, so that they do not hold the same.
    #[track_caller]
    pub(crate) fn agree(&self, nodes: impl IntoIterator<Item = usize>) {
        for node in nodes {
            self[node].cli(&["wait", "--converged", "--timeout", DEADLINE_ARG]).expect(exit::OK);
            eventually(&format!("node {node} is in sync with its peers"), || {
                let status = self[node].status();
                status.peers().iter().all(|id| status.peer(id).is_some_and(|peer| peer.in_sync))
            });
        }
    }

    /// Waits until each of these nodes holds `count` events of a topic.
    #[track_caller]
    pub(crate) fn count(&self, topic: &str, count: usize, nodes: impl IntoIterator<Item = usize>) {
        for node in nodes {
            eventually(&format!("{count} events of {topic} on node {node}"), || {
                self[node].count(topic) == count as u64
            });
        }
    }

    /// Waits until each of these nodes is connected to each other.
    #[track_caller]
    pub(crate) fn connected(&self, nodes: impl IntoIterator<Item = usize>) {
        let nodes: Vec<usize> = nodes.into_iter().collect();
        let ids: BTreeMap<usize, &str> = nodes.iter().map(|node| (*node, self[*node].id())).collect();
        for node in &nodes {
            eventually(&format!("node {node} is connected to the others of {nodes:?}"), || {
                let peers = self[*node].status().peers();
                ids.iter().all(|(other, id)| other == node || peers.contains(*id))
            });
        }
    }

    /// Fails unless each of these nodes delivers exactly the events `expected`, in an order that is allowed. Returns
    /// what each delivered.
    #[track_caller]
    pub(crate) fn holds<'a>(
        &self,
        pattern: &str,
        expected: impl IntoIterator<Item = &'a String>,
        nodes: impl IntoIterator<Item = usize>,
    ) -> Vec<Vec<Event>> {
        let expected: BTreeSet<String> = expected.into_iter().cloned().collect();
        let delivered = self.delivered(pattern, nodes);
        for (node, events) in &delivered {
            let held = ids(events);
            let missing: Vec<_> = expected.difference(&held).take(5).collect();
            assert!(missing.is_empty(), "node {node} lacks of {} events these, or more: {missing:?}", expected.len());
            let unknown: Vec<_> = held.difference(&expected).take(5).collect();
            assert!(unknown.is_empty(), "node {node} has what nobody was acknowledged: {unknown:?}");
        }
        delivered.into_values().collect()
    }

    /// The same when nodes were killed: an event that was stored and not acknowledged may be there too.
    #[track_caller]
    pub(crate) fn holds_at_least<'a>(
        &self,
        pattern: &str,
        acknowledged: impl IntoIterator<Item = &'a String>,
        nodes: impl IntoIterator<Item = usize>,
    ) -> Vec<Vec<Event>> {
        let acknowledged: BTreeSet<String> = acknowledged.into_iter().cloned().collect();
        let delivered = self.delivered(pattern, nodes);
        for (node, events) in &delivered {
            let missing: Vec<_> = acknowledged.difference(&ids(events)).take(5).cloned().collect();
            assert!(missing.is_empty(), "node {node} lacks acknowledged events: {missing:?}");
        }
        delivered.into_values().collect()
    }

    fn delivered(&self, pattern: &str, nodes: impl IntoIterator<Item = usize>) -> BTreeMap<usize, Vec<Event>> {
        // All at once: each waits a while to be sure that nothing follows.
        let delivered: BTreeMap<_, _> = thread::scope(|scope| {
            let asked: Vec<_> =
                nodes.into_iter().map(|node| (node, scope.spawn(move || self[node].events(pattern)))).collect();
            asked.into_iter().map(|(node, events)| (node, events.join().expect("its events"))).collect()
        });
        delivered.values().for_each(|events| assert_delivered(events));
        delivered
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.nodes.iter().for_each(|node| node.end());
        self.lan.iter().for_each(|lan| lan.remove());
    }
}

impl Index<usize> for Mesh {
    type Output = Node;

    fn index(&self, index: usize) -> &Node {
        &self.nodes[index]
    }
}

/// The right to run a mesh: a few at a time, whatever the number of test threads, or every deadline is in danger.
struct Place;

static TAKEN: Mutex<usize> = Mutex::new(0);
static FREED: Condvar = Condvar::new();

impl Place {
    fn take() -> Self {
        let limit = (thread::available_parallelism().map_or(2, usize::from) / 2).max(2);
        let taken = TAKEN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut taken = FREED.wait_while(taken, |taken| *taken >= limit).expect("a place");
        *taken += 1;
        Self
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) -= 1;
        FREED.notify_one();
    }
}
