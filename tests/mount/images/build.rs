//! `idmapfs image build`: by an ordinary user, of a tar and of a directory with owners
//! beside its files.

use std::os::unix::fs::MetadataExt as _;

use crate::require;
use crate::support::rootless::Rootless;
use crate::support::{Sandbox, images, mount_at, ours, raw, sandbox, sh, str, text, wait_for};

#[test]
fn images_are_built_with_the_owners_that_are_kept() {
    require!(Root, Fuse, UserNamespaces, Erofs, Squashfs);
    sandbox(|sandbox| {
        let ann = Rootless::new(sandbox);
        ann.does(
            "unshare --map-auto --map-root-user bash -euc 'cd; mkdir t t/d; echo one >t/f
             chown 33:34 t/f; chmod 4750 t/f; ln -s f t/d/s; tar -C t -cf t.tar d f; gzip -k t.tar; rm -r t'
             mkdir d; idmapfs owners import --from t.tar d",
        );
        for words in [
            "~/t.tar ~/a.erofs",
            "~/t.tar.gz ~/b.erofs",
            "~/t.tar.gz ~/c.squashfs",
            "--owners xattr ~/d ~/d.erofs",
            "--owners xattr ~/d ~/e.squashfs",
        ] {
            ann.does(&format!("idmapfs image build {words} >/dev/null 2>&1"));
        }
        let out = ann.does(
            "unshare --map-auto --map-root-user -m bash -euc 'cd; for image in *.erofs *.squashfs; do
                idmapfs $image .cache/view; stat -c \"%u:%g %a\" .cache/view/f; readlink .cache/view/d/s
                umount .cache/view
             done'; ls -d *.tmp* 2>/dev/null || echo nothing left; idmapfs image info ~/d.erofs | grep uids",
        );
        let want = "33:34 4750\nf\n".repeat(5) + "nothing left\nuids:       ";
        assert!(out.starts_with(&want), "{out}");
        // What fails leaves nothing, and what was there stays.
        let before = std::fs::read(ann.home.join("a.erofs")).unwrap();
        let done = ann.tries("idmapfs image build ~/d ~/a.erofs -- --no-such-option");
        assert!(!done.status.success() && text(&done).contains("mkfs.erofs"), "{}", text(&done));
        assert_eq!(std::fs::read(ann.home.join("a.erofs")).unwrap(), before);
        assert!(!ann.home.join("a.erofs.tmp").exists());
    });
}

#[test]
fn what_stands_where_an_image_grows_is_left_alone() {
    require!(Root, Erofs);
    sandbox(|sandbox| {
        let (tree, out) = (sandbox.dir("tree"), sandbox.path("out.erofs"));
        std::fs::write(tree.join("f"), "one\n").unwrap();
        let archive = sandbox.path("a.tar");
        sh(&format!("tar -C {} -cf {} .", str(&tree), str(&archive)));
        for (taken, from) in
            [("out.erofs.tmp.d/precious", &archive), ("out.erofs.tmp/precious", &archive)]
        {
            std::fs::create_dir_all(sandbox.path(taken)).unwrap();
            let done = ours::finish(&["image", "build", str(from), str(&out)]);
            // A mkfs.erofs that reads archives wants no directory.
            let fine = done.status.success() && taken.contains(".tmp.d");
            assert!(fine || text(&done).contains("another build makes it"), "{}", text(&done));
            assert!(sandbox.path(taken).is_dir(), "{taken} is gone");
            std::fs::remove_dir_all(sandbox.path(taken).parent().unwrap()).unwrap();
        }
    });
}

