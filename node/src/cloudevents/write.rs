//! Events to JSON, written straight into a buffer: a replay must not build a tree for every event.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;
use roundelay_protocol::event::{EventView, Value};
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::Arrival;
use serde::de::IgnoredAny;

use super::{is_json_type, is_nested_too_deep};

const TIME: &str = "time";
const MILLISECONDS: DateTimePrinter = DateTimePrinter::new().precision(Some(3));

/// Where an event stands.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Its topic.
    pub topic: &'a str,
    /// The peer id of its author.
    pub author: &'a str,
    /// Its sequence number in its log.
    pub seq: u64,
    /// The arrival number of its batch at this node.
    pub arrival: Arrival,
}

/// Appends an event as a JSON object without line breaks.
pub fn write_event(out: &mut Vec<u8>, event: &EventView<'_>, place: &Place<'_>) {
    out.extend_from_slice(br#"{"specversion":"1.0","id":"#);
    write_text(out, event.id);
    for (name, text) in [("source", Some(event.source)), ("type", Some(event.kind)), ("subject", event.subject)] {
        write_attribute(out, name, text);
    }
    if !event.extensions.iter().any(|(name, _)| *name == TIME) {
        write_time(out, event.hlc);
    }
    write_attribute(out, "partitionkey", event.key);
    write_attribute(out, "correlationid", event.correlation);
    write_causes(out, &event.causes);
    for (name, value) in &event.extensions {
        write_extension(out, name, value);
    }
    out.extend_from_slice(br#","rdltopic":"#);
    write_text(out, place.topic);
    write_attribute(out, "rdlauthor", Some(place.author));
    let (seq, arrival, hlc) = (place.seq, place.arrival.0, event.hlc.0);
    // Writing to memory cannot fail.
    let _ = write!(out, r#","rdlseq":"{seq}","rdlarrival":"{arrival}","rdlhlc":"{hlc}""#);
    write_data(out, event.content_type, event.data);
    out.push(b'}');
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    // Writing to memory cannot fail.
    let _ = serde_json::to_writer(out, text);
}

fn write_attribute(out: &mut Vec<u8>, name: &str, text: Option<&str>) {
    // CloudEvents has no empty texts: they count as not set.
    if let Some(text) = text.filter(|text| !text.is_empty()) {
        write_name(out, name);
        write_text(out, text);
    }
}

/// Names of attributes are letters and digits.
fn write_name(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn write_time(out: &mut Vec<u8>, hlc: Hlc) {
    // A stamp beyond the year 9999 is invalid and cannot have been stored.
    if let Ok(time) = Timestamp::from_millisecond(hlc.as_ms() as i64) {
        write_name(out, TIME);
        out.push(b'"');
        let _ = MILLISECONDS.print_timestamp(&time, &mut *out);
        out.push(b'"');
    }
}

fn write_causes(out: &mut Vec<u8>, causes: &[&str]) {
    match causes {
        [] => {}
        [cause] if !cause.contains(',') => write_attribute(out, "causationid", Some(cause)),
        _ => {
            let escaped: Vec<String> =
                causes.iter().map(|cause| cause.replace('%', "%25").replace(',', "%2C")).collect();
            let mut list = escaped.join(",");
            if causes.len() == 1 {
                list.push(',');
            }
            write_attribute(out, "causationid", Some(&list));
        }
    }
}

fn write_extension(out: &mut Vec<u8>, name: &str, value: &Value) {
    write_name(out, name);
    match value {
        Value::Bool(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
        Value::Int(value) => {
            let _ = match i32::try_from(*value) {
                Ok(value) => write!(out, "{value}"),
                Err(_) => write!(out, "\"{value}\""),
            };
        }
        Value::Text(value) => write_text(out, value),
        Value::Bytes(value) => write_base64(out, value),
    }
}

fn write_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
    out.push(b'"');
}

fn write_data(out: &mut Vec<u8>, content_type: Option<&str>, data: &[u8]) {
    write_attribute(out, "datacontenttype", content_type);
    if data.is_empty() {
        return;
    }
    let json_type = is_json_type(content_type);
    match std::str::from_utf8(data) {
        Ok(text) if json_type && is_json(text) && !is_nested_too_deep(data) => {
            write_name(out, "data");
            let from = out.len();
            out.extend_from_slice(data);
            // Between tokens a line break is as good as a space; within a text there can be none.
            out[from..].iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
        }
        Ok(text) if content_type.is_none() && !is_json(text) => {
            write_attribute(out, "datacontenttype", Some("text/plain"));
            write_attribute(out, "data", Some(text));
        }
        Ok(text) if !json_type => write_attribute(out, "data", Some(text)),
        _ => {
            out.extend_from_slice(br#","data_base64":"#);
            write_base64(out, data);
        }
    }
}

fn is_json(text: &str) -> bool {
    // Sets no limit to the depth.
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}
