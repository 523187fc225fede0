//! Views of last values by key.

use reqwest::Method;

use super::{Client, Result};
use crate::api::types::ViewPageQuery;
use crate::views::{ViewPage, ViewValue};

impl Client {
    /// The last event of each key of a topic.
    ///
    /// # Errors
    /// See [`ClientError`](super::ClientError).
    pub async fn view(&self, topic: &str, query: &ViewPageQuery) -> Result<ViewPage> {
        self.call(self.request(Method::GET, &["views", topic]).query(query)).await
    }

    /// The last event of one key.
    ///
    /// # Errors
    /// See [`ClientError`](super::ClientError); a problem with
    /// [`Code::NotFound`](crate::api::types::Code::NotFound) says why there is none.
    pub async fn view_value(&self, topic: &str, key: &str) -> Result<ViewValue> {
        self.call(self.request(Method::GET, &["views", topic, key])).await
    }
}
