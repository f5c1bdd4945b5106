//! The `idmapfs` command; everything is in the library.
fn main() {}
