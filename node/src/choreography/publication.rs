//! A declaration as an event of the mesh: published, and read again.

use roundelay_protocol::choreography::check::check;
use roundelay_protocol::choreography::draft::{DraftError, MAX_FILE_BYTES};
use roundelay_protocol::choreography::{Declaration, Draft, Rank, Version};
use roundelay_protocol::event::{Event, EventView};
use roundelay_protocol::ids::Author;
use roundelay_protocol::topic::Topic;

use super::error::PublishError;
use super::types::{FindingInfo, PublishedChoreography};
use crate::node::{Node, Transaction};

/// The type of the events that carry declarations: key and name of the choreography are one, the subject is the version.
pub const CHOREOGRAPHY_KIND: &str = "roundelay.choreography";

/// A declaration that was published.
#[derive(Debug, Clone)]
pub(super) struct Publication {
    /// When, and from when on it holds.
    pub(super) at: Rank,
    /// Who published it.
    pub(super) author: Author,
    /// What it says, as it was published.
    pub(super) json: String,
    /// The same, understood.
    pub(super) declaration: Declaration,
}

impl Publication {
    /// Reads an event of the topic; `None` for one of another type.
    pub(super) fn read(at: Rank, author: Author, event: &EventView<'_>) -> Option<Result<Self, String>> {
        (event.kind == CHOREOGRAPHY_KIND).then(|| Self::understand(at, author, event))
    }

    fn understand(at: Rank, author: Author, event: &EventView<'_>) -> Result<Self, String> {
        let json = std::str::from_utf8(event.data).map_err(|error| error.to_string())?;
        let draft = Draft::from_json(json).map_err(|error| error.to_string())?;
        let declaration = draft.declare().map_err(|error| error.to_string())?;
        let version = declaration.version().to_string();
        if event.key != Some(declaration.name()) || event.subject != Some(version.as_str()) {
            return Err("its key or its subject are not the name and the version of what it declares".to_owned());
        }
        Ok(Self { at, author, json: json.to_owned(), declaration })
    }

    pub(super) fn version(&self) -> Version {
        self.declaration.version()
    }
}

/// Reads a declaration: JSON when it begins with a brace, and else TOML.
///
/// # Errors
/// When it is too large, or not of the format.
pub fn read_draft(text: &str) -> Result<Draft, DraftError> {
    if text.trim_start().starts_with('{') { Draft::from_json(text) } else { Draft::from_toml(text) }
}

/// Publishes a declaration to the mesh, so that it holds for instances that begin from now on, and returns when this
/// node knows it. Where it holds already, nothing is published. Flaws of its design are refused unless `force` says to
/// publish it in spite of them.
///
/// # Errors
/// When it is not sound, flawed, or beyond a limit, and when the node stopped.
pub async fn publish(node: &Node, draft: &Draft, force: bool) -> Result<PublishedChoreography, PublishError> {
    let declaration = draft.declare()?;
    let findings = check(&declaration);
    let (name, version) = (declaration.name().to_owned(), declaration.version());
    if !findings.is_empty() && !force {
        return Err(PublishError::Flawed { name, findings });
    }
    // Maps of texts to plain structures: writing them to memory cannot fail.
    let data = serde_json::to_vec(draft).unwrap_or_default();
    if data.len() > MAX_FILE_BYTES {
        return Err(PublishError::TooLarge(data.len()));
    }
    let observer = node.observer();
    observer.reached(node.log().last_arrival()).await?;
    let published = |is_new| PublishedChoreography {
        name: name.clone(),
        version: version.to_string(),
        is_new,
        findings: findings.iter().map(FindingInfo::from).collect(),
    };
    if observer.latest_version(&name) == Some(version) {
        return Ok(published(false));
    }
    if !observer.has_room_for(&name, data.len()) {
        return Err(PublishError::Full);
    }
    let event = Event {
        kind: CHOREOGRAPHY_KIND.to_owned(),
        id: uuid::Uuid::now_v7().to_string(),
        source: format!("/nodes/{}", node.id()),
        subject: Some(version.to_string()),
        key: Some(name.clone()),
        content_type: Some("application/json".to_owned()),
        data: data.into(),
        ..Event::default()
    };
    let parts = vec![(Topic::choreographies(), vec![event.encode()?])];
    let committed = node.transact(Transaction { parts, ..Transaction::default() }).await?;
    observer.reached(committed.arrival).await?;
    Ok(published(true))
}
