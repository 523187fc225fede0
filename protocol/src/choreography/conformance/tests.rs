use super::super::declaration::End;
use super::super::draft::Draft;
use super::*;
use crate::ids::{Author, BatchHash};
use crate::topic::Topic;

/// Ask; answer yes or no, or be silent; a yes has an effect, and is done or undone.
fn declaration() -> Declaration {
    let draft = Draft::new("question", "new")
        .role("asker", &["yes", "no", "done", "undone"])
        .sources("asker", &["/asker"])
        .role("clerk", &["asked", "silent"])
        .event("asked", "asker")
        .topic("asked", "questions.>")
        .event("silent", "asker")
        .event("yes", "clerk")
        .effect("yes", Some("undone"))
        .event("no", "clerk")
        .event("done", "clerk")
        .event("undone", "clerk")
        .on("new", "asked", "asked")
        .on("asked", "yes", "granted")
        .on("asked", "no", "refused")
        .deadline("asked", "10s", "silent", "refused")
        .on("granted", "done", "done")
        .deadline("granted", "1h", "undone", "refused")
        .end("done", End::Success)
        .end("refused", End::Failure);
    draft.declare().unwrap()
}

/// An event of instance `i`, at seconds, named by its id, with its causes.
fn event(at_s: u64, kind: &str, id: &str, causes: &[&str]) -> Observed {
    Observed {
        rank: Rank { stamp: Hlc::from_ms(at_s * 1000), batch: BatchHash([at_s as u8; 32]), index: 0 },
        topic: Topic::new("questions.all").unwrap(),
        author: None,
        source: if ["asked", "silent"].contains(&kind) { "/asker".to_owned() } else { "/clerk".to_owned() },
        id: id.to_owned(),
        kind: kind.to_owned(),
        causes: causes.iter().map(|&cause| cause.to_owned()).collect(),
        correlation: Some("i".to_owned()),
        role: None,
        version: None,
    }
}

fn judged(events: &[Observed]) -> (Instance, Vec<String>) {
    let mut conformance = Conformance::new(Versions::new(declaration()));
    conformance.take(events.iter().cloned());
    let brief = |judgement: &Judgement| match judgement {
        Judgement::Step { to } => to.clone(),
        Judgement::Repeat => "repeat".to_owned(),
        Judgement::Foreign => "foreign".to_owned(),
        Judgement::Superseded { why, by } => format!("{why} of {}", by.id),
        Judgement::Violating(why) => why.code().to_owned(),
    };
    let judgements = conformance.judgements("i").iter().map(|(_, judgement)| brief(judgement)).collect();
    (conformance.instance("i").unwrap().clone(), judgements)
}

#[test]
fn an_instance_goes_through_its_states() {
    let events = [event(1, "asked", "a", &[]), event(2, "yes", "b", &["a"]), event(3, "done", "c", &["b"])];
    let (instance, _) = judged(&events[..1]);
    assert_eq!(instance.verdict(), Verdict::Pending);
    let due = instance.due.clone().unwrap();
    assert_eq!(
        (due.due_ms, due.kind.as_str(), due.by.as_str(), due.cause.id.as_str()),
        (11_000, "silent", "asker", "a")
    );
    assert!(!instance.is_overdue(10_999) && instance.is_overdue(11_000));
    let (instance, judgements) = judged(&events);
    assert_eq!(judgements, ["asked", "granted", "done"]);
    assert_eq!((instance.verdict(), instance.due), (Verdict::Conforming { end: End::Success }, None));
}

