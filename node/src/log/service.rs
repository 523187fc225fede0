//! The log's thread: takes what is queued, writes it as one group, syncs, and says so.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use roundelay_protocol::write_set::WriteSet;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use super::disk::{self, Disk, Shared, panic_text};
use super::error::LogError;
use super::last_run;
use super::reader::LogReader;
use super::rewrite::{RewriteReport, RewriteStep};
use super::store::{Appended, Snapshot};
use super::writer::Writer;
use super::{LogEvent, LogOptions};

/// Write sets that may wait.
const MAX_QUEUED: usize = 8192;
/// What a write set counts for beside its batches.
const SET_BYTES: usize = 1024;
/// A group is closed when it has so many bytes: more makes nothing faster, and readers wait while it is written.
const GROUP_BYTES: usize = 2 * 1024 * 1024;
/// Time between two looks whether the store should be rewritten.
const BLOAT_CHECK: Duration = Duration::from_secs(1);
/// How long a rewrite that was given up is not begun again unasked.
const REWRITE_RETRY: Duration = Duration::from_secs(600);
/// Bytes that a rewrite copies between two groups. It is twice what was written since the last step where that is more, so
/// that the end is always reached.
const STEP_BYTES: usize = 256 * 1024;
/// How long the thread rests while a rewrite waits for readers.
const REWRITE_REST: Duration = Duration::from_millis(5);

/// A log that was opened.
pub struct Opened {
    /// Takes write sets.
    pub log: Log,
    /// Says what became of them. To be drained by a task that never waits in [`Log::submit`]: the log stops when it
    /// cannot report.
    pub events: mpsc::Receiver<LogEvent>,
    /// What the store holds.
    pub snapshot: Snapshot,
}

/// The durable log of a node, on a thread of its own. Cheap to clone. When all clones are gone the thread finishes what
/// is queued and ends.
#[derive(Clone)]
pub struct Log {
    queue: mpsc::Sender<Message>,
    /// Bytes that may wait or be underway.
    bytes: Arc<Semaphore>,
    max_bytes: usize,
    shared: Arc<Shared>,
    ended: watch::Receiver<bool>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

enum Message {
    Set(Submission),
    Rewrite(oneshot::Sender<Result<RewriteReport, String>>),
    Close,
}

struct Submission {
    token: u64,
    set: WriteSet,
    /// Given back when the set is durable.
    _bytes: OwnedSemaphorePermit,
}

/// Why [`Log::try_submit`] did not take a write set. Nothing has happened to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The queue is full: wait for a [`LogEvent::Stored`], or use [`Log::submit`].
    #[error("the log's queue is full")]
    Full,
    /// The log was closed or failed.
    #[error("the log is closed")]
    Closed,
}

impl Log {
    /// Opens the log in a folder, or creates it, and starts its thread. Blocks while it reads the store. Locking the
    /// node's home is the caller's; a second log on one folder is refused all the same.
    ///
    /// # Errors
    /// When the folder cannot be used, is open elsewhere, has another format, or is damaged. Nothing was changed then.
    pub fn open(dir: &Path, options: LogOptions) -> Result<Opened, LogError> {
        Self::start(disk::open(dir, &options)?, &options)
    }

    /// Starts the thread of a log that was opened.
    pub(super) fn start(disk: Disk, options: &LogOptions) -> Result<Opened, LogError> {
        let dir = disk.shared.dir.clone();
        let snapshot = disk.snapshot.clone();
        let shared = disk.shared.clone();
        let writer = Writer::new(disk, options);
        let (queue, submissions) = mpsc::channel(MAX_QUEUED);
        let (events, receiver) = mpsc::channel(MAX_QUEUED);
        let (end, ended) = watch::channel(false);
        let thread = std::thread::Builder::new().name("log".into()).spawn({
            let shared = shared.clone();
            move || {
                run(writer, submissions, &events);
                shared.close();
                end.send_replace(true);
            }
        });
        let thread = thread.map_err(LogError::folder(&dir))?;
        let log = Self {
            queue,
            bytes: Arc::new(Semaphore::new(options.queue_bytes)),
            max_bytes: options.queue_bytes,
            shared,
            ended,
            thread: Arc::new(Mutex::new(Some(thread))),
        };
        Ok(Opened { log, events: receiver, snapshot })
    }

    /// Hands in a write set, and waits while the queue is full. Its outcome comes as a [`LogEvent`] with the token.
    /// Write sets are stored in the order in which they were taken.
    ///
    /// # Errors
    /// When the log was closed or failed. The write set is dropped then.
    pub async fn submit(&self, token: u64, set: WriteSet) -> Result<(), LogError> {
        let bytes = self.bytes.clone().acquire_many_owned(self.cost(&set)).await.map_err(|_| LogError::Closed)?;
        let message = Message::Set(Submission { token, set, _bytes: bytes });
        self.queue.send(message).await.map_err(|_| LogError::Closed)
    }

