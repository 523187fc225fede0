//! How fast gossip goes, and whether it loses anything.

use super::*;

/// As fast as `try_publish` takes them, nothing gets lost on the way to a neighbour that keeps up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_at_full_rate_arrive() {
    assert_eq!(flood(2_000, MESSAGE_BYTES, 2_000).await, 2_000);
    assert_eq!(flood(5_000, 300, 5_000).await, 5_000);
}

/// Publishes messages with so many in flight; returns how many arrived.
async fn flood(messages: u32, bytes: usize, window: u32) -> u32 {
    let mut a = Node::start(config(1)).await;
    let b = Node::joining(2, &[&a]).await;
    a.subscribe("bulk").await;
    b.subscribe("bulk").await;
    b.wait_for_common_topics(1).await;
    a.wait_for_common_topics(1).await;
    let begun = std::time::Instant::now();
    let (mut sent, mut arrived) = (0_u32, 0);
    loop {
        while sent < messages && sent - arrived < window {
            let mut data = vec![0; bytes];
            data[..4].copy_from_slice(&sent.to_be_bytes());
            if !b.mesh.try_publish("bulk", data.into()) {
                break;
            }
            sent += 1;
        }
        let Ok(Some(event)) = timeout(Duration::from_secs(2), a.events.recv()).await else { break };
        if let MeshEvent::Gossip { from, id, data, .. } = event {
            assert_eq!(data.len(), bytes);
            a.mesh.verdict(id, from, Verdict::Accept);
            arrived += 1;
            if arrived == messages {
                break;
            }
        }
    }
    let took = begun.elapsed();
    let counters = b.mesh.counters();
    let (refused, full) = (counters.publishes_dropped, counters.publishes_queues_full);
    println!("{bytes} bytes, window {window}: {arrived} of {sent} in {took:?}; refused {refused}, queues full {full}");
    arrived
}

/// Run by hand to see where gossipsub begins to lose messages.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn measure_losses() {
    for window in [8, 32, 64, 100, 128, 150, 256, 1_024, 2_000] {
        flood(2_000, MESSAGE_BYTES, window).await;
        flood(10_000, 300, window).await;
    }
}

/// Run by hand: five nodes, each linked to all, everybody accepts and forwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn measure_fan_out() {
    for (messages, bytes) in [(2_000, MESSAGE_BYTES), (20_000, 300)] {
        let publisher = Node::start(config(1)).await;
        publisher.subscribe("bulk").await;
        let mut others: Vec<Node> = Vec::new();
        for number in 2..6 {
            let known: Vec<&Node> = others.iter().chain([&publisher]).collect();
            let node = Node::joining(number, &known).await;
            node.subscribe("bulk").await;
            others.push(node);
        }
        publisher.wait_for_common_topics(4).await;
        sleep(Duration::from_secs(1)).await;
        let begun = std::time::Instant::now();
        let mut receivers = Vec::new();
        for mut node in others {
            receivers.push(tokio::spawn(async move {
                let mut arrived = 0;
                let mut last = begun.elapsed();
                while let Ok(Some(event)) = timeout(Duration::from_secs(3), node.events.recv()).await {
                    if let MeshEvent::Gossip { from, id, .. } = event {
                        node.mesh.verdict(id, from, Verdict::Accept);
                        (arrived, last) = (arrived + 1, begun.elapsed());
                    }
                }
                let counters = node.mesh.counters();
                (arrived, last, counters.gossip_dropped_for_slow_peers, counters.stream_bytes_out / 1024)
            }));
        }
        for number in 0..messages {
            let mut data = vec![0; bytes];
            data[..4].copy_from_slice(&u32::to_be_bytes(number));
            while !publisher.mesh.try_publish("bulk", data.clone().into()) {
                sleep(Duration::from_micros(200)).await;
            }
        }
        println!("publisher had all taken after {:?}", begun.elapsed());
        for receiver in receivers {
            println!("{messages} x {bytes}: arrived, last, dropped, KiB out {:?}", receiver.await.unwrap());
        }
        println!("publisher after {:?}: {:?}", begun.elapsed(), publisher.mesh.counters());
    }
}