#[test]
fn of_two_answers_the_first_in_total_order_counts() {
    let two = [event(1, "asked", "a", &[]), event(2, "yes", "b", &["a"]), event(3, "no", "c", &["a"])];
    let (instance, judgements) = judged(&two);
    assert_eq!(judgements, ["asked", "granted", "duplicate of b"]);
    assert_eq!(instance.state, "granted");
    assert!(matches!(instance.verdict(), Verdict::Superseded(found) if found.event.id == "c" && found.by.id == "b"));
    // A second yes has the same key for its effect, so that nothing has to be undone.
    let (instance, judgements) = judged(&[two[0].clone(), two[1].clone(), event(3, "yes", "c", &["a"])]);
    assert_eq!((judgements[2].as_str(), instance.owed.len()), ("duplicate of b", 0));
    // The other way round, the effect of the yes is owed until it is undone.
    let (instance, judgements) = judged(&[two[0].clone(), event(2, "no", "b", &["a"]), event(3, "yes", "c", &["a"])]);
    assert_eq!(judgements, ["asked", "refused", "duplicate of b"]);
    assert_eq!(instance.owed.iter().map(|owed| owed.event.id.as_str()).collect::<Vec<_>>(), ["c"]);
    let undone =
        [two[0].clone(), event(2, "no", "b", &["a"]), event(3, "yes", "c", &["a"]), event(4, "undone", "d", &["c"])];
    let (instance, judgements) = judged(&undone);
    assert_eq!((judgements[3].as_str(), instance.owed), ("compensation of b", Vec::new()));
}

#[test]
fn a_decision_that_shares_the_cause_of_another_is_its_duplicate() {
    let two = [event(1, "asked", "a", &["click"]), event(2, "asked", "b", &["click"]), event(3, "yes", "c", &["b"])];
    let (_, judgements) = judged(&two);
    assert_eq!(judgements, ["asked", "duplicate of a", "consequence of a"]);
    let (_, judgements) = judged(&[event(1, "asked", "a", &[]), event(2, "asked", "b", &[])]);
    assert_eq!(judgements, ["asked", "unexpected"], "without a cause nobody can tell");
}

#[test]
fn one_id_with_two_types_is_one_decision() {
    let (_, judgements) = judged(&[
        event(1, "asked", "a", &[]),
        event(2, "no", "b", &["a"]),
        event(3, "yes", "b", &["a"]),
        event(4, "no", "b", &["a"]),
    ]);
    assert_eq!(judgements, ["asked", "refused", "same_id of b", "repeat"]);
}

#[test]
fn an_answer_and_its_deadline_are_decided_by_the_order() {
    let asked = event(1, "asked", "a", &[]);
    let (_, judgements) = judged(&[
        asked.clone(),
        event(11, "silent", "d", &["a"]),
        event(12, "yes", "b", &["a"]),
        event(13, "done", "c", &["b"]),
    ]);
    assert_eq!(judgements, ["asked", "refused", "duplicate of d", "consequence of d"]);
    let (instance, judgements) =
        judged(&[asked.clone(), event(12, "yes", "b", &["a"]), event(13, "silent", "d", &["a"])]);
    assert_eq!(judgements, ["asked", "granted", "duplicate of b"]);
    assert_eq!(instance.late.len(), 1, "the answer came after it was due");
    let (instance, judgements) = judged(&[asked, event(10, "silent", "d", &["a"])]);
    assert_eq!(judgements, ["asked", "early"]);
    // How much, as people say it: milliseconds since 1970 tell nobody anything.
    assert_eq!(instance.violations[0].why.to_string(), "it comes 1s before its deadline is due");
}

#[test]
fn what_cannot_be_is_violating_and_changes_nothing() {
    let asked = event(1, "asked", "a", &[]);
    let (instance, judgements) = judged(&[asked.clone(), event(2, "done", "b", &["a"]), event(3, "no", "c", &["a"])]);
    assert_eq!(judgements, ["asked", "unexpected", "refused"]);
    assert!(matches!(instance.verdict(), Verdict::Violating(found) if found.event.id == "b"));
    let (_, judgements) = judged(&[asked.clone(), event(2, "no", "b", &["a"]), event(3, "done", "c", &["b"])]);
    assert_eq!(judgements, ["asked", "refused", "after_end"]);
    let stranger = Observed { source: "/else".to_owned(), ..asked.clone() };
    let elsewhere = Observed { topic: Topic::new("orders").unwrap(), ..asked.clone() };
    let liar = Observed { role: Some("clerk".to_owned()), ..asked.clone() };
    let clerk = Observed { source: "/asker".to_owned(), ..event(2, "no", "b", &["a"]) };
    for (events, expected) in [
        (vec![stranger], vec!["wrong_role"]),
        (vec![elsewhere], vec!["wrong_topic"]),
        (vec![liar], vec!["wrong_role"]),
        (vec![asked, clerk], vec!["asked", "wrong_role"]),
    ] {
        assert_eq!(judged(&events).1, expected);
    }
}

