//! Images of file systems, beside the kernel's loop mount of the same file: a table for
//! each format, instead of those of a directory.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::process::Command;

use crate::args::Args;
use crate::child;
use crate::image_works::{BIG, MIB, WORKS};
use crate::machine::Machine;
use crate::measure::measure;
use crate::mounts::{How, Kind, Live};
use crate::place::{Place, run};
use crate::report::{self, Report};
use crate::tree::{self, Random};
use crate::work::Work;

/// An image, and who can show it.
struct Image {
    name: &'static str,
    /// How it is made, after which come the image and the directory in this order, or
    /// the other way round.
    make: &'static [&'static str],
    kinds: &'static [Kind],
}

const fn kind(name: &'static str, about: &'static str, how: How) -> Kind {
    Kind { name, about, how }
}

const LOOP: Kind = kind("native", "the kernel's loop mount", How::Loop);
const OURS: Kind = kind("ours", "idmapfs as root", How::Image("idmapfs", ours));
const FLOOR: Kind = kind(
    "floor",
    "a server that makes the host's calls and nothing else, over that",
    How::Floor(&[]),
);
const SQUASHFS: &[Kind] = &[
    LOOP,
    OURS,
    FLOOR,
    kind("squashfuse", "squashfuse", How::Image("squashfuse", foreground)),
    kind("squashfuse_ll", "squashfuse_ll", How::Image("squashfuse_ll", foreground)),
];
const EXT4: &[Kind] =
    &[LOOP, OURS, FLOOR, kind("fuse2fs", "fuse2fs -o ro", How::Image("fuse2fs", fuse2fs))];
const EROFS: &[Kind] =
    &[LOOP, OURS, FLOOR, kind("erofsfuse", "erofsfuse", How::Image("erofsfuse", foreground))];

const IMAGES: &[Image] = &[
    Image { name: "erofs", make: &["mkfs.erofs"], kinds: EROFS },
    Image { name: "erofs lz4hc", make: &["mkfs.erofs", "-zlz4hc,9", "-C65536"], kinds: EROFS },
    Image { name: "ext4", make: &["mke2fs", "-q", "-t", "ext4", "-d"], kinds: EXT4 },
    Image { name: "squashfs zstd", make: &["mksquashfs", "-comp", "zstd"], kinds: SQUASHFS },
    Image { name: "squashfs xz", make: &["mksquashfs", "-comp", "xz"], kinds: SQUASHFS },
];

fn ours(image: &str, point: &str) -> Vec<String> {
    ["-f", image, point].map(str::to_owned).into()
}

fn foreground(image: &str, point: &str) -> Vec<String> {
    ["-f", image, point].map(str::to_owned).into()
}

fn fuse2fs(image: &str, point: &str) -> Vec<String> {
    ["-f", "-o", "ro", image, point].map(str::to_owned).into()
}

/// Builds each image and measures all that can show it.
///
/// # Errors
/// The tree cannot be built, or the result not be printed.
pub fn main(mut place: Place, args: &Args) -> io::Result<()> {
    let source = place.source.join("image");
    build(&source, args.files)?;
    for image in IMAGES {
        place.image = place.disk.join("image.img");
        eprintln!("peers: {}", image.name);
        if let Err(error) = make(image, &source, &place.image) {
            eprintln!("peers: no {}: {error}", image.name);
            continue;
        }
        let (mut kinds, mut missing) = (Vec::new(), Vec::new());
        for kind in image.kinds {
            let live = Live::start(kind, &place);
            match live.and_then(|live| child::run("verify-image", &live, &place, kind.name)) {
                Ok(_) => kinds.push(kind),
                Err(error) => missing.push((kind.name, error.to_string())),
            }
        }
        let mut report = Report::new(Machine::new(&place, args), kinds.clone(), missing);
        let chosen =
            |work: &&Work| args.only.is_empty() || args.only.iter().any(|one| one == work.name);
        for work in WORKS.iter().filter(chosen) {
            measure(work, &kinds, &place, args, &mut report);
        }
        let text = if args.json { report::json(&report)? } else { report::table(&report) };
        println!("## {}\n\n{text}", image.name);
    }
    Ok(())
}

fn build(source: &Path, files: usize) -> io::Result<()> {
    fs::create_dir(source)?;
    fs::create_dir(source.join("tree"))?;
    for number in 0..tree::DIRS {
        fs::create_dir(tree::dir(source, number))?;
    }
    for number in 0..files {
        fs::write(tree::file(source, number), tree::contents(number))?;
    }
    for (seed, name) in [(1, "one"), (2, "two")] {
        let mut random = Random::new(seed);
        let mut file = File::create(source.join(name))?;
        for _ in 0..BIG / MIB as u64 {
            file.write_all(&packable(&mut random))?;
        }
    }
    Ok(())
}

/// Returns a mebibyte that packs to about a third, as programs do.
fn packable(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MIB + 64);
    while bytes.len() < MIB {
        if bytes.len() > 4096 && random.below(4) > 0 {
            let back = 64 + random.below(4000) as usize;
            let length = 8 + random.below(40) as usize;
            let from = bytes.len() - back;
            bytes.extend_from_within(from..(from + length).min(bytes.len()));
        } else {
            bytes.extend(random.next().to_le_bytes());
        }
    }
    bytes.truncate(MIB);
    bytes
}

fn make(image: &Image, source: &Path, to: &Path) -> io::Result<()> {
    if to.exists() {
        fs::remove_file(to)?;
    }
    let Some((program, options)) = image.make.split_first() else { return Ok(()) };
    let mut command = Command::new(program);
    match *program {
        "mksquashfs" => command.arg(source).arg(to).args(options).args(["-quiet", "-no-progress"]),
        "mke2fs" => command.args(options).arg(source).arg(to).arg("1G"),
        _ => command.args(options).arg(to).arg(source),
    };
    run(&mut command)
}
