//! Ids that follow from what they are for: every replica of a role, and every retry, comes to the same by itself, so
//! that readers recognise repeats. Each is 32 hexadecimal digits, the first 16 bytes of BLAKE3 over texts with their
//! lengths, under a key of its own.

use super::canonical::Version;

/// What a role emits: which choreography and role, in answer to which event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer<'a> {
    /// The choreography's name; its versions share ids, so that a role that was replaced repeats what it emitted.
    pub choreography: &'a str,
    /// The role.
    pub role: &'a str,
    /// The source of the event that is answered.
    pub source: &'a str,
    /// The id of the event that is answered.
    pub id: &'a str,
}

impl Answer<'_> {
    /// The id of the event number `index`, from 0, of those of its type that the answer emits. The type is a part of it: replicas
    /// that decide otherwise emit two events, of which every reader gets both, whichever came first, and the fold says
    /// which one counts.
    #[must_use]
    pub fn event_id(&self, kind: &str, index: u32) -> String {
        self.hash("roundelay choreography event v1", &[kind, &index.to_string()])
    }

    /// The key of an effect outside the mesh, such as a payment: whoever takes keys against repeats is given this one,
    /// at every retry and by every replica. `effect` tells several effects of one answer apart.
    #[must_use]
    pub fn effect_key(&self, effect: &str) -> String {
        self.hash("roundelay choreography effect v1", &[effect])
    }

    fn hash(&self, domain: &str, last: &[&str]) -> String {
        hash(domain, &[&[self.choreography, self.role, self.source, self.id], last].concat())
    }
}

/// The id of a deadline's event: of a version, for the wait of an instance in a state that an event began.
#[must_use]
pub fn deadline_id(version: Version, correlation: &str, state: &str, source: &str, id: &str) -> String {
    hash("roundelay choreography deadline v1", &[&version.to_string(), correlation, state, source, id])
}

fn hash(domain: &str, texts: &[&str]) -> String {
    let mut hasher = blake3::Hasher::new_derive_key(domain);
    for text in texts {
        hasher.update(&(text.len() as u64).to_be_bytes());
        hasher.update(text.as_bytes());
    }
    let hex = hasher.finalize().to_hex();
    hex[..32].to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const ANSWER: Answer<'_> = Answer { choreography: "order-saga", role: "stock", source: "/shop", id: "1" };

    #[test]
    fn ids_stay_what_they_are() {
        // Other programs may have stored them.
        let deadline = deadline_id(Version([7; 32]), "o-1", "placed", "/shop", "1");
        let ids = [ANSWER.event_id("stock.reserved", 0), ANSWER.effect_key("reserve"), deadline];
        assert_eq!(
            ids,
            [
                "54b1aa9f5c81402549bf82a269ea0af7",
                "b6c5b6ea72696cfd1b30336be300d100",
                "5aae66a6c098fde0311f8f4ce619c468"
            ]
        );
    }

    #[test]
    fn everything_that_an_id_is_for_tells_it_apart() {
        let answers = [
            ANSWER,
            Answer { choreography: "order", ..ANSWER },
            Answer { role: "payment", ..ANSWER },
            Answer { source: "/sho", id: "p1", ..ANSWER },
            Answer { id: "2", ..ANSWER },
        ];
        let mut ids: BTreeSet<String> = answers
            .iter()
            .flat_map(|answer| [answer.event_id("a", 0), answer.event_id("a", 1), answer.event_id("b", 0)])
            .collect();
        ids.extend(answers.iter().map(|answer| answer.effect_key("0")));
        ids.extend([Version([1; 32]), Version([2; 32])].map(|version| deadline_id(version, "c", "s", "/a", "1")));
        ids.extend(["c", "d"].map(|correlation| deadline_id(Version([3; 32]), correlation, "s", "/a", "1")));
        ids.extend(["t", "u"].map(|state| deadline_id(Version([3; 32]), "c", state, "/a", "1")));
        assert_eq!(ids.len(), 26);
        assert!(ids.iter().all(|id| id.len() == 32));
    }
}
