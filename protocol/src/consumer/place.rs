//! How events are named to a consumer.

use crate::ids::Arrival;

/// Where an event stands in one store: "after this event" as a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Place {
    /// The arrival number of its batch.
    pub arrival: Arrival,
    /// Its index in the batch.
    pub index: u32,
}

impl Place {
    /// After every event of a batch.
    #[must_use]
    pub fn end_of(arrival: Arrival) -> Self {
        Self { arrival, index: u32::MAX }
    }

    /// The greatest place before this one.
    #[must_use]
    pub fn before(self) -> Self {
        match (self.index, self.arrival.0) {
            (0, 0) => self,
            (0, arrival) => Self::end_of(Arrival(arrival - 1)),
            (index, _) => Self { index: index - 1, ..self },
        }
    }
}

/// The first 16 bytes of a hash over texts, each with its length, so that no two lists of texts are taken for one.
fn hash(domain: &str, texts: &[&str]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_derive_key(domain);
    for text in texts {
        hasher.update(&(text.len() as u64).to_be_bytes());
        hasher.update(text.as_bytes());
    }
    let mut out = [0; 16];
    out.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    out
}

/// What makes two events the same one, through whichever nodes they came: a hash over topic, source and id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity(pub [u8; 16]);

impl Identity {
    /// The identity of an event.
    #[must_use]
    pub fn new(topic: &str, source: &str, id: &str) -> Self {
        Self(hash("roundelay consumer identity v1", &[topic, source, id]))
    }
}

/// What events of one key have in common: a hash over the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub [u8; 16]);

impl Key {
    /// The hash of a key.
    #[must_use]
    pub fn new(key: &str) -> Self {
        Self(hash("roundelay consumer key v1", &[key]))
    }
}

/// The one of several members that has a key, by rendezvous hashing (Thaler and Ravishankar, "Using Name-Based Mappings
/// to Increase Hit Rates", 1998): the greatest hash over group, member and key. When a member goes, only its keys move.
#[must_use]
pub fn owner<'a>(group: &str, members: impl IntoIterator<Item = &'a [u8; 32]>, key: &[u8; 16]) -> Option<&'a [u8; 32]> {
    let weight = |member: &[u8; 32]| {
        let mut hasher = blake3::Hasher::new_derive_key("roundelay group rendezvous v1");
        hasher.update(&(group.len() as u64).to_be_bytes());
        hasher.update(group.as_bytes()).update(member).update(key);
        (*hasher.finalize().as_bytes(), *member)
    };
    members.into_iter().max_by_key(|member| weight(member))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_follows_the_greatest_one_before_it() {
        let place = |arrival, index| Place { arrival: Arrival(arrival), index };
        assert_eq!(place(3, 2).before(), place(3, 1));
        assert_eq!(place(3, 0).before(), place(2, u32::MAX));
        assert_eq!(place(0, 0).before(), place(0, 0));
    }

    #[test]
    fn texts_are_told_apart_by_where_one_ends() {
        assert_ne!(Identity::new("a", "bc", "d"), Identity::new("ab", "c", "d"));
        assert_ne!(Identity::new("a", "b", "c").0, Key::new("abc").0);
    }

    #[test]
    fn only_the_keys_of_a_member_that_goes_move() {
        let members: Vec<[u8; 32]> = (0..5).map(|n| [n; 32]).collect();
        let keys: Vec<[u8; 16]> = (0..2_000).map(|n| Key::new(&format!("key {n}")).0).collect();
        let mut counts = [0; 5];
        for key in &keys {
            let before = owner("g", &members, key).expect("there are members");
            counts[usize::from(before[0])] += 1;
            let after = owner("g", &members[1..], key).expect("there are members");
            assert!(before == after || before == &members[0]);
        }
        assert!(counts.iter().all(|count| (250..=550).contains(count)), "{counts:?}");
        assert_eq!(owner("g", [], &keys[0]), None);
    }
}
