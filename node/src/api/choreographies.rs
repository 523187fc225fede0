//! Declarations of choreographies, and their instances.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use roundelay_protocol::choreography::conformance::Instance;
use roundelay_protocol::choreography::span::parse_span_ms;
use roundelay_protocol::choreography::{Declaration, Draft, show};
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::topic::Pattern;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::openapi;
use super::picture::{self, Format, Picture};
use super::problem::ApiError;
use super::server::Api;
use super::types::Code;
use crate::choreography::{
    self, Choreographies, ChoreographyDetail, ChoreographyStatus, FindingInfo, InstanceDetail, Instances, LookupError,
    MAX_LISTED, ObserverError, PublishError, PublishedChoreography,
};
use crate::clock::wall_ms;
use crate::node::Node;

/// How long an answer waits for what was stored before it was asked for.
const PATIENCE: Duration = Duration::from_secs(2);
/// Instances of a page unless it is said how many.
const DEFAULT_LISTED: usize = 100;

type Name = Result<Path<String>, PathRejection>;

impl From<PublishError> for ApiError {
    fn from(error: PublishError) -> Self {
        let detail = error.to_string();
        match error {
            PublishError::Draft(error) => {
                Self::new(Code::BadChoreography, detail).with_findings(choreography::findings_of(&error))
            }
            PublishError::Flawed { findings, .. } => Self::new(Code::BadChoreography, detail)
                .with_findings(findings.iter().map(FindingInfo::from).collect())
                .with_hint("mend the declaration, or publish it in spite of them with force=true"),
            PublishError::TooLarge(_) => Self::new(Code::BadChoreography, detail),
            PublishError::Full => Self::new(Code::TooManyChoreographies, detail),
            PublishError::Event(error) => error.into(),
            PublishError::Call(error) => error.into(),
            PublishError::Observer(ObserverError::Stopped) => Self::new(Code::Stopped, detail),
        }
    }
}

impl From<LookupError> for ApiError {
    fn from(error: LookupError) -> Self {
        let detail = error.to_string();
        match error {
            LookupError::NoChoreography { .. } => {
                Self::new(Code::NotFound, detail).with_hint("publish it with `roundelay choreography publish FILE`")
            }
            LookupError::NoVersion { .. } => Self::new(Code::NotFound, detail)
                .with_hint("`roundelay choreography show NAME` lists the versions that were published"),
            LookupError::SeveralVersions { .. } => {
                Self::new(Code::BadRequest, detail).with_hint("write more of the version that you mean")
            }
            LookupError::NoInstance { .. } => Self::new(Code::NotFound, detail).with_hint(
                "`roundelay instances` lists them; instances are known by the correlation id of their events",
            ),
            LookupError::Forgotten { .. } => {
                Self::new(Code::NotFound, detail).with_hint("its events are in the log: see `roundelay trace`")
            }
            LookupError::Log(error) => error.into(),
        }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PublishParameters {
    /// Publish in spite of flaws of the design. A form that is not sound is refused all the same.
    #[serde(default)]
    force: bool,
}

/// Publishes a declaration to the mesh. It holds for instances that begin from then on; other versions go on for theirs.
#[utoipa::path(
    post,
    path = "/choreographies",
    tag = openapi::CHOREOGRAPHIES,
    params(PublishParameters),
    request_body(
        description = "A declaration in TOML, or in JSON when it begins with a brace",
        content((String = "application/toml"), (serde_json::Value = "application/json"))
    ),
    responses(
        (status = 201, description = "Durable on this node, and on its way to all others", body = PublishedChoreography),
        (status = 200, description = "It holds already: nothing was published", body = PublishedChoreography),
        ApiError
    )
)]
pub(super) async fn publish_choreography(
    State(api): State<Api>,
    parameters: Result<Query<PublishParameters>, QueryRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<PublishedChoreography>), ApiError> {
    let Query(PublishParameters { force }) = parameters?;
    let body = body?;
    let no_text = |error| ApiError::new(Code::BadChoreography, format!("the declaration is no text in UTF-8: {error}"));
    let text = std::str::from_utf8(&body).map_err(no_text)?;
    let draft = choreography::read_draft(text).map_err(PublishError::from)?;
    let published = choreography::publish(&api.node, &draft, force).await?;
    let status = if published.is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(published)))
}

