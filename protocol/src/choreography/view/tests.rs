use super::*;
use crate::ids::BatchHash;

type Letters = View<String, char>;

const ME: Author = Author([1; 32]);

fn letters(bounds: Bounds) -> Letters {
    View::new(|state, _, letter| state.push(*letter), bounds, Frontier::new([ME]))
}

fn at(stamp: u64, letter: char) -> Input<char> {
    let rank = Rank { stamp: Hlc(stamp), batch: BatchHash([0; 32]), index: 0 };
    Input { rank, author: ME, key: "k".to_owned(), event: letter }
}

fn small() -> Bounds {
    Bounds { keys: 2, events: 100, snapshot_every: 2, exceptions: 1 }
}

#[test]
fn a_late_event_rolls_back_to_the_snapshot_before_it_once_for_all_that_came_with_it() {
    let mut view = letters(small());
    view.take("abcdefgh".chars().enumerate().map(|(n, letter)| at(10 * n as u64, letter)));
    let taken = view.take([at(55, 'Y'), at(45, 'X')]);
    assert_eq!(view.tentative("k").unwrap(), "abcdeXfYgh");
    // The nearest snapshot is after 'd': e, X, f, Y, g and h are folded again, once.
    assert_eq!((taken.rolled_back, taken.refolded), (1, 6));
    assert_eq!(view.take([at(45, 'X')]).known, 1);
}

#[test]
fn stable_is_what_the_frontier_covers() {
    let mut view = letters(small());
    view.take([at(10, 'a'), at(20, 'b'), at(30, 'c'), at(40, 'd'), at(50, 'e')]);
    assert_eq!(view.stable("k").unwrap(), "");
    assert!(view.receive(&ME, Hlc(40)));
    assert_eq!((view.stable("k").unwrap().as_str(), view.tentative("k").unwrap().as_str()), ("abcd", "abcde"));
    assert!(!view.is_stable("k"));
    view.receive(&ME, Hlc(50));
    assert!(view.is_stable("k"));
}

#[test]
fn what_comes_before_the_frontier_is_an_exception_and_counts_all_the_same() {
    let mut view = letters(small());
    view.take([at(10, 'a'), at(30, 'c')]);
    view.receive(&ME, Hlc(30));
    let stranger = Author([2; 32]);
    let taken = view.take([Input { author: stranger, ..at(20, 'b') }, Input { author: stranger, ..at(25, 'B') }]);
    assert_eq!((taken.exceptions, view.stable("k").unwrap().as_str()), (2, "abBc"));
    let (exceptions, further) = view.exceptions();
    assert_eq!((exceptions.len(), exceptions[0].author, further), (1, stranger, 1));
}

#[test]
fn what_can_be_rolled_back_is_bounded_and_what_comes_below_is_told() {
    let mut view = letters(Bounds { events: 3, ..small() });
    view.take("abcdef".chars().enumerate().map(|(n, letter)| at(10 * n as u64, letter)));
    assert_eq!((view.held(), view.tentative("k").unwrap().as_str()), (3, "abcdef"));
    assert_eq!(view.stable("k"), None, "the base is beyond the frontier");
    view.take([at(35, 'X')]);
    assert_eq!(view.tentative("k").unwrap(), "abcdXef");
    view.receive(&ME, Hlc(10));
    let taken = view.take([at(5, 'Y')]);
    assert_eq!(taken.stale.iter().collect::<Vec<_>>(), ["k"]);
    assert_eq!(view.tentative("k").unwrap(), "abcdXef", "until it is folded again from the log");
    let counted = (view.exceptions().0.len(), view.exceptions().1);
    view.take_again(&taken.stale, "aYb".chars().enumerate().map(|(n, letter)| at(5 * n as u64, letter)));
    assert_eq!(view.tentative("k").unwrap(), "aYb");
    assert_eq!((view.exceptions().0.len(), view.exceptions().1), counted, "all of them were here before");
}

#[test]
fn keys_are_bounded_and_a_view_above_a_floor_is_partial() {
    let mut view = letters(small());
    let of = |key: &str, input: Input<char>| Input { key: key.to_owned(), ..input };
    assert_eq!(view.take([of("a", at(1, 'a')), of("b", at(2, 'b')), of("c", at(3, 'c'))]).refused, 1);
    assert_eq!(view.partial_above(), None);
    view.miss(Hlc(9));
    view.miss(Hlc(7));
    assert_eq!(view.partial_above(), Some(Hlc(9)));
}
