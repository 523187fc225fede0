//! One flawed declaration a rule: the sound one with a single change, and the one finding that it must bring.

use super::super::draft::{Draft, DraftError};
use super::super::finding::Finding;
use super::*;
use crate::choreography::declaration::End;

/// A sound choreography: an order that is charged and sent, or refunded.
fn sound() -> Draft {
    Draft::new("order", "new")
        .role("shop", &["paid", "refused", "sent", "lost", "refunded"])
        .role("bank", &["placed", "expired", "lost"])
        .role("carrier", &["paid"])
        .event("placed", "shop")
        .event("expired", "shop")
        .event("paid", "bank")
        .effect("paid", Some("refunded"))
        .event("refused", "bank")
        .event("refunded", "bank")
        .event("refund_due", "bank")
        .event("sent", "carrier")
        .event("lost", "carrier")
        .on("new", "placed", "placed")
        .on("placed", "paid", "paid")
        .on("placed", "refused", "failed")
        .deadline("placed", "30s", "expired", "failed")
        .on("paid", "sent", "done")
        .deadline("paid", "2d", "lost", "refunding")
        .on("refunding", "refunded", "failed")
        .deadline("refunding", "1h", "refund_due", "escalated")
        .on("escalated", "refunded", "failed")
        .deadline_loops("escalated", "30d", "refund_due", "escalated")
        .end("done", End::Success)
        .end("failed", End::Failure)
}

/// What is found after a change, as `place code`.
fn found(change: impl FnOnce(&mut Draft)) -> Vec<String> {
    let mut draft = sound();
    change(&mut draft);
    let brief =
        |findings: Vec<Finding>| findings.iter().map(|found| format!("{} {}", found.place, found.code)).collect();
    match draft.declare() {
        Ok(declaration) => brief(check(&declaration)),
        Err(DraftError::Form(findings)) => brief(findings),
        Err(error) => panic!("{error}"),
    }
}

fn edit(change: impl FnOnce(Draft) -> Draft) -> Vec<String> {
    found(|draft| *draft = change(draft.clone()))
}

#[test]
fn a_sound_declaration_has_no_findings() {
    assert_eq!(found(|_| {}), Vec::<String>::new());
}

