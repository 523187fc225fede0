//! Which events a reader wants beside their topics, judged on the borrowed view: what is not wanted is never copied.

use roundelay_protocol::event::EventView;
use roundelay_protocol::hlc::Hlc;

/// Texts that one list may name.
pub const MAX_TEXTS: usize = 64;

/// A text, or the beginning of one.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Text {
    Whole(String),
    Beginning(String),
}

impl Text {
    fn read(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(beginning) => Self::Beginning(beginning.to_owned()),
            None => Self::Whole(text.to_owned()),
        }
    }

    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Whole(whole) => text == whole,
            Self::Beginning(beginning) => text.starts_with(beginning.as_str()),
        }
    }
}

/// Why a filter cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a filter names at most {MAX_TEXTS} types: use a * at the end of one, or fewer")]
pub struct TooManyTexts;

/// What an event must be like. The default takes every event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    kinds: Vec<Text>,
    source: Option<Text>,
    subject: Option<Text>,
    correlation: Option<String>,
    not_before: Hlc,
    before: Option<Hlc>,
}

impl Filter {
    /// Takes events of these types only, separated by commas; a `*` at the end of one stands for any rest.
    ///
    /// # Errors
    /// When there are more than [`MAX_TEXTS`].
    pub fn with_kinds(mut self, list: &str) -> Result<Self, TooManyTexts> {
        self.kinds = list.split(',').map(str::trim).filter(|text| !text.is_empty()).map(Text::read).collect();
        if self.kinds.len() > MAX_TEXTS { Err(TooManyTexts) } else { Ok(self) }
    }

    /// Takes events of this source only; a `*` at the end stands for any rest.
    #[must_use]
    pub fn with_source(mut self, source: &str) -> Self {
        self.source = Some(Text::read(source));
        self
    }

    /// Takes events with this subject only; a `*` at the end stands for any rest.
    #[must_use]
    pub fn with_subject(mut self, subject: &str) -> Self {
        self.subject = Some(Text::read(subject));
        self
    }

    /// Takes events of this correlation only.
    #[must_use]
    pub fn with_correlation(mut self, correlation: &str) -> Self {
        self.correlation = Some(correlation.to_owned());
        self
    }

    /// Takes events only whose stamps are at or after the first and before the second.
    #[must_use]
    pub fn within(mut self, not_before: Hlc, before: Option<Hlc>) -> Self {
        (self.not_before, self.before) = (not_before, before);
        self
    }

    /// False when no event with stamps from one to the other can match: its batch need not be read.
    #[must_use]
    pub fn overlaps(&self, first: Hlc, last: Hlc) -> bool {
        last >= self.not_before && self.before.is_none_or(|before| first < before)
    }

    /// Whether the event is wanted.
    #[must_use]
    pub fn matches(&self, event: &EventView<'_>) -> bool {
        let text = |wanted: &Option<Text>, found: Option<&str>| {
            wanted.as_ref().is_none_or(|wanted| found.is_some_and(|found| wanted.matches(found)))
        };
        self.overlaps(event.hlc, event.hlc)
            && (self.kinds.is_empty() || self.kinds.iter().any(|kind| kind.matches(event.kind)))
            && text(&self.source, Some(event.source))
            && text(&self.subject, event.subject)
            && self.correlation.as_deref().is_none_or(|wanted| event.correlation == Some(wanted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> EventView<'static> {
        EventView {
            hlc: Hlc(10),
            kind: "order.placed",
            id: "1",
            source: "/shop/1",
            subject: Some("o-7"),
            key: None,
            content_type: None,
            causes: Vec::new(),
            correlation: Some("c*"),
            extensions: Vec::new(),
            data: b"",
        }
    }

    #[test]
    fn everything_that_is_named_must_match() {
        let (any, event) = (Filter::default, event());
        assert!(any().matches(&event));
        for (list, expected) in [
            ("order.placed", true),
            ("other, order.placed", true),
            ("order.*", true),
            ("*", true),
            ("", true),
            ("order", false),
            ("placed", false),
            ("order.placed.*", false),
        ] {
            assert_eq!(any().with_kinds(list).unwrap().matches(&event), expected, "{list}");
        }
        assert!(any().with_source("/shop/*").with_subject("o-7").with_correlation("c*").matches(&event));
        assert!(!any().with_source("/shop").matches(&event));
        assert!(!any().with_correlation("c").matches(&event), "a correlation is no pattern");
        assert!(!any().with_subject("o-7").matches(&EventView { subject: None, ..event.clone() }));
        assert!(any().within(Hlc(10), Some(Hlc(11))).matches(&event));
        assert!(!any().within(Hlc(11), None).matches(&event) && !any().within(Hlc(0), Some(Hlc(10))).matches(&event));
        assert_eq!(any().with_kinds(&"a,".repeat(MAX_TEXTS + 1)), Err(TooManyTexts));
    }
}
