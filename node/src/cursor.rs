//! A place in one store that a reader can come back to.

use std::fmt;
use std::str::FromStr;

use roundelay_protocol::ids::{Arrival, StoreEpoch};

/// Digits of the epoch.
const EPOCH_DIGITS: usize = 16;

/// A place in one store: right after one event. Its text is `EPOCH-ARRIVAL-INDEX`, the epoch in 16 hexadecimal digits
/// and the other two as decimal numbers, such as `00c0ffee00c0ffee-1042-3`.
///
/// In a store of another epoch the place does not exist, as arrival numbers are those of one store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cursor {
    /// The store.
    pub epoch: StoreEpoch,
    /// The batch of the event.
    pub arrival: Arrival,
    /// The place of the event in its batch, from 0 on, dropped ones counted. [`Cursor::WHOLE`]: the last, whichever it is.
    pub index: u32,
}

impl Cursor {
    /// The index of a cursor that stands after a whole batch, whose events were not counted.
    pub const WHOLE: u32 = u32::MAX;

    /// After a whole batch, or before everything with arrival number 0.
    #[must_use]
    pub fn after(epoch: StoreEpoch, arrival: Arrival) -> Self {
        Self { epoch, arrival, index: Self::WHOLE }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}-{}", self.epoch.0, self.arrival.0, self.index)
    }
}

/// A text that is no cursor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no cursor: use one that this node gave out, such as 00c0ffee00c0ffee-1042-3")]
pub struct BadCursor(pub String);

impl FromStr for Cursor {
    type Err = BadCursor;

    /// Takes what [`fmt::Display`] writes and nothing else, so that equal places have equal texts.
    fn from_str(text: &str) -> Result<Self, BadCursor> {
        read(text).ok_or_else(|| BadCursor(text.chars().take(80).collect()))
    }
}

fn read(text: &str) -> Option<Cursor> {
    let mut parts = text.split('-');
    let (epoch, arrival, index) = (parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if parts.next().is_some() || epoch.len() != EPOCH_DIGITS || !epoch.bytes().all(is_hex) {
        return None;
    }
    Some(Cursor {
        epoch: StoreEpoch(u64::from_str_radix(epoch, 16).ok()?),
        arrival: Arrival(decimal(arrival)?),
        index: decimal(index)?,
    })
}

/// A number without a sign or leading zeros, which `parse` would take.
fn decimal<T: FromStr>(digits: &str) -> Option<T> {
    let sound = digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    sound.then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn cursors_read_back_as_they_are_written(epoch: u64, arrival: u64, index: u32) {
            let cursor = Cursor { epoch: StoreEpoch(epoch), arrival: Arrival(arrival), index };
            prop_assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }

        #[test]
        fn what_is_read_is_what_would_be_written(text in "[0-9a-f]{15,17}-0?[0-9]{0,21}-\\+?[0-9]{0,11}(-1)?") {
            if let Ok(cursor) = text.parse::<Cursor>() {
                prop_assert_eq!(cursor.to_string(), text);
            }
        }
    }

    #[test]
    fn a_cursor_has_one_text() {
        let cursor = Cursor { epoch: StoreEpoch(0x00c0_ffee_00c0_ffee), arrival: Arrival(1042), index: 3 };
        assert_eq!(cursor.to_string(), "00c0ffee00c0ffee-1042-3");
        for bad in [
            "",
            "-1042-3",
            "c0ffee00c0ffee-1042-3",
            "00C0FFEE00C0FFEE-1042-3",
            "00c0ffee00c0ffee-1042",
            "00c0ffee00c0ffee-1042-3-1",
            "00c0ffee00c0ffee-01042-3",
            "00c0ffee00c0ffee-+1042-3",
            "00c0ffee00c0ffee--3",
            "00c0ffee00c0ffee-1042-4294967296",
            "00c0ffee00c0ffee-18446744073709551616-0",
            "00c0ffee00c0ffeé-1-1",
        ] {
            assert_eq!(bad.parse::<Cursor>(), Err(BadCursor(bad.into())));
        }
    }
}