#[test]
fn every_state_is_reachable() {
    let island = |draft: Draft| draft.on("island", "placed", "failed").deadline("island", "1s", "expired", "failed");
    let unseen = [r#"states.island unreachable_state"#];
    assert_eq!(edit(island), unseen);
}

#[test]
fn every_event_is_possible_somewhere() {
    assert_eq!(edit(|draft| draft.event("praised", "shop")), [r#"events["praised"] unused_event"#]);
}

#[test]
fn a_choice_is_made_by_one_role() {
    let change = |draft: Draft| draft.event("withdrawn", "shop").on("placed", "withdrawn", "failed");
    let seen = |mut draft: Draft| {
        draft.roles.get_mut("bank").unwrap().sees.push("withdrawn".to_owned());
        draft
    };
    assert_eq!(edit(|draft| seen(change(draft))), ["states.placed.on divided_choice"]);
}

#[test]
fn who_acts_sees_what_leads_there() {
    let blind =
        |role: &str, kind: &str| found(|draft| draft.roles.get_mut(role).unwrap().sees.retain(|seen| seen != kind));
    assert_eq!(blind("carrier", "paid"), [r#"states.placed.on["paid"] unseen_state"#]);
    assert_eq!(blind("bank", "lost"), ["states.paid.deadline unseen_state"]);
    assert_eq!(blind("bank", "placed"), [r#"states.new.on["placed"] unseen_state"#]);
    assert_eq!(blind("shop", "refunded"), Vec::<String>::new(), "who does not act need not see");
}

#[test]
fn who_acts_sees_that_another_was_first() {
    let blind =
        |role: &str, kind: &str| found(|draft| draft.roles.get_mut(role).unwrap().sees.retain(|seen| seen != kind));
    assert_eq!(blind("shop", "refused"), [r#"states.placed.on["refused"] unseen_end"#]);
    assert_eq!(blind("bank", "expired"), ["states.placed.deadline unseen_end"]);
}

#[test]
fn every_wait_has_a_deadline() {
    let endless = found(|draft| draft.states.get_mut("paid").unwrap().deadline = None);
    assert!(endless.contains(&"states.paid endless_wait".to_owned()), "{endless:?}");
    let change = |draft: Draft| {
        draft.event("kept", "bank").on("escalated", "kept", "keeping").on("keeping", "refunded", "failed")
    };
    assert_eq!(edit(change), ["states.keeping endless_wait"]);
}

#[test]
fn an_effect_that_may_have_to_be_undone_has_a_compensation() {
    assert_eq!(edit(|draft| draft.effect("paid", None)), [r#"events["paid"] no_compensation"#]);
    assert_eq!(
        edit(|draft| draft.effect("sent", None)),
        Vec::<String>::new(),
        "its role alone decides, and nothing fails after"
    );
    // When the shop sees to the deadline, it can win against what the carrier has sent.
    let raced = found(|draft| {
        *draft = draft.clone().effect("sent", None).event("lost", "shop");
        draft.roles.get_mut("carrier").unwrap().sees.push("lost".to_owned());
    });
    assert_eq!(raced, [r#"events["sent"] no_compensation"#]);
    let idle = found(|draft| draft.events.get_mut("paid").unwrap().effect = false);
    assert_eq!(idle, [r#"events["paid"] idle_compensation"#]);
}

#[test]
fn no_way_to_failure_leads_around_a_compensation() {
    let around =
        found(|draft| draft.states.get_mut("escalated").unwrap().deadline.as_mut().unwrap().to = "failed".to_owned());
    assert_eq!(around, [r#"events["paid"] missed_compensation"#, "states.escalated.deadline idle_loop"]);
}

#[test]
fn a_loop_is_declared() {
    let silent = found(|draft| draft.states.get_mut("escalated").unwrap().deadline.as_mut().unwrap().is_loop = false);
    assert_eq!(silent, ["states.escalated.deadline undeclared_loop"]);
    let back = edit(|draft| draft.event("retried", "bank").on("escalated", "retried", "refunding"));
    let round = [r#"states.escalated.on["retried"] undeclared_loop"#, "states.refunding.deadline undeclared_loop"];
    assert_eq!(back, round);
    let idle = found(|draft| draft.states.get_mut("paid").unwrap().on.get_mut("sent").unwrap().is_loop = true);
    assert_eq!(idle, [r#"states.paid.on["sent"] idle_loop"#]);
}

#[test]
fn an_end_can_be_reached_from_everywhere() {
    let trap = |draft: Draft| draft.event("stuck", "bank").on("escalated", "stuck", "trap").end("trap", End::Success);
    assert_eq!(edit(trap), Vec::<String>::new());
    let trapped = found(|draft| {
        *draft = trap(draft.clone());
        draft.states.get_mut("trap").unwrap().end = None;
    });
    assert_eq!(trapped, ["states.trap no_end"]);
}

#[test]
fn the_start_is_before_everything() {
    let again =
        found(|draft| draft.states.get_mut("placed").unwrap().on.get_mut("refused").unwrap().to = "new".to_owned());
    assert!(again.contains(&r#"states.placed.on["refused"] bad_start"#.to_owned()), "{again:?}");
    assert_eq!(edit(|draft| draft.deadline("new", "1s", "expired", "failed")), ["states.new bad_start"]);
}

#[test]
fn the_form_is_judged_with_all_its_flaws_at_once() {
    let flaws = found(|draft| {
        draft.format = 2;
        draft.name = "an order".to_owned();
        draft.start = "nowhere".to_owned();
        draft.roles.get_mut("shop").unwrap().sees.push("rumour".to_owned());
        *draft = draft.clone().sources("shop", &["/a"]).sources("bank", &["/a"]).topic("paid", "orders..paid");
        draft.events.get_mut("sent").unwrap().by = "nobody".to_owned();
        *draft =
            draft.clone().on("placed", "paid", "limbo").on("done", "paid", "failed").on("placed", "expired", "failed");
        draft.states.get_mut("paid").unwrap().deadline.as_mut().unwrap().after = "soon".to_owned();
    });
    let expected = [
        r#"events["paid"].topic bad_topic"#,
        r#"events["sent"].by unknown_role"#,
        "format bad_format",
        "name bad_name",
        "roles.shop.sees unknown_event",
        "roles.shop.sources shared_source",
        "start unknown_state",
        "states.done end_goes_on",
        "states.paid.deadline.after bad_span",
        "states.placed.deadline double_deadline",
        r#"states.placed.on["paid"] unknown_state"#,
    ];
    assert_eq!(flaws, expected);
}

#[test]
fn a_declaration_is_bounded() {
    let many =
        found(|draft| (0..300).for_each(|n| drop(draft.events.insert(format!("e{n}"), draft.events["sent"].clone()))));
    assert_eq!(many, ["events too_many"]);
    let huge = format!("{}\n# {}", sound().to_toml(), "x".repeat(256 * 1024));
    assert!(matches!(Draft::from_toml(&huge), Err(DraftError::TooLarge(_))));
}

#[test]
fn findings_are_bounded() {
    let mut draft = Draft::new("dark", "s0").event("e", "r0").event("f", "r1").role("r0", &[]).role("r1", &[]);
    for n in 0..250 {
        draft =
            draft.on(&format!("s{n}"), "e", &format!("s{}", n + 1)).on(&format!("s{n}"), "f", &format!("s{}", n + 1));
    }
    let findings = check(&draft.end("s250", End::Success).declare().unwrap());
    assert_eq!(findings.len(), MAX_FINDINGS);
}
