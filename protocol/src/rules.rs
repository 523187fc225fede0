//! Rules by topic, as this node keeps them: how long, how much, and by whom. They are a node's own: what two nodes share is
//! what both allow.

use std::collections::BTreeMap;

use crate::codec::{CodecError, Reader, Writer};
use crate::ids::Author;
use crate::limits::{MAX_RULE_WRITERS, MAX_RULES, MAX_TOPIC_BYTES, MAX_WRITERS};
use crate::topic::{Pattern, Topic};

/// What holds for the topics that match a pattern. Nothing set is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule {
    /// Events older than this, in milliseconds, go: by their stamp, and when they have been here for as long.
    pub max_age_ms: Option<u64>,
    /// Bytes of batches that each topic may take; beyond it the oldest go.
    pub max_bytes: Option<u64>,
    /// Events that each topic may have; beyond it the oldest go.
    pub max_events: Option<u64>,
    /// Of each key the last event stays, in the total order, and what it supersedes goes, batch by batch. Events without a
    /// key stay. The limits above hold all the same.
    pub keyed: bool,
    /// Who may publish, sorted, at most [`MAX_RULE_WRITERS`]; `None`: everybody.
    pub writers: Option<Vec<Author>>,
}

impl Rule {
    /// Whether it lets events go.
    #[must_use]
    pub fn expires(&self) -> bool {
        self.max_age_ms.is_some() || self.max_bytes.is_some() || self.max_events.is_some()
    }

    /// The bytes of a mark.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.array(5);
        for limit in [self.max_age_ms, self.max_bytes, self.max_events] {
            match limit {
                Some(limit) => writer.uint(limit),
                None => writer.null(),
            };
        }
        writer.bool(self.keyed);
        write_authors(&mut writer, self.writers.as_deref());
        writer.finish()
    }

    /// Reads a mark's bytes.
    ///
    /// # Errors
    /// When they are no rule.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut reader = Reader::new(bytes);
        reader.tuple("rule", 5)?;
        let mut limit = || if reader.null() { Ok(None) } else { reader.uint("limit").map(Some) };
        let (max_age_ms, max_bytes, max_events) = (limit()?, limit()?, limit()?);
        let keyed = reader.bool("keyed")?;
        let writers = read_authors(&mut reader)?;
        reader.end()?;
        Ok(Self { max_age_ms, max_bytes, max_events, keyed, writers })
    }
}

/// Why a rule is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// The pattern names topics of the system, which have rules of their own.
    #[error("'{0}' belongs to the system: rules are for topics that do not start with '_'")]
    System(Pattern),
    /// There are as many rules as may be.
    #[error("a node has at most {MAX_RULES} rules: unset one, or use wildcards")]
    TooMany,
    /// More writers than one rule, or all together, may name.
    #[error("a rule names at most {MAX_RULE_WRITERS} writers, and all rules together {MAX_WRITERS}")]
    TooManyWriters,
}

/// All rules of a node, by pattern. For a topic the most specific pattern that matches it holds, and it alone: where two
/// differ first, from the left, a plain token comes before `*`, and `*` before `>`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules(BTreeMap<Pattern, Rule>);

impl Rules {
    /// Sets the rule of a pattern, in the place of an earlier one.
    ///
    /// # Errors
    /// When the pattern cannot have one, or there would be too many. Nothing was changed then.
    pub fn set(&mut self, pattern: Pattern, mut rule: Rule) -> Result<(), RuleError> {
        if pattern.as_str().starts_with('_') {
            return Err(RuleError::System(pattern));
        }
        if self.0.len() >= MAX_RULES && !self.0.contains_key(&pattern) {
            return Err(RuleError::TooMany);
        }
        if let Some(writers) = &mut rule.writers {
            writers.sort();
            writers.dedup();
        }
        let count = |rule: &Rule| rule.writers.as_ref().map_or(0, Vec::len);
        let others: usize = self.0.iter().filter(|(other, _)| **other != pattern).map(|(_, rule)| count(rule)).sum();
        if count(&rule) > MAX_RULE_WRITERS || others + count(&rule) > MAX_WRITERS {
            return Err(RuleError::TooManyWriters);
        }
        self.0.insert(pattern, rule);
        Ok(())
    }

