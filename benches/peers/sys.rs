//! Mounts and user namespaces, as the program itself makes them.

#[path = "../../src/sys/id_map.rs"]
pub mod id_map;
#[path = "../../src/sys/mount.rs"]
pub mod mount;
#[path = "../../src/sys/namespace.rs"]
pub mod namespace;
