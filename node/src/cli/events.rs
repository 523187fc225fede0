//! Events as the API gives them, and as people read them.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::context::known_as;
use super::error::CliError;
use super::output::{Output, Tone};
use super::table::{safe, time};

/// What is shown of a CloudEvent in JSON.
#[derive(Debug, Deserialize)]
pub(crate) struct EventLine<'a> {
    #[serde(default, rename = "rdltopic")]
    pub(crate) topic: String,
    #[serde(default, rename = "rdlauthor")]
    pub(crate) author: String,
    #[serde(default, rename = "type")]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) time: Option<jiff::Timestamp>,
    #[serde(default)]
    pub(crate) datacontenttype: Option<String>,
    #[serde(default, borrow)]
    pub(crate) data: Option<&'a RawValue>,
    #[serde(default)]
    pub(crate) data_base64: Option<String>,
}

/// The payload of an event.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Data {
    /// None at all.
    None,
    /// A text or JSON.
    Text(String),
    /// Anything else.
    Bytes(Vec<u8>),
}

impl<'a> EventLine<'a> {
    pub(crate) fn parse(line: &'a [u8]) -> Result<Self, CliError> {
        serde_json::from_slice(line).map_err(|error| {
            CliError::failure(
                format!("the node sent an event that makes no sense here: {error}"),
                Some("use the program version that the node runs"),
            )
        })
    }

    /// The payload as it was published. A JSON string is taken for JSON only when the event says that it is.
    pub(crate) fn payload(&self) -> Result<Data, CliError> {
        if let Some(text) = &self.data_base64 {
            let bytes = STANDARD.decode(text).map_err(|error| {
                CliError::failure(format!("the node sent an event whose data is not base64: {error}"), None)
            })?;
            return Ok(String::from_utf8(bytes).map_or_else(|not| Data::Bytes(not.into_bytes()), Data::Text));
        }
        let Some(raw) = self.data else { return Ok(Data::None) };
        let is_json = self.datacontenttype.as_deref().is_none_or(is_json);
        match serde_json::from_str::<String>(raw.get()) {
            Ok(text) if !is_json => Ok(Data::Text(text)),
            _ => Ok(Data::Text(raw.get().to_owned())),
        }
    }
}

/// Whether a media type is one of JSON.
fn is_json(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media_type.ends_with("/json") || media_type.ends_with("+json")
}

/// An event in one line: when, where, what, by whom, and the data. Data of several lines follows, indented.
pub(crate) fn readable(
    event: &EventLine<'_>,
    names: &BTreeMap<String, String>,
    output: &Output,
) -> Result<String, CliError> {
    let when = event.time.and_then(|time| u64::try_from(time.as_millisecond()).ok()).map_or_else(String::new, time);
    let head = format!(
        "{}  {}  {}  {}",
        output.paint(Tone::Faint, &when),
        output.paint(Tone::Name, &safe(&event.topic)),
        safe(&event.kind),
        output.paint(Tone::Faint, &safe(known_as(names, &event.author))),
    );
    Ok(match event.payload()? {
        Data::None => head,
        Data::Bytes(bytes) => format!("{head}  {}", output.paint(Tone::Faint, &format!("({} bytes)", bytes.len()))),
        Data::Text(text) if !text.trim_end().contains('\n') => format!("{head}  {}", safe(text.trim_end())),
        Data::Text(text) => {
            let lines = text.trim_end().lines().map(|line| format!("\n    {}", safe(line)));
            lines.fold(head, |all, line| all + &line)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(json: &str) -> Data {
        EventLine::parse(json.as_bytes()).unwrap().payload().unwrap()
    }

    #[test]
    fn data_comes_back_as_it_was_published() {
        assert_eq!(payload("{}"), Data::None);
        assert_eq!(payload(r#"{"datacontenttype":"text/plain","data":"a\nb"}"#), Data::Text("a\nb".into()));
        assert_eq!(payload(r#"{"datacontenttype":"application/json","data":"a"}"#), Data::Text("\"a\"".into()));
        assert_eq!(
            payload(r#"{"datacontenttype":"application/json","data":{"b":1.0,"a":2}}"#),
            Data::Text(r#"{"b":1.0,"a":2}"#.into())
        );
        assert_eq!(payload(r#"{"data_base64":"/w=="}"#), Data::Bytes(vec![255]));
        assert_eq!(payload(r#"{"data_base64":"aGk="}"#), Data::Text("hi".into()));
    }
}
