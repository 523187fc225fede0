//! The service in Rust: it places orders, and hears what became of them.

use std::collections::BTreeMap;

use futures::StreamExt;
use roundelay::api::client::{Client, ClientError};
use roundelay::api::types::{EventsQuery, From, PublishOptions};
use serde_json::{Value, json};

/// Places an order and returns its id, which the order keeps when it is placed again.
///
/// # Errors
/// When the node does not take it.
pub async fn place(node: &Client, number: u64) -> Result<String, ClientError> {
    let id = format!("order-{number}");
    let items = json!([{"price": 5, "count": number}, {"price": 1, "count": 2}]);
    let order = json!({
        "specversion": "1.0", "id": id, "source": "/shop", "type": "order.placed", "correlationid": id,
        "data": {"items": items},
    });
    node.publish("orders.placed", &[order], PublishOptions::default()).await?;
    Ok(id)
}

/// Waits until so many orders are shipped: what was paid for each, by order.
///
/// # Errors
/// When the node stops.
pub async fn shipped(node: &Client, count: usize) -> Result<BTreeMap<String, u64>, ClientError> {
    let patterns = vec!["orders.shipped".to_owned()];
    let query = EventsQuery { patterns, from: From::Start, follow: true, ..EventsQuery::default() };
    let mut events = node.events(&query).await?;
    let mut shipped = BTreeMap::new();
    while shipped.len() < count
        && let Some(line) = events.next().await
    {
        let event: Value = serde_json::from_slice(&line?).unwrap_or_default();
        let data = &event["data"];
        if let (Some(order), Some(paid)) = (data["order"].as_str(), data["paid"].as_u64()) {
            shipped.insert(order.to_owned(), paid);
        }
    }
    Ok(shipped)
}
