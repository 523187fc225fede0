//! The order saga under events of any kind: what is said of an instance does not depend on how they arrived.

use proptest::prelude::*;
use roundelay_protocol::choreography::conformance::{Conformance, Versions};
use roundelay_protocol::choreography::{Declaration, Observed, Rank};
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::BatchHash;
use roundelay_protocol::topic::Topic;

use crate::examples::declaration;

/// Draws an event: its type by the declaration, when, after which earlier ones, and of which instance.
type Draw = (prop::sample::Index, u64, Vec<prop::sample::Index>, u8, prop::sample::Index);

fn events(declaration: &Declaration, draws: Vec<Draw>) -> Vec<Observed> {
    let kinds: Vec<&String> = declaration.events().keys().collect();
    let mut events: Vec<Observed> = Vec::new();
    for (nth, (kind, gap_ms, causes, batch, namesake)) in draws.into_iter().enumerate() {
        let kind = if nth == 0 { "order.placed" } else { kind.get(&kinds) };
        let at_ms = events.last().map_or(0, Observed::at_ms) + gap_ms;
        let rank = Rank { stamp: Hlc::from_ms(at_ms), batch: BatchHash([batch; 32]), index: nth as u32 };
        let by = declaration.emitter(kind).unwrap().to_owned();
        let causes = causes.iter().filter(|_| !events.is_empty()).map(|nth| nth.get(&events).id.clone()).collect();
        // One in eight has the id of an earlier one, as a repeat or a decision that was taken twice.
        let id = if batch % 8 == 0 && nth > 0 { namesake.get(&events).id.clone() } else { format!("e{nth}") };
        events.push(Observed {
            rank,
            topic: Topic::new(if kind.starts_with("order") { "orders.placed" } else { "orders.other" }).unwrap(),
            author: None,
            source: format!("/{by}"),
            id,
            kind: kind.to_owned(),
            causes,
            correlation: Some(format!("order-{}", batch % 2)),
            role: (batch % 5 == 0).then_some(by),
            version: None,
        });
    }
    let topic_of = |event: &Observed| declaration.events()[&event.kind].topic.as_ref().unwrap().as_topic().unwrap();
    events.iter().cloned().map(|event| Observed { topic: topic_of(&event), ..event }).collect()
}

fn draws() -> impl Strategy<Value = Vec<Draw>> {
    let index = any::<prop::sample::Index>;
    let draw = (index(), 0u64..40_000, prop::collection::vec(index(), 0..3), any::<u8>(), index());
    prop::collection::vec(draw, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_is_said_does_not_depend_on_the_order_of_arrival(
        draws in draws(),
        keys in prop::collection::vec(any::<u32>(), 40),
        size in 1usize..10,
    ) {
        let declaration = declaration("order_saga.toml");
        let in_order = events(&declaration, draws);
        let mut arrived: Vec<_> = in_order.iter().cloned().zip(keys).collect();
        arrived.sort_by_key(|(_, key)| *key);
        let versions = Versions::new(declaration);
        let (mut one, mut other) = (Conformance::new(versions.clone()), Conformance::new(versions));
        let mut sorted = in_order;
        sorted.sort_by_key(|event| event.rank);
        one.take(sorted);
        for batch in arrived.chunks(size) {
            let batch = || batch.iter().map(|(event, _)| event.clone());
            let taken = other.take(batch());
            prop_assert!(taken.refolded <= taken.touched.len());
            prop_assert_eq!(other.take(batch()).known, batch().count());
        }
        prop_assert_eq!(one.instances().collect::<Vec<_>>(), other.instances().collect::<Vec<_>>());
        for correlation in ["order-0", "order-1"] {
            prop_assert_eq!(one.judgements(correlation), other.judgements(correlation));
        }
        prop_assert_eq!(one.due(u64::MAX).collect::<Vec<_>>(), other.due(u64::MAX).collect::<Vec<_>>());
    }
}
