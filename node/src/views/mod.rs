//! Views of last values: for each key of a topic its last event, in the total order, so that every node that holds the
//! same events shows the same. Whoever wants state needs no code for it.
//!
//! A view is begun when it is first asked for: the topic's events are read from the start of the log, and from then on
//! those that are new, whenever somebody asks. Nothing is kept of the events but their places, and nothing on the disk. What
//! is decided is in [`roundelay_protocol::choreography::key_value`].

mod coverage;
mod fold;
mod tail;
mod topic_view;
mod types;

use std::sync::Arc;

use parking_lot::Mutex;
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::topic::{Pattern, Topic};
use tokio::sync::Semaphore;

use crate::log::{LogError, LogReader};
use crate::node::{CallError, Node};
use crate::stability::StabilityError;
pub use fold::{Fold, FoldInfo, Folded, Reading};
use topic_view::TopicView;
pub use types::{ViewEntry, ViewInfo, ViewPage, ViewValue};

/// Topics of which a view is kept. Beyond it the one goes that was not asked for the longest.
pub const MAX_VIEWS: usize = 16;
/// Keys of a view. Events of further ones are left out and counted.
pub const MAX_VIEW_KEYS: usize = 65_536;
/// Bytes of the keys of a view. Likewise.
pub const MAX_VIEW_KEY_BYTES: usize = 8 * 1024 * 1024;
/// Events of a view that one that arrives late can come before: of older ones the last of each key is kept.
pub const MAX_VIEW_EVENTS: usize = 65_536;
/// Keys of one page.
pub const MAX_VIEW_LISTED: usize = 1_000;
/// Bytes of the events of one page, beyond which it ends with the event that is at hand.
pub const MAX_VIEW_PAGE_BYTES: usize = 4 * 1024 * 1024;
/// Views that read the log at once. Others wait.
const MAX_READERS: usize = 2;

/// Which keys to show.
#[derive(Debug, Clone, Default)]
pub struct ViewQuery {
    /// Only those that begin so.
    pub prefix: String,
    /// Only those beyond this one.
    pub after: Option<String>,
    /// So many at most, up to [`MAX_VIEW_LISTED`].
    pub limit: usize,
}

/// Why a view cannot be shown. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The node does not answer.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// The views of a node.
pub struct Views {
    node: Node,
    shared: Arc<Shared>,
}

/// What is kept of them.
pub(crate) struct Shared {
    /// The one that was asked for last is the last.
    views: Mutex<Vec<(Topic, Arc<Mutex<TopicView>>)>>,
    readers: Arc<Semaphore>,
}

impl Default for Shared {
    fn default() -> Self {
        Self { views: Mutex::default(), readers: Arc::new(Semaphore::new(MAX_READERS)) }
    }
}

impl Views {
    pub(crate) fn new(node: Node, shared: Arc<Shared>) -> Self {
        Self { node, shared }
    }

    /// The keys of a topic that have values, in their order, with their last events.
    ///
    /// # Errors
    /// When the log cannot be read, or the node stops.
    pub async fn page(&self, topic: &Topic, query: ViewQuery) -> Result<ViewPage, ViewError> {
        let about = self.about(topic).await?;
        let stable = about.stable;
        let page = self.read(topic, stable, move |view, log| view.page(log, &query)).await?;
        Ok(ViewPage { info: about.apply(page.info), ..page })
    }

