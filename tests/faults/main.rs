//! Real faults on meshes of real daemons: one kind of fault a module, over the harness in `tests/harness`.
//!
//! Many need more than a plain user has: network namespaces, loop devices, `strace`, `nft`. Each test says first what it
//! needs (see `needs`), and is skipped with a line on stderr where the machine cannot do it. With `ROUNDELAY_NO_SKIP=1`
//! it fails instead. What ran and what was skipped is in `target/tmp/faults-record.txt` afterwards.

#[path = "../harness/mod.rs"]
mod harness;

mod addresses;
mod clocks;
mod damage;
mod disk_full;
mod failed_write;
mod kills;
mod loop_disk;
mod needs;
mod pause;
mod power_loss;
mod restores;
mod rewrite;
mod slow_disk;
mod soak;
mod weather;
