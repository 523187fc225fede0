//! What follows a node's log for others, begun when it is first asked for.

use super::Node;
use crate::choreography::Observer;
use crate::consumers::Consumers;
use crate::views::Views;

impl Node {
    /// The durable consumers of this node. They begin with the first call, which is to be on a tokio runtime, and end with the
    /// node.
    pub fn consumers(&self) -> Consumers {
        self.0.consumers.get_or_init(|| Consumers::start(self.clone())).clone()
    }

    /// What follows this node's log and judges instances of choreographies. It begins with the first call, which is to
    /// be on a tokio runtime, and ends with the node.
    pub fn observer(&self) -> Observer {
        self.0.observer.get_or_init(|| Observer::start(self)).clone()
    }

    /// The views of last values by key, of any topic. Each begins when it is first asked for.
    #[must_use]
    pub fn views(&self) -> Views {
        Views::new(self.clone(), self.0.views.clone())
    }
}
