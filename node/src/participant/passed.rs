//! Events that were passed over, and may become steps when an event arrives late.

use std::collections::BTreeMap;

use roundelay_protocol::choreography::participant::Received;

/// Events that are remembered, and their bytes. Of more, those of some instances are forgotten: the deadlines of their waits
/// end them.
const MAX_PASSED: usize = 65_536;
const MAX_PASSED_BYTES: usize = 16 * 1024 * 1024;
/// What an event takes besides its data, roughly.
const OVERHEAD_BYTES: usize = 512;

/// Events by instance.
#[derive(Default)]
pub(super) struct Passed {
    events: BTreeMap<String, Vec<Received>>,
    count: usize,
    bytes: usize,
}

fn weigh(event: &Received) -> usize {
    OVERHEAD_BYTES + event.data.len()
}

impl Passed {
    pub(super) fn add(&mut self, event: Received) {
        self.count += 1;
        self.bytes += weigh(&event);
        self.events.entry(event.correlation.clone()).or_default().push(event);
        while self.count > MAX_PASSED || self.bytes > MAX_PASSED_BYTES {
            let Some((_, events)) = self.events.pop_first() else { return };
            self.left(&events);
        }
    }

    pub(super) fn has(&self, correlation: &str) -> bool {
        self.events.contains_key(correlation)
    }

    pub(super) fn find(&self, correlation: &str, source: &str, id: &str) -> Option<Received> {
        self.events.get(correlation)?.iter().find(|event| event.source == source && event.id == id).cloned()
    }

    pub(super) fn forget(&mut self, correlation: &str) {
        let events = self.events.remove(correlation).unwrap_or_default();
        self.left(&events);
    }

    fn left(&mut self, events: &[Received]) {
        self.count -= events.len();
        self.bytes -= events.iter().map(weigh).sum::<usize>();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use roundelay_protocol::topic::Topic;

    use super::*;

    #[test]
    fn what_is_remembered_is_bounded_by_bytes_and_found_by_its_name() {
        let event = |correlation: usize, bytes: usize| Received {
            topic: Topic::new("t").unwrap(),
            source: "/s".to_owned(),
            id: format!("e{correlation}"),
            kind: "k".to_owned(),
            subject: None,
            content_type: None,
            correlation: format!("{correlation:03}"),
            at_ms: 0,
            data: Bytes::from(vec![0; bytes]),
        };
        let mut passed = Passed::default();
        (0..40).for_each(|nth| passed.add(event(nth, 1 << 20)));
        assert!(passed.bytes <= MAX_PASSED_BYTES && passed.count == 15);
        assert!(passed.find("039", "/s", "e39").is_some() && passed.find("039", "/s", "e38").is_none());
        assert!(!passed.has("000"));
        (0..40).for_each(|nth| passed.forget(&format!("{nth:03}")));
        assert_eq!((passed.count, passed.bytes), (0, 0));
    }
}
