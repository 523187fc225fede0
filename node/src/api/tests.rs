//! A node behind its socket, as clients see it.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use super::client::{Client, ClientError, LineStream};
use super::server::Server;
use super::types::{Code, EventsQuery, From, PublishOptions, VerifyLine};
use crate::config::{Options, Settings};
use crate::home::Home;
use crate::identity;
use crate::node::Node;

struct Running {
    home: Home,
    node: Node,
    server: Server,
    client: Client,
    _folder: tempfile::TempDir,
}

async fn start() -> Running {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::at(folder.path().join("home"));
    home.create().unwrap();
    let options = Options { listen: vec!["/ip4/127.0.0.1/tcp/0".into()], no_mdns: true, ..Options::default() };
    let settings = Settings::load(&home, &options).unwrap();
    let keypair = identity::load_or_create(&home.identity_path()).unwrap();
    let client = Client::new(&home).unwrap();
    assert!(matches!(client.status().await, Err(ClientError::NotReachable { .. })));
    std::fs::write(home.socket_path(), "stale").unwrap();
    let node = Node::start(settings.node_config(&home, keypair).unwrap()).await.unwrap();
    let server = Server::start(&home.socket_path(), node.clone()).unwrap();
    Running { home, node, server, client, _folder: folder }
}

fn code<T: std::fmt::Debug>(result: Result<T, ClientError>) -> Code {
    match result {
        Err(ClientError::Problem(problem)) => problem.code,
        other => panic!("no problem: {other:?}"),
    }
}

async fn next_json(lines: &mut LineStream) -> Value {
    serde_json::from_slice(&lines.next().await.unwrap().unwrap()).unwrap()
}