    /// Hands in a write set if there is room at once.
    ///
    /// # Errors
    /// Gives the write set back when there is none, or the log was closed or failed.
    // The set is given back so that the caller need not clone it to try again.
    #[allow(clippy::result_large_err)]
    pub fn try_submit(&self, token: u64, set: WriteSet) -> Result<(), (WriteSet, SubmitError)> {
        let Ok(bytes) = self.bytes.clone().try_acquire_many_owned(self.cost(&set)) else {
            let error = if self.queue.is_closed() { SubmitError::Closed } else { SubmitError::Full };
            return Err((set, error));
        };
        let (error, message) = match self.queue.try_send(Message::Set(Submission { token, set, _bytes: bytes })) {
            Ok(()) => return Ok(()),
            Err(mpsc::error::TrySendError::Full(message)) => (SubmitError::Full, message),
            Err(mpsc::error::TrySendError::Closed(message)) => (SubmitError::Closed, message),
        };
        match message {
            Message::Set(Submission { set, .. }) => Err((set, error)),
            Message::Rewrite(_) | Message::Close => Err((WriteSet::default(), error)),
        }
    }

    /// A set larger than the whole queue goes alone.
    fn cost(&self, set: &WriteSet) -> u32 {
        u32::try_from(cost(set).min(self.max_bytes)).unwrap_or(u32::MAX)
    }

    /// Rewrites the store into a fresh one, so that the space of what was pruned comes back, and waits until that is done.
    /// The log may be used meanwhile. It does so by itself, too, where that brings much.
    ///
    /// # Errors
    /// When there is too little room for the copy, or it fails: the store goes on as it was. When the log was closed or
    /// failed.
    pub async fn rewrite(&self) -> Result<RewriteReport, LogError> {
        let (reply, done) = oneshot::channel();
        self.queue.send(Message::Rewrite(reply)).await.map_err(|_| LogError::Closed)?;
        let done = done.await.map_err(|_| LogError::Closed)?;
        done.map_err(|detail| LogError::NotRewritten { dir: self.shared.dir.clone(), detail })
    }

    /// Write sets that wait, and how many may.
    #[must_use]
    pub(crate) fn queue(&self) -> (usize, usize) {
        (self.queue.max_capacity() - self.queue.capacity(), self.queue.max_capacity())
    }

    /// Bytes of write sets that wait or are underway.
    #[must_use]
    pub(crate) fn queued_bytes(&self) -> usize {
        self.max_bytes.saturating_sub(self.bytes.available_permits())
    }

    /// A reader of this log. It outlives the log, but answers [`LogError::Closed`] then.
    #[must_use]
    pub fn reader(&self) -> LogReader {
        LogReader { shared: self.shared.clone() }
    }

    /// Stores what was handed in before, syncs, ends the thread and lets go of the folder, so that it can be opened
    /// again. Events must be drained meanwhile, or their receiver dropped. Other clones refuse from here on.
    pub async fn close(mut self) {
        // Fails when the thread has ended by itself, after a failure.
        let _ = self.queue.send(Message::Close).await;
        let _ = self.ended.wait_for(|ended| *ended).await;
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            // It has nothing left to do, and reports its panics as events.
            let _ = thread.join();
        }
    }
}

fn cost(set: &WriteSet) -> usize {
    let marks = set.marks.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, Vec::len) + 64);
    SET_BYTES + set.batch_bytes() + set.logs.len() * 512 + set.pruned.len() * 64 + marks.sum::<usize>()
}

/// What was taken from the queue at once.
#[derive(Default)]
struct Group {
    /// Write sets that become durable together.
    sets: Vec<Submission>,
    bytes: usize,
    /// Who asks for the store to be rewritten.
    rewrites: Vec<oneshot::Sender<Result<RewriteReport, String>>>,
    /// No more are to come.
    last: bool,
}

/// Takes what is queued, up to a bound; waits for something unless there is other work.
fn next_group(queue: &mut mpsc::Receiver<Message>, wait: bool) -> Group {
    let mut group = Group::default();
    let mut next = if wait { Ok(queue.blocking_recv()) } else { try_next(queue) };
    while let Ok(message) = next {
        match message {
            Some(Message::Set(submission)) => {
                group.bytes += cost(&submission.set);
                group.sets.push(submission);
            }
            Some(Message::Rewrite(reply)) => group.rewrites.push(reply),
            Some(Message::Close) | None => {
                group.last = true;
                break;
            }
        }
        if group.bytes >= GROUP_BYTES {
            break;
        }
        next = try_next(queue);
    }
    group
}

