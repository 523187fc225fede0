//! Pushes a consumer's events to a webhook, each as a structured CloudEvent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::redirect::Policy;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::config::Webhook;
use super::error::ConsumersError;
use super::types::Which;
use super::{Consumers, MAX_WAIT};

/// Media type of one CloudEvent in JSON.
const EVENT_CONTENT_TYPE: &str = "application/cloudevents+json; charset=utf-8";
/// How long to wait after the consumer could not be asked.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest wait that a server may ask for, in seconds.
const MAX_RETRY_AFTER_S: u64 = 3_600;

/// Posts events, so many at the same time.
pub(super) struct Worker {
    consumers: Consumers,
    name: String,
    webhook: Webhook,
    limit: Duration,
}

/// What a server said, or did not.
enum Verdict {
    Taken,
    Refused { reason: String, delay_ms: Option<u64> },
}

impl Worker {
    pub(super) fn new(consumers: Consumers, name: String, webhook: Webhook, ack_wait_ms: u64) -> Self {
        // The answer has to come before the event is delivered again.
        Self { consumers, name, webhook, limit: Duration::from_millis(ack_wait_ms / 10 * 9) }
    }

    /// Runs until it is aborted, or the consumer is gone.
    pub(super) async fn run(self) {
        let client = reqwest::Client::builder().no_proxy().redirect(Policy::none()).timeout(self.limit).build();
        let client = match client {
            Ok(client) => client,
            Err(error) => return tracing::error!(consumer = self.name, %error, "the webhook cannot be used"),
        };
        let places = Arc::new(Semaphore::new(self.webhook.concurrency as usize));
        let member = self.consumers.new_member();
        let worker = Arc::new(self);
        // What is under way ends with this.
        let mut posts = JoinSet::new();
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            while posts.try_join_next().is_some() {}
            let until = Instant::now() + MAX_WAIT;
            let event = match worker.consumers.fetch(worker.name.clone(), member, 1, until).await {
                Ok(fetched) => fetched.events.into_iter().next(),
                Err(ConsumersError::NoConsumer(_) | ConsumersError::Stopped) => return,
                Err(error) => {
                    tracing::warn!(consumer = worker.name, %error, "nothing can be pushed");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let Some(event) = event else { continue };
            let (worker, client) = (worker.clone(), client.clone());
            posts.spawn(async move {
                worker.post(&client, event).await;
                drop(place);
            });
        }
    }

    async fn post(&self, client: &reqwest::Client, event: Vec<u8>) {
        let Some(cursor) = cursor_of(&event) else { return };
        let outcome = match self.ask(client, event).await {
            Verdict::Taken => self.consumers.ack(self.name.clone(), Which::Each(vec![cursor])).await,
            Verdict::Refused { reason, delay_ms } => {
                tracing::debug!(consumer = self.name, cursor, reason, "the webhook did not take an event");
                self.consumers.nack(self.name.clone(), vec![cursor], delay_ms, Some(reason)).await
            }
        };
        if let Err(error) = outcome {
            tracing::warn!(consumer = self.name, %error, "the webhook's answer could not be kept: the event is pushed again");
        }
    }

    async fn ask(&self, client: &reqwest::Client, event: Vec<u8>) -> Verdict {
        let answer = client.post(&self.webhook.url).header(CONTENT_TYPE, EVENT_CONTENT_TYPE).body(event).send().await;
        match answer {
            Ok(answer) if answer.status().is_success() => Verdict::Taken,
            Ok(answer) => {
                let wait_s =
                    answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
                let delay_ms = wait_s.map(|seconds| seconds.min(MAX_RETRY_AFTER_S) * 1_000);
                Verdict::Refused { reason: format!("HTTP status {}", answer.status().as_u16()), delay_ms }
            }
            Err(error) if error.is_timeout() => {
                Verdict::Refused { reason: format!("no answer within {} ms", self.limit.as_millis()), delay_ms: None }
            }
            Err(error) if error.is_connect() => Verdict::Refused { reason: "no connection".into(), delay_ms: None },
            Err(_) => Verdict::Refused { reason: "the connection broke".into(), delay_ms: None },
        }
    }
}

fn cursor_of(event: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Delivered {
        rdlcursor: String,
    }
    serde_json::from_slice::<Delivered>(event).ok().map(|delivered| delivered.rdlcursor)
}
