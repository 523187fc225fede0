//! Choreographies in meshes of real daemons: what is declared, what is seen of instances, what caused what. One behaviour
//! a module, over the harness in `tests/harness`.

#[path = "../harness/mod.rs"]
mod harness;

mod causes;
mod declaring;
mod incidents;
mod killed;
mod late;
mod orders;
mod seeing;
mod versions;
