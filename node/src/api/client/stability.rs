//! What cannot change any more.

use reqwest::Method;

use super::{Client, Result};
use crate::stability::Stability;

impl Client {
    /// Up to when everything of the topics that match is here, or of a choreography. Topics and patterns are separated by
    /// commas; without either it is said of all that the node subscribes to.
    ///
    /// # Errors
    /// See [`ClientError`](super::ClientError).
    pub async fn stability(&self, topics: Option<&str>, choreography: Option<&str>) -> Result<Stability> {
        let query = [("topic", topics), ("choreography", choreography)];
        let query: Vec<(&str, &str)> = query.into_iter().filter_map(|(name, text)| Some((name, text?))).collect();
        self.call(self.request(Method::GET, &["stability"]).query(&query)).await
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
