//! The one encoding of a declaration, and the hash that names it.
//!
//! ```text
//! [format uint = 1, name, start,
//!   [[role, [sees...], [source...]]...],
//!   [[type, by, topic or null, effect bool, compensation or null]...],
//!   [[state, [[type, to, loop bool]...], null or [after ms, type, to, loop bool], null or "success" or "failure"]...]]
//! ```
//!
//! in CBOR; all lists sorted by their first text, each text once. The hash is BLAKE3 with a key derived from
//! `roundelay choreography v1`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use super::declaration::Declaration;
use super::draft::FORMAT;
use crate::codec::Writer;

/// Names one version of a choreography: the hash of its canonical encoding. As text 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub [u8; 32]);

/// A text that is no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no version of a choreography: write the 64 hexadecimal digits of its hash")]
pub struct VersionError(String);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Version({self})")
    }
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let error = || VersionError(text.chars().take(80).collect());
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(error());
        }
        let mut bytes = [0; 32];
        for (nth, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * nth..2 * nth + 2], 16).map_err(|_| error())?;
        }
        Ok(Self(bytes))
    }
}

/// The hash of a declaration.
pub(super) fn version_of(declaration: &Declaration) -> Version {
    let mut hasher = blake3::Hasher::new_derive_key("roundelay choreography v1");
    hasher.update(&encode(declaration));
    Version(*hasher.finalize().as_bytes())
}

/// The canonical encoding.
#[must_use]
pub fn encode(declaration: &Declaration) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.array(6).uint(FORMAT).text(declaration.name()).text(declaration.start());
    writer.array(declaration.roles().len());
    for (name, role) in declaration.roles() {
        // What names no nodes keeps the hash that it had before there were any.
        writer.array(if role.nodes.is_empty() { 3 } else { 4 }).text(name);
        write_texts(&mut writer, &role.sees);
        write_texts(&mut writer, &role.sources);
        if !role.nodes.is_empty() {
            writer.array(role.nodes.len());
            role.nodes.iter().for_each(|node| {
                writer.bytes(&node.0);
            });
        }
    }
    writer.array(declaration.events().len());
    for (kind, event) in declaration.events() {
        writer.array(5).text(kind).text(&event.by).maybe_text(event.topic.as_ref().map(|topic| topic.as_str()));
        writer.bool(event.effect).maybe_text(event.compensation.as_deref());
    }
    writer.array(declaration.states().len());
    for (name, state) in declaration.states() {
        writer.array(4).text(name).array(state.on.len());
        for (kind, transition) in &state.on {
            writer.array(3).text(kind).text(&transition.to).bool(transition.is_loop);
        }
        match &state.deadline {
            Some(late) => {
                writer.array(4).uint(late.after_ms).text(&late.event).text(&late.transition.to);
                writer.bool(late.transition.is_loop)
            }
            None => writer.null(),
        };
        writer.maybe_text(state.end.map(|end| end.as_str()));
    }
    writer.finish()
}

fn write_texts(writer: &mut Writer, texts: &BTreeSet<String>) {
    writer.array(texts.len());
    texts.iter().for_each(|text| {
        writer.text(text);
    });
}