/// All choreographies that are known, and how many instances each has.
#[utoipa::path(
    get,
    path = "/choreographies",
    tag = openapi::CHOREOGRAPHIES,
    responses((status = 200, body = Choreographies), ApiError)
)]
pub(super) async fn list_choreographies(State(api): State<Api>) -> Result<Json<Choreographies>, ApiError> {
    let observer = api.node.observer();
    observer.catch_up(PATIENCE).await;
    let mut all = observer.overview()?;
    let patterns = api.node.patterns().await?;
    all.choreographies.iter_mut().for_each(|status| note_subscriptions(status, &patterns));
    Ok(Json(all))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ShowParameters {
    /// The beginning of a version; the latest without it.
    #[serde(default)]
    version: String,
    /// In which form.
    #[serde(default)]
    #[param(inline)]
    format: Format,
}

/// One choreography: what was published, and one of its declarations.
#[utoipa::path(
    get,
    path = "/choreographies/{name}",
    tag = openapi::CHOREOGRAPHIES,
    params(("name" = String, Path, description = "The choreography"), ShowParameters),
    responses(
        (status = 200, content((ChoreographyDetail = "application/json"), (String = "text/plain"), (String = "text/vnd.mermaid"), (String = "text/vnd.graphviz"))),
        ApiError
    )
)]
pub(super) async fn show_choreography(
    State(api): State<Api>,
    name: Name,
    parameters: Result<Query<ShowParameters>, QueryRejection>,
) -> Result<Response, ApiError> {
    let (Path(name), Query(ShowParameters { version, format })) = (name?, parameters?);
    let observer = api.node.observer();
    observer.catch_up(PATIENCE).await;
    let mut detail = observer.detail(&name, &version)?;
    note_subscriptions(&mut detail.status, &api.node.patterns().await?);
    let unreadable = |error| ApiError::new(Code::Internal, error);
    let draft = Draft::from_json(detail.declaration.get()).map_err(unreadable)?;
    let declaration = draft.declare().map_err(unreadable)?;
    Ok(picture::respond(format, &Shown { detail, declaration }))
}

struct Shown {
    detail: ChoreographyDetail,
    declaration: Declaration,
}

impl Picture for Shown {
    type Json = ChoreographyDetail;

    fn json(&self) -> ChoreographyDetail {
        self.detail.clone()
    }

    fn text(&self) -> String {
        show::text(&self.declaration)
    }

    fn mermaid(&self) -> String {
        show::mermaid(&self.declaration)
    }

    fn dot(&self) -> String {
        show::dot(&self.declaration)
    }
}

/// What is said of instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum VerdictName {
    /// It ended as declared.
    Conforming,
    /// It goes on as declared.
    Pending,
    /// Some event was superseded, and nothing violated.
    Superseded,
    /// Some event cannot be.
    Violating,
}

