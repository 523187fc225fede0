//! Events as CloudEvents 1.0: the one JSON form, an object an event, in and out; and in HTTP headers, in only.
//!
//! | here | there |
//! | --- | --- |
//! | key, correlation | `partitionkey`, `correlationid` |
//! | causes | `causationid`: one as it is; several, in order, each followed by a comma but for the last; a comma within one is `%2C` then, and `%` is `%25` |
//! | time | `time`: the publisher's if there is one, else that of the stamp |
//! | where the event stands | `rdltopic`, `rdlauthor`, `rdlseq`, `rdlarrival`, `rdlhlc`: texts, as CloudEvents' numbers end at 2^31 |
//!
//! Data that is JSON, and has a JSON content type or none, is the value of `data`. Text of another type is a text in
//! `data`, anything else is in `data_base64`, and so is JSON that is nested deeper than 100 values. Text without a content type that is no JSON comes out as `text/plain`.

mod binary;
mod json;
mod read;
mod rules;
mod write;

pub use binary::{HEADER_PREFIX, read_binary};
pub(crate) use json::{MAX_JSON_DEPTH, is_nested_too_deep};
pub use read::{CloudEventError, Incoming, Object, read_event};
pub use rules::{Defaults, Reading};
pub use write::{Place, write_event};

/// Attributes whose names begin so say where an event stands. A publisher cannot set them.
const PLACE_PREFIX: &str = "rdl";

/// Whether data of this type is JSON. CloudEvents takes data without a type for JSON.
pub(crate) fn is_json_type(content_type: Option<&str>) -> bool {
    let Some(content_type) = content_type else { return true };
    let media_type = content_type.split(';').next().unwrap_or_default().trim_end().as_bytes();
    let ends_with = |end: &[u8]| {
        media_type.len() >= end.len() && media_type[media_type.len() - end.len()..].eq_ignore_ascii_case(end)
    };
    ends_with(b"/json") || ends_with(b"+json")
}

#[cfg(test)]
mod tests;