    /// Ends a pattern's rule. Returns whether there was one.
    pub fn unset(&mut self, pattern: &Pattern) -> bool {
        self.0.remove(pattern).is_some()
    }

    /// The rule that holds for a topic, and its pattern.
    #[must_use]
    pub fn of(&self, topic: &Topic) -> Option<(&Pattern, &Rule)> {
        most_specific(self.0.iter(), topic)
    }

    /// All, by pattern.
    pub fn iter(&self) -> impl Iterator<Item = (&Pattern, &Rule)> {
        self.0.iter()
    }

    /// Whether any rule lets events go.
    #[must_use]
    pub fn expire(&self) -> bool {
        self.0.values().any(Rule::expires)
    }

    /// Whether any topic is keyed.
    #[must_use]
    pub fn have_keyed(&self) -> bool {
        self.0.values().any(|rule| rule.keyed)
    }

    /// The part that peers are told.
    #[must_use]
    pub fn writers(&self) -> Writers {
        if self.0.values().all(|rule| rule.writers.is_none()) {
            return Writers::default();
        }
        // A rule that lets everybody write may be an exception from one that does not.
        Writers(self.0.iter().map(|(pattern, rule)| (pattern.clone(), rule.writers.clone())).collect())
    }
}

/// Who may publish what, as a node tells its peers: of batches by others it takes and serves none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Writers(BTreeMap<Pattern, Option<Vec<Author>>>);

impl Writers {
    /// Whether nothing is limited.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the author may publish to the topic.
    #[must_use]
    pub fn allow(&self, topic: &Topic, author: &Author) -> bool {
        match most_specific(self.0.iter(), topic) {
            Some((_, Some(writers))) => writers.binary_search(author).is_ok(),
            _ => true,
        }
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.array(self.0.len() * 2);
        for (pattern, writers) in &self.0 {
            writer.text(pattern.as_str());
            write_authors(writer, writers.as_deref());
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let items = reader.list("writers", 2 * MAX_RULES)?;
        if items % 2 != 0 || items == 0 {
            return Err(CodecError::OutOfBounds("writers"));
        }
        let (mut rules, mut count) = (BTreeMap::new(), 0);
        for _ in 0..items / 2 {
            let text = reader.text("pattern", MAX_TOPIC_BYTES)?;
            let pattern = Pattern::new(text).map_err(|_| CodecError::OutOfBounds("pattern"))?;
            let writers = read_authors(reader)?;
            count += writers.as_ref().map_or(0, Vec::len);
            if count > MAX_WRITERS || rules.insert(pattern, writers).is_some() {
                return Err(CodecError::OutOfBounds("writers"));
            }
        }
        Ok(Self(rules))
    }
}

fn write_authors(writer: &mut Writer, authors: Option<&[Author]>) {
    let Some(authors) = authors else {
        writer.null();
        return;
    };
    writer.array(authors.len());
    for author in authors {
        writer.bytes(&author.0);
    }
}

fn read_authors(reader: &mut Reader<'_>) -> Result<Option<Vec<Author>>, CodecError> {
    if reader.null() {
        return Ok(None);
    }
    let count = reader.list("writers", MAX_RULE_WRITERS)?;
    let mut authors = (0..count).map(|_| reader.fixed("author").map(Author)).collect::<Result<Vec<_>, _>>()?;
    authors.sort();
    authors.dedup();
    Ok(Some(authors))
}

fn most_specific<'a, T>(
    rules: impl Iterator<Item = (&'a Pattern, &'a T)>,
    topic: &Topic,
) -> Option<(&'a Pattern, &'a T)> {
    if topic.is_system() {
        return None;
    }
    let matching = rules.filter(|(pattern, _)| pattern.matches(topic));
    matching.min_by(|(one, _), (other, _)| breadth(one).cmp(breadth(other)))
}

