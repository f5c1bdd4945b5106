//! Images of file systems, built by their own tools from a tree that is awkward.
//!
//! Each is made once and kept with the build, under a name that changes with what
//! makes it; tests read it where it is, or a copy.

pub mod damage;
pub mod tree;

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::{Mutex, PoisonError};

use super::{Sandbox, output, run, sh, str, text};

/// A format, by the name that mount(8) has for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// ext4.
    Ext4,
    /// squashfs.
    Squashfs,
    /// erofs.
    Erofs,
}

impl Format {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Squashfs => "squashfs",
            Self::Erofs => "erofs",
        }
    }
}

/// What of the tree is in an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// All of it but a huge file.
    Whole,
    /// All of it and a huge file of holes.
    Huge,
    /// The huge file alone: tools that know of no holes take long to read it.
    HugeAlone,
    /// A few files of each kind, for images that are to be damaged.
    Few,
}

/// How an image is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// By its tool, from the tree, with these options.
    Tool(&'static str),
    /// Empty by its tool, and filled by the kernel.
    Kernel(&'static str),
    /// The same, copied while it is mounted: the last changes are in the journal alone.
    Torn(&'static str),
}

/// An image that can be had.
#[derive(Debug)]
pub struct Kind {
    /// Its name: the format, and what is special.
    pub name: &'static str,
    /// The format.
    pub format: Format,
    /// What is in it.
    pub contents: Contents,
    how: How,
}

impl Kind {
    /// Whether the kernel has to replay a journal before it can read it.
    pub const fn is_torn(&self) -> bool {
        matches!(self.how, How::Torn(_))
    }
}

use Contents::{Few, Huge, HugeAlone, Whole};
use Format::{Erofs, Ext4, Squashfs};
use How::{Kernel, Tool, Torn};

const fn kind(name: &'static str, format: Format, contents: Contents, how: How) -> Kind {
    Kind { name, format, contents, how }
}

/// Every image.
pub const KINDS: &[Kind] = &[
    kind("ext4", Ext4, Whole, Tool("")),
    kind("ext4-kernel", Ext4, Huge, Kernel("")),
    kind("ext4-1k", Ext4, Whole, Kernel("-b 1024")),
    kind("ext4-inline-data", Ext4, Whole, Kernel("-O inline_data")),
    kind("ext4-bigalloc", Ext4, Whole, Kernel("-O bigalloc -C 16384")),
    kind("ext4-meta-bg", Ext4, Whole, Kernel("-O meta_bg,^resize_inode")),
    kind("ext4-no-journal", Ext4, Whole, Kernel("-O ^has_journal,^metadata_csum")),
    kind("ext4-torn", Ext4, Whole, Torn("")),
    kind("ext4-ea-inode", Ext4, Whole, Kernel("-O ea_inode")),
    kind("ext4-128", Ext4, Whole, Kernel("-I 128")),
    kind("ext4-features", Ext4, Whole, Tool(FEATURES)),
    kind("ext4-no-extent", Ext4, Whole, Kernel("-O ^extent,^64bit")),
    kind("ext2", Ext4, Whole, Kernel("-O none,ext_attr,dir_index,filetype,large_file -I 128")),
    kind("ext2-plain", Ext4, Whole, Tool("-O none,ext_attr,large_file")),
    kind("ext3", Ext4, Huge, Kernel("-b 1024 -O none,has_journal,ext_attr,filetype,large_file")),
    kind("ext3-torn", Ext4, Whole, Torn("-O none,has_journal,ext_attr,filetype,large_file")),
    kind("squashfs", Squashfs, Whole, Tool("-comp gzip")),
    kind("squashfs-xz", Squashfs, Whole, Tool("-comp xz")),
    kind("squashfs-lz4", Squashfs, Whole, Tool("-comp lz4")),
    kind("squashfs-zstd", Squashfs, Whole, Tool("-comp zstd -Xcompression-level 3")),
    kind("squashfs-lzo", Squashfs, Whole, Tool("-comp lzo")),
    kind("squashfs-no-fragments", Squashfs, Whole, Tool("-comp lz4 -no-fragments")),
    kind("squashfs-4k", Squashfs, Whole, Tool("-comp lz4 -b 4K")),
    kind("squashfs-1m", Squashfs, Whole, Tool("-comp zstd -Xcompression-level 3 -b 1M")),
    kind("squashfs-unpacked", Squashfs, Whole, Tool("-noI -noId -noD -noF -noX")),
    kind("squashfs-huge", Squashfs, HugeAlone, Tool("-comp lz4")),
    kind("erofs", Erofs, Whole, Tool("")),
    kind("erofs-chunks", Erofs, Whole, Tool("--chunksize=16384")),
    kind("erofs-huge", Erofs, HugeAlone, Tool("--chunksize=1048576")),
    kind("erofs-lz4", Erofs, Whole, Tool("-zlz4")),
    kind("erofs-lz4hc", Erofs, Whole, Tool("-zlz4hc,9 -C65536")),
    kind("erofs-legacy", Erofs, Whole, Tool("-zlz4 -Elegacy-compress")),
    kind("erofs-fragments", Erofs, Whole, Tool("-zlz4 -Efragments,ztailpacking")),
    kind("erofs-zstd", Erofs, Whole, Tool("-zzstd")),
    kind("erofs-lzma", Erofs, Whole, Tool("-zlzma")),
    kind("erofs-deflate", Erofs, Whole, Tool("-zdeflate")),
    kind("few-ext4", Ext4, Few, Kernel("-b 1024 -O ^has_journal,^resize_inode")),
    kind("few-ext4-unchecked", Ext4, Few, Kernel("-b 1024 -O ^metadata_csum,inline_data")),
    kind("few-ext2", Ext4, Few, Kernel("-b 1024 -O none,ext_attr,filetype")),
    kind("few-squashfs", Squashfs, Few, Tool("-comp zstd -b 4K")),
    kind("few-squashfs-unpacked", Squashfs, Few, Tool("-noI -noId -noF -noX -comp xz -b 8K")),
    kind("few-erofs", Erofs, Few, Tool("")),
    kind("few-erofs-chunks", Erofs, Few, Tool("--chunksize=4096")),
    kind("few-erofs-lz4hc", Erofs, Few, Tool("-zlz4hc,9 -C16384")),
];

/// Features that leave files as they are kept otherwise.
const FEATURES: &str = "-O mmp,large_dir,metadata_csum_seed,orphan_file,stable_inodes,verity";

/// Images of a format that the tools of Debian 12 cannot make.
const NEWER: [&str; 3] = ["erofs-zstd", "erofs-lzma", "erofs-deflate"];

/// Returns the image of this name and how it was made; `None`: the tool that is
/// installed cannot make it, which is said.
pub fn image(name: &str) -> Option<(PathBuf, &'static Kind)> {
    static BUILT: [Mutex<Option<PathBuf>>; 3] = [const { Mutex::new(None) }; 3];
    let kind = KINDS.iter().find(|kind| kind.name == name).expect("an image of this name");
    let mut built = BUILT[kind.format as usize].lock().unwrap_or_else(PoisonError::into_inner);
    let place = built.get_or_insert_with(|| build(kind.format)).clone();
    drop(built);
    let path = place.join(kind.name);
    if path.exists() {
        return Some((path, kind));
    }
    assert!(NEWER.contains(&name), "{name} was not made");
    // Not SKIP: nobody has to have such a tool.
    eprintln!("{name}: the installed tool cannot make it");
    None
}

/// Copies an image to where it may be changed, and ordinary users may read it.
pub fn copy(from: &Path, to: &Path) {
    run("cp", &["--sparse=always", "--no-preserve=all", str(from), str(to)]);
}

/// Makes all images of a format that are not there; returns where they are.
fn build(format: Format) -> PathBuf {
    let top = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let place = top.join(format!("images-{:016x}", recipe()));
    fs::create_dir_all(&place).expect("a directory for images");
    let wanted = |kind: &&Kind| kind.format == format && !place.join(kind.name).exists();
    forget_others(top, &place);
    let missing: Vec<_> = KINDS.iter().filter(wanted).collect();
    if missing.iter().all(|kind| NEWER.contains(&kind.name)) {
        return place;
    }
    // In a thread of its own, whose mounts end with it.
    let building = std::thread::scope(|scope| {
        let making = scope.spawn(|| {
            let sandbox = Sandbox::new();
            for contents in [Whole, Huge, HugeAlone, Few] {
                let mut kinds = missing.iter().filter(|kind| kind.contents == contents).peekable();
                let tree = sandbox.dir(&format!("{contents:?}"));
                if kinds.peek().is_some() {
                    tree::make(&tree, contents, format);
                }
                kinds.for_each(|kind| make(&sandbox, kind, &tree, &place));
            }
        });
        making.join()
    });
    if let Err(panic) = building {
        std::panic::resume_unwind(panic);
    }
    place
}

/// Removes what was made in other ways.
fn forget_others(top: &Path, place: &Path) {
    for other in fs::read_dir(top).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let is_one =
            other.file_name().is_some_and(|name| str(Path::new(name)).starts_with("images-"));
        if is_one && other != place {
            let _ = fs::remove_dir_all(other);
        }
    }
}

/// Returns a number for what makes images: this, the tree, and the tools.
fn recipe() -> u64 {
    let mut hasher = DefaultHasher::new();
    (include_str!("images.rs"), include_str!("images/tree.rs")).hash(&mut hasher);
    let tools = "PATH=$PATH:/usr/sbin:/sbin; for tool in mke2fs mksquashfs mkfs.erofs; do \
                 cksum \"$(type -P $tool)\" || true; done";
    output("bash", &["-c", tools]).stdout.hash(&mut hasher);
    hasher.finish()
}

/// Makes one image under another name, and gives it its own when it is whole.
fn make(sandbox: &Sandbox, kind: &Kind, tree: &Path, place: &Path) {
    let new = place.join(format!("{}.{}", kind.name, std::process::id()));
    let done = match (kind.format, kind.how) {
        (Ext4, Tool(options)) => {
            // What the kernel would refuse to store, mke2fs gives up at; and it looks for
            // each name among all that are there.
            let _ = fs::remove_file(tree.join("xattrs/huge"));
            for number in 4_000..tree::MANY {
                let _ = fs::remove_file(tree.join(format!("many/{number:05}")));
            }
            empty(kind, &new, &format!("{options} -d {}", str(tree)))
        }
        (Ext4, Kernel(options)) => {
            let made = empty(kind, &new, options);
            fill(sandbox, kind, &new, |root| tree::make(root, kind.contents, Ext4));
            made
        }
        (Ext4, Torn(options)) => {
            let made = empty(kind, &new, options);
            fill(sandbox, kind, &new, |root| tree::make(root, kind.contents, Ext4));
            fill(sandbox, kind, &new, |root| tear(root, &new));
            fs::rename(new.with_extension("torn"), &new).expect("the copy");
            made
        }
        (Squashfs, Tool(options)) => tool(&format!(
            "mksquashfs {} {} {options} -noappend -quiet -no-progress",
            str(tree),
            str(&new)
        )),
        (Erofs, Tool(options)) => {
            tool(&format!("mkfs.erofs {options} {} {}", str(&new), str(tree)))
        }
        (Squashfs | Erofs, Kernel(_) | Torn(_)) => unreachable!("the kernel writes neither"),
    };
    if done.status.success() {
        fs::rename(&new, place.join(kind.name)).expect("its own name");
        return;
    }
    let _ = fs::remove_file(&new);
    assert!(NEWER.contains(&kind.name), "{}: {}", kind.name, text(&done));
}

fn tool(line: &str) -> Output {
    output("bash", &["-c", &format!("PATH=$PATH:/usr/sbin:/sbin; {line}")])
}

/// Makes an ext4 that is empty, unless the options say what is in it.
fn empty(kind: &Kind, new: &Path, options: &str) -> Output {
    let (size, inodes) = if kind.contents == Few { ("1M", 64) } else { ("320M", 40_000) };
    let size = match kind.name {
        "few-ext4-unchecked" => "3M",
        "ext4-bigalloc" => "2G",
        _ => size,
    };
    let options = if options.starts_with(FEATURES) {
        options.replacen(FEATURES, &known(), 1)
    } else {
        options.to_owned()
    };
    let made = tool(&format!(
        "rm -f {new}; mke2fs -q -t ext4 -m 0 -N {inodes} -b 4096 {options} {new} {size}",
        new = str(new)
    ));
    assert!(made.status.success(), "{}: {}", kind.name, text(&made));
    made
}

/// Returns those of [`FEATURES`] that the installed tool knows.
fn known() -> String {
    let (option, features) = FEATURES.split_once(' ').expect("an option and features");
    let is_known = |feature: &&str| {
        let asked = format!("mke2fs -n -q -F -t ext4 -O {feature} /dev/null 16M >/dev/null");
        let known = tool(&asked).status.success();
        if !known {
            eprintln!("ext4-features: the installed tool has no {feature}");
        }
        known
    };
    let features: Vec<&str> = features.split(',').filter(is_known).collect();
    format!("{option} {}", features.join(","))
}

/// Mounts an ext4 for writing, has it written, and unmounts it.
fn fill(sandbox: &Sandbox, kind: &Kind, image: &Path, write: impl FnOnce(&Path)) {
    let root = sandbox.dir(&format!("{}-rw", kind.name));
    run("mount", &["-t", "ext4", "-o", "loop,acl,user_xattr", str(image), str(&root)]);
    write(&root);
    run("umount", &[str(&root)]);
}

/// Changes what is there, and copies the image when that is in the journal.
fn tear(root: &Path, image: &Path) {
    sh(&format!(
        "cd {root}; rm many/00001 many/0001[0-9]; mv many/00002 many/renamed; echo late >late
        mkdir newdir; touch newdir/inside; chown 5:6 small/0; setfattr -n user.late -v x small/1
        echo changed >>small/2; rm -r small/3; ln small/4 newdir/link
        sync -f .; cp --sparse=always {image} {copy}",
        root = str(root),
        image = str(image),
        copy = str(&image.with_extension("torn")),
    ));
    let state = tool(&format!("dumpe2fs -h {} 2>&1", str(&image.with_extension("torn"))));
    assert!(text(&state).contains("needs_recovery"), "not torn: {}", text(&state));
}

/// An image that the kernel has mounted by loop, read-only.
#[derive(Debug)]
pub struct Loop {
    /// Its root directory.
    pub root: PathBuf,
}

impl Loop {
    /// Mounts an image; one with a journal to replay is copied for that.
    pub fn new(sandbox: &Sandbox, image: &Path, kind: &Kind) -> Self {
        let root = sandbox.dir("loop");
        let mut image = image.to_owned();
        if kind.is_torn() {
            let copied = sandbox.path("replayed");
            copy(&image, &copied);
            // The kernel replays it where it may write.
            run("mount", &["-o", "loop", str(&copied), str(&root)]);
            run("umount", &[str(&root)]);
            image = copied;
        }
        let options = "loop,ro,nosuid,nodev";
        run("mount", &["-t", kind.format.name(), "-o", options, str(&image), str(&root)]);
        Self { root }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.root, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Returns the time and the size of a file, which a reader leaves alone.
pub fn state(image: &Path) -> (u64, std::time::SystemTime) {
    let metadata = fs::metadata(image).expect("an image");
    (metadata.len(), metadata.modified().expect("its time"))
}