#[test]
fn who_is_named_as_a_roles_node_alone_plays_it() {
    let (at, elsewhere) = (Author([1; 32]), Author([2; 32]));
    let mut draft = Draft::new("question", "new").role("asker", &["yes"]).role("clerk", &["asked"]);
    draft = draft.nodes("clerk", &[&at.peer_id()]).event("asked", "asker").event("yes", "clerk").event("late", "asker");
    draft = draft.on("new", "asked", "asked").on("asked", "yes", "done").deadline("asked", "1h", "late", "done");
    let draft = draft.end("done", End::Success);
    assert_eq!(draft.declare().unwrap().nodes(), None, "an asker may be anywhere");
    assert_eq!(draft.clone().nodes("asker", &[&elsewhere.peer_id()]).declare().unwrap().nodes().unwrap().len(), 2);
    let unnamed = draft.clone().nodes("clerk", &[]).declare().unwrap();
    assert_ne!(unnamed.version(), draft.declare().unwrap().version());
    let wrong = draft.clone().nodes("clerk", &["clerk-1"]).declare().unwrap_err().to_string();
    assert!(wrong.contains("roles.clerk.nodes: bad_node: 'clerk-1' is no id of a node."), "{wrong}");
    let mut conformance = Conformance::new(Versions::new(draft.declare().unwrap()));
    let by = |author: Author, event: Observed| Observed { author: Some(author), ..event };
    conformance.take([
        by(elsewhere, event(1, "asked", "a", &[])),
        by(elsewhere, event(2, "yes", "b", &["a"])),
        by(at, event(3, "yes", "c", &["a"])),
    ]);
    let instance = conformance.instance("i").unwrap();
    assert_eq!((instance.state.as_str(), instance.violations.len()), ("done", 1));
    assert_eq!((instance.violations[0].event.id.as_str(), instance.violations[0].why.code()), ("b", "wrong_node"));
}

#[test]
fn an_answer_to_an_earlier_round_of_a_loop_is_superseded() {
    let draft =
        Draft::new("rounds", "new").role("a", &["pong"]).role("b", &["ping"]).event("ping", "a").event("pong", "b");
    let draft = draft.on("new", "ping", "pinged").loops("pinged", "pong", "ponged").loops("ponged", "ping", "pinged");
    let mut conformance = Conformance::new(Versions::new(draft.declare().unwrap()));
    let round = |at_s, kind, id, causes: &[&str]| Observed { source: "/".to_owned(), ..event(at_s, kind, id, causes) };
    let events = [
        round(1, "ping", "1", &["0"]),
        round(2, "pong", "2", &["1"]),
        round(3, "ping", "3", &["2"]),
        round(4, "pong", "4", &["1"]),
        round(5, "pong", "5", &["1", "3"]), // an answer to both is one to the present round
        round(6, "pong", "6", &["1", "5"]), // also where it is not possible
    ];
    conformance.take(events);
    let instance = conformance.instance("i").unwrap();
    assert_eq!((instance.steps, instance.state.as_str()), (4, "ponged"));
    assert_eq!((instance.superseded[0].event.id.as_str(), instance.superseded[0].by.id.as_str()), ("4", "2"));
    assert_eq!(instance.violations.iter().map(|found| found.event.id.as_str()).collect::<Vec<_>>(), ["6"]);
}

