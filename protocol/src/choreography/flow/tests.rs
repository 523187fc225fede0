use super::super::declaration::End;
use super::super::draft::Draft;
use super::super::rank::Rank;
use super::*;
use crate::hlc::Hlc;
use crate::ids::BatchHash;
use crate::topic::Topic;

fn event(at_ms: u64, kind: &str, id: &str, causes: &[&str]) -> Observed {
    Observed {
        rank: Rank { stamp: Hlc::from_ms(at_ms), batch: BatchHash([0; 32]), index: 0 },
        topic: Topic::new("t").unwrap(),
        author: None,
        source: if kind == "asked" { "/shop/1".to_owned() } else { "/bank".to_owned() },
        id: id.to_owned(),
        kind: kind.to_owned(),
        causes: causes.iter().map(|&cause| cause.to_owned()).collect(),
        correlation: None,
        role: None,
        version: None,
    }
}

fn events() -> Vec<Observed> {
    (0..100u64)
        .flat_map(|n| {
            let (asked, yes) = (format!("a{n}"), format!("y{n}"));
            // A repeat that was published later says nothing of how fast the first was.
            let [first, repeat] = [1, 90_000].map(|late| event(100 * n + n + late, "yes", &yes, &[&asked]));
            [repeat, event(100 * n, "asked", &asked, &[]), first]
        })
        .chain([event(10_000, "fee", "f", &["y1", "nowhere"])])
        .collect()
}

#[test]
fn a_flow_counts_and_measures_each_edge() {
    let shop = Draft::new("q", "new").role("shop", &[]).sources("shop", &["/shop/1"]).role("bank", &["asked"]);
    let shop = shop.event("asked", "shop").event("yes", "bank").event("no", "bank");
    let shop =
        shop.on("new", "asked", "asked").on("asked", "yes", "end").on("asked", "no", "end").end("end", End::Success);
    let declaration = shop.declare().unwrap();
    let flow = Flow::of(&events(), Some(&declaration));
    let station = |kind: &str, who: &str| Station { kind: kind.to_owned(), who: who.to_owned() };
    let edge = &flow.edges()[&(station("asked", "shop"), station("yes", "/bank"))];
    assert_eq!((edge.count, edge.latency_ms.value_at_quantile(0.5), edge.latency_ms.max()), (100, 50, 100));
    assert_eq!((flow.per_second(100), flow.left_out()), (Some(10.0), (1, 0)));
    let difference = flow.compare(&declaration);
    assert_eq!(difference.undeclared, [(("yes".to_owned(), "fee".to_owned()), 1)].into());
    assert_eq!((difference.unseen, difference.absent), ([].into(), ["no".to_owned()].into()));
    // An answer that names nothing.
    let mute = [event(0, "asked", "a", &[]), event(1, "no", "n", &[])];
    let difference = Flow::of(&mute, Some(&declaration)).compare(&declaration);
    assert_eq!(difference.unseen, [("asked".to_owned(), "no".to_owned())].into());
    assert_eq!(difference.absent, ["yes".to_owned()].into());
    assert!(flow.text().ends_with("\n1 cause is missing\n"), "{}", flow.text());
    assert!(flow.text().contains("asked (shop) -> yes (/bank): 100, 10.000/s, p50 50ms"), "{}", flow.text());
    // Two digits of a day.
    let slow = Flow::of(&[event(0, "asked", "a", &[]), event(86_400_000, "yes", "y", &["a"])], None);
    let took_ms = slow.edges().values().map(|edge| edge.latency_ms.max()).max();
    assert!(took_ms.is_some_and(|ms| ms.abs_diff(86_400_000) < 864_000), "{took_ms:?}");
    assert!(flow.mermaid().contains("-->|100 in 50ms|") && flow.dot().contains("100 in 50ms"));
}

#[test]
fn a_flow_does_not_depend_on_the_order_of_arrival() {
    let mut events = events();
    let before = Flow::of(&events, None).text();
    events.reverse();
    assert_eq!(Flow::of(&events, None).text(), before);
}

#[test]
fn edges_are_bounded() {
    let many: Vec<_> = (0..2000u64)
        .flat_map(|n| {
            [event(n, &format!("k{n}"), &format!("a{n}"), &[]), event(n, "yes", &format!("b{n}"), &[&format!("a{n}")])]
        })
        .collect();
    let flow = Flow::of(&many, None);
    assert_eq!((flow.edges().len(), flow.left_out()), (MAX_EDGES, (0, 2000 - MAX_EDGES as u64)));
}
