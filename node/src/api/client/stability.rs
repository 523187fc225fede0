//! What cannot change any more.

use reqwest::Method;

use super::{Client, Result};
use crate::stability::Stability;

impl Client {
    /// Up to when everything of the topics that match is here. Topics and patterns are separated by commas.
    ///
    /// # Errors
    /// See [`ClientError`](super::ClientError).
    pub async fn stability(&self, topics: &str) -> Result<Stability> {
        self.call(self.request(Method::GET, &["stability"]).query(&[("topic", topics)])).await
    }

    /// Leaves a node out of what is stable, or has it count again.
    ///
    /// # Errors
    /// See [`ClientError`](super::ClientError).
    pub async fn leave_out(&self, id: &str, is_left_out: bool) -> Result<()> {
        let method = if is_left_out { Method::PUT } else { Method::DELETE };
        self.done(self.request(method, &["stability", "left-out", id])).await
    }
}
