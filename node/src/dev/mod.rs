//! Meshes in one process, to try things out on: [`LocalMesh`] starts nodes on loopback, [`demo`] tells a story with them.

pub mod demo;
mod local_mesh;
mod roles;

pub use local_mesh::{LocalMesh, LocalMeshError, LocalMeshOptions, LocalNode, agreed, held_ids, topic_digests};