impl VerdictName {
    fn as_str(self) -> &'static str {
        match self {
            Self::Conforming => "conforming",
            Self::Pending => "pending",
            Self::Superseded => "superseded",
            Self::Violating => "violating",
        }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct InstancesParameters {
    /// Only instances in this state.
    state: Option<String>,
    /// Only instances of which this is said.
    #[param(inline)]
    verdict: Option<VerdictName>,
    /// Only instances that entered their state at least so long ago, such as `30s`, `1h30m` or `7d`.
    older_than: Option<String>,
    /// Instances of a page, at most 1,000.
    #[param(default = 100)]
    limit: Option<usize>,
    /// The `next` of the page before.
    after: Option<String>,
}

/// Instances of a choreography, by correlation id.
#[utoipa::path(
    get,
    path = "/choreographies/{name}/instances",
    tag = openapi::CHOREOGRAPHIES,
    params(("name" = String, Path, description = "The choreography"), InstancesParameters),
    responses((status = 200, body = Instances), ApiError)
)]
pub(super) async fn list_instances(
    State(api): State<Api>,
    name: Name,
    parameters: Result<Query<InstancesParameters>, QueryRejection>,
) -> Result<Json<Instances>, ApiError> {
    let (Path(name), Query(asked)) = (name?, parameters?);
    let bad = |detail: String| ApiError::new(Code::BadRequest, detail);
    let limit = asked.limit.unwrap_or(DEFAULT_LISTED);
    if !(1..=MAX_LISTED).contains(&limit) {
        return Err(bad(format!("limit: a page has 1 to {MAX_LISTED} instances")));
    }
    let span = |text: &String| {
        parse_span_ms(text)
            .ok_or_else(|| bad(format!("older_than: '{text}' is no span of time: write 30s, 1h30m or 7d")))
    };
    let older_than_ms = asked.older_than.as_ref().map(span).transpose()?;
    let observer = api.node.observer();
    let (is_up_to_date, stable) = catch_up(&api.node, &name).await?;
    if let Some(state) = &asked.state {
        let versions = observer.versions(&name);
        let states = versions.iter().flat_map(|versions| versions.declarations()).flat_map(|it| it.states().keys());
        let states: std::collections::BTreeSet<&String> = states.collect();
        if versions.is_some() && !states.contains(state) {
            let known = states.iter().map(|known| known.as_str()).collect::<Vec<_>>().join(", ");
            return Err(bad(format!("'{name}' has no state '{state}'; its states are {known}")));
        }
    }
    let before_ms = older_than_ms.map(|span_ms| wall_ms().saturating_sub(span_ms));
    let wanted = |_: &str, instance: &Instance| {
        let since_ms = instance.last_step.as_ref().map(|step| step.rank.stamp.as_ms());
        asked.state.as_ref().is_none_or(|state| *state == instance.state)
            && asked.verdict.is_none_or(|verdict| verdict.as_str() == instance.verdict().as_str())
            && before_ms.is_none_or(|before_ms| since_ms.is_some_and(|since_ms| since_ms <= before_ms))
    };
    let mut page = observer.page(&name, asked.after.as_deref(), limit, stable, wanted)?;
    page.is_up_to_date = is_up_to_date;
    note_subscriptions(&mut page.status, &api.node.patterns().await?);
    Ok(Json(page))
}

/// One instance, with its events and how each was judged.
#[utoipa::path(
    get,
    path = "/choreographies/{name}/instances/{correlation}",
    tag = openapi::CHOREOGRAPHIES,
    params(
        ("name" = String, Path, description = "The choreography"),
        ("correlation" = String, Path, description = "The correlation id of its events")
    ),
    responses((status = 200, body = InstanceDetail), ApiError)
)]
pub(super) async fn show_instance(
    State(api): State<Api>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Json<InstanceDetail>, ApiError> {
    let Path((name, correlation)) = path?;
    let observer = api.node.observer();
    let (is_up_to_date, stable) = catch_up(&api.node, &name).await?;
    let detail = observer.instance_detail(&name, &correlation, stable)?;
    Ok(Json(InstanceDetail { is_up_to_date, ..detail }))
}

/// Waits until what is stored is judged, as long as there is patience. Says whether it is, and what is stable then.
async fn catch_up(node: &Node, name: &str) -> Result<(bool, Hlc), ApiError> {
    let observer = node.observer();
    let stable = match observer.scope(name) {
        Ok(scope) => match node.stability(scope).await {
            Ok(stability) => stability.stable,
            Err(error) if error.means_unknown() => Hlc(0),
            Err(error) => return Err(error.into()),
        },
        // Whoever asks is told so by what is asked for.
        Err(_) => Hlc(0),
    };
    let is_up_to_date = observer.catch_up(PATIENCE).await;
    Ok((is_up_to_date, if is_up_to_date { stable } else { Hlc(0) }))
}

/// Names the topics of a choreography that the node does not subscribe to.
fn note_subscriptions(status: &mut ChoreographyStatus, patterns: &[Pattern]) {
    let is_covered =
        |topic: &String| Pattern::new(topic).is_ok_and(|topic| patterns.iter().any(|pattern| pattern.includes(&topic)));
    status.not_subscribed = status.topics.iter().filter(|topic| !is_covered(topic)).cloned().collect();
}
