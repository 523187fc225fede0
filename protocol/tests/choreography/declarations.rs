//! One declaration has one version, whether it was written in TOML, in JSON or in Rust.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use roundelay_protocol::choreography::declaration::End;
use roundelay_protocol::choreography::draft::{DeadlineDraft, EventDraft, RoleDraft, StateDraft, TransitionDraft};
use roundelay_protocol::choreography::{Draft, canonical, check, diff, show};
use roundelay_protocol::ids::Author;

const ROLES: [&str; 3] = ["shop", "stock", "bank"];
const KINDS: [&str; 5] = ["order.placed", "a b", "x\"y", "é", "pay:ok"];
const STATES: [&str; 4] = ["open", "s-1", "Held_2", "over"];

fn transition() -> impl Strategy<Value = TransitionDraft> {
    (prop::sample::select(&STATES[..]), any::<bool>())
        .prop_map(|(to, is_loop)| TransitionDraft { to: to.to_owned(), is_loop })
}

fn kinds(upto: usize) -> impl Strategy<Value = Vec<String>> {
    prop::sample::subsequence(KINDS.map(str::to_owned).to_vec(), 0..=upto).prop_shuffle()
}

fn state() -> impl Strategy<Value = StateDraft> {
    let late = (1u64..100_000, transition());
    (kinds(4), prop::collection::vec(transition(), 4), prop::option::of(late)).prop_map(|(on, to, late)| {
        let free = KINDS.into_iter().find(|kind| !on.iter().any(|taken| taken == kind)).unwrap();
        let deadline = late.map(|(seconds, TransitionDraft { to, is_loop })| DeadlineDraft {
            after: format!("{seconds}s"),
            event: free.to_owned(),
            to,
            is_loop,
        });
        StateDraft { on: on.into_iter().zip(to).collect(), deadline, end: None }
    })
}

fn draft() -> impl Strategy<Value = Draft> {
    let roles = prop::collection::vec(kinds(5), ROLES.len());
    let event = (prop::sample::select(&ROLES[..]), any::<bool>(), prop::option::of(prop::sample::select(&KINDS[..])));
    let events = prop::collection::vec(event, KINDS.len());
    let states = prop::collection::vec(state(), STATES.len() - 1);
    let nodes = prop::collection::btree_set(any::<u8>(), 0..3);
    (roles, events, states, prop::option::of("[a-z]{1,8}"), nodes).prop_map(|(roles, events, states, source, nodes)| {
        let mut draft = Draft::new("any-one", "open").end("over", End::Failure);
        let nodes: Vec<String> = nodes.iter().map(|key| Author([*key; 32]).peer_id()).collect();
        for (name, sees) in ROLES.into_iter().zip(roles) {
            let sources = source.iter().map(|source| format!("/{name}/{source}")).collect();
            draft.roles.insert(name.to_owned(), RoleDraft { sees, sources, nodes: nodes.clone() });
        }
        for (kind, (by, effect, compensation)) in KINDS.into_iter().zip(events) {
            let topic = effect.then(|| "orders.*".to_owned());
            let compensation = compensation.map(str::to_owned);
            draft.events.insert(kind.to_owned(), EventDraft { by: by.to_owned(), topic, effect, compensation });
        }
        draft.states.extend(STATES.into_iter().map(str::to_owned).zip(states));
        draft.states.get_mut("open").unwrap().deadline = None;
        draft
    })
}

/// The same draft by the builder, with everything said in another order.
fn rebuild(from: &Draft) -> Draft {
    let mut draft = Draft::new(&from.name, &from.start);
    for (name, state) in from.states.iter().rev() {
        for (kind, TransitionDraft { to, is_loop }) in state.on.iter().rev() {
            draft = if *is_loop { draft.loops(name, kind, to) } else { draft.on(name, kind, to) };
        }
        if let Some(late) = &state.deadline {
            draft = match late.is_loop {
                true => draft.deadline_loops(name, &late.after, &late.event, &late.to),
                false => draft.deadline(name, &late.after, &late.event, &late.to),
            };
        }
        draft = state.end.into_iter().fold(draft, |draft, end| draft.end(name, end));
        draft.states.entry(name.clone()).or_default();
    }
    for (kind, event) in from.events.iter().rev() {
        draft = draft.event(kind, &event.by);
        draft = event.topic.iter().fold(draft, |draft, topic| draft.topic(kind, topic));
        if event.effect {
            draft = draft.effect(kind, event.compensation.as_deref());
        }
        draft.events.get_mut(kind).unwrap().compensation = event.compensation.clone();
    }
    for (name, role) in from.roles.iter().rev() {
        let texts = |texts: &'_ [String]| texts.iter().rev().cloned().collect::<Vec<_>>();
        let (sees, sources, nodes) = (texts(&role.sees), texts(&role.sources), texts(&role.nodes));
        draft = draft.role(name, &sees.iter().map(String::as_str).collect::<Vec<_>>());
        draft = draft.sources(name, &sources.iter().map(String::as_str).collect::<Vec<_>>());
        draft = draft.nodes(name, &nodes.iter().map(String::as_str).collect::<Vec<_>>());
    }
    draft
}

