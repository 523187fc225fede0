//! For [`crate::fuzzing`]: what a request says, without the node that it is said to.

use axum::extract::Query;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use bytes::Bytes;
use futures::{StreamExt, stream};
use libp2p::PeerId;
use roundelay_protocol::event::EncodedEvent;
use roundelay_protocol::topic::{Pattern, Topic};

use super::{content, events, lines, log, peers};
use crate::api::types::From;
use crate::cloudevents::Defaults;

/// The events of a request to publish, with their ids, and whether what they lack may be filled in.
pub(crate) fn published(
    source: &str,
    headers: &[(&str, &[u8])],
    body: Bytes,
    fill: bool,
) -> Option<(Vec<String>, Vec<EncodedEvent>)> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_bytes(value).ok()?);
    }
    content::read(&map, &body, Defaults { source, kind: content::DEFAULT_KIND }, fill).ok()
}

/// An event of an import, and its topic.
pub(crate) fn imported(line: &[u8]) -> Option<(Topic, EncodedEvent)> {
    log::parse_line(line).ok()
}

/// The lines of a body that comes in chunks. The last is missing where it is too long.
pub(crate) fn lines(chunks: Vec<Bytes>) -> Vec<Bytes> {
    let lines = lines::Lines::new(stream::iter(chunks.into_iter().map(Ok::<_, std::convert::Infallible>)));
    futures::executor::block_on(lines.filter_map(|line| async { line.ok() }).collect())
}

/// What a query asks of the stream of events.
pub(crate) fn streamed(query: &str) -> Option<(Vec<Pattern>, From)> {
    let uri: Uri = format!("/v1/events?{query}").parse().ok()?;
    Query::<events::Parameters>::try_from_uri(&uri).ok()?.0.read(None).ok().map(|asked| (asked.patterns, asked.from))
}

/// A peer id in a path.
pub(crate) fn peer(text: &str) -> Option<PeerId> {
    peers::parse_peer(text).ok()
}
