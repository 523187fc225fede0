//! Streams events out: a cursor over the log, and never more than one chunk of it in memory for a slow reader.

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::Arrival;
use roundelay_protocol::limits::MAX_PATTERNS;
use roundelay_protocol::topic::Pattern;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::in_time;
use super::openapi;
use super::outflow::{Form, Outflow};
use super::peers::parse_pattern;
use super::problem::ApiError;
use super::server::Api;
use super::types::{Code, EVENT_STREAM_CONTENT_TYPE, From, NDJSON_CONTENT_TYPE};
use crate::cursor::Cursor;
use crate::filter::Filter;
use crate::gaps::{Continuity, Gap, Reason};
use crate::subscription;

/// The id that a client of server-sent events saw last, which it sends when it comes again.
const LAST_EVENT_ID: &str = "last-event-id";

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Parameters {
    /// Topics and patterns, separated by commas.
    #[param(default = ">")]
    topic: Option<String>,
    /// Where to begin: `start`, `end`, `-N` for the last N events that match, a time in RFC 3339, `@MILLISECONDS`, a
    /// cursor (after that event) or `arrival:N` (after that batch). With `order=time` the default is `start`.
    #[param(default = "end")]
    from: Option<String>,
    /// Where to end: before a time, with the event of a cursor, with the batch `arrival:N`, or at the `end` there is now.
    to: Option<String>,
    /// Only events of these types, separated by commas; a `*` at the end of one stands for any rest.
    #[serde(rename = "type")]
    kind: Option<String>,
    /// Only events of this source; a `*` at the end stands for any rest.
    source: Option<String>,
    /// Only events with this subject; a `*` at the end stands for any rest.
    subject: Option<String>,
    /// Only events of this correlation.
    correlationid: Option<String>,
    /// End after so many events.
    limit: Option<u64>,
    /// Wait for more at the end, instead of ending there. Server-sent events do so unless told otherwise.
    follow: Option<bool>,
    /// `arrival`: as they came here, late ones late. `time`: by stamp, the same on every node; only to replay.
    #[serde(default)]
    #[param(inline)]
    order: Order,
}

/// In which order a stream gives events.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    /// As they arrived at this node: what comes late comes late, and is not missed.
    #[default]
    Arrival,
    /// By stamp, batch hash and place in the batch: the same on every node that holds the same.
    Time,
}

/// Events, in order of arrival unless told otherwise: one CloudEvent in JSON a line, or server-sent events.
///
/// In lines, an object whose only member is `gap` says what is missing there. Server-sent events are of the kinds
/// `event`, `gap` and `caught-up`; their ids are cursors, and `Last-Event-ID` goes on after one.
#[utoipa::path(
    get,
    path = "/events",
    tag = openapi::EVENTS,
    params(Parameters, ("last-event-id" = Option<String>, Header, description = "A cursor; wins over `from`")),
    responses(
        (status = 200, description = "Events", content(
            (openapi::CloudEvent = "application/x-ndjson"), (String = "text/event-stream")
        )),
        ApiError
    )
)]
pub(super) async fn stream(
    State(api): State<Api>,
    parameters: Result<Query<Parameters>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Query(parameters) = parameters?;
    let form = accepted(&headers)?;
    let asked = parameters.read(last_event_id(&headers)?)?;
    if asked.follow.is_some_and(|follow| follow) && asked.to.is_some() {
        return Err(ApiError::new(Code::BadRequest, "'to' says where to end and 'follow' not to end: leave one out"));
    }
    if asked.order == Order::Time {
        return in_time::respond(&api, &asked, form);
    }
    respond(&api, asked, form)
}

/// What a request asks for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) patterns: Vec<Pattern>,
    pub(super) from: From,
    pub(super) to: Option<From>,
    pub(super) filter: Filter,
    pub(super) limit: u64,
    pub(super) follow: Option<bool>,
    pub(super) order: Order,
}

