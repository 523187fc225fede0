//! Lets a backup look at a store between two groups of writes.

use parking_lot::{Condvar, Mutex};

/// Keys of prunes that are kept for a running backup: beyond this it has to start again.
const MAX_KEYS: usize = 1_000_000;

/// Held either by the writer, from the first change of a group until it is durable, or by a backup.
#[derive(Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    writing: bool,
    held: bool,
    /// A backup is about to hold the gate: the writer lets it go first.
    wanted: bool,
    closed: bool,
    /// While a backup runs: the keys that prunes removed or replaced.
    pruned: Option<Vec<Vec<u8>>>,
}

impl Gate {
    /// The writer waits for a backup that holds the gate, and takes it.
    pub(super) fn start_writing(&self) {
        let mut state = self.state.lock();
        while !state.writing && (state.held || state.wanted) {
            self.changed.wait(&mut state);
        }
        state.writing = true;
    }

    /// The writer is done with a group, in which prunes touched some keys.
    pub(super) fn end_writing(&self, pruned: impl Iterator<Item = Vec<u8>>) {
        let mut state = self.state.lock();
        if let Some(keys) = state.pruned.as_mut().filter(|keys| keys.len() <= MAX_KEYS) {
            keys.extend(pruned);
        }
        state.writing = false;
        self.changed.notify_all();
    }

    /// There is no writer any more.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }

    /// Holds the writer off until the result is dropped. `None` when there is no writer any more, whose last group may
    /// not be durable.
    pub(super) fn hold(&self) -> Option<Held<'_>> {
        let mut state = self.state.lock();
        while (state.writing || state.held) && !state.closed {
            state.wanted = true;
            self.changed.wait(&mut state);
        }
        state.wanted = false;
        self.changed.notify_all();
        if state.closed {
            return None;
        }
        state.held = true;
        Some(Held(self))
    }
}

/// The writer is held off.
pub(super) struct Held<'a>(&'a Gate);

impl Held<'_> {
    /// Starts to keep the keys that prunes touch. Says whether nobody else was doing so.
    pub(super) fn start_logging(&self) -> bool {
        let mut state = self.0.state.lock();
        let free = state.pruned.is_none();
        if free {
            state.pruned = Some(Vec::new());
        }
        free
    }

    /// The keys since [`Self::start_logging`]; `None` when there were too many.
    pub(super) fn take_logged(&self) -> Option<Vec<Vec<u8>>> {
        self.0.state.lock().pruned.as_mut().map(std::mem::take).filter(|keys| keys.len() <= MAX_KEYS)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.state.lock().held = false;
        self.0.changed.notify_all();
    }
}

impl Gate {
    /// Whether a backup runs.
    pub(super) fn is_logging(&self) -> bool {
        self.state.lock().pruned.is_some()
    }

    /// Stops keeping keys.
    pub(super) fn stop_logging(&self) {
        self.state.lock().pruned = None;
    }
}
