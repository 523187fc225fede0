//! Reads events again that are delivered, or kept as dead letters.

use roundelay_protocol::batch::VerifiedBatch;
use roundelay_protocol::consumer::{Delivery, Place, Slot};
use roundelay_protocol::event::{EventView, Item};
use roundelay_protocol::ids::Arrival;

use super::Held;
use crate::cloudevents::{self, write_event};
use crate::consumers::FETCH_BYTES;
use crate::log::LogError;
use crate::peer_id::text_of;

/// Deliveries that were read.
#[derive(Debug, Default)]
pub(in crate::consumers) struct Loaded {
    /// CloudEvents in JSON.
    pub(in crate::consumers) events: Vec<Vec<u8>>,
    /// Of these, the ones that were delivered before.
    pub(in crate::consumers) again: u64,
    /// Those whose events are there no more.
    pub(in crate::consumers) gone: Vec<Slot>,
    /// Those that were left out, so that the others are not too large together.
    pub(in crate::consumers) rest: Vec<Slot>,
}

/// An event that is to be kept.
pub(in crate::consumers) struct Found {
    pub(in crate::consumers) json: Vec<u8>,
    pub(in crate::consumers) topic: String,
    pub(in crate::consumers) kind: String,
    pub(in crate::consumers) source: String,
    pub(in crate::consumers) id: String,
    pub(in crate::consumers) key: Option<String>,
    pub(in crate::consumers) correlation: Option<String>,
}

impl Held {
    /// Reads deliveries from the log, as many as fit one answer. They are in order of place.
    pub(in crate::consumers) fn load(&self, deliveries: &[Delivery]) -> Result<Loaded, LogError> {
        let (mut loaded, mut bytes) = (Loaded::default(), 0);
        for run in deliveries.chunk_by(|one, next| one.slot.place.arrival == next.slot.place.arrival) {
            if bytes >= FETCH_BYTES {
                loaded.rest.extend(run.iter().map(|delivery| delivery.slot));
                continue;
            }
            let arrival = run[0].slot.place.arrival;
            let from_log = run.iter().any(|delivery| delivery.slot.letter == 0);
            let batch = if from_log { self.reader.batch(arrival)? } else { None };
            let author = batch.as_ref().map(|batch| text_of(&batch.header().author)).unwrap_or_default();
            let mut items = batch.iter().flat_map(VerifiedBatch::items).zip(0..);
            for Delivery { slot, attempt } in run {
                let found = if slot.letter > 0 {
                    self.letters.event(&self.reader, &self.name, slot.letter)?
                } else {
                    let item = items.by_ref().find(|(_, index)| *index == slot.place.index);
                    batch.as_ref().zip(item).and_then(|(batch, ((seq, item), _))| match item {
                        Item::Event(event) => Some(write(batch, &author, arrival, seq, &event)),
                        Item::Dropped(_) => None,
                    })
                };
                match found {
                    None => loaded.gone.push(*slot),
                    Some(json) if bytes > 0 && bytes + json.len() > FETCH_BYTES => {
                        bytes = FETCH_BYTES;
                        loaded.rest.push(*slot);
                    }
                    Some(json) => {
                        bytes += json.len();
                        loaded.again += u64::from(*attempt > 1);
                        loaded.events.push(with_delivery(json, &self.cursor(slot.place), *attempt));
                    }
                }
            }
        }
        Ok(loaded)
    }

    /// An event as it is in the log.
    pub(in crate::consumers) fn find(&self, place: Place) -> Result<Option<Found>, LogError> {
        let Some(batch) = self.reader.batch(place.arrival)? else { return Ok(None) };
        let Some((seq, Item::Event(event))) = batch.items().nth(place.index as usize) else { return Ok(None) };
        Ok(Some(Found {
            json: write(&batch, &text_of(&batch.header().author), place.arrival, seq, &event),
            topic: batch.header().topic.to_string(),
            kind: event.kind.to_owned(),
            source: event.source.to_owned(),
            id: event.id.to_owned(),
            key: event.key.map(str::to_owned),
            correlation: event.correlation.map(str::to_owned),
        }))
    }
}

fn write(batch: &VerifiedBatch, author: &str, arrival: Arrival, seq: u64, event: &EventView<'_>) -> Vec<u8> {
    let mut json = Vec::with_capacity(event.data.len() + 512);
    write_event(&mut json, event, &cloudevents::Place { topic: batch.header().topic.as_str(), author, seq, arrival });
    json
}

/// Adds to an event in JSON what is known of its delivery.
fn with_delivery(mut json: Vec<u8>, cursor: &str, attempt: u32) -> Vec<u8> {
    if json.last() == Some(&b'}') {
        json.pop();
        json.extend_from_slice(format!(r#","rdlcursor":"{cursor}","rdlattempt":{attempt}}}"#).as_bytes());
    }
    json
}