/// As images of containers are saved, packed or not.
#[test]
fn no_image_is_built_of_layers() {
    require!(Root, Erofs);
    sandbox(|sandbox| {
        let at = |name: &str| sandbox.path(name);
        sh(&format!(
            "cd {}; mkdir -p oci/blobs/sha256 docker/1; cd oci; echo {{}} >oci-layout
             head -c 300000 /dev/urandom >blobs/sha256/1; tar -cf ../oci.tar blobs oci-layout; cd ../docker
             cp ../oci/blobs/sha256/1 1/layer.tar; echo [] >manifest.json; tar -cf ../docker.tar 1 manifest.json
             cd ..; gzip -k oci.tar docker.tar",
            str(sandbox.dir("layers").as_path())
        ));
        for (archive, what, way) in [
            ("oci.tar", "an OCI image layout", "umoci unpack"),
            ("oci.tar.gz", "an OCI image layout", "umoci unpack"),
            ("docker.tar", "an image that docker saved", "skopeo copy"),
            ("docker.tar.gz", "an image that docker saved", "skopeo copy"),
        ] {
            let (from, to) = (at(&format!("layers/{archive}")), at("out.erofs"));
            let done = ours::finish(&["image", "build", str(&from), str(&to)]);
            let said = text(&done);
            assert_eq!(done.status.code(), Some(1), "{said}");
            assert!(said.contains(what) && said.contains(way), "{said}");
            assert!(!to.exists() && !at("out.erofs.tmp").exists());
        }
    });
}

/// An image of a directory with a file of user 33.
fn erofs(sandbox: &Sandbox) -> std::path::PathBuf {
    let tree = sandbox.dir("tree");
    std::fs::write(tree.join("f"), "one\n").unwrap();
    raw::chown(&tree.join("f"), 33, 34, false).unwrap();
    let image = sandbox.path("image.erofs");
    let done = ours::finish(&["image", "build", str(&tree), str(&image)]);
    assert!(done.status.success(), "{}", text(&done));
    image
}

#[test]
fn the_kernel_mounts_an_image_when_asked() {
    require!(Root, Fuse, Erofs, Ext4Loop);
    sandbox(|sandbox| {
        let (image, point) = (erofs(sandbox), sandbox.dir("mnt"));
        let mount = |engine: &str| {
            let done = ours::finish(&[engine, "--map=0:1000:65536", str(&image), str(&point)]);
            assert!(done.status.success(), "{}", text(&done));
            let owner = std::fs::metadata(point.join("f")).unwrap();
            assert_eq!((owner.uid(), owner.gid()), (1033, 1034), "{engine}");
            let there = mount_at(&point).unwrap();
            crate::support::run("umount", &[str(&point)]);
            there
        };
        assert_eq!(mount("--engine=kernel").kind, "erofs");
        assert_eq!(mount("--engine=auto").kind, "fuse.idmapfs");
    });
}

