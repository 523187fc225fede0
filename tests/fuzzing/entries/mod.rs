//! Everything that reads bytes from outside, one function each: any bytes go in, and what comes out is judged. Fuzzers and
//! ordinary tests call the same functions.

mod batch;
mod choreographies;
mod events;
mod files;
mod frame;
mod records;
mod replica;
mod script;
mod stand_in;
mod store;
mod topics;
mod values;

pub use batch::batch;
pub use choreographies::choreographies;
pub use events::events;
pub use files::files;
pub use frame::frame;
pub use records::records;
pub use replica::replica;
pub use store::store;
pub use topics::topics;
pub use values::values;

/// Reads bytes from outside, and panics when anything about what comes of them is wrong.
pub type Entry = fn(&[u8]);

/// All entries, by the names of their fuzz targets and of the folders with their seeds.
pub const ENTRIES: [(&str, Entry); 10] = [
    ("batch", batch),
    ("choreographies", choreographies),
    ("events", events),
    ("files", files),
    ("frame", frame),
    ("records", records),
    ("replica", replica),
    ("store", store),
    ("topics", topics),
    ("values", values),
];

/// Bytes that any reader may allocate, however little it is given.
const ALLOWANCE_BYTES: usize = 16 * 1024;

/// Runs `work`, which may hold so many bytes at once, and a little more.
fn within_memory<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let mut result = None;
    let info = allocation_counter::measure(|| result = Some(work()));
    let limit = (bytes + ALLOWANCE_BYTES) as u64;
    assert!(info.bytes_max <= limit, "{} bytes were allocated at once where {limit} are allowed", info.bytes_max);
    result.expect("the work was done")
}
