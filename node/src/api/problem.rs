//! What the API answers when it cannot do what it was asked.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::rejection::{BytesRejection, JsonRejection, PathRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use roundelay_protocol::event::EventError;
use roundelay_protocol::replica::Refusal;
use utoipa::openapi::{Content, Ref, RefOr, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

use super::types::{Code, MAX_BODY_BYTES, PROBLEM_CONTENT_TYPE, Problem};
use crate::choreography::FindingInfo;
use crate::cloudevents::CloudEventError;
use crate::log::LogError;
use crate::node::CallError;

/// A problem on its way out.
#[derive(Debug)]
pub(super) struct ApiError(pub(super) Box<Problem>);

impl ApiError {
    pub(super) fn new(code: Code, detail: impl ToString) -> Self {
        let (status, title) = describe(code);
        Self(Box::new(Problem {
            kind: format!("urn:roundelay:problem:{}", name_of(code)),
            title: title.to_owned(),
            status: status.as_u16(),
            code,
            detail: detail.to_string(),
            hint: None,
            published: None,
            findings: Vec::new(),
        }))
    }

    pub(super) fn body_too_large() -> Self {
        let detail = format!("a request body has at most {MAX_BODY_BYTES} bytes; nothing was stored");
        Self::new(Code::BodyTooLarge, detail).with_hint("publish fewer events at once")
    }

    pub(super) fn with_hint(mut self, hint: &str) -> Self {
        self.0.hint = Some(hint.to_owned());
        self
    }

    /// Says everything that is wrong with a declaration.
    pub(super) fn with_findings(mut self, findings: Vec<FindingInfo>) -> Self {
        self.0.findings = findings;
        self
    }

    /// Says where in the request the problem is.
    pub(super) fn at(mut self, place: impl std::fmt::Display) -> Self {
        self.0.detail = format!("{place}: {}", self.0.detail);
        self
    }
}

/// A code as it is written in JSON.
pub(super) fn name_of(code: Code) -> String {
    let name = serde_json::to_value(code).ok().and_then(|name| name.as_str().map(str::to_owned));
    name.unwrap_or_default()
}

fn describe(code: Code) -> (StatusCode, &'static str) {
    match code {
        Code::BadRequest => (StatusCode::BAD_REQUEST, "The request is malformed"),
        Code::BadTopic => (StatusCode::BAD_REQUEST, "This is no topic"),
        Code::BadPattern => (StatusCode::BAD_REQUEST, "This is no pattern"),
        Code::BadEvent => (StatusCode::BAD_REQUEST, "This is no event"),
        Code::BadAddress => (StatusCode::BAD_REQUEST, "This is no address"),
        Code::BadPeer => (StatusCode::BAD_REQUEST, "This is no peer id"),
        Code::TooManyPatterns => (StatusCode::BAD_REQUEST, "Too many patterns"),
        Code::NotAcceptable => (StatusCode::NOT_ACCEPTABLE, "No form that is accepted"),
        Code::TooManyConnections => (StatusCode::SERVICE_UNAVAILABLE, "Too many connections"),
        Code::Unauthorized => (StatusCode::UNAUTHORIZED, "The token is missing or wrong"),
        Code::HostRefused => (StatusCode::FORBIDDEN, "Not the name of this node"),
        Code::CrossSite => (StatusCode::FORBIDDEN, "Caused by a page of another site"),
        Code::TooManyStreams => (StatusCode::SERVICE_UNAVAILABLE, "Too many streams"),
        Code::SystemTopic => (StatusCode::FORBIDDEN, "The topic belongs to the system"),
        Code::NotWriter => (StatusCode::FORBIDDEN, "This node may not publish to the topic"),
        Code::BadRule => (StatusCode::BAD_REQUEST, "The rule cannot be set"),
        Code::BadChoreography => (StatusCode::BAD_REQUEST, "The declaration of a choreography has flaws"),
        Code::TooManyChoreographies => (StatusCode::CONFLICT, "Too many declarations of choreographies"),
        Code::NotFound => (StatusCode::NOT_FOUND, "There is no such thing"),
        Code::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "The method is not known here"),
        Code::FileExists => (StatusCode::CONFLICT, "The file exists"),
        Code::IdTaken => (StatusCode::CONFLICT, "The id is taken by another event"),
        Code::Busy => (StatusCode::CONFLICT, "This is being done already"),
        Code::TooManyConsumers => (StatusCode::CONFLICT, "Too many consumers"),
        Code::ConsumerExists => (StatusCode::CONFLICT, "The consumer cannot be changed so"),
        Code::OtherStore => (StatusCode::CONFLICT, "The cursor is of another store"),
        Code::NotDelivered => (StatusCode::CONFLICT, "The event was not delivered"),
        Code::AlreadyDone => (StatusCode::CONFLICT, "The event is done already"),
        Code::EventTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "An event is too large"),
        Code::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "The request is too large"),
        Code::UnsupportedMediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "The media type is not taken here"),
        Code::StoreFull => (StatusCode::INSUFFICIENT_STORAGE, "The store is full"),
        Code::DiskFull => (StatusCode::INSUFFICIENT_STORAGE, "The disk is full"),
        Code::NotCompacted => (StatusCode::INSUFFICIENT_STORAGE, "The log was not compacted"),
        Code::AcksTimeout => (StatusCode::GATEWAY_TIMEOUT, "Stored, but acknowledged by too few peers"),
        Code::Stopped => (StatusCode::SERVICE_UNAVAILABLE, "The node is stopping"),
        Code::Clock => (StatusCode::INTERNAL_SERVER_ERROR, "The clock is wrong"),
        Code::Log => (StatusCode::INTERNAL_SERVER_ERROR, "The log cannot be used"),
        Code::Internal | Code::Unknown => (StatusCode::INTERNAL_SERVER_ERROR, "A mistake in the program"),
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(&*self.0)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_CONTENT_TYPE));
        // For those who count.
        response.extensions_mut().insert(self.0.code);
        response
    }
}

