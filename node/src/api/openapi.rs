//! The description of the API in OpenAPI, made from the code of its routes.

use std::future::{Ready, ready};

use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::Value;
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder};
use utoipa::{PartialSchema, ToSchema};

use super::types::Problem;

/// Where it is served.
pub(super) const PATH: &str = "/v1/openapi.json";

/// Tags of routes.
pub(super) const EVENTS: &str = "events";
pub(super) const NODE: &str = "node";
pub(super) const PEERS: &str = "peers";
pub(super) const LOG: &str = "log";
pub(super) const WATCH: &str = "watch";
pub(super) const CONSUMERS: &str = "consumers";
pub(super) const CHOREOGRAPHIES: &str = "choreographies";

const TAGS: [(&str, &str); 7] = [
    (EVENTS, "Publishing and reading events"),
    (CONSUMERS, "Durable consumers: deliveries that are acknowledged"),
    (CHOREOGRAPHIES, "What services have agreed on, what became of it, and what caused what"),
    (NODE, "The node and what it subscribes to"),
    (PEERS, "Whom the node is linked to"),
    (LOG, "What the node holds, as a whole"),
    (WATCH, "For those who watch the node"),
];

/// The description without routes.
pub(super) fn about() -> OpenApi {
    let license = LicenseBuilder::new().name(env!("CARGO_PKG_LICENSE")).identifier(Some(env!("CARGO_PKG_LICENSE")));
    let info = InfoBuilder::new()
        .title("Roundelay")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("An event mesh without a broker: the API of a node"))
        .license(Some(license.build()));
    let tags = TAGS.map(|(name, words)| TagBuilder::new().name(name).description(Some(words)).build());
    // Every route may answer with a problem, so no route names it.
    let mut schemas = vec![(Problem::name().into_owned(), Problem::schema())];
    Problem::schemas(&mut schemas);
    let components = ComponentsBuilder::new().schemas_from_iter(schemas).build();
    OpenApiBuilder::new().info(info).tags(Some(tags)).components(Some(components)).build()
}

/// Answers with a description, which is written once.
pub(super) fn serve(description: OpenApi) -> impl Fn() -> Ready<Response> + Clone + Send + Sync + 'static {
    // It consists of texts and numbers, which are always JSON.
    let mut description = serde_json::to_value(description).unwrap_or_default();
    describe_responses(&mut description);
    let json = Bytes::from(description.to_string());
    move || ready(([(header::CONTENT_TYPE, "application/json")], json.clone()).into_response())
}

/// OpenAPI wants a word on every response.
fn describe_responses(description: &mut Value) {
    let paths = description["paths"].as_object_mut().into_iter().flatten();
    let operations = paths.flat_map(|(_, path)| path.as_object_mut().into_iter().flatten());
    for (_, operation) in operations {
        let responses = operation.get_mut("responses").and_then(Value::as_object_mut);
        for response in responses.into_iter().flatten().filter_map(|(_, response)| response.as_object_mut()) {
            if !response.contains_key("$ref") {
                response.entry("description").or_insert_with(|| "What was asked for".into());
            }
        }
    }
}

/// An event as CloudEvents 1.0 describes it in JSON. Further attributes are texts, whole numbers or truth values.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only described: events are read and written without it")]
pub(super) struct CloudEvent {
    /// Always `1.0`.
    specversion: String,
    /// Unique together with the source.
    id: String,
    /// Where it happened: a URI reference.
    source: String,
    /// What happened.
    #[schema(rename = "type")]
    kind: String,
    /// What it is about, within the source.
    subject: Option<String>,
    /// When it happened: RFC 3339.
    time: Option<String>,
    /// Media type of the data.
    datacontenttype: Option<String>,
    /// Events with one key belong together.
    partitionkey: Option<String>,
    /// What ties the events of one process together.
    correlationid: Option<String>,
    /// The events that caused it, separated by commas.
    causationid: Option<String>,
    /// Data that is JSON or text.
    data: Option<Value>,
    /// Other data, in base64.
    data_base64: Option<String>,
    /// Set by the node that is read from: the topic.
    rdltopic: Option<String>,
    /// Set by the node that is read from: the peer id of the author.
    rdlauthor: Option<String>,
    /// Set by the node that is read from: the sequence number in the author's log of the topic.
    rdlseq: Option<String>,
    /// Set by the node that is read from: the arrival number of its batch there.
    rdlarrival: Option<String>,
    /// Set by the node that is read from: its stamp.
    rdlhlc: Option<String>,
    /// Set when a consumer delivers it: by this it is acknowledged.
    rdlcursor: Option<String>,
    /// Set when a consumer delivers it: the how-manieth time.
    rdlattempt: Option<u32>,
}
