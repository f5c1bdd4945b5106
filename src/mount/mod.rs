//! Mounting: what is checked before, how it is made, served in the background,
//! and taken away again.

mod aside;
mod asking;
mod attach;
mod check;
mod confine;
mod describe;
mod engine;
mod error;
mod flags;
mod helper;
mod idmapped;
mod keeper;
mod link;
mod looped;
mod namespace;
mod options;
pub mod private;
mod processes;
mod reload;
mod remount;
mod room;
mod serve;
mod stand_in;
mod start;
mod starter;
mod supervise;
#[cfg(test)]
mod tests;
mod unfit;
mod upper;
mod watch;

pub use aside::aside;
pub use check::{compatible, is_image, is_target, of_directory, source};
pub use confine::keep_nothing;
pub use engine::check_engine;
pub use error::MountError;
pub use idmapped::{IdMapped, probe};
pub use namespace::{Entered, Stay, Within, enter, own_directory, runtime};
pub use options::{
    Atime, Cache, Engine, Flags, ImageOptions, Options, Owners, Partition, Passthrough, Renew,
    Replaced, Submounts,
};
pub use remount::{Unsaid, remount};
pub use start::mount;
pub use upper::{Upper, real as upper_directory};
