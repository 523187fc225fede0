//! Choreographies: how services that nobody coordinates go through one process together, declared and looked at.
//!
//! A [`Declaration`] says which roles there are, which events each emits and sees, and through which states an instance
//! of the process goes. It is written as a file in TOML or JSON, or in Rust ([`Draft`]), and named by its [`Version`], a
//! hash. An instance is all events with one correlation id. Everything here is a fold over events in their total order
//! ([`Rank`]), so that every node that holds the same events says the same:
//!
//! | module | what |
//! | --- | --- |
//! | `draft` `unique` `span` | the file, the builder, spans of time in texts |
//! | `declaration` `canonical` `finding` | the declaration with sound form, its hash, what is wrong with it |
//! | `check` `diff` `show` | flaws of a design; what a change means for each role; pictures |
//! | `rank` `observed` | the total order; what is looked at of an event |
//! | `conformance` | in which state an instance is, and whether it keeps to its declaration |
//! | `view` `frontier` | states by key that late events roll back; what cannot change any more |
//! | `once` | folds that count each event once |
//! | `key_value` | a view of last values, which needs no code |
//! | `trace` `flow` | what caused what; who reacts to what, and how fast |
//! | `participant` | whoever plays a role: its handlers, what it has to do and what it may |
//! | `simulated` | meshes in virtual time, to rehearse a choreography in |
//! | `determined` | ids that every replica and every retry comes to by itself |

pub mod canonical;
pub mod check;
pub mod conformance;
pub mod declaration;
pub mod determined;
pub mod diff;
pub mod draft;
pub mod finding;
pub mod flow;
pub mod frontier;
pub mod key_value;
pub mod observed;
pub mod once;
pub mod participant;
pub mod rank;
pub mod show;
pub mod simulated;
pub mod span;
pub mod trace;
mod unique;
pub mod view;

pub use canonical::Version;
pub use declaration::Declaration;
pub use draft::Draft;
pub use finding::Finding;
pub use observed::Observed;
pub use participant::Participant;
pub use rank::Rank;