/// What any route may answer instead of what it is for.
impl IntoResponses for ApiError {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        let problem = Content::builder().schema(Some(Ref::from_schema_name(Problem::name()))).build();
        let response = ResponseBuilder::new()
            .description("Nothing was done, unless the problem says so: see its code, its detail and its hint")
            .content(PROBLEM_CONTENT_TYPE, problem);
        BTreeMap::from([("default".to_owned(), response.build().into())])
    }
}

impl From<CallError> for ApiError {
    fn from(error: CallError) -> Self {
        let code = match &error {
            CallError::Refused(Refusal::StoreFull) => Code::StoreFull,
            CallError::Refused(Refusal::DiskFull) => Code::DiskFull,
            CallError::Refused(Refusal::Clock) => Code::Clock,
            CallError::Refused(Refusal::NotWriter(_)) => Code::NotWriter,
            CallError::Rule(_) => Code::BadRule,
            CallError::SystemTopic(_) => Code::SystemTopic,
            CallError::Stopped(_) => Code::Stopped,
            CallError::NoEvents => Code::BadRequest,
            CallError::TooManyPatterns(_) => Code::TooManyPatterns,
            CallError::IdTaken { .. } => Code::IdTaken,
        };
        let error = Self::new(code, error);
        match code {
            Code::IdTaken => {
                error.with_hint("an event that differs needs another id; one that is sent again must not change")
            }
            _ => error,
        }
    }
}

impl From<EventError> for ApiError {
    fn from(error: EventError) -> Self {
        let too_large = matches!(error, EventError::TooLarge { .. });
        Self::new(if too_large { Code::EventTooLarge } else { Code::BadEvent }, error)
    }
}

impl From<CloudEventError> for ApiError {
    fn from(error: CloudEventError) -> Self {
        Self::new(Code::BadEvent, error)
    }
}

impl From<LogError> for ApiError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Closed => Self::new(Code::Stopped, "the node is stopping"),
            LogError::BackupRunning => Self::new(Code::Busy, error),
            LogError::NotRewritten { .. } => Self::new(Code::NotCompacted, error),
            _ => Self::new(Code::Log, error),
        }
    }
}

impl From<BytesRejection> for ApiError {
    fn from(rejection: BytesRejection) -> Self {
        match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Self::body_too_large(),
            _ => Self::new(Code::BadRequest, rejection.body_text()),
        }
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(Code::BadRequest, rejection.body_text())
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        match rejection.status() {
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Self::new(Code::UnsupportedMediaType, rejection.body_text()),
            _ => Self::new(Code::BadRequest, rejection.body_text()),
        }
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        Self::new(Code::BadRequest, rejection.body_text())
    }
}

#[cfg(test)]
mod tests {
    use utoipa::PartialSchema;

    use super::*;

    #[test]
    fn the_table_of_problems_in_the_documents_has_every_code_with_its_status() {
        let schema = serde_json::to_value(Code::schema()).unwrap();
        let names = schema["enum"].as_array().expect("a list of names").iter().filter_map(|name| name.as_str());
        let codes: BTreeMap<String, u16> = names
            .filter(|name| *name != "unknown")
            .map(|name| (name.to_owned(), describe(serde_json::from_value(name.into()).unwrap()).0.as_u16()))
            .collect();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/http-api.md");
        let text = std::fs::read_to_string(path).unwrap();
        let rows = text.lines().skip_while(|line| !line.starts_with("| code | status |")).skip(2);
        let mut documented = BTreeMap::new();
        for row in rows.take_while(|row| row.starts_with('|')) {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            for name in cells[1].split(", ") {
                let before = documented.insert(name.trim_matches('`').to_owned(), cells[2].parse::<u16>().unwrap());
                assert_eq!(before, None, "{name} is there twice");
            }
        }
        assert_eq!(documented, codes);
    }
}
