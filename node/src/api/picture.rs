//! Answers that are for programs, for people, or for those who draw.

use axum::Json;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// In which form something is told.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Format {
    /// For programs.
    #[default]
    Json,
    /// For people.
    Text,
    /// A diagram for Mermaid.
    Mermaid,
    /// A graph for Graphviz.
    Dot,
}

/// What can be told in each form. Only the one that is asked for is made.
pub(super) trait Picture {
    /// What programs get.
    type Json: Serialize;
    /// For programs.
    fn json(&self) -> Self::Json;
    /// For people.
    fn text(&self) -> String;
    /// For Mermaid.
    fn mermaid(&self) -> String;
    /// For Graphviz.
    fn dot(&self) -> String;
}

/// The answer in a form.
pub(super) fn respond(format: Format, picture: &impl Picture) -> Response {
    let (content_type, text) = match format {
        Format::Json => return Json(picture.json()).into_response(),
        Format::Text => ("text/plain; charset=utf-8", picture.text()),
        Format::Mermaid => ("text/vnd.mermaid; charset=utf-8", picture.mermaid()),
        Format::Dot => ("text/vnd.graphviz; charset=utf-8", picture.dot()),
    };
    ([(header::CONTENT_TYPE, content_type)], text).into_response()
}
