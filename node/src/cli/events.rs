//! Events as the API gives them, and as people read them.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::context::short_id;
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
            let bytes = decode_base64(text)
                .ok_or_else(|| CliError::failure("the node sent an event whose data is not base64", None))?;
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
    let author = names.get(&event.author).map_or_else(|| short_id(&event.author), String::as_str);
    let head = format!(
        "{}  {}  {}  {}",
        output.paint(Tone::Faint, &when),
        output.paint(Tone::Name, &safe(&event.topic)),
        safe(&event.kind),
        output.paint(Tone::Faint, &safe(author)),
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

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Standard base64 with padding.
pub(crate) fn encode_base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let [a, b, c] = [0, 1, 2].map(|at| u32::from(chunk.get(at).copied().unwrap_or(0)));
        let group = a << 16 | b << 8 | c;
        for at in 0..4 {
            let digit = ALPHABET[(group >> (18 - 6 * at)) as usize & 63];
            text.push(if at <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

/// `None` when the text is not standard base64.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=').as_bytes();
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for chunk in digits.chunks(4) {
        let mut group = 0;
        for at in 0..4 {
            let value = match chunk.get(at) {
                Some(digit) => ALPHABET.iter().position(|known| known == digit)? as u32,
                None => 0,
            };
            group = group << 6 | value;
        }
        let [_, first, second, third] = group.to_be_bytes();
        match chunk.len() {
            4 => bytes.extend([first, second, third]),
            3 => bytes.extend([first, second]),
            2 => bytes.push(first),
            _ => return None,
        }
    }
    Some(bytes)
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

    #[test]
    fn base64_there_and_back() {
        assert_eq!(encode_base64(b""), "");
        assert_eq!(encode_base64(b"f"), "Zg==");
        assert_eq!(encode_base64(b"fo"), "Zm8=");
        assert_eq!(encode_base64(b"foobar"), "Zm9vYmFy");
        for length in 0..64_u8 {
            let bytes: Vec<u8> = (0..length).map(|n| n.wrapping_mul(37)).collect();
            assert_eq!(decode_base64(&encode_base64(&bytes)), Some(bytes));
        }
        assert_eq!(decode_base64("a"), None);
        assert_eq!(decode_base64("a b="), None);
    }
}
