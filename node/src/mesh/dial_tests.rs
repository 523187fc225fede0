use super::*;

const ME: u8 = 0;

fn peer(number: u8) -> PeerId {
    let keypair = libp2p::identity::Keypair::ed25519_from_bytes([number + 1; 32]).unwrap();
    keypair.public().to_peer_id()
}

fn address(number: u8) -> Multiaddr {
    format!("/ip4/8.8.8.{number}/tcp/4001").parse().unwrap()
}

fn book(min_links: usize) -> DialBook {
    DialBook::new(peer(ME), min_links, 128, 42)
}

fn candidate(number: u8, wanted: bool) -> Candidate {
    Candidate { peer: peer(number), addresses: vec![address(number)], host_tag: 1, wanted }
}

fn due(book: &mut DialBook, now_ms: u64) -> Vec<Dial> {
    book.due(now_ms, &Reach::default())
}

/// Answers every dial that is due and returns who was dialled.
fn connect_all(book: &mut DialBook, now_ms: u64) -> Vec<PeerId> {
    let dials = due(book, now_ms);
    let connect = |dial: Dial| {
        let peer = dial.peer.unwrap();
        book.on_connected(peer, Some((dial.ticket, &dial.addresses[0])), now_ms);
        peer
    };
    dials.into_iter().map(connect).collect()
}

#[test]
fn a_join_address_is_dialled_for_ever_ever_slower() {
    let mut book = book(5);
    assert!(book.join(&address(1), false));
    let (mut now_ms, mut delays) = (0, Vec::new());
    for _ in 0..12 {
        let dials = due(&mut book, now_ms);
        assert_eq!(dials.len(), 1, "at {now_ms}");
        assert!(due(&mut book, now_ms + 1).is_empty(), "one at a time");
        let (join, next_ms) = book.on_failed(dials[0].ticket, now_ms).unwrap();
        assert_eq!(join, Some(address(1)));
        assert!(due(&mut book, now_ms + next_ms - 1).is_empty(), "not before its time");
        delays.push(next_ms);
        now_ms += next_ms;
    }
    assert!((500..=1_000).contains(&delays[0]), "{delays:?}");
    assert!(delays[8..].iter().all(|delay| (30_000..=60_000).contains(delay)), "{delays:?}");
    assert!(delays.iter().collect::<BTreeSet<_>>().len() > 6, "jitter: {delays:?}");
}

#[test]
fn a_join_address_rests_while_its_peer_is_there_and_comes_back_soon_after_a_long_link() {
    let mut book = book(5);
    book.join(&address(1), false);
    let dial = due(&mut book, 0).pop().unwrap();
    assert_eq!(book.on_connected(peer(1), Some((dial.ticket, &address(1))), 0), Some(address(1)));
    assert!(due(&mut book, 100_000).is_empty());
    book.on_disconnected(peer(1), 100_000);
    assert_eq!(due(&mut book, 100_600).len(), 1, "after a moment, without back-off");
}

#[test]
fn a_lost_join_peer_is_asked_for_slowly_when_there_are_links_enough() {
    let mut book = book(1);
    book.join(&address(1), false);
    book.on_connected(peer(2), None, 0);
    let asked = (0..=120).filter(|second| {
        let dials = due(&mut book, second * 1_000);
        dials.iter().for_each(|dial| drop(book.on_failed(dial.ticket, second * 1_000)));
        !dials.is_empty()
    });
    assert!((3..=6).contains(&asked.count()));
}

#[test]
fn every_wanted_candidate_is_dialled_and_never_more_than_eight_at_once() {
    let mut book = book(0);
    book.set_candidates((1..=20).map(|number| candidate(number, true)).collect(), 0);
    assert_eq!(due(&mut book, 0).len(), limits::MAX_DIALS);
    let mut book = DialBook::new(peer(ME), 0, 128, 1);
    book.set_candidates((1..=20).map(|number| candidate(number, true)).collect(), 0);
    let all: BTreeSet<PeerId> = (0..5).flat_map(|turn| connect_all(&mut book, turn)).collect();
    assert_eq!(all.len(), 20);
    assert!(due(&mut book, 99_000).is_empty());
}

#[test]
fn links_are_kept_up_to_the_number_wanted_with_ring_neighbours_among_them() {
    let mut book = book(5);
    book.set_candidates((0..=30).map(|number| candidate(number, false)).collect(), 0);
    let dialled = connect_all(&mut book, 0);
    assert_eq!(dialled.len(), 5, "and never ourselves");
    let mut ring: Vec<PeerId> = (1..=30).map(peer).collect();
    ring.sort_by_key(|it| ring_place(it).wrapping_sub(ring_place(&peer(ME))));
    assert!(dialled.contains(&ring[0]) && dialled.contains(&ring[1]));
    book.on_disconnected(ring[0], 40_000);
    assert!(connect_all(&mut book, 41_000).contains(&ring[0]));
}

#[test]
fn ring_links_join_everybody_when_each_keeps_only_those() {
    let everyone: Vec<u8> = (0..40).collect();
    let mut reached = BTreeSet::from([0]);
    let mut edges = BTreeMap::new();
    for me in &everyone {
        let mut book = DialBook::new(peer(*me), 0, 128, 7);
        book.set_candidates(everyone.iter().map(|number| candidate(*number, false)).collect(), 0);
        edges.insert(*me, connect_all(&mut book, 0));
    }
    while let Some(next) = everyone.iter().find(|number| {
        let linked = reached.iter().any(|from| edges[from].contains(&peer(**number)));
        linked && !reached.contains(*number)
    }) {
        reached.insert(*next);
    }
    assert_eq!(reached.len(), everyone.len());
}

#[test]
fn nobody_blocked_kept_away_or_connected_is_dialled() {
    let mut book = book(5);
    book.set_candidates((1..=3).map(|number| candidate(number, true)).collect(), 0);
    book.block(peer(1));
    book.keep_away(peer(2), 10_000);
    book.on_connected(peer(3), None, 0);
    assert!(due(&mut book, 9_999).is_empty());
    assert_eq!(connect_all(&mut book, 10_000), [peer(2)]);
    book.unblock(peer(1));
    assert_eq!(connect_all(&mut book, 10_001), [peer(1)]);
}

#[test]
fn the_address_that_worked_is_tried_first() {
    let mut book = book(5);
    let mut known = candidate(1, true);
    known.addresses = vec![address(7), address(1)];
    book.set_candidates(vec![known], 0);
    let dial = due(&mut book, 0).pop().unwrap();
    book.on_connected(peer(1), Some((dial.ticket, &address(1))), 0);
    book.on_disconnected(peer(1), 100_000);
    assert_eq!(due(&mut book, 101_000)[0].addresses, [address(1), address(7)]);
}

#[test]
fn hints_are_given_up_and_wrong_addresses_rest_for_long() {
    let mut book = book(5);
    let hint = address(1).with(libp2p::multiaddr::Protocol::P2p(peer(1)));
    book.join(&hint, true);
    let mut now_ms = 0;
    for _ in 0..HINT_FAILURES {
        let dial = due(&mut book, now_ms).pop().unwrap();
        book.on_failed(dial.ticket, now_ms);
        now_ms += 61_000;
    }
    assert!(due(&mut book, now_ms).is_empty());

    book.join(&address(2), false);
    book.wrong_address(&address(2), now_ms);
    assert!(due(&mut book, now_ms + WRONG_ADDRESS_MS - 1).is_empty());
    assert_eq!(due(&mut book, now_ms + WRONG_ADDRESS_MS).len(), 1);
}
