//! Looks how much room the disk has, before anything is written. Sled cannot go on after a write that found none, so it
//! must not come to that.

use std::time::{Duration, Instant};

use roundelay_protocol::replica::{Input, Room};

use crate::log::LogReader;

/// No event is written when less than this is free: what is queued when that is noticed makes sled write up to 40 MiB,
/// and opening the store again must be possible, too.
const FLOOR_BYTES: u64 = 64 * 1024 * 1024;
/// Free bytes above the floor that only the node's own events may use.
const RESERVE_BYTES: u64 = 64 * 1024 * 1024;
/// How old the last look may be when something is to be written.
const LOOK_MS: u64 = 100;
/// How often it is looked while there is too little room.
const POLL_MS: u64 = 500;

/// What is known of the disk.
pub(super) struct Disk {
    looked: Instant,
    room: Room,
}

impl Disk {
    pub(super) fn new() -> Self {
        // Looked at in time for the first write.
        let looked = Instant::now();
        Self { looked: looked.checked_sub(Duration::from_millis(LOOK_MS)).unwrap_or(looked), room: Room::Ample }
    }

    /// Tells when the room has changed. Costs a system call every [`LOOK_MS`].
    pub(super) fn look(&mut self, log: &LogReader) -> Option<Input> {
        if self.looked.elapsed() < Duration::from_millis(LOOK_MS) {
            return None;
        }
        self.looked = Instant::now();
        // Where the system does not say, the disk is taken to have room.
        let free_bytes = log.free_bytes().unwrap_or(u64::MAX);
        let room = room_of(free_bytes);
        if room == self.room {
            return None;
        }
        match room {
            Room::Ample => tracing::info!(free_bytes, "the disk has room again"),
            Room::OwnOnly => tracing::warn!(free_bytes, "the disk is nearly full: events of others wait"),
            Room::None => tracing::error!(free_bytes, "the disk is full: publishing is refused until there is room"),
        }
        self.room = room;
        Some(Input::Room(room))
    }

    /// When to look again although nothing happens.
    pub(super) fn next_look(&self) -> Option<Instant> {
        (self.room != Room::Ample).then(|| self.looked + Duration::from_millis(POLL_MS))
    }
}

fn room_of(free_bytes: u64) -> Room {
    match free_bytes {
        0..FLOOR_BYTES => Room::None,
        FLOOR_BYTES.. if free_bytes < FLOOR_BYTES + RESERVE_BYTES => Room::OwnOnly,
        _ => Room::Ample,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_room_is_for_own_events_and_below_the_floor_there_is_none() {
        const MIB: u64 = 1024 * 1024;
        for (free_bytes, room) in [
            (u64::MAX, Room::Ample),
            (128 * MIB, Room::Ample),
            (128 * MIB - 1, Room::OwnOnly),
            (64 * MIB, Room::OwnOnly),
            (64 * MIB - 1, Room::None),
            (0, Room::None),
        ] {
            assert_eq!(room_of(free_bytes), room, "{free_bytes}");
        }
    }
}
