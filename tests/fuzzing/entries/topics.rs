//! Topics, patterns and what nodes have in common.

use roundelay_protocol::heads::LogKey;
use roundelay_protocol::ids::Author;
use roundelay_protocol::interest::Interest;
use roundelay_protocol::limits::MAX_TOPIC_BYTES;
use roundelay_protocol::topic::{Pattern, Topic};

/// A text for a pattern, a newline, and texts for topics, a line each.
pub fn topics(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (pattern_text, rest) = text.split_once('\n').unwrap_or((text, ""));
    let pattern = Pattern::new(pattern_text);
    assert_eq!(pattern.is_ok(), is_pattern(pattern_text), "{pattern_text:?}");
    if let Ok(pattern) = &pattern {
        assert_eq!(pattern.as_str(), pattern_text);
        assert_eq!(pattern.as_topic().is_some(), is_topic(pattern_text));
    }
    for line in rest.lines().chain([pattern_text]) {
        let topic = Topic::new(line);
        assert_eq!(topic.is_ok(), is_topic(line), "{line:?}");
        let Ok(topic) = topic else { continue };
        assert_eq!(topic.as_str(), line);
        assert_eq!(topic.is_system(), line.starts_with('_'));
        assert!(Pattern::new(line).expect("a topic is a pattern").matches(&topic));
        if let Ok(pattern) = &pattern {
            let matches = stands_for(pattern_text, line);
            assert_eq!(pattern.matches(&topic), matches, "{pattern_text:?} {line:?}");
            let log = LogKey { topic: topic.clone(), author: Author([1; 32]) };
            let interest = Interest::new(vec![pattern.clone()], vec![Author([2; 32])]);
            assert_eq!(interest.covers(&topic), matches || ["_mesh", "_choreographies", "_heartbeats"].contains(&line));
            assert_eq!(interest.holds(&Author([3; 32]), &log), interest.covers(&topic));
            assert!(interest.holds(&Author([1; 32]), &log), "an author holds what it publishes");
            assert!(
                !interest.holds(&Author([2; 32]), &LogKey { author: Author([2; 32]), ..log }),
                "but not when left out"
            );
        }
    }
}

fn is_token(token: &str) -> bool {
    !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

fn is_topic(text: &str) -> bool {
    text.len() <= MAX_TOPIC_BYTES && text.split('.').all(is_token)
}

fn is_pattern(text: &str) -> bool {
    let tokens: Vec<&str> = text.split('.').collect();
    let sound = |(index, token): (usize, &&str)| match *token {
        "*" => true,
        ">" => index + 1 == tokens.len(),
        token => is_token(token),
    };
    text.len() <= MAX_TOPIC_BYTES && tokens.iter().enumerate().all(sound)
}

/// The definition, token by token, without a thought for speed.
fn stands_for(pattern: &str, topic: &str) -> bool {
    fn walk(pattern: &[&str], topic: &[&str]) -> bool {
        match (pattern, topic) {
            ([], []) => true,
            ([">"], [_, ..]) => true,
            (["*", pattern @ ..], [_, topic @ ..]) => walk(pattern, topic),
            ([want, pattern @ ..], [token, topic @ ..]) => want == token && walk(pattern, topic),
            _ => false,
        }
    }
    let (pattern, topic): (Vec<_>, Vec<_>) = (pattern.split('.').collect(), topic.split('.').collect());
    let wild = ["*", ">"].contains(&pattern[0]);
    !(wild && topic[0].starts_with('_')) && walk(&pattern, &topic)
}