#[test]
fn the_kernel_mounts_a_part_of_a_file_and_replays_no_journal() {
    require!(Root, Fuse, Erofs, Squashfs, Ext4Loop, Partitions);
    sandbox(|sandbox| {
        let (image, point) = (erofs(sandbox), sandbox.dir("mnt"));
        let (part, disk) = (sandbox.path("part"), sandbox.path("disk"));
        // At the middle of a sector, and with something behind.
        sh(&format!(
            "(head -c 777 /dev/zero; cat {image}; echo behind) >{part}
             truncate -s 8M {disk}; PATH=$PATH:/usr/sbin; sgdisk -n 1:4096:8191 {disk} >/dev/null
             dd if={image} of={disk} bs=2M seek=1 conv=notrunc status=none",
            image = str(&image),
            part = str(&part),
            disk = str(&disk)
        ));
        let size = format!("--size={}", std::fs::metadata(&image).unwrap().len());
        for (words, file) in [
            (&["--offset=777", &size][..], &part),
            (&["--offset=777"], &part),
            (&["--partition=1"], &disk),
        ] {
            let words = [&["--engine=kernel"][..], words, &[str(file), str(&point)]].concat();
            let done = ours::finish(&words);
            assert!(done.status.success(), "{words:?}: {}", text(&done));
            assert_eq!(mount_at(&point).unwrap().kind, "erofs");
            assert_eq!(std::fs::metadata(point.join("f")).unwrap().uid(), 33, "{words:?}");
            crate::support::run("umount", &[str(&point)]);
        }
        // What ends within a sector is not all on a loop device.
        let packed = sandbox.path("packed");
        sh(&format!("mksquashfs {} {} -nopad -quiet -no-progress", str(&image), str(&packed)));
        let done = ours::finish(&["--engine=kernel", str(&packed), str(&point)]);
        let said = text(&done);
        assert!(!done.status.success() && said.contains("no whole sector"), "{said}");
        sh(&format!("truncate -s %4096 {}", str(&packed)));
        let done = ours::finish(&["--engine=kernel", str(&packed), str(&point)]);
        assert!(done.status.success(), "{}", text(&done));
        crate::support::run("umount", &[str(&point)]);
        // What is elsewhere the kernel would make up.
        sh(&format!(
            "cd {}; head -c 100000 /dev/urandom >tree/big
             mkfs.erofs --chunksize=4096 --blobdev=blob split tree >/dev/null 2>&1",
            str(image.parent().unwrap())
        ));
        let (split, tree) = (sandbox.path("split"), sandbox.path("tree"));
        for engine in ["kernel", "fuse"] {
            let done = ours::finish(&["--engine", engine, str(&split), str(&point)]);
            let said = text(&done);
            assert!(!done.status.success() && said.contains("further device"), "{said}");
            assert!(said.contains("device=FILE"), "{said}");
            let blob = format!("--device={}", str(&sandbox.path("blob")));
            let words = ["--engine", engine, &blob, str(&split), str(&point)];
            let done = ours::finish(&words);
            assert!(done.status.success(), "{words:?}: {}", text(&done));
            crate::support::run("cmp", &[str(&point.join("big")), str(&tree.join("big"))]);
            crate::support::run("umount", &[str(&point)]);
        }
        let (torn, _) = images::image("ext4-torn").expect("tools of Debian 12 make it");
        let before = images::state(&torn);
        let done = ours::finish(&["--engine=kernel", str(&torn), str(&point)]);
        let said = text(&done);
        assert!(!done.status.success() && said.contains("journal to replay"), "{said}");
        assert!(said.contains("engine=fuse"), "{said}");
        assert!(mount_at(&point).is_none() && images::state(&torn) == before);
        let done = ours::finish(&[str(&torn), str(&point)]);
        assert!(done.status.success(), "{}", text(&done));
        crate::support::run("umount", &[str(&point)]);
    });
}

#[test]
fn an_overlay_is_alone_and_stays_as_it_is() {
    require!(Root, Fuse, Erofs, Overlay);
    sandbox(|sandbox| {
        let (image, point, other) = (erofs(sandbox), sandbox.dir("mnt"), sandbox.dir("other"));
        let upper = format!("--upper={}", str(&sandbox.path("upper")));
        let mount = |at: &std::path::Path| ours::finish(&[&upper, str(&image), str(at)]);
        let done = mount(&point);
        assert!(done.status.success(), "{}", text(&done));
        assert_eq!(mount_at(&point).unwrap().kind, "overlay");
        std::fs::write(point.join("f"), "two\n").unwrap();
        let again = mount(&other);
        assert!(text(&again).contains("another mount uses it"), "{}", text(&again));
        let reload = ours::finish(&["reload", str(&point)]);
        assert!(text(&reload).contains("the overlay keeps owners"), "{}", text(&reload));
        assert!(ours::finish(&["stats", str(&point)]).status.success());
        // Its end is that of the server.
        crate::support::run("umount", &[str(&point)]);
        wait_for("the end of the server", || ours::processes(&point).is_empty());
        assert!(mount_at(&point).is_none());
        assert_eq!(std::fs::read_to_string(sandbox.path("upper/f")).unwrap(), "two\n");
        // On a directory it has no sense.
        let done = ours::finish(&[&upper, str(&other), str(&point)]);
        assert_eq!(done.status.code(), Some(32));
        assert!(text(&done).contains("it is for images"), "{}", text(&done));
    });
}
