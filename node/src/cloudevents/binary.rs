//! HTTP headers to attributes: the binary mode of the HTTP protocol binding.

use std::borrow::Cow;

use bytes::Bytes;
use percent_encoding::percent_decode;

use super::read::Reader;
use super::{CloudEventError, Incoming, Reading};

/// What the names of headers begin with that are attributes.
pub const HEADER_PREFIX: &str = "ce-";

/// Reads one event: its attributes from headers, whose names are in lower case, its data as it is.
///
/// # Errors
/// When the headers break the rules of CloudEvents or of its HTTP binding.
pub fn read_binary<'h>(
    headers: impl Iterator<Item = (&'h str, &'h [u8])>,
    content_type: Option<&str>,
    data: Bytes,
    reading: Reading<'_>,
) -> Result<Incoming, CloudEventError> {
    let mut reader = Reader::default();
    let mut seen: Vec<&str> = Vec::new();
    for (header, value) in headers {
        let Some(name) = header.strip_prefix(HEADER_PREFIX) else { continue };
        if seen.contains(&name) {
            return Err(CloudEventError::Twice(name.to_owned()));
        }
        seen.push(name);
        reader.text(name, decode(name, value)?)?;
    }
    reader.content_type(content_type);
    reader.finish(reading, data)
}

/// Undoes what senders do to values that are no plain ASCII. A `%` that begins no code stands for itself, as there are
/// senders that encode nothing.
fn decode(name: &str, value: &[u8]) -> Result<String, CloudEventError> {
    let value = unquote(value);
    match percent_decode(&value).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => {
            let found = value.escape_ascii().to_string();
            Err(CloudEventError::bad_value(name, &found, "UTF-8, other characters than ASCII %-encoded"))
        }
    }
}

/// Takes off the quotes of quoted strings (RFC 7230, section 3.2.6). A quote without its counterpart stands for itself.
fn unquote(value: &[u8]) -> Cow<'_, [u8]> {
    if !value.contains(&b'"') {
        return value.into();
    }
    let (mut out, mut quoted, mut bytes) = (Vec::with_capacity(value.len()), false, value.iter());
    while let Some(&byte) = bytes.next() {
        match byte {
            b'"' => quoted = !quoted,
            b'\\' if quoted => out.extend(bytes.next()),
            _ => out.push(byte),
        }
    }
    if quoted { value.into() } else { out.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_as_the_binding_says() {
        for (value, text) in [
            ("plain", "plain"),
            ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
            ("Euro € 😀", "Euro € 😀"),
            ("%41%2c%25", "A,%"),
            ("100%", "100%"),
            ("5%zz", "5%zz"),
            ("\"a \\\"b\\\" \\\\ %20\"", "a \"b\" \\  "),
            ("a \"b c\" d", "a b c d"),
            ("6\" tall", "6\" tall"),
            ("", ""),
        ] {
            assert_eq!(decode("x", value.as_bytes()).as_deref(), Ok(text), "{value}");
        }
        assert!(decode("x", b"%C3%28").is_err());
        assert!(decode("x", b"\xff").is_err());
    }
}
