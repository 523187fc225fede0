//! Choreographies, and what caused what.

use reqwest::Method;

use super::{Client, Result, lost};
use crate::api::types::InstancesQuery;
use crate::choreography::{Choreographies, ChoreographyDetail, InstanceDetail, Instances, PublishedChoreography};

impl Client {
    /// Publishes a declaration in TOML or JSON to the mesh.
    ///
    /// # Errors
    /// See [`ClientError`](super::ClientError); a problem with [`Code::BadChoreography`](crate::api::types::Code::BadChoreography) says what is wrong with it.
    pub async fn publish_choreography(&self, text: String, force: bool) -> Result<PublishedChoreography> {
        self.call(self.request(Method::POST, &["choreographies"]).query(&[("force", force)]).body(text)).await
    }

    /// All choreographies that the node knows.
    ///
    /// # Errors
    /// See [`ClientError`](super::ClientError).
    pub async fn choreographies(&self) -> Result<Choreographies> {
        self.call(self.request(Method::GET, &["choreographies"])).await
    }

    /// One choreography with one of its declarations: the latest, or that of the version that begins so.
    ///
    /// # Errors
    /// See [`ClientError`](super::ClientError).
    pub async fn choreography(&self, name: &str, version: &str) -> Result<ChoreographyDetail> {
        self.call(self.request(Method::GET, &["choreographies", name]).query(&[("version", version)])).await
    }

    /// A page of a choreography's instances.
    ///
    /// # Errors
    /// See [`ClientError`](super::ClientError).
    pub async fn instances(&self, name: &str, query: &InstancesQuery) -> Result<Instances> {
        self.call(self.request(Method::GET, &["choreographies", name, "instances"]).query(query)).await
    }

    /// All that is known of an instance.
    ///
    /// # Errors
    /// See [`ClientError`](super::ClientError).
    pub async fn instance(&self, name: &str, correlation: &str) -> Result<InstanceDetail> {
        self.call(self.request(Method::GET, &["choreographies", name, "instances", correlation])).await
    }

    /// An answer that is passed on as it is.
    ///
    /// # Errors
    /// See [`ClientError`](super::ClientError).
    pub async fn text(&self, path: &[&str], query: &[(&str, String)]) -> Result<String> {
        let request = self.request(Method::GET, path).query(query);
        let text = async { self.send(request).await?.text().await.map_err(|error| lost(&error)) };
        self.within(self.timeout, text).await
    }
}
