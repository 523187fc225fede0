//! The declarations in `examples/declarations`: sound, and what the documents show of them.

use std::path::PathBuf;

use roundelay_protocol::choreography::check::check;
use roundelay_protocol::choreography::diff::{diff, format_diff};
use roundelay_protocol::choreography::finding::Code;
use roundelay_protocol::choreography::{Declaration, Draft, show};

pub(crate) fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples/declarations").join(name)
}

fn read(name: &str) -> Draft {
    Draft::from_toml(&std::fs::read_to_string(path(name)).unwrap()).unwrap()
}

pub(crate) fn declaration(name: &str) -> Declaration {
    read(name).declare().unwrap()
}

#[test]
fn the_examples_are_sound() {
    for name in ["incidents.toml", "order_saga.toml"] {
        let findings: Vec<_> = check(&declaration(name)).iter().map(ToString::to_string).collect();
        assert!(findings.is_empty(), "{name}:\n{}", findings.join("\n"));
    }
}

#[test]
fn the_reference_is_true() {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/choreography-reference.md");
    let page = std::fs::read_to_string(file).unwrap();
    let block = page.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let draft = Draft::from_toml(block).unwrap();
    let findings = |draft: &Draft| check(&draft.declare().unwrap()).iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(findings(&draft), Vec::<String>::new());
    for code in Code::ALL {
        assert!(page.contains(&format!("`{code}`")), "{code} is not explained");
    }
    let mut blind = draft;
    blind.roles.get_mut("payment").unwrap().sees.retain(|kind| kind != "order.unpaid");
    let shown = &findings(&blind)[0];
    assert!(page.contains(shown.as_str()), "not shown: {shown}");
}

#[test]
fn a_change_is_told_to_the_roles_that_it_touches_and_to_no_others() {
    let old = declaration("order_saga.toml");
    let mut draft = read("order_saga.toml");
    draft.states.get_mut("paid").unwrap().deadline.as_mut().unwrap().after = "3d".to_owned();
    let changes = diff(&old, &draft.declare().unwrap());
    assert_eq!(changes.keys().collect::<Vec<_>>(), ["payment", "shipping", "shop"]);
    let text = format_diff(&changes);
    let told = "shipping\n  states.paid.deadline: after 3d in 'paid' it has to emit 'shipping.late', which leads to 'refunding'; \
                before: after 2d in 'paid' it has to emit 'shipping.late', which leads to 'refunding'\n";
    assert!(text.contains(told), "{text}");

    let mut draft = read("order_saga.toml");
    draft.states.get_mut("placed").unwrap().on.remove("stock.refused");
    draft.events.remove("stock.refused");
    draft.roles.get_mut("shop").unwrap().sees.retain(|kind| kind != "stock.refused");
    let changes = diff(&old, &draft.declare().unwrap());
    assert_eq!(changes.keys().collect::<Vec<_>>(), ["shop", "stock"]);
    let gone = "states.placed.on[\"stock.refused\"]: no longer: in 'placed' it may emit 'stock.refused', which leads to 'declined', the end in failure";
    assert_eq!(
        changes["stock"].iter().filter(|change| change.to_string() == gone).count(),
        1,
        "{}",
        format_diff(&changes)
    );
}

#[test]
fn a_declaration_is_shown() {
    let orders = declaration("order_saga.toml");
    let (mermaid, dot, text) = (show::mermaid(&orders), show::dot(&orders), show::text(&orders));
    assert!(
        mermaid.starts_with("stateDiagram-v2\n") && mermaid.contains("after 30s shop#58; order.expired"),
        "{mermaid}"
    );
    assert!(dot.contains(r#""paid" -> "shipped" [label="shipping: shipping.sent"];"#), "{dot}");
    assert!(dot.contains(r#""placed" -> "declined" [label="after 30s shop: order.expired", style=dashed];"#), "{dot}");
    assert!(text.contains("  cancelled (end in failure)\n") && text.contains("  shipping.sent, for good\n"), "{text}");
    assert!(text.contains("    after 1h payment: payment.refund-due -> refunding (loop)\n"), "{text}");
}