impl Parameters {
    pub(super) fn read(&self, last_event_id: Option<Cursor>) -> Result<Asked, ApiError> {
        let bad = |error: &dyn std::fmt::Display| ApiError::new(Code::BadRequest, error);
        let place = |text: &str| text.parse::<From>().map_err(|error| bad(&error));
        let topics = self.topic.as_deref();
        let patterns: Vec<Pattern> =
            topics.map_or_else(|| Ok(vec![Pattern::all()]), |list| list.split(',').map(parse_pattern).collect())?;
        if patterns.len() > MAX_PATTERNS {
            return Err(ApiError::new(Code::TooManyPatterns, format!("at most {MAX_PATTERNS} patterns at once")));
        }
        let from = match last_event_id {
            Some(cursor) => From::Cursor(cursor),
            None if self.order == Order::Time => self.from.as_deref().map_or(Ok(From::Start), place)?,
            None => self.from.as_deref().map_or(Ok(From::End), place)?,
        };
        let to = self.to.as_deref().map(place).transpose()?;
        if matches!(to, Some(From::Start | From::Last(_))) {
            return Err(bad(&"a stream ends at a time, a cursor, arrival:N, or the end"));
        }
        let mut filter = Filter::default().with_kinds(self.kind.as_deref().unwrap_or_default());
        filter = filter.map(|filter| match &self.source {
            Some(source) => filter.with_source(source),
            None => filter,
        });
        let mut filter = filter.map_err(|error| bad(&error))?;
        if let Some(subject) = &self.subject {
            filter = filter.with_subject(subject);
        }
        if let Some(correlation) = &self.correlationid {
            filter = filter.with_correlation(correlation);
        }
        let stamp = |place| match place {
            From::TimeMs(ms) => Some(Hlc::from_ms(ms)),
            _ => None,
        };
        let filter = filter.within(stamp(from).unwrap_or_default(), to.and_then(stamp));
        let (limit, follow, order) = (self.limit.unwrap_or(u64::MAX), self.follow, self.order);
        Ok(Asked { patterns, from, to, filter, limit, follow, order })
    }
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<Cursor>, ApiError> {
    let Some(value) = headers.get(LAST_EVENT_ID).filter(|value| !value.is_empty()) else { return Ok(None) };
    let text = String::from_utf8_lossy(value.as_bytes());
    let cursor = text.parse().map_err(|error| {
        ApiError::new(Code::BadRequest, error).with_hint("begin without Last-Event-ID, and say where with 'from'")
    })?;
    Ok(Some(cursor))
}

/// The form that the request accepts; lines when it says nothing.
fn accepted(headers: &HeaderMap) -> Result<Form, ApiError> {
    let values: Vec<_> = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let types = values.iter().flat_map(|value| value.split(',')).map(|range| {
        let (name, parameters) = range.split_once(';').unwrap_or((range, ""));
        (name.trim().to_ascii_lowercase(), parameters.replace(' ', "").contains("q=0;") || parameters.ends_with("q=0"))
    });
    let types: Vec<_> = types.filter(|(name, refused)| !name.is_empty() && !refused).map(|(name, _)| name).collect();
    if types.iter().any(|name| name == EVENT_STREAM_CONTENT_TYPE) {
        return Ok(Form::ServerSent);
    }
    let lines = [NDJSON_CONTENT_TYPE, "application/*", "*/*"];
    if values.is_empty() || types.iter().any(|name| lines.contains(&name.as_str())) {
        return Ok(Form::Lines { with_gaps: true });
    }
    let detail = format!("a stream of events is {NDJSON_CONTENT_TYPE} or {EVENT_STREAM_CONTENT_TYPE}");
    Err(ApiError::new(Code::NotAcceptable, detail).with_hint("say one of them in Accept"))
}

/// Streams what was asked for, in order of arrival.
pub(super) fn respond(api: &Api, asked: Asked, form: Form) -> Result<Response, ApiError> {
    let permit = api.stream_permit()?;
    let log = api.node.log();
    let begin = Begin::at(api, asked.from)?;
    let bounded = asked.to.is_some() || !asked.follow.unwrap_or(form == Form::ServerSent);
    let (mut last, mut stop) = (bounded.then(|| log.last_arrival()), None);
    match asked.to {
        Some(From::Arrival(arrival)) => last = last.map(|last| last.min(Arrival(arrival))),
        Some(From::Cursor(cursor)) if cursor.epoch != api.node.epoch() => {
            return Err(ApiError::new(Code::BadRequest, "the cursor to end at is of another store than this node's"));
        }
        Some(From::Cursor(cursor)) => {
            last = last.map(|last| last.min(cursor.arrival));
            stop = Some((cursor.arrival, cursor.index));
        }
        _ => {}
    }
    let subscription = api.node.subscribe(asked.patterns, begin.from).counting(asked.filter.clone());
    let outflow = Outflow::new(subscription, Continuity::new(log, begin.since), api.node.epoch(), form)
        .with_gaps(begin.gaps)
        .with_filter(asked.filter)
        .until(last, stop)
        .limited(asked.limit)
        .closed_by(api.closing.clone());
    Ok(streaming(form, Body::from_stream(outflow.into_stream(permit))))
}

/// The head of an answer whose body is a stream of events.
pub(super) fn streaming(form: Form, body: Body) -> Response {
    let mut response = body.into_response();
    let headers = response.headers_mut();
    let content_type = match form {
        Form::ServerSent => EVENT_STREAM_CONTENT_TYPE,
        Form::Lines { .. } => NDJSON_CONTENT_TYPE,
    };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // A proxy that collects an answer before it passes it on makes a stream useless.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// Where a stream begins, and what is to be told of that.
struct Begin {
    from: subscription::From,
    /// What was removed beyond this is missed.
    since: Option<Arrival>,
    gaps: Vec<Gap>,
}

impl Begin {
    fn at(api: &Api, from: From) -> Result<Self, ApiError> {
        let last = api.node.log().last_arrival();
        let reached = match from {
            From::Cursor(Cursor { epoch, arrival, .. }) if epoch == api.node.epoch() => arrival,
            From::Arrival(arrival) => Arrival(arrival),
            _ => Arrival(0),
        };
        if reached > last {
            return Ok(Self::beyond_the_end(reached, last));
        }
        let (from, since) = match from {
            From::Start | From::TimeMs(_) => (subscription::From::Start, None),
            From::End => (subscription::From::End, Some(last)),
            From::Last(count) => (subscription::From::Last(count), None),
            From::Cursor(cursor) if cursor.epoch != api.node.epoch() => return Ok(Self::in_other_store(api, cursor)),
            From::Cursor(Cursor { arrival, index, .. }) => {
                // Of a batch that was removed it cannot be told whether more events followed in it.
                let is_begun = index != Cursor::WHOLE && api.node.log().batch(arrival)?.is_none();
                let since = Arrival(arrival.0.saturating_sub(u64::from(is_begun)));
                (subscription::From::AfterEvent(arrival, index), Some(since))
            }
            From::Arrival(_) => (subscription::From::After(reached), Some(reached)),
        };
        Ok(Self { from, since, gaps: Vec::new() })
    }

    fn in_other_store(api: &Api, cursor: Cursor) -> Self {
        let detail = format!(
            "the cursor is of store {:016x} and this is store {:016x}: everything that is here follows from its beginning, \
             some of it perhaps once more, and what only the other store had is missing",
            cursor.epoch.0,
            api.node.epoch().0
        );
        let gaps = vec![Gap::of_store(Reason::OtherStore, detail)];
        Self { from: subscription::From::Start, since: None, gaps }
    }

    fn beyond_the_end(arrival: Arrival, last: Arrival) -> Self {
        let detail = format!(
            "arrival number {} is not reached here, the last is {}: an older copy of the store took its place; what \
             arrives from now on follows, and what came in between there is missing until peers bring it",
            arrival.0, last.0
        );
        let gaps = vec![Gap::of_store(Reason::StoreWentBack, detail)];
        Self { from: subscription::From::End, since: Some(last), gaps }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(accept: &[&str]) -> Option<Form> {
        let mut headers = HeaderMap::new();
        for value in accept {
            headers.append(header::ACCEPT, HeaderValue::from_str(value).unwrap());
        }
        accepted(&headers).ok()
    }

    #[test]
    fn the_form_is_one_that_is_accepted() {
        let lines = Some(Form::Lines { with_gaps: true });
        for accept in [&[][..], &["*/*"], &["application/x-ndjson"], &["text/html, application/*;q=0.8"]] {
            assert_eq!(form(accept), lines, "{accept:?}");
        }
        for accept in [&["text/event-stream"][..], &["*/*", "Text/Event-Stream; q=0.5"]] {
            assert_eq!(form(accept), Some(Form::ServerSent), "{accept:?}");
        }
        assert_eq!(form(&["text/event-stream;q=0, */*"]), lines);
        assert_eq!(form(&["text/html"]), None);
    }

    #[test]
    fn an_end_is_a_place_that_can_be_reached() {
        let read = |to: &str| Parameters { to: Some(to.into()), ..Parameters::default() }.read(None).is_ok();
        assert!(read("end") && read("@5") && read("arrival:7") && read("00c0ffee00c0ffee-1042-3"));
        assert!(!read("start") && !read("-5") && !read("soon"));
    }
}