#[test]
fn an_instance_keeps_the_version_that_it_began_with() {
    let old = declaration();
    let mut draft = Draft::new("question", "new").role("asker", &[]).event("asked", "asker");
    draft = draft.on("new", "asked", "over").end("over", End::Success);
    let new = draft.declare().unwrap();
    let mut versions = Versions::new(old.clone());
    versions.add(new.clone(), Hlc::from_ms(5000)).unwrap();
    let begin = |at_s, correlation: &str, version: Option<String>| Observed {
        correlation: Some(correlation.to_owned()),
        version,
        ..event(at_s, "asked", correlation, &[])
    };
    let mut conformance = Conformance::new(versions);
    conformance.take([
        begin(1, "before", None),
        begin(5, "after", None),
        begin(6, "named", Some(old.version().to_string())),
        begin(7, "unknown", Some("00".repeat(32))),
    ]);
    let state = |correlation: &str| {
        let instance = conformance.instance(correlation).unwrap();
        (instance.version, instance.state.clone())
    };
    assert_eq!(state("before"), (Some(old.version()), "asked".to_owned()));
    assert_eq!(state("after"), (Some(new.version()), "over".to_owned()));
    assert_eq!(state("named"), (Some(old.version()), "asked".to_owned()));
    assert_eq!(state("unknown"), (None, String::new()));
    assert!(
        matches!(conformance.instance("unknown").unwrap().verdict(), Verdict::Violating(found) if found.why.code() == "unknown_version")
    );
    let other =
        Draft::new("other", "new").role("a", &[]).event("e", "a").on("new", "e", "end").end("end", End::Success);
    assert!(matches!(Versions::new(old).add(other.declare().unwrap(), Hlc(0)), Err(AddError::OtherName { .. })));
}

#[test]
fn deadlines_are_told_in_their_order_until_they_are_met() {
    let of = |correlation: &str, event: Observed| Observed { correlation: Some(correlation.to_owned()), ..event };
    let mut conformance = Conformance::new(Versions::new(declaration()));
    conformance.take([of("x", event(5, "asked", "a", &[])), of("y", event(1, "asked", "b", &[]))]);
    let due =
        |conformance: &Conformance, now_ms| conformance.due(now_ms).map(|(id, _)| id.to_owned()).collect::<Vec<_>>();
    assert_eq!(
        (due(&conformance, 15_000), due(&conformance, 14_999)),
        (vec!["y".to_owned(), "x".to_owned()], vec!["y".to_owned()])
    );
    assert_eq!(conformance.next_due_ms(), Some(11_000));
    conformance.take([of("y", event(3, "no", "c", &["b"]))]);
    assert_eq!(due(&conformance, 15_000), ["x"]);
    assert!(conformance.forget("x") && conformance.next_due_ms().is_none());
}

#[test]
fn events_of_an_instance_are_bounded_and_the_first_count() {
    let mut conformance = Conformance::new(Versions::new(declaration()));
    let many = (0..MAX_INSTANCE_EVENTS as u64 + 10).rev().map(|n| event(n + 1, "no", &format!("n{n}"), &[]));
    let events: Vec<_> = many.chain([event(0, "asked", "a", &[])]).collect();
    conformance.take(events);
    let instance = conformance.instance("i").unwrap();
    assert_eq!((instance.omitted, instance.steps, instance.violations.len()), (11, 2, MAX_INSTANCE_EVENTS - 2));
}

#[test]
fn what_follows_from_a_superseded_event_violates_nothing() {
    let story = [
        event(1, "asked", "a", &[]),
        event(2, "yes", "b", &["a"]),
        event(3, "done", "c", &["b"]),
        event(4, "yes", "d", &["a"]),
    ];
    // The second yes does not count. Its follower names a step as well, in whose state it was never possible.
    let follower = |causes: &[&str]| judged(&[&story[..], &[event(5, "done", "e", causes)]].concat()).1.pop().unwrap();
    assert_eq!(follower(&["a", "d"]), "consequence of b");
    assert_eq!(follower(&["d"]), "consequence of b");
    assert_eq!(follower(&["a"]), "after_end");
    // What is possible is a step all the same.
    let open = [&story[..2], &story[3..], &[event(5, "done", "e", &["a", "d"])]].concat();
    assert_eq!(judged(&open).1, ["asked", "granted", "duplicate of b", "done"]);
}
