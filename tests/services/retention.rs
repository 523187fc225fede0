//! What is kept of topics, for how long, and who may publish to them.

use crate::consumers::Service;
use crate::harness::{DEADLINE_ARG, Mesh, eventually, exit, lines, lines_of};

const TOPIC: &str = "orders.placed";

#[test]
fn a_rule_holds_at_once_and_after_a_restart_and_for_its_own_node_only() {
    let mesh = Mesh::star(2);
    mesh.connected(mesh.all());
    for round in 0..20 {
        mesh[0].publish_lines(TOPIC, &lines(&format!("event{round}"), 20));
    }
    mesh.count(TOPIC, 400, mesh.all());
    mesh[1].cli(&["topics", "set", "orders.>", "--max-events", "100"]).expect(exit::OK);
    eventually("the oldest are gone", || mesh[1].count(TOPIC) <= 100);
    assert_eq!(mesh[0].count(TOPIC), 400);
    mesh.agree(mesh.all());
    assert_eq!(mesh[0].digest(TOPIC), mesh[1].digest(TOPIC));

    // Nothing comes back, neither by a link nor by a restart.
    let kept = mesh[1].exported(TOPIC);
    mesh[1].kill();
    mesh[1].start();
    mesh.connected(mesh.all());
    mesh.agree(mesh.all());
    assert_eq!(mesh[1].exported(TOPIC), kept);
    for round in 0..5 {
        mesh[0].publish_lines(TOPIC, &lines(&format!("late{round}"), 20));
    }
    mesh.count(TOPIC, 500, [0]);
    let last = mesh[0].publish(TOPIC, "the last");
    eventually("the rule holds after a restart", || {
        mesh[1].count(TOPIC) <= 100 && mesh[1].exported(TOPIC).contains(&last)
    });
    mesh[1].verify();

    let shown = mesh[1].cli(&["topics", "rules", "--json"]).expect(exit::OK).stdout;
    assert_eq!(shown.trim(), r#"[{"pattern":"orders.>","rule":{"max_events":100}}]"#);
    mesh[1].cli(&["topics", "unset", "orders.>"]).expect(exit::OK);
    mesh[1].cli(&["topics", "unset", "orders.>"]).expect(exit::FAILURE).saying(&["has no rule"]);
    assert_eq!(mesh[1].cli(&["topics", "rules", "--json"]).expect(exit::OK).stdout.trim(), "[]");
}

#[test]
fn what_is_old_goes_by_itself() {
    let mesh = Mesh::star(2);
    mesh.connected(mesh.all());
    mesh[0].publish_lines(TOPIC, &lines("old", 50));
    mesh[0].publish_lines("other", &lines("old", 50));
    mesh[0].publish(TOPIC, "the last");
    mesh.count(TOPIC, 51, mesh.all());
    mesh[1].cli(&["topics", "set", TOPIC, "--max-age", "3s"]).expect(exit::OK);
    eventually("what is old is gone", || mesh[1].count(TOPIC) < 51);
    assert_eq!((mesh[0].count(TOPIC), mesh[1].count("other")), (51, 50));
}

#[test]
fn of_each_key_the_last_event_stays_also_for_those_who_come_later() {
    let mut mesh = Mesh::star(2);
    mesh.connected(mesh.all());
    for node in [0, 1] {
        mesh[node].cli(&["topics", "set", TOPIC, "--keyed"]).expect(exit::OK);
    }
    let http = mesh[0].http();
    let publish = |round: usize, key: &str| {
        let event = serde_json::json!({"specversion": "1.0", "id": format!("{key}-{round}"), "source": "/test",
            "type": "priced", "partitionkey": key, "data": {"round": round, "what": "x".repeat(200)}});
        let path = format!("/v1/topics/{TOPIC}/events");
        http.post(&path, "application/cloudevents+json", event.to_string()).expect(201);
    };
    let (rounds, hot) = (60, 10);
    for round in 0..rounds {
        publish(round, &format!("cold{round}"));
        (0..hot).for_each(|key| publish(round, &format!("hot{key}")));
    }
    let all = rounds * (hot + 1);
    let most = 2 * (rounds + hot) + 100;
    eventually("what is superseded is gone", || [0, 1].iter().all(|node| mesh[*node].count(TOPIC) <= most as u64));
    assert!(most < all / 2);

    // Whoever comes later gets the last event of each key, whether it keeps by key or not.
    mesh.start(&[0], &[]);
    mesh.start(&[], &[]);
    mesh[3].cli(&["topics", "set", TOPIC, "--keyed"]).expect(exit::OK);
    mesh[3].cli(&["peers", "add", &mesh[1].address()]).expect(exit::OK);
    let last = |node: usize| {
        let mut last = std::collections::BTreeMap::new();
        let answer = mesh[node].http().get(&format!("/v1/events?topic={TOPIC}&order=time")).expect(200);
        for line in String::from_utf8(answer.body).expect("UTF-8").lines() {
            let event: serde_json::Value = serde_json::from_str(line).expect("JSON");
            if let Some(key) = event["partitionkey"].as_str() {
                last.insert(key.to_owned(), event["id"].as_str().expect("an id").to_owned());
            }
        }
        last
    };
    let expected = last(0);
    assert_eq!(expected.len(), rounds + hot);
    assert_eq!(expected["hot3"], format!("hot3-{}", rounds - 1));
    for node in [1, 2, 3] {
        eventually(&format!("node {node} has them"), || last(node) == expected);
        mesh[node].verify();
    }
    eventually("who keeps by key agrees", || {
        [1, 3].iter().all(|node| mesh[*node].digest(TOPIC) == mesh[0].digest(TOPIC))
    });

    // It stays so over a crash.
    mesh[0].kill();
    mesh[0].start();
    assert_eq!(last(0), expected);
    mesh[0].verify();
}

#[test]
fn a_consumer_that_falls_behind_in_a_keyed_topic_misses_what_was_superseded_and_no_more() {
    let mesh = Mesh::star(2);
    mesh.connected(mesh.all());
    mesh[0].cli(&["topics", "set", TOPIC, "--keyed"]).expect(exit::OK);
    let config = serde_json::json!({"topics": [TOPIC], "max_in_flight": 1000});
    let service = Service::new(&mesh[0], "late", &config);
    // More than it reads ahead.
    let (rounds, of_round) = (150, 100);
    let publish = |round: usize, keys: Vec<String>| {
        let event = |(nth, key): (usize, String)| {
            serde_json::json!({"specversion": "1.0", "id": format!("{round}-{nth}-{key}"), "source": "/test",
                "type": "priced", "partitionkey": key})
        };
        let events: Vec<_> = keys.into_iter().enumerate().map(event).collect();
        let path = format!("/v1/topics/{TOPIC}/events");
        let body = serde_json::to_string(&events).expect("JSON");
        mesh[0].http().post(&path, "application/cloudevents-batch+json", body).expect(201);
    };
    for round in 0..rounds {
        publish(round, (0..of_round).map(|nth| format!("hot{}", nth % 5)).collect());
        publish(round, vec![format!("cold{round}")]);
    }
    let all = (rounds * (of_round + 1)) as u64;
    eventually("most is gone", || mesh[0].count(TOPIC) < all / 4);
    // It looks for what was pruned every 5 s, and has read no more than its window.
    std::thread::sleep(std::time::Duration::from_secs(11));
    let (mut delivered, mut cold) = (0, 0);
    loop {
        let events = service.fetch(1000, 500);
        if !events.is_empty() {
            service.ack(&events);
        }
        delivered += events.len() as u64;
        cold += events
            .iter()
            .filter(|event| event["partitionkey"].as_str().is_some_and(|key| key.starts_with('c')))
            .count();
        if events.is_empty() && service.get("/lag")["events"] == 0 {
            break;
        }
    }
    let missed = service.get("/lag")["missed"].clone();
    assert_eq!(cold, rounds);
    assert_eq!(missed["more"], false, "{missed}");
    assert_eq!(delivered + missed["events"].as_u64().expect("a number"), all, "{delivered} and {missed}");
}

#[test]
fn rules_are_checked_before_they_are_set() {
    let mesh = Mesh::star(1);
    let http = mesh[0].http();
    let put =
        |path: &str, body: &str| http.send(reqwest::Method::PUT, path, &[("content-type", "application/json")], body);
    put("/v1/rules/_mesh", "{}").expect_problem(400, "bad_rule");
    put("/v1/rules/a..b", "{}").expect_problem(400, "bad_pattern");
    put("/v1/rules/a", r#"{"writers": ["nobody"]}"#).expect_problem(400, "bad_peer");
    put("/v1/rules/a", r#"{"max_aeg_ms": 1}"#).expect_problem(400, "bad_request");
    http.get("/v1/rules/a").expect_problem(404, "not_found");
    put("/v1/rules/a", r#"{"max_bytes": 1000, "max_age_ms": 60000}"#).expect(204);
    assert_eq!(http.get("/v1/rules/a").expect(200).json(), serde_json::json!({"max_age_ms": 60000, "max_bytes": 1000}));
    mesh[0].cli(&["topics", "set", "a"]).expect(exit::USAGE);
    mesh[0].cli(&["topics", "set", "a", "--max-age", "soon"]).expect(exit::USAGE).saying(&["7d"]);
}

#[test]
fn only_those_who_may_write_are_heard_where_the_rule_is_known_and_the_rest_converges() {
    let mesh = Mesh::star(3);
    mesh.connected(mesh.all());
    let writer = mesh[0].id();
    mesh[1].cli(&["topics", "set", TOPIC, "--writers", writer]).expect(exit::OK);
    let by_writer = mesh[0].publish_lines(TOPIC, &lines("writer", 30));
    let by_other = mesh[2].publish_lines(TOPIC, &lines("other", 30));
    let elsewhere = mesh[2].publish_lines("free", &lines("other", 30));
    mesh.agree(mesh.all());
    mesh.count(TOPIC, 60, [0, 2]);
    mesh.holds("free", &elsewhere, mesh.all());
    mesh.holds(TOPIC, &by_writer, [1]);
    mesh.holds(TOPIC, by_writer.iter().chain(&by_other), [0, 2]);

    // Its own service is told so.
    let refused = mesh[1].cli(&["pub", TOPIC, "mine"]);
    refused.expect(exit::USAGE).saying(&["names its writers", "change the rule"]);
    let path = format!("/v1/topics/{TOPIC}/events");
    let event = r#"[{"specversion": "1.0", "id": "1", "source": "/test", "type": "test"}]"#;
    mesh[1].http().post(&path, "application/cloudevents-batch+json", event).expect_problem(403, "not_writer");

    // A rule that ends lets in what was left out, over a restart too.
    mesh[1].stop();
    mesh[1].start();
    mesh.connected(mesh.all());
    mesh[1].cli(&["topics", "unset", TOPIC]).expect(exit::OK);
    mesh.converge(mesh.all());
    mesh.holds(TOPIC, by_writer.iter().chain(&by_other), mesh.all());
    assert_eq!(mesh[0].digest(TOPIC), mesh[1].digest(TOPIC));
}

#[test]
fn pruned_space_comes_back_while_the_node_works_and_a_kill_in_the_middle_does_no_harm() {
    let mut mesh = Mesh::empty();
    mesh.start(&[], &[]);
    let published = mesh[0].publish_lines("large", &lines_of("event", 600, 60_000));
    let kept = mesh[0].publish_lines("kept", &lines_of("kept", 200, 60_000));
    mesh.start(&[0], &[]);
    mesh.converge(mesh.all());
    assert_eq!(published.len(), 600);
    let before = mesh[0].status().disk_bytes();
    mesh[0].cli(&["topics", "set", "large", "--max-bytes", "1MiB"]).expect(exit::OK);
    eventually("the topic is small", || mesh[0].count("large") < 20);

    // The copy takes a while: it is killed within it, unless it is quicker than this thread.
    let fresh = mesh[0].home.join("log.rewriting/db");
    let mut compacting = mesh[0].command(&["log", "compact", "--timeout", DEADLINE_ARG]).spawn().expect("it starts");
    while !fresh.exists() && compacting.try_wait().expect("it is there").is_none() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    mesh[0].kill();
    compacting.wait().expect("it has ended");
    mesh[0].start();
    mesh[0].verify();
    mesh.holds("kept", &kept, [0]);

    mesh[0].cli(&["log", "compact"]).expect(exit::OK);
    let after = mesh[0].status().disk_bytes();
    assert!(after < before / 2, "{before} before, {after} after");
    mesh[0].verify();
    let late = mesh[0].publish_lines("kept", &lines("late", 100));
    mesh[0].kill();

    // Without a node, too.
    let done = mesh[0].cli(&["log", "compact", "--json"]).expect(exit::OK).stdout;
    assert!(done.contains("bytes_after"), "{done}");
    mesh[0].start();
    mesh.connected(mesh.all());
    mesh.agree(mesh.all());
    mesh.holds("kept", kept.iter().chain(&late), mesh.all());
    assert!(!mesh[0].home.join("log.rewriting").exists());
}
