//! Images of file systems: how they are made and compared, and what readers do with those
//! that are damaged.

mod alike;
mod compare;
mod damaged;
