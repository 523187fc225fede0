//! Deliveries: calls handlers, and commits what comes of them.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::OptionFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use futures::{Future, FutureExt};
use roundelay_protocol::choreography::participant::{Course, Failure, MAX_EMISSIONS, Planned, Reason, Received};
use roundelay_protocol::event::EncodedEvent;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::incoming::{self, Incoming};
use super::patience::Patience;
use super::{Lane, MAX_CONCURRENCY, Stage, wall_ms};
use crate::consumers::{ConsumersError, Content, Fetched, MAX_COMMIT_EVENTS, Product};

/// How long one fetch waits.
const FETCH_WAIT: Duration = Duration::from_secs(5);
/// After a fetch that failed.
const PAUSE: Duration = Duration::from_millis(500);
/// Writes under way at once.
const MAX_WRITES: usize = 4;
/// Events that one write calls done, at most.
const MAX_DONE: usize = 512;

type Fetching = Pin<Box<dyn Future<Output = Result<Fetched, ConsumersError>> + Send>>;

/// What came of one delivery.
struct Done {
    cursor: String,
    outcome: Result<Vec<Planned>, Failure>,
}

/// Handles deliveries until it is told to stop.
pub(super) async fn run(stage: Arc<Stage>, lane: Lane, stop: CancellationToken) {
    let Lane { consumer, is_patient } = lane;
    let member = stage.consumers.new_member();
    let bound = stage.options.concurrency.clamp(1, MAX_CONCURRENCY);
    let (mut at_work, mut writes) = (JoinSet::new(), FuturesUnordered::new());
    let mut waiting = Patience::new(consumer.clone());
    let mut fetching: Option<Fetching> = None;
    loop {
        if fetching.is_none() && at_work.len() + waiting.len() < bound && !stop.is_cancelled() {
            let (consumers, name) = (stage.consumers.clone(), consumer.clone());
            let until = Instant::now() + FETCH_WAIT;
            fetching = Some(async move { consumers.fetch_up_to(name, member, bound * 2, until).await }.boxed());
        }
        tokio::select! {
            () = stop.cancelled(), if at_work.is_empty() && writes.is_empty() => break,
            Some(fetched) = OptionFuture::from(fetching.as_mut()), if !stop.is_cancelled() => {
                fetching = None;
                match fetched {
                    Ok(fetched) => for event in fetched.events.iter().filter_map(|json| incoming::read(json)) {
                        if let Some(event) = if is_patient { waiting.add(event) } else { Some(event) } {
                            at_work.spawn(handle(stage.clone(), event));
                        }
                    },
                    Err(ConsumersError::Stopped) => break,
                    Err(error) => {
                        tracing::warn!(%error, consumer, "a participant gets no events");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
            Some(done) = at_work.join_next(), if writes.len() < MAX_WRITES => {
                let (mut ready, mut emitted) = (Vec::new(), 0);
                let mut next = Some(done);
                while let Some(done) = next {
                    // A handler that panicked has its event delivered again when its time is up.
                    if let Ok(done) = done {
                        emitted += done.outcome.as_ref().map_or(0, Vec::len);
                        ready.push(done);
                    }
                    let is_full = ready.len() >= MAX_DONE || emitted + MAX_EMISSIONS > MAX_COMMIT_EVENTS;
                    next = if is_full { None } else { at_work.try_join_next() };
                }
                writes.push(settle(stage.clone(), consumer.clone(), ready));
            }
            Some(()) = writes.next(), if !writes.is_empty() => {}
            () = waiting.rest(), if waiting.len() > 0 && !stop.is_cancelled() => {
                for event in waiting.release(&stage).await {
                    at_work.spawn(handle(stage.clone(), event));
                }
            }
        }
    }
    stage.consumers.leave(consumer, member).await;
}

/// Has one event handled. What it is committed with comes back.
async fn handle(stage: Arc<Stage>, incoming: Incoming) -> Done {
    let Incoming { cursor, attempt, arrival, event } = incoming;
    let Some(event) = event else { return Done { cursor, outcome: Ok(Vec::new()) } };
    let name = stage.participant.choreography();
    if stage.observer.folded(name, arrival).await.is_err() {
        return Done { cursor, outcome: Err(Failure::transient("the node stops")) };
    }
    let course = stage.observer.look(name, |conformance| stage.participant.course(conformance, &event));
    let outcome = match course.unwrap_or(Course::Unknown) {
        Course::Handle => respond(&stage, event, Reason::Step, attempt).await,
        Course::Done => Ok(Vec::new()),
        // It had ended, and whoever played this role before has seen to it.
        Course::Unknown if stage.observer.has_forgotten(name, &event.correlation) => Ok(Vec::new()),
        Course::PassOver => {
            let kept = stage.pass_over(&event, arrival).await;
            kept.map(|()| Vec::new()).map_err(|error| Failure::transient(error.to_string()))
        }
        Course::Unknown => Err(Failure::transient("its instance is not judged here: there are too many")),
    };
    Done { cursor, outcome }
}

/// Calls the handler of an event, and plans what it wants to emit.
pub(super) async fn respond(
    stage: &Stage,
    event: Received,
    reason: Reason,
    attempt: u32,
) -> Result<Vec<Planned>, Failure> {
    let (participant, name) = (&stage.participant, stage.participant.choreography());
    let call = stage.observer.look(name, |conformance| participant.call(conformance, event.clone(), reason, attempt));
    let unknown = || Failure::transient("its instance is not judged here any more");
    let handling = call.flatten().and_then(|call| participant.handle(call)).ok_or_else(unknown)?;
    let wanted = handling.await?;
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let answer = stage.observer.look(name, |conformance| participant.answer(conformance, &event, wanted, wall_ms()));
    // What is not allowed will not be allowed the next time.
    answer.ok_or_else(unknown)?.map_err(|refused| Failure::terminal(refused.to_string()))
}

/// Writes what is done, all of it at once, or one by one when something of it cannot be written.
async fn settle(stage: Arc<Stage>, consumer: String, done: Vec<Done>) {
    let (mut cursors, mut products, mut failed) = (Vec::new(), Vec::new(), Vec::new());
    for Done { cursor, outcome } in done {
        match outcome.and_then(|planned| planned.into_iter().map(produce).collect::<Result<Vec<_>, _>>()) {
            Ok(planned) => {
                cursors.push(cursor);
                products.push(planned);
            }
            Err(failure) => failed.push((cursor, failure)),
        }
    }
    if !cursors.is_empty() {
        commit(&stage, &consumer, cursors, products).await;
    }
    for (cursor, failure) in failed {
        let (name, cursors) = (consumer.clone(), vec![cursor]);
        let told = match failure.is_terminal {
            true => stage.consumers.give_up(name, cursors, failure.reason).await,
            false => stage.consumers.nack(name, cursors, None, Some(failure.reason)).await,
        };
        if let Err(error) = told {
            tracing::debug!(%error, consumer, "an event will be delivered again when its time is up");
        }
    }
}

fn produce(planned: Planned) -> Result<(String, EncodedEvent), Failure> {
    let Planned { topic, event } = planned;
    let encoded = event.encode().map_err(|error| Failure::terminal(error.to_string()))?;
    Ok((topic.to_string(), encoded))
}

async fn commit(stage: &Stage, consumer: &str, cursors: Vec<String>, products: Vec<Vec<(String, EncodedEvent)>>) {
    let whole = |(topic, event): &(String, EncodedEvent)| Product {
        topic: topic.clone(),
        content: Content::Whole(event.clone()),
    };
    let all = products.iter().flatten().map(whole).collect();
    match stage.consumers.produce(consumer.to_owned(), cursors.clone(), all).await {
        Ok(_) | Err(ConsumersError::Stopped) => return,
        Err(error) if cursors.len() == 1 => {
            tracing::debug!(%error, consumer, "an event is done already, or will be delivered again");
            return;
        }
        Err(_) => {}
    }
    // One that came too late must not keep the others from being done.
    for (cursor, products) in cursors.into_iter().zip(&products) {
        let products = products.iter().map(whole).collect();
        if let Err(error) = stage.consumers.produce(consumer.to_owned(), vec![cursor], products).await {
            tracing::debug!(%error, consumer, "an event is done already, or will be delivered again");
        }
    }
}
