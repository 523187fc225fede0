//! Declarations in files and in the mesh.

use std::io::Read as _;
use std::path::PathBuf;

use roundelay_protocol::choreography::check;
use roundelay_protocol::choreography::draft::{DraftError, MAX_FILE_BYTES};
use roundelay_protocol::choreography::{Declaration, Draft};
use serde::Serialize;

use crate::api::client::ClientError;
use crate::choreography::{FindingInfo, findings_of as form_findings, read_draft};

use super::super::Context;
use super::super::error::CliError;

/// Digits of a version that are shown: enough to tell those of one choreography apart.
const SHORT_VERSION: usize = 12;

/// The beginning of a version.
pub(super) fn short(version: &str) -> &str {
    version.get(..SHORT_VERSION).unwrap_or(version)
}

/// Where a declaration is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    File(String),
    Published { name: String, version: String },
}

impl Source {
    /// A file when there is one or when it looks like one; otherwise `NAME` or `NAME@VERSION`.
    pub(super) fn parse(text: &str) -> Self {
        let looks_like_file = text == "-" || text.contains(['/', '.']) || PathBuf::from(text).is_file();
        if looks_like_file {
            return Self::File(text.to_owned());
        }
        let (name, version) = text.split_once('@').unwrap_or((text, ""));
        Self::Published { name: name.to_owned(), version: version.to_owned() }
    }

    /// The declaration. Its form is sound; its design may be flawed.
    pub(super) async fn read(&self, context: &Context) -> Result<Declaration, CliError> {
        match self {
            Self::File(file) => Ok(read_file(file)?.1),
            Self::Published { name, version } => {
                let detail = context.client()?.choreography(name, version).await?;
                let draft = Draft::from_json(detail.declaration.get()).and_then(|draft| draft.declare());
                draft.map_err(|error| {
                    CliError::failure(error.to_string(), Some("use the program version that the node runs"))
                })
            }
        }
    }

    /// The declaration as a draft in JSON, or what the node says of it.
    pub(super) async fn json(&self, context: &Context) -> Result<serde_json::Value, CliError> {
        let value = match self {
            Self::File(file) => serde_json::to_value(read_file(file)?.0),
            Self::Published { name, version } => {
                serde_json::to_value(context.client()?.choreography(name, version).await?)
            }
        };
        value.map_err(|error| CliError::failure(format!("cannot write JSON: {error}"), None))
    }
}

/// What is wrong with a file.
#[derive(Debug, Serialize)]
pub(super) struct Checked {
    /// The choreography; missing when the form is not sound.
    pub(super) name: Option<String>,
    /// The version; missing when the form is not sound.
    pub(super) version: Option<String>,
    pub(super) findings: Vec<FindingInfo>,
}

/// Everything that is wrong with a file, be it the form or the design.
pub(super) fn check(file: &str) -> Result<Checked, CliError> {
    let draft = parse(file, &read_text(file)?)?;
    match draft.declare() {
        Ok(declaration) => {
            let findings = check::check(&declaration).iter().map(FindingInfo::from).collect();
            let (name, version) = (declaration.name().to_owned(), declaration.version().to_string());
            Ok(Checked { name: Some(name), version: Some(version), findings })
        }
        Err(error @ DraftError::Form(_)) => Ok(Checked { name: None, version: None, findings: form_findings(&error) }),
        Err(error) => Err(unreadable(file, &error)),
    }
}

fn read_file(file: &str) -> Result<(Draft, Declaration), CliError> {
    let draft = parse(file, &read_text(file)?)?;
    let declaration = draft.declare().map_err(|error| unreadable(file, &error))?;
    Ok((draft, declaration))
}

fn parse(file: &str, text: &str) -> Result<Draft, CliError> {
    read_draft(text).map_err(|error| unreadable(file, &error))
}

fn unreadable(file: &str, error: &DraftError) -> CliError {
    let hint = match error {
        DraftError::Form(_) => format!("`roundelay choreography check {file}` says all that is wrong"),
        _ => "docs/choreography-reference.md has the file's format".to_owned(),
    };
    CliError::failure(format!("{file}: {error}"), Some(&hint))
}

/// The text of a file, or of stdin.
pub(super) fn read_text(file: &str) -> Result<String, CliError> {
    // One byte more tells that there is more.
    let limit = MAX_FILE_BYTES as u64 + 1;
    let mut text = String::new();
    let read = match file {
        "-" => std::io::stdin().lock().take(limit).read_to_string(&mut text),
        _ => std::fs::File::open(file).and_then(|opened| opened.take(limit).read_to_string(&mut text)),
    };
    read.map_err(CliError::io(if file == "-" { "standard input" } else { file }))?;
    Ok(text)
}

/// What a node found wrong with a declaration.
pub(super) fn findings_of(error: &ClientError) -> Option<&[FindingInfo]> {
    match error {
        ClientError::Problem(problem) => Some(&problem.findings),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_from_names() {
        let published = |name: &str, version: &str| Source::Published { name: name.into(), version: version.into() };
        for file in ["saga.toml", "./saga", "-", "a/b"] {
            assert_eq!(Source::parse(file), Source::File(file.into()));
        }
        assert_eq!(Source::parse("order-saga"), published("order-saga", ""));
        assert_eq!(Source::parse("order-saga@3f2a"), published("order-saga", "3f2a"));
    }
}
