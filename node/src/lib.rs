//! x
pub mod mesh;