    /// Folds events of topics into states of one's own: sums, lists, whatever follows from them.
    ///
    /// ```no_run
    /// # async fn example(node: roundelay::node::Node) -> Result<(), Box<dyn std::error::Error>> {
    /// use roundelay::views::{Fold, Reading};
    /// use roundelay_protocol::topic::Pattern;
    ///
    /// let paid = node.views().fold(
    ///     vec![Pattern::new("orders.payment")?],
    ///     Fold {
    ///         pick: |_, event| {
    ///             let amount: u64 = serde_json::from_slice(event.data).ok()?;
    ///             Some((event.correlation?.to_owned(), amount))
    ///         },
    ///         step: |sum: &mut u64, _, amount| *sum += amount,
    ///         bounds: Default::default(),
    ///     },
    /// );
    /// let Reading { tentative, stable, .. } = paid.read("order-1").await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn fold<S, E>(&self, patterns: Vec<Pattern>, fold: Fold<S, E>) -> Folded<S, E>
    where
        S: Clone + Default + Send + 'static,
        E: Send + 'static,
    {
        Folded::new(self.node.clone(), self.shared.readers.clone(), patterns, fold)
    }

    /// The last event of a key. Its `event` is `None` when the key has no value.
    ///
    /// # Errors
    /// When the log cannot be read, or the node stops.
    pub async fn value(&self, topic: &Topic, key: String) -> Result<ViewValue, ViewError> {
        let about = self.about(topic).await?;
        let value = self.read(topic, about.stable, move |view, log| view.value(log, &key)).await?;
        Ok(ViewValue { info: about.apply(value.info), ..value })
    }

    async fn about(&self, topic: &Topic) -> Result<About, ViewError> {
        let rules = self.node.rules().await?;
        let keeps_last = rules.of(topic).is_some_and(|(_, rule)| rule.keyed && !rule.expires());
        // Before anything is read: what is stable by then is in the view afterwards.
        let (is_subscribed, stable) = stable_of(&self.node, vec![Pattern::of(topic)]).await?;
        Ok(About { keeps_last, is_subscribed, stable })
    }

    /// Has a view read what is new, and looks at it, where others do not have to wait for it.
    async fn read<T: Send + 'static>(
        &self,
        topic: &Topic,
        stable: Hlc,
        look: impl FnOnce(&mut TopicView, &LogReader) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, LogError> {
        let (view, log) = (self.shared.find(topic), self.node.log());
        let permit = self.shared.readers.clone().acquire_owned().await.map_err(|_| LogError::Closed)?;
        let read = move || {
            let mut view = view.lock();
            view.catch_up(&log, stable)?;
            let found = look(&mut view, &log);
            drop(permit);
            found
        };
        tokio::task::spawn_blocking(read).await.unwrap_or(Err(LogError::Closed))
    }
}

/// Whether a node subscribes to topics, and up to where everything of them is here.
async fn stable_of(node: &Node, patterns: Vec<Pattern>) -> Result<(bool, Hlc), ViewError> {
    match node.stability(patterns).await {
        Ok(stability) => Ok((true, stability.stable)),
        Err(StabilityError::NotSubscribed(_)) => Ok((false, Hlc(0))),
        Err(StabilityError::TooManyTopics(_) | StabilityError::TooManyNodes(_)) => Ok((true, Hlc(0))),
        Err(StabilityError::Call(error)) => Err(error.into()),
        Err(StabilityError::Log(error)) => Err(error.into()),
    }
}

/// What the node has settled about a topic.
struct About {
    /// Whether its rule lets nothing go but what later events of a key supersede.
    keeps_last: bool,
    is_subscribed: bool,
    /// Everything at or before this stamp is here.
    stable: Hlc,
}

impl About {
    fn apply(&self, info: ViewInfo) -> ViewInfo {
        let (is_partial, is_subscribed) = (info.is_partial && !self.keeps_last, self.is_subscribed);
        ViewInfo { is_partial, is_subscribed, ..info }
    }
}

impl Shared {
    fn find(&self, topic: &Topic) -> Arc<Mutex<TopicView>> {
        let mut views = self.views.lock();
        let view = match views.iter().position(|(found, _)| found == topic) {
            Some(place) => views.remove(place).1,
            None => Arc::new(Mutex::new(TopicView::new(topic.clone()))),
        };
        if views.len() >= MAX_VIEWS {
            views.remove(0);
        }
        views.push((topic.clone(), view.clone()));
        view
    }
}
