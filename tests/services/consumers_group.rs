//! Nodes that share the work of a group, when one of them dies, and when a network parts them.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::consumers::{Service, ids, publish};
use crate::harness::{Mesh, Node, eventually, exit};

const COUNT: usize = 120;

fn member(node: &Node) -> Service {
    Service::new(node, "packing", &json!({ "topics": ["jobs"], "group": "packers", "ack_wait_ms": 60000 }))
}

fn see_each_other(services: &[&Service]) {
    eventually("the members see each other", || {
        services.iter().all(|service| {
            service.get("/lag")["members"].as_array().is_some_and(|members| members.len() == services.len())
        })
    });
    // What changed settles.
    thread::sleep(Duration::from_secs(3));
}

fn jobs(prefix: &str) -> Vec<String> {
    (0..COUNT).map(|number| format!("{prefix}{}:{number}", number % 17)).collect()
}

/// Works until nothing comes for a while; returns what it did.
fn work(service: &Service, quiet: Duration) -> Vec<String> {
    let (mut done, mut last) = (Vec::new(), Instant::now());
    while last.elapsed() < quiet {
        for job in service.fetch(4, 500) {
            let event = json!({ "topic": "packed", "event": { "type": "packed", "data": job["id"] } });
            let body = json!({ "processed": [job["rdlcursor"]], "events": [event] });
            service.post("/commit", &body).expect(200);
            done.extend(ids(&[job]));
            last = Instant::now();
        }
    }
    done
}

/// What a durable consumer of the results gets: each job once, whoever did it how often.
fn packed(node: &Node) -> Vec<String> {
    let reader = Service::new(node, "reader", &json!({ "topics": ["packed"] }));
    let mut packed = Vec::new();
    loop {
        let events = reader.fetch(500, 2_000);
        if events.is_empty() {
            break;
        }
        reader.ack(&events);
        packed.extend(events.iter().map(|event| event["data"].as_str().expect("a job").to_owned()));
    }
    packed.sort();
    packed
}

fn sorted(mut jobs: Vec<String>) -> Vec<String> {
    jobs.sort();
    jobs
}

#[test]
fn when_a_member_dies_in_the_middle_of_its_work_another_finishes_it() {
    let mesh = Mesh::star(2);
    mesh.connected(mesh.all());
    let (one, other) = (member(&mesh[0]), member(&mesh[1]));
    see_each_other(&[&one, &other]);
    let all = jobs("k");
    publish(&mesh[0], "jobs", &all);
    mesh.count("jobs", COUNT, mesh.all());

    // Each does only some of its share; no job is given to both.
    let (first, second) = (one.fetch(5, 20_000), other.fetch(9, 20_000));
    assert!(!first.is_empty() && !second.is_empty());
    let both: BTreeSet<String> = ids(&first).into_iter().chain(ids(&second)).collect();
    assert_eq!(both.len(), first.len() + second.len(), "a job went to both");
    let acknowledged: Vec<Value> = second[..2].to_vec();
    other.ack(&acknowledged);
    eventually("the other node knows what was done", || one.get("/lag")["events"] == json!(COUNT - acknowledged.len()));
    mesh[1].kill();
    one.ack(&first);
    let done = work(&one, Duration::from_secs(30));
    let did: BTreeSet<&String> = done.iter().collect();
    assert_eq!(did.len(), done.len(), "something was done twice by one member");
    assert_eq!(
        done.len() + first.len() + acknowledged.len(),
        COUNT,
        "everything is done, and what was done is not again"
    );
    assert_eq!(one.get("/lag")["events"], 0);
}

