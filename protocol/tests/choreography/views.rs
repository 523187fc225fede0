//! Views: the same from any order of arrival, and from a snapshot as from the start.

use proptest::prelude::*;
use roundelay_protocol::choreography::Rank;
use roundelay_protocol::choreography::frontier::Frontier;
use roundelay_protocol::choreography::view::{Bounds, Input, View};
use roundelay_protocol::hlc::Hlc;
use roundelay_protocol::ids::{Author, BatchHash};

fn author(n: u8) -> Author {
    Author([n; 32])
}

/// A fold that tells every order apart.
fn view(bounds: Bounds) -> View<Vec<u32>, u32> {
    View::new(|state, _, event| state.push(*event), bounds, Frontier::new([author(0), author(1)]))
}

fn inputs() -> impl Strategy<Value = Vec<(Input<u32>, u32)>> {
    prop::collection::vec((0u64..60, 0u8..3, 0u8..3, any::<u32>()), 1..80).prop_map(|draws| {
        draws
            .into_iter()
            .enumerate()
            .map(|(nth, (stamp, from, key, order))| {
                let rank = Rank { stamp: Hlc(stamp), batch: BatchHash([from; 32]), index: nth as u32 };
                (Input { rank, author: author(from), key: format!("k{key}"), event: nth as u32 }, order)
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn a_view_does_not_depend_on_the_order_of_arrival(
        mut inputs in inputs(),
        snapshot_every in 1usize..6,
        size in 1usize..8,
        upto in 0u64..60,
    ) {
        inputs.sort_by_key(|(_, order)| *order);
        let mut view = view(Bounds { snapshot_every, ..Bounds::default() });
        for (nth, batch) in inputs.chunks(size).enumerate() {
            view.take(batch.iter().map(|(input, _)| input.clone()));
            if nth == 1 {
                view.receive(&author(0), Hlc(upto));
                view.receive(&author(1), Hlc(upto + 1));
            }
        }
        inputs.sort_by_key(|(input, _)| input.rank);
        for key in ["k0", "k1", "k2"] {
            let fold = |upto: u64| -> Vec<u32> {
                let due = inputs.iter().filter(|(input, _)| input.key == key && input.rank.stamp.0 <= upto);
                due.map(|(input, _)| input.event).collect()
            };
            let there = inputs.iter().any(|(input, _)| input.key == key);
            prop_assert_eq!(view.tentative(key).cloned(), there.then(|| fold(u64::MAX)));
            prop_assert_eq!(view.stable(key), there.then(|| fold(view.frontier().stable().0)));
        }
    }

    #[test]
    fn what_a_bounded_view_cannot_fold_it_says_and_folds_from_the_log(
        mut inputs in inputs(),
        events in 1usize..20,
        size in 1usize..8,
    ) {
        inputs.sort_by_key(|(_, order)| *order);
        let mut view = view(Bounds { events, snapshot_every: 3, ..Bounds::default() });
        let mut log = Vec::new();
        for batch in inputs.chunks(size) {
            log.extend(batch.iter().map(|(input, _)| input.clone()));
            log.sort_by_key(|input: &Input<u32>| input.rank);
            let stale = view.take(batch.iter().map(|(input, _)| input.clone())).stale;
            for key in stale {
                prop_assert!(view.restart(&key));
                view.take(log.iter().filter(|input| input.key == key).cloned());
            }
            prop_assert!(view.held() <= events);
        }
        for (key, state) in view.entries() {
            let fold: Vec<u32> = log.iter().filter(|input| input.key == key).map(|input| input.event).collect();
            prop_assert_eq!(state, &fold);
        }
    }
}
