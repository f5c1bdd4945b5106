//! What can be done with a file that is no image of a format that is read.

/// What to do with an archive.
pub(super) const ARCHIVE: &str = "make an image of it: idmapfs image build ARCHIVE OUT.erofs";

/// What to do with such an archive.
pub(super) const CPIO: &str = "unpack it into a directory: cpio -idm";

/// What to do with packages of two kinds.
pub(super) const DEB: &str = "unpack it into a directory: dpkg -x";
pub(super) const RPM: &str = "unpack it into a directory: rpm2cpio, cpio -idm";

/// What to do with an image of a telephone.
pub(super) const SIMG: &str = "unpack it first: simg2img FILE OUT";

/// What to do with what only the kernel reads.
pub(super) const KERNEL: &str =
    "mount it as root: mount -o ro,loop; then idmapfs shows that directory";

/// What to do with a disk of a virtual machine.
pub(super) const CONVERT: &str = "convert it: qemu-img convert -O raw DISK OUT.raw";

/// What to do with a disk whose table cannot be read.
pub(super) const MEND: &str =
    "have gdisk mend it, or name where the file system is: --offset=BYTES";

/// What to do with what is encrypted.
pub(super) const OPEN: &str = "open it as root: cryptsetup open FILE NAME";

/// What to do with an archive that is not built from.
pub(super) const UNPACK: &str = "unpack it into a directory";

/// What to do with a part of a volume.
pub(super) const VOLUME: &str = "have root put it together, and mount the volume that is in it";

/// What to do with a part of a pool.
pub(super) const POOL: &str =
    "have root import the pool (zpool import -d DIR), and mount what is in it";

/// What to do with an image that only its own tools read.
pub(super) const DWARFS: &str = "unpack it into a directory: dwarfsextract -i FILE -o DIR";

/// What to do with what is sealed.
pub(super) const SEALED: &str = "open it as root: integritysetup open DEVICE NAME";

/// What to do with a disk whose table is not read here.
pub(super) const OFFSET: &str = "name where the file system is: --offset=BYTES";

/// What to do with what flatpak has packed.
pub(super) const BUNDLE: &str = "take it into a repository and check it out: ostree init --repo=REPO --mode=bare-user-only, \
     flatpak build-import-bundle REPO FILE, ostree checkout -U --repo=REPO REF DIR";

/// What to do with what is no file system.
pub(super) const NAME: &str = "name a directory or an image";

/// What to do with the files of one that no tool here takes apart, by its own tools.
pub(super) const FLASH: &str = "unpack it into a directory by tools of its own";
