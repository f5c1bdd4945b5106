//! `docs/images.md`: its commands print what it says.

use crate::require;
use crate::support::rootless::Rootless;
use crate::support::{document, sandbox};

#[test]
fn the_recipes_for_images_print_what_they_say() {
    require!(Root, Fuse, Podman, UserNamespaces, Fusermount, Squashfs, Erofs);
    sandbox(|sandbox| {
        let ann = Rootless::new(sandbox);
        document::run_all(&ann, "images.md", 9);
    });
}