#[test]
fn what_both_sides_of_a_partition_do_has_the_same_ids() {
    let mesh = Mesh::star(2);
    mesh.connected(mesh.all());
    let (one, other) = (member(&mesh[0]), member(&mesh[1]));
    see_each_other(&[&one, &other]);
    let all = jobs("p");
    publish(&mesh[0], "jobs", &all);
    mesh.count("jobs", COUNT, mesh.all());
    mesh.network.cut(0, 1);
    let (here, there) = thread::scope(|scope| {
        let there = scope.spawn(|| work(&other, Duration::from_secs(40)));
        (work(&one, Duration::from_secs(40)), there.join().expect("the other side"))
    });
    // Neither can know of the other, so each does all.
    assert_eq!(sorted(here), sorted(all.clone()));
    assert_eq!(sorted(there), sorted(all.clone()));

    mesh.network.heal();
    mesh.converge(mesh.all());
    assert_eq!(mesh[0].count("packed"), 2 * COUNT as u64, "both have published");
    for node in mesh.all() {
        assert_eq!(packed(&mesh[node]), sorted(all.clone()), "node {node} drops what came twice");
    }
}

#[test]
fn four_members_do_everything_while_one_dies_one_is_cut_off_and_one_comes_late() {
    let mut mesh = Mesh::star(3);
    mesh.connected(mesh.all());
    let members: Vec<Service> = mesh.all().map(|node| member(&mesh[node])).collect();
    see_each_other(&members.iter().collect::<Vec<_>>());
    let (first, second) = (jobs("a"), jobs("b"));
    publish(&mesh[0], "jobs", &first);
    mesh.count("jobs", COUNT, mesh.all());
    // Each has a share, and dies or is cut off with work at hand.
    for service in &members {
        let (some, all) = (service.fetch(4, 20_000), service.get("/lag"));
        assert!(!some.is_empty() && all["of_other_members"].as_u64() > Some(0), "{all}");
    }
    mesh[2].kill();
    let late = mesh.start(&[0], &[]);
    mesh.connected([0, 1, late]);
    let late_member = member(&mesh[late]);
    publish(&mesh[0], "jobs", &second);
    mesh.count("jobs", 2 * COUNT, [0, 1, late]);
    mesh.network.partition(&[&[0, late], &[1]]);
    let quiet = Duration::from_secs(70);
    thread::scope(|scope| {
        let cut_off = scope.spawn(|| work(&members[1], quiet));
        let newcomer = scope.spawn(|| work(&late_member, quiet));
        let done = work(&members[0], quiet);
        let of_newcomer = newcomer.join().expect("the newcomer");
        assert!(!done.is_empty() && !of_newcomer.is_empty(), "both have a share");
        let both: BTreeSet<&String> = done.iter().chain(&of_newcomer).collect();
        assert_eq!(both.len(), done.len() + of_newcomer.len(), "those who are linked do nothing twice");
        assert!(!cut_off.join().expect("the one that was cut off").is_empty());
    });

    mesh.network.heal();
    mesh.converge([0, 1, late]);
    for node in [0, 1, late] {
        let all = sorted([first.clone(), second.clone()].concat());
        assert_eq!(packed(&mesh[node]), all, "node {node} has every job once");
    }
}

#[test]
fn what_a_member_prunes_of_the_others_does_not_hold_it_up() {
    let mesh = Mesh::star(2);
    mesh.connected(mesh.all());
    let (one, other) = (member(&mesh[0]), member(&mesh[1]));
    see_each_other(&[&one, &other]);
    let all = jobs("k");
    for jobs in all.chunks(10) {
        publish(&mesh[0], "jobs", jobs);
    }
    mesh.count("jobs", COUNT, mesh.all());
    // The other member does nothing.
    let mine = work(&one, Duration::from_secs(3)).len();
    assert_eq!(one.get("/lag")["of_other_members"], json!(COUNT - mine));
    mesh[0].cli(&["topics", "set", "jobs", "--max-events", "1"]).expect(exit::OK);
    eventually("the first member waits for nothing that is gone", || {
        let lag = one.get("/lag");
        lag["of_other_members"].as_u64().is_some_and(|left| left <= 10) && !lag["missed"].is_null()
    });
}