/// What orders patterns that match one topic, the most specific first.
fn breadth(pattern: &Pattern) -> impl Iterator<Item = u8> + '_ {
    let of_token = |token: &str| match token {
        ">" => 2,
        "*" => 1,
        _ => 0,
    };
    pattern.as_str().split('.').map(of_token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::new(text).unwrap()
    }

    fn author(byte: u8) -> Author {
        Author([byte; 32])
    }

    #[test]
    fn the_most_specific_pattern_holds_and_it_alone() {
        let mut rules = Rules::default();
        for (at, text) in [">", "a.>", "a.*", "*.b", "a.b", "a.*.c", "a.b.>"].into_iter().enumerate() {
            rules.set(pattern(text), Rule { max_events: Some(at as u64), ..Rule::default() }).unwrap();
        }
        rules.set(pattern("a.b"), Rule { max_bytes: Some(7), ..Rule::default() }).unwrap();
        let cases = [
            ("x", ">"),
            ("a.b", "a.b"),
            ("a.x", "a.*"),
            ("x.b", "*.b"),
            ("a.b.c", "a.b.>"),
            ("a.x.c", "a.*.c"),
            ("a.x.y", "a.>"),
        ];
        for (topic, expected) in cases {
            assert_eq!(rules.of(&Topic::new(topic).unwrap()).unwrap().0, &pattern(expected), "{topic}");
        }
        assert_eq!(rules.of(&Topic::new("a.b").unwrap()).unwrap().1.max_events, None);
        assert_eq!(rules.of(&Topic::mesh()), None);
        assert!(rules.unset(&pattern("a.b")) && !rules.unset(&pattern("a.b")));
        assert_eq!(rules.of(&Topic::new("a.b").unwrap()).unwrap().0, &pattern("a.*"));
    }

    #[test]
    fn writers_are_told_with_the_exceptions_from_them() {
        let mut rules = Rules::default();
        rules.set(pattern(">"), Rule { max_age_ms: Some(1), ..Rule::default() }).unwrap();
        assert!(rules.writers().is_empty());
        let only =
            |authors: &[u8]| Rule { writers: Some(authors.iter().copied().map(author).collect()), ..Rule::default() };
        rules.set(pattern("a.>"), only(&[3, 1, 3])).unwrap();
        rules.set(pattern("a.open"), Rule::default()).unwrap();
        rules.set(pattern("a.shut"), only(&[])).unwrap();
        let mut writer = Writer::new();
        rules.writers().write(&mut writer);
        let writers = Writers::read(&mut Reader::new(&writer.finish())).unwrap();
        assert_eq!(writers, rules.writers());
        let cases = [
            ("b", 9, true),
            ("a.x", 1, true),
            ("a.x", 3, true),
            ("a.x", 2, false),
            ("a.open", 2, true),
            ("a.shut", 1, false),
        ];
        for (topic, byte, expected) in cases {
            assert_eq!(writers.allow(&Topic::new(topic).unwrap(), &author(byte)), expected, "{topic} {byte}");
        }
        assert!(writers.allow(&Topic::mesh(), &author(9)));
    }

    #[test]
    fn rules_decode_to_themselves_and_have_bounds() {
        let rule = Rule {
            max_age_ms: Some(5),
            max_bytes: None,
            max_events: Some(0),
            keyed: true,
            writers: Some(vec![author(2), author(9)]),
        };
        for rule in [Rule::default(), rule] {
            assert_eq!(Rule::decode(&rule.encode()), Ok(rule));
        }
        assert!(Rule::decode(&[0x85, 0xf6, 0xf6]).is_err());
        let mut rules = Rules::default();
        assert_eq!(rules.set(pattern("_mesh"), Rule::default()), Err(RuleError::System(pattern("_mesh"))));
        let many = |count: usize| {
            (0..count).map(|at| Author([at.to_be_bytes(), [0; 8], [0; 8], [0; 8]].concat().try_into().unwrap()))
        };
        let writers = |count| Rule { writers: Some(many(count).collect()), ..Rule::default() };
        assert_eq!(rules.set(pattern("a"), writers(MAX_RULE_WRITERS + 1)), Err(RuleError::TooManyWriters));
        for at in 0..MAX_WRITERS / MAX_RULE_WRITERS {
            rules.set(pattern(&format!("a{at}")), writers(MAX_RULE_WRITERS)).unwrap();
        }
        rules.set(pattern("a0"), writers(MAX_RULE_WRITERS)).unwrap();
        assert_eq!(rules.set(pattern("b"), writers(1)), Err(RuleError::TooManyWriters));
        for at in rules.0.len()..MAX_RULES {
            rules.set(pattern(&format!("c{at}")), Rule::default()).unwrap();
        }
        assert_eq!(rules.set(pattern("d"), Rule::default()), Err(RuleError::TooMany));
    }
}