/// `Err` when nothing is there yet, `None` when nothing will be.
fn try_next(queue: &mut mpsc::Receiver<Message>) -> Result<Option<Message>, ()> {
    match queue.try_recv() {
        Ok(message) => Ok(Some(message)),
        Err(mpsc::error::TryRecvError::Empty) => Err(()),
        Err(mpsc::error::TryRecvError::Disconnected) => Ok(None),
    }
}

fn run(mut writer: Writer, mut queue: mpsc::Receiver<Message>, events: &mpsc::Sender<LogEvent>) {
    let mut rewriting = Rewriting::new();
    rewriting.look(&mut writer);
    loop {
        let mut group = next_group(&mut queue, !writer.is_rewriting());
        let last = group.last;
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let stored = if group.sets.is_empty() { Vec::new() } else { store(&mut writer, group.sets)? };
            for event in stored {
                // Nobody may be listening any more while the rest is being stored.
                let _ = events.blocking_send(event);
            }
            if last { Ok(()) } else { rewriting.go_on(&mut writer, group.bytes, &mut group.rewrites) }
        }));
        let outcome = outcome.unwrap_or_else(|panic| Err(LogError::write(writer.dir(), panic_text(&*panic))));
        if let Err(error) = outcome {
            last_run::note_failure(writer.dir(), &error.to_string());
            queue.close();
            let _ = events.blocking_send(LogEvent::Failed { error });
            break;
        }
        if last {
            break;
        }
    }
    // Sled may panic on the way out of a store that failed; it has nothing to say that was not said.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(writer)));
}

/// When the store is rewritten, and who waits for that.
struct Rewriting {
    next_look: Instant,
    waiting: Vec<oneshot::Sender<Result<RewriteReport, String>>>,
}

impl Rewriting {
    fn new() -> Self {
        Self { next_look: Instant::now(), waiting: Vec::new() }
    }

    /// Begins a rewrite where it brings much.
    fn look(&mut self, writer: &mut Writer) {
        let now = Instant::now();
        if now < self.next_look {
            return;
        }
        self.next_look = now + BLOAT_CHECK;
        if writer.is_bloated() {
            self.start(writer);
        }
    }

    fn start(&mut self, writer: &mut Writer) {
        match writer.start_rewrite() {
            Ok(()) => tracing::info!("rewriting the log, to give space back"),
            Err(why) => self.end(Err(why)),
        }
    }

    /// Does what there is to be done between two groups.
    fn go_on(
        &mut self,
        writer: &mut Writer,
        written_bytes: usize,
        asked: &mut Vec<oneshot::Sender<Result<RewriteReport, String>>>,
    ) -> Result<(), LogError> {
        if !asked.is_empty() {
            self.waiting.append(asked);
            self.start(writer);
        }
        if !writer.is_rewriting() {
            self.look(writer);
            return Ok(());
        }
        match writer.step_rewrite(STEP_BYTES.max(2 * written_bytes))? {
            RewriteStep::Copied => {}
            // Who publishes need not wait with it.
            RewriteStep::Waiting if written_bytes == 0 => std::thread::sleep(REWRITE_REST),
            RewriteStep::Waiting => {}
            RewriteStep::Done(report) => self.end(Ok(report)),
            RewriteStep::GivenUp(why) => self.end(Err(why)),
        }
        Ok(())
    }

    fn end(&mut self, outcome: Result<RewriteReport, String>) {
        match &outcome {
            Ok(RewriteReport { bytes_before, bytes_after }) => {
                tracing::info!(bytes_before, bytes_after, "the log was rewritten");
            }
            Err(why) => {
                tracing::warn!("the log was not rewritten: {why}; it goes on as it was");
                self.next_look = Instant::now() + REWRITE_RETRY;
            }
        }
        for reply in self.waiting.drain(..) {
            // Whoever asked may have gone.
            let _ = reply.send(outcome.clone());
        }
    }
}

fn store(writer: &mut Writer, sets: Vec<Submission>) -> Result<Vec<LogEvent>, LogError> {
    let (count, bytes) = (sets.len(), sets.iter().map(|submission| submission.set.batch_bytes()).sum());
    let began = Instant::now();
    let mut stored = Vec::with_capacity(sets.len());
    let mut permits = Vec::with_capacity(sets.len());
    for Submission { token, set, _bytes } in sets {
        let Appended { first_arrival, last_arrival, chain, batch_bytes } = writer.append(set)?;
        stored.push(LogEvent::Stored { token, first_arrival, last_arrival, chain, batch_bytes });
        permits.push(_bytes);
    }
    let appended = Instant::now();
    writer.sync()?;
    writer.meters().synced(appended.elapsed());
    writer.meters().wrote(count, bytes, appended - began);
    Ok(stored)
}
