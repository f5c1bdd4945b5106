//! Images of file systems: what a mount of ours shows of them is what the kernel's own
//! loop mount shows.

mod alike;
mod build;
mod changed;
mod compare;
mod container;
mod damaged;
mod document;
mod serving;
mod untrusted;
mod upper;
