use super::*;
use crate::hlc::Hlc;
use crate::ids::BatchHash;
use crate::topic::Topic;

fn event(at_ms: u64, kind: &str, id: &str, causes: &[&str]) -> Observed {
    Observed {
        rank: Rank { stamp: Hlc::from_ms(at_ms), batch: BatchHash([0; 32]), index: 0 },
        topic: Topic::new("t").unwrap(),
        author: None,
        source: format!("/{kind}"),
        id: id.to_owned(),
        kind: kind.to_owned(),
        causes: causes.iter().map(|&cause| cause.to_owned()).collect(),
        correlation: Some("c".to_owned()),
        role: None,
        version: None,
    }
}

fn trace() -> Trace {
    let events = [
        event(900, "sent", "4", &["2", "3"]),
        event(100, "placed", "1", &[]),
        event(250, "reserved", "2", &["1"]),
        event(400, "paid", "3", &["1", "gone"]),
        event(950, "placed", "1", &[]),
        event(50, "odd", "5", &["3"]),
        Observed { correlation: None, ..event(1, "other", "6", &[]) },
    ];
    Trace::of("c", events)
}

#[test]
fn each_event_stands_once_below_the_latest_of_its_causes() {
    let trace = trace();
    let expected = "\
odd (5 of /odd); cause later than itself: 3
placed (1 of /placed)
  +150ms reserved (2 of /reserved)
  +300ms paid (3 of /paid); cause missing: gone
    +500ms sent (4 of /sent); also after 2
";
    assert_eq!(trace.text(&trace.forest()), expected);
    assert_eq!(trace.left_out(), (1, 0));
}

#[test]
fn why_leads_to_everything_that_caused_an_event() {
    let trace = trace();
    let why: Vec<_> = trace.why("4").iter().map(|line| (trace.events()[line.event].id.clone(), line.depth)).collect();
    assert_eq!(why, [("4".to_owned(), 0), ("2".to_owned(), 1), ("3".to_owned(), 1), ("1".to_owned(), 2)]);
    assert!(trace.why("9").is_empty());
}

#[test]
fn pictures_name_what_is_missing_and_nothing_breaks_out_of_a_label() {
    let trace = Trace::new([event(1, "a\"]; b", "1", &["x\"y"])]);
    assert!(trace.mermaid().contains("e0[\"a#34;#93;#59; b<br>/a#34;#93;#59; b\"]"), "{}", trace.mermaid());
    assert!(trace.mermaid().contains("x#34;y is missing"));
    assert!(trace.dot().contains(r#"label="a\"]; b\n/a\"]; b""#), "{}", trace.dot());
}

#[test]
fn causes_that_go_round_in_circles_are_no_circle() {
    let trace = Trace::new([event(1, "a", "1", &["2"]), event(2, "b", "2", &["1"]), event(3, "c", "3", &["3"])]);
    assert_eq!(trace.forest().len(), 3);
    assert_eq!(trace.nodes()[0].backwards, ["2"]);
    assert_eq!(trace.nodes()[2].backwards, ["3"]);
}

#[test]
fn a_cause_means_few_events_however_many_have_its_id() {
    let namesakes = (0..100).map(|n| Observed { source: format!("/{n}"), ..event(n, "a", "x", &[]) });
    let trace = Trace::new(namesakes.chain([event(200, "b", "y", &["x"])]));
    assert_eq!(trace.nodes()[100].causes, [0, 1, 2, 3]);
}
