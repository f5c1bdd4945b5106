//! Why an image cannot be served.

use std::io;
use std::path::PathBuf;

use crate::text::{plain, shown};

/// Why an image cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file cannot be used.
    #[error("{}: {}{}", shown(.path), plain(.why), way_out(.why))]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        why: io::Error,
    },
    /// It is neither a file nor a block device.
    #[error("{}: neither a file nor a block device; name one of these, or a directory", shown(.0))]
    Kind(PathBuf),
    /// There is nothing in the file.
    #[error("{}: is empty; make an image first: idmapfs image build DIR OUT.erofs", shown(.0))]
    Empty(PathBuf),
    /// The file has no such part.
    #[error("{}: has {end} bytes: offset and size are not within", shown(.path))]
    Part {
        /// The file.
        path: PathBuf,
        /// How long it is, in bytes.
        end: u64,
    },
    /// The disk has no such partition, or several.
    #[error("{}: {wrong}", shown(.path))]
    Partition {
        /// The file.
        path: PathBuf,
        /// What is wrong, and which there are.
        wrong: String,
    },
    /// It is no image of a known format.
    #[error("{}: {looks}; {way}", shown(.path))]
    Unknown {
        /// The file.
        path: PathBuf,
        /// What it looks like.
        looks: String,
        /// What can be done.
        way: String,
    },
    /// It has something that cannot be served right.
    #[error("{}: {format} with {feature}: {way}", shown(.path))]
    Refused {
        /// The file.
        path: PathBuf,
        /// The format.
        format: &'static str,
        /// What it has, in the words of the format's own tools.
        feature: String,
        /// What can be done.
        way: String,
    },
    /// This program was built without a reader of the format.
    #[error("{}: {format}: this idmapfs was built without it; build it with --features {format}",
            shown(.path))]
    Absent {
        /// The file.
        path: PathBuf,
        /// The format.
        format: &'static str,
    },
    /// It is damaged where it begins.
    #[error("{}: {format}: damaged: {what}; {check} may say more", shown(.path))]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The format.
        format: &'static str,
        /// What is wrong.
        what: String,
        /// The program that looks an image of this format over.
        check: &'static str,
    },
}

fn way_out(why: &io::Error) -> &'static str {
    match why.raw_os_error() {
        Some(libc::ENOENT) => "; correct the name",
        Some(libc::EACCES) => {
            "; this user needs search permission on every directory of the path, and read permission \
             on the file"
        }
        _ => "",
    }
}
