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
fn a_build_says_how_far_it_is_where_somebody_looks() {
    require!(Root, Erofs);
    sandbox(|sandbox| {
        let tree = sandbox.dir("tree");
        std::fs::write(tree.join("f"), "one\n").unwrap();
        let build = |end: &str| {
            let to = sandbox.path(&format!("{end}.erofs"));
            format!("{} image build {} {}", ours::PROGRAM, str(&tree), str(&to))
        };
        assert_eq!(sh(&format!("{} 2>&1", build("quiet"))), "");
        let seen = sh(&format!("script -qec '{}' /dev/null </dev/null", build("seen")));
        assert!(seen.contains("mkfs.erofs"), "{seen}");
        // What it fails by is said to nobody as well.
        let wrong = sh(&format!("{} -- --no-such-option 2>&1 || true", build("wrong")));
        assert!(wrong.contains("no-such-option"), "{wrong}");
    });
}

#[test]
fn an_archive_is_taken_whatever_has_packed_it() {
    require!(Root, Erofs, Squashfs, Packers);
    sandbox(|sandbox| {
        let dir = sandbox.dir("some");
        // A name that looks like what lzma packs.
        sh(&format!("cd {}; mkdir t; echo one >t/]; tar -C t -cf plain.tar ]", str(&dir)));
        let packers = ["cat", "gzip -c", "zstd -qc", "xz -c", "bzip2 -c", "xz --format=lzma -c"];
        for packer in packers.into_iter().chain(["lz4 -qc", "lzop -qc", "lzip -c"]) {
            sh(&format!("cd {}; {packer} <plain.tar >a.tar; rm -f o.squashfs", str(&dir)));
            let done = ours::finish(&[
                "image",
                "build",
                str(&dir.join("a.tar")),
                str(&dir.join("o.squashfs")),
            ]);
            assert!(done.status.success(), "{packer}: {}", text(&done));
            let listed = sh(&format!("unsquashfs -ls {}", str(&dir.join("o.squashfs"))));
            assert!(listed.contains("squashfs-root/]"), "{packer}: {listed}");
        }
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

/// A tar without a root directory, with a member twice and with large ids.
const MEMBERS: &str = "import io, tarfile
def members(name, form, of):
    with tarfile.open(name, 'w', format=form) as tar:
        for path, owner, contents in of:
            member = tarfile.TarInfo(path)
            member.uid = member.gid = owner
            member.size = len(contents)
            tar.addfile(member, io.BytesIO(contents))
members('big.tar', tarfile.PAX_FORMAT, [('a', 70000, b'a'), ('b', 3000000000, b'b')])
members('twice.tar', tarfile.GNU_FORMAT, [('x', 33, b'one'), ('y', 34, b'y'), ('./x', 35, b'two')])
";

/// Says which ids an image has.
const OWNERS: &str = "idmapfs image info $image | grep -E '^[ug]ids'";

#[test]
fn no_id_of_a_record_is_lost_on_the_way_to_an_image() {
    require!(Root, Fuse, UserNamespaces, Erofs, Squashfs);
    sandbox(|sandbox| {
        let ann = Rootless::new(sandbox);
        std::fs::write(ann.home.join("members.py"), MEMBERS).unwrap();
        ann.does(
            "python3 members.py; mkdir d e
             idmapfs owners import --owners xattr --from big.tar d
             idmapfs owners import --owners db --from big.tar e",
        );
        let direct = text(&ann.tries("mkfs.erofs --help")).contains("--tar");
        for words in ["~/big.tar", "--owners xattr ~/d", "--owners db ~/e"] {
            for shell in ["", "unshare --map-auto --map-root-user -m "] {
                for end in ["squashfs", "erofs"] {
                    let build = format!("{shell}idmapfs image build {words} ~/o.{end}");
                    let done = ann.tries(&build);
                    let said = text(&done);
                    if end == "erofs" && !direct {
                        assert_eq!(done.status.code(), Some(1), "{build}: {said}");
                        // By the name that was given, not where it was unpacked to.
                        let from = words.rsplit('/').next().unwrap();
                        let named = ["a", "b"].map(|file| format!("/{from}: {file} has the id "));
                        assert!(named.iter().any(|line| said.contains(line)), "{build}: {said}");
                        assert!(said.contains("make a squashfs"), "{build}: {said}");
                        assert!(!ann.home.join("o.erofs").exists());
                        continue;
                    }
                    assert!(done.status.success(), "{build}: {said}");
                    let out = ann.does(&format!("image=~/o.{end}; {OWNERS}; rm $image"));
                    let ids = |line: &str| {
                        line.contains("70000")
                            && line.contains("3000000000")
                            && !line.contains("65534")
                    };
                    assert!(out.lines().count() == 2 && out.lines().all(ids), "{build}: {out}");
                }
            }
        }
        assert!(!text(&ann.tries("ls -d ~/*.tmp*")).contains("/o."));
    });
}

#[test]
fn an_archive_gives_its_image_a_root_and_the_last_of_two_members() {
    require!(Root, Fuse, UserNamespaces, Erofs, Squashfs);
    sandbox(|sandbox| {
        let ann = Rootless::new(sandbox);
        std::fs::write(ann.home.join("members.py"), MEMBERS).unwrap();
        ann.does(
            "python3 members.py; mkdir t; echo one >t/f; tar -C t -cf none.tar f
             chmod 750 t; tar -C t --owner=5 --group=6 -cf root.tar .",
        );
        for (archive, root) in [("none", "0:0 755"), ("root", "5:6 750"), ("twice", "0:0 755")] {
            for end in ["squashfs", "erofs"] {
                let build = format!("idmapfs image build ~/{archive}.tar ~/{archive}.{end}");
                let done = ann.tries(&build);
                let said = text(&done);
                assert!(done.status.success(), "{build}: {said}");
                // What mksquashfs says of that root is no loss.
                assert!(!said.contains("ignoring"), "{build}: {said}");
                let out = ann.does(&format!(
                    "unshare --map-auto --map-root-user -m bash -euc 'cd; idmapfs {archive}.{end} .cache/view
                     stat -c \"%u:%g %a\" .cache/view; cd .cache/view
                     [ ! -e x ] || {{ cat x; stat -c \" %u\" x; }}; cd; umount .cache/view'"
                ));
                let x = if archive == "twice" { "two 35\n" } else { "" };
                assert_eq!(out, format!("{root}\n{x}"), "{archive}.{end}");
            }
        }
    });
}

#[test]
fn what_cannot_be_read_or_is_not_kept_is_said() {
    require!(Root, Fuse, UserNamespaces, Erofs, Squashfs);
    sandbox(|sandbox| {
        let ann = Rootless::new(sandbox);
        ann.does("mkdir -p t/d acl; echo one >t/f; chmod 0 t/f; echo one >acl/f");
        // A directory that is the image's own place.
        let done = ann.tries("cd acl; idmapfs image build . out.erofs");
        let said = text(&done);
        assert_eq!(done.status.code(), Some(1), "{said}");
        assert!(said.contains("would be in the image"), "{said}");
        let fails = |shell: &str| {
            for end in ["squashfs", "erofs"] {
                let done = ann.tries(&format!("{shell}; idmapfs image build ~/t ~/o.{end}"));
                assert!(!done.status.success(), "{}", text(&done));
                assert!(!ann.home.join(format!("o.{end}")).exists());
            }
        };
        fails("true");
        fails("chmod 600 t/f; chmod 0 t/d");
        ann.does("chmod 700 t/d");
        let set = "import os, struct
entries = [(1, 6, 2**32 - 1), (2, 4, 5), (4, 4, 2**32 - 1), (16, 4, 2**32 - 1), (32, 0, 2**32 - 1)]
value = struct.pack('<I', 2) + b''.join(struct.pack('<HHI', *entry) for entry in entries)
os.setxattr('acl/f', 'system.posix_acl_access', value)
";
        std::fs::write(ann.home.join("acl.py"), set).unwrap();
        sh(&format!("cd {}; python3 acl.py", str(&ann.home)));
        ann.does("tar --xattrs --xattrs-include='*' -C acl -cf acl.tar f");
        for from in ["acl", "acl.tar"] {
            let done = ann.tries(&format!("idmapfs image build ~/{from} ~/acl.squashfs"));
            assert!(done.status.success(), "{}", text(&done));
            assert!(
                text(&done).contains("f has an ACL, and mksquashfs keeps none"),
                "{}",
                text(&done)
            );
        }
        let done = ann.tries("idmapfs image build ~/acl ~/acl.erofs");
        assert!(done.status.success() && !text(&done).contains("ACL"), "{}", text(&done));
    });
}

#[test]
fn no_image_is_built_of_what_is_no_archive() {
    require!(Root, Erofs, Squashfs);
    sandbox(|sandbox| {
        let (dir, at) = (sandbox.dir("some"), |name: &str| sandbox.path(&format!("some/{name}")));
        let image = erofs(sandbox);
        sh(&format!(
            "cd {}; : >empty; head -c 20480 /dev/zero >zeros; head -c 100000 /dev/urandom >noise
             cp {} image; gzip -c image >packed; mkdir oci; echo {{}} >oci/oci-layout",
            str(&dir),
            str(&image)
        ));
        for (from, what) in [
            ("empty", "is empty"),
            ("zeros", "nothing but zeros"),
            ("noise", "not a tar archive"),
            ("image", "is an image, not a tar archive"),
            ("packed", "what gzip unpacks of it is no tar archive"),
            ("oci", "an OCI image layout"),
        ] {
            for end in ["erofs", "squashfs"] {
                let to = at(&format!("out.{end}"));
                let done = ours::finish(&["image", "build", str(&at(from)), str(&to)]);
                let said = text(&done);
                assert_eq!(done.status.code(), Some(1), "{from}: {said}");
                assert!(said.contains(what), "{from}: {said}");
                assert!(!to.exists() && !at(&format!("out.{end}.tmp")).exists());
            }
        }
        // What breaks off is the program's to say, by its name.
        sh(&format!(
            "cd {}; head -c 90000 noise >f; tar -cf a.tar f; head -c 40000 a.tar >cut",
            str(&dir)
        ));
        let done = ours::finish(&["image", "build", str(&at("cut")), str(&at("out.erofs"))]);
        assert!(!done.status.success() && !at("out.erofs").exists(), "{}", text(&done));
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
        // It looks at no name.
        let asked = ["--engine=kernel", "--replaced=eio", str(&image), str(&point)];
        let said = text(&ours::finish(&asked));
        assert!(said.contains("option replaced=eio: the kernel's mount shows"), "{said}");
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
