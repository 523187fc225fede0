//! x
pub mod log;
pub mod mesh;
pub mod node;
pub mod status;
pub mod subscription;