proptest! {
    #[test]
    fn toml_json_and_rust_give_one_version(draft in draft()) {
        let version = draft.declare().unwrap().version();
        let toml = Draft::from_toml(&draft.to_toml()).unwrap();
        let json = Draft::from_json(&draft.to_json()).unwrap();
        prop_assert_eq!((&toml, &json), (&draft, &draft));
        prop_assert_eq!(toml.declare().unwrap().version(), version);
        prop_assert_eq!(rebuild(&draft).declare().unwrap().version(), version);
        prop_assert_eq!(version.to_string().parse(), Ok(version));
    }

    #[test]
    fn another_meaning_gives_another_version_and_a_difference_that_names_a_role(a in draft(), b in draft()) {
        let (a, b) = (a.declare().unwrap(), b.declare().unwrap());
        prop_assert_eq!(a.version() == b.version(), a == b);
        prop_assert_eq!(canonical::encode(&a) == canonical::encode(&b), a == b);
        prop_assert!(diff::diff(&a, &a).is_empty());
        prop_assert_eq!(diff::diff(&a, &b).is_empty(), a == b);
        let (there, back) = (diff::diff(&a, &b), diff::diff(&b, &a));
        prop_assert_eq!(there.keys().collect::<Vec<_>>(), back.keys().collect::<Vec<_>>());
    }

    #[test]
    fn nothing_that_can_be_declared_upsets_checks_and_pictures(draft in draft()) {
        let declaration = draft.declare().unwrap();
        let findings = check::check(&declaration);
        prop_assert!(findings.is_sorted());
        prop_assert!(findings.iter().all(|found| found.wrong.ends_with('.') && found.mend.ends_with('.')));
        let arrows = declaration.arrows().count();
        prop_assert_eq!(show::mermaid(&declaration).matches("-->").count(), arrows + 2);
        prop_assert_eq!(show::dot(&declaration).matches("-> ").count(), arrows);
        prop_assert!(show::text(&declaration).contains("(start)"));
    }

    #[test]
    fn no_text_upsets_the_readers(text in "\\PC{0,200}") {
        let _ = Draft::from_toml(&text);
        let _ = Draft::from_json(&text);
    }
}

/// Everything that a declaration says, changed one by one.
#[test]
fn each_thing_that_is_said_counts_for_the_version() {
    let said =
        Draft::new("a", "s").role("r", &["e"]).role("q", &[]).sources("r", &["/r"]).event("e", "r").event("f", "r");
    let said = said.topic("e", "t").effect("e", Some("f")).on("s", "e", "u").loops("u", "f", "u");
    let said = said.deadline("u", "1s", "e", "v").end("v", End::Success).on("w", "e", "v");
    let changes: [fn(Draft) -> Draft; 16] = [
        |draft| Draft { name: "b".to_owned(), ..draft },
        |draft| Draft { start: "w".to_owned(), ..draft },
        |draft| draft.role("p", &[]),
        |draft| draft.role("r", &["e", "f"]),
        |draft| draft.sources("r", &["/r", "/r2"]),
        |draft| draft.event("g", "r"),
        |draft| draft.event("e", "q"),
        |draft| draft.topic("e", "t.*"),
        |draft| draft.effect("f", None),
        |draft| draft.effect("e", Some("e")),
        |draft| draft.on("u", "f", "u"),
        |draft| draft.on("s", "e", "v"),
        |draft| draft.deadline("u", "2s", "e", "v"),
        |draft| draft.deadline("u", "1s", "e", "w"),
        |draft| draft.deadline_loops("u", "1s", "e", "v"),
        |draft| draft.end("v", End::Failure),
    ];
    let version = |draft: Draft| draft.declare().unwrap().version();
    let versions: BTreeSet<_> = changes.iter().map(|change| version(change(said.clone()))).collect();
    assert_eq!(versions.len(), changes.len(), "two changes have one version");
    assert!(!versions.contains(&version(said.clone())));
    // What says the same is the same.
    assert_eq!(version(said.clone().role("r", &["e", "e"]).deadline("u", "1000ms", "e", "v")), version(said));
}

#[test]
fn what_the_format_does_not_have_is_refused() {
    let good = Draft::new("a", "s").role("r", &[]).event("e", "r").on("s", "e", "t").end("t", End::Success);
    let json = good.to_json();
    assert!(Draft::from_json(&json).is_ok());
    let twice = json.replace("\"e\": \"t\"", "\"e\": \"t\", \"e\": \"s\"");
    assert_ne!(twice, json);
    assert!(Draft::from_json(&twice).unwrap_err().to_string().contains("'e' stands there twice"));
    for (from, to) in [
        ("\"by\"", "\"buy\""),
        ("\"end\"", "\"ends\""),
        ("\"success\"", "\"triumph\""),
        ("\"format\": 1", "\"format\": \"1\""),
    ] {
        let bad = json.replace(from, to);
        assert_ne!(bad, json);
        assert!(Draft::from_json(&bad).is_err(), "{bad}");
    }
    let long = json.replace("\"e\": \"t\"", "\"e\": { \"to\": \"t\", \"loops\": true }");
    assert!(Draft::from_json(&long).is_err());
    assert!(
        Draft::from_toml("format = 1\nname = 'a'\nstart = 's'\nroles = {}\nevents = {}\nstates = {}\nmore = 1")
            .is_err()
    );
    let deep = "[".repeat(100_000);
    assert!(Draft::from_json(&deep).is_err() && Draft::from_toml(&format!("a = {deep}")).is_err());
}

#[test]
fn findings_come_with_the_place_and_a_form_that_is_not_sound_with_all_of_them() {
    let draft = Draft { roles: BTreeMap::new(), ..Draft::new("a", "s").event("e", "r").on("s", "e", "t") };
    let error = draft.declare().unwrap_err().to_string();
    assert!(error.contains("has 2 flaws of form") && error.contains("events[\"e\"].by: unknown_role"), "{error}");
}