async fn all(lines: LineStream) -> Vec<Bytes> {
    lines.try_collect().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_go_in_and_come_out() {
    let Running { home, node, server, client, _folder } = start().await;
    let mode = std::fs::metadata(home.socket_path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let follow = EventsQuery { patterns: vec!["a.*".into(), "b".into()], follow: true, ..EventsQuery::default() };
    let mut followed = client.events(&follow).await.unwrap();
    let events = [json!({"data": {"n": 1}}), json!({"id": "2", "type": "t", "data": "two", "key": "x"})];
    let published = client.publish("a.b", &events, PublishOptions::default()).await.unwrap();
    assert_eq!((published.topic.as_str(), published.links, published.events.len()), ("a.b", 0, 2));
    assert_eq!((published.events[0].seq, published.events[1].id.as_str()), (1, "2"));
    client.publish("c", &[json!({})], PublishOptions::default()).await.unwrap();
    client.publish("b", &[json!({})], PublishOptions::default()).await.unwrap();

    let first = next_json(&mut followed).await;
    assert_eq!((&first["data"]["n"], &first["rdltopic"], &first["rdlseq"]), (&json!(1), &json!("a.b"), &json!("1")));
    assert_eq!((&first["source"], &first["type"]), (&json!(format!("/nodes/{}", node.id())), &json!("event")));
    assert_eq!(next_json(&mut followed).await["id"], "2");
    assert_eq!(next_json(&mut followed).await["rdltopic"], "b");

    let query = |from, limit| EventsQuery { patterns: vec![">".into()], from, limit, follow: false };
    for (from, limit, count) in [
        (From::Start, None, 4),
        (From::Start, Some(1), 1),
        (From::Start, Some(0), 0),
        (From::End, None, 0),
        (From::Last(3), None, 3),
        (From::TimeMs(0), Some(9), 4),
        (From::TimeMs(u64::MAX), None, 0),
        // What is told then is a gap.
        (From::Arrival(1_000_000), None, 1),
    ] {
        assert_eq!(all(client.events(&query(from, limit)).await.unwrap()).await.len(), count, "{from}");
    }

    server.close();
    assert!(followed.next().await.is_none(), "a stream ends with the node");
    node.shutdown().await;
    server.finish(Duration::from_secs(5)).await;
    assert!(!home.socket_path().exists());
    assert!(matches!(client.status().await, Err(ClientError::NotReachable { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_done_is_a_problem() {
    let Running { client, node, server: _server, _folder, .. } = start().await;
    let none = PublishOptions::default();
    assert_eq!(code(client.publish("a..b", &[json!({})], none).await), Code::BadTopic);
    assert_eq!(code(client.publish("a/b", &[json!({})], none).await), Code::BadTopic);
    assert_eq!(code(client.publish("_mesh", &[json!({})], none).await), Code::SystemTopic);
    assert_eq!(code(client.publish("a", &[json!({"Id": "x"})], none).await), Code::BadEvent);
    assert_eq!(code(client.publish("a", &[json!(5)], none).await), Code::BadEvent);
    let large = json!({"data": "x".repeat(1 << 20)});
    assert_eq!(code(client.publish("a", &[large], none).await), Code::EventTooLarge);
    let body = vec![b' '; 17 << 20];
    assert_eq!(code(client.publish_body("a", body, none).await), Code::BodyTooLarge);
    assert_eq!(code(client.publish_body("a", "[]", none).await), Code::BadRequest);
    assert_eq!(code(client.join_topics("a..b").await), Code::BadPattern);
    assert_eq!(code(client.add_peer("127.0.0.1:1").await), Code::BadAddress);
    assert_eq!(code(client.forget_peer("nobody").await), Code::BadPeer);
    assert_eq!(code(client.backup("relative").await), Code::BadRequest);
    assert!(client.status().await.unwrap().topics.iter().all(|topic| topic.topic.starts_with('_')));

    let acks = PublishOptions { acks: 1, timeout_ms: Some(50) };
    let Err(ClientError::Problem(problem)) = client.publish("a", &[json!({"id": "1"})], acks).await else { panic!() };
    assert_eq!((problem.code, problem.published.unwrap().events[0].seq), (Code::AcksTimeout, 1));
    node.shutdown().await;
    assert_eq!(code(client.status().await), Code::Stopped);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_goes_out_and_in_again() {
    let (old, new) = (start().await, start().await);
    let events: Vec<_> = (0..700).map(|n| json!({"id": n.to_string(), "data": n})).collect();
    old.client.publish("a", &events, PublishOptions::default()).await.unwrap();
    old.client.publish("b", &events[..1], PublishOptions::default()).await.unwrap();
    let exported = all(old.client.export(None).await.unwrap()).await;
    assert_eq!(exported.len(), 701);
    assert_eq!(all(old.client.export(Some("b")).await.unwrap()).await.len(), 1);

    let body: Vec<_> =
        exported.iter().map(|line| Ok::<_, std::io::Error>([line, &b"\n"[..]].concat().into())).collect();
    let imported = new.client.import(stream::iter(body)).await.unwrap();
    assert_eq!((imported.events, imported.topics), (701, 2));
    let again = all(new.client.export(None).await.unwrap()).await;
    let stripped = |line: &Bytes| {
        let mut json: Value = serde_json::from_slice(line).unwrap();
        json.as_object_mut().unwrap().retain(|name, _| !name.starts_with("rdl"));
        json.to_string()
    };
    assert!(again.iter().map(stripped).eq(exported.iter().map(stripped)));

    let broken = [exported[0].clone(), Bytes::from_static(b"\nno event\n"), exported[1].clone()];
    let broken = stream::iter(broken.map(Ok::<_, std::io::Error>));
    let Err(ClientError::Problem(problem)) = new.client.import(broken).await else { panic!() };
    assert!(problem.code == Code::BadEvent && problem.detail.starts_with("event 2"), "{problem:?}");

    let lines: Vec<_> = new.client.verify().await.unwrap().try_collect().await.unwrap();
    let Some(VerifyLine::Report(report)) = lines.last() else { panic!("{lines:?}") };
    assert!(report.clean && report.events >= 702, "{report:?}");
    let file = new.home.path().join("copy").to_str().unwrap().to_owned();
    assert!(new.client.backup(&file).await.unwrap().bytes > 0);
    assert_eq!(code(new.client.backup(&file).await), Code::FileExists);

    new.client.join_topics("only.>").await.unwrap();
    assert!(new.client.leave_topics("only.>").await.unwrap());
    assert!(!new.client.leave_topics("only.>").await.unwrap());
    new.client.shutdown().await.unwrap();
    new.server.asked_to_stop().await;
    new.node.shutdown().await;
    old.node.shutdown().await;
}
