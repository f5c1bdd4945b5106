//! Where the bytes of files are: in the image's own file, and in further ones, which hold
//! chunks of many images, or are an archive or an image that it was made of.
//!
//! All of them are one space of bytes here: the own file, then each further one at a
//! place of its own, and where the image gives it an address also there, as
//! `erofs_map_dev` of fs/erofs/data.c has it.

use std::sync::Arc;

use super::super::Device;
use super::bytes::{add, count, eio, index, mul, slice, u16_at, u32_at};
use super::superblock::{Bad, Super};
use crate::error::Result;
use crate::text::shown;

/// The size of `struct erofs_deviceslot`, in bytes.
const SLOT: usize = 128;

/// What further files may be, by the ways of mkfs.erofs to such an image; it does not tell.
const WHAT: &str = "the file of mkfs.erofs --blobdev, the archive of --tar=i, or an image that it \
                    was made of";

/// Where the places of further files begin: no own file is that long.
const FURTHER: u64 = 1 << 56;
/// How far these are from each other.
const APART: u64 = 1 << 47;

/// Bytes of one file, in the space of all.
#[derive(Debug)]
struct Segment {
    start: u64,
    length: u64,
    device: Arc<Device>,
}

/// The files that an image has its data in.
#[derive(Debug)]
pub struct Devices {
    own: Arc<Device>,
    segments: Vec<Segment>,
    /// Where each further one begins.
    starts: Vec<u64>,
    /// How long the image says that the further ones are, in bytes.
    told: u64,
}

/// What an image says of a further file.
#[derive(Debug)]
struct Slot {
    tag: String,
    /// How long it is at least, in bytes: mkfs.erofs 1.5 does not say.
    length: u64,
    /// Its address among those of the image, in bytes, if it has one.
    address: Option<u64>,
}

impl Slot {
    fn parse(bytes: &[u8], sup: &Super) -> Result<Self> {
        let tag = slice(bytes, 0, 64)?.split(|byte| *byte == 0).next().unwrap_or_default();
        let high = |at| u16_at(bytes, at).map(|high| u64::from(high) << 32);
        let blocks = u64::from(u32_at(bytes, 64)?) | sup.long(high(72)?);
        let address = u64::from(u32_at(bytes, 68)?) | sup.long(high(74)?);
        let address = mul(address, sup.block())?;
        Ok(Self {
            tag: tag.iter().map(|byte| char::from(*byte)).filter(char::is_ascii_graphic).collect(),
            length: mul(blocks, sup.block())?,
            address: Some(address).filter(|address| *address != 0),
        })
    }

    /// Reports whether it is a part of the image's own file.
    fn is_in(&self, own: &Device) -> bool {
        let end = self.address.and_then(|address| address.checked_add(self.length));
        end.is_some_and(|end| end <= own.length())
    }
}

impl Devices {
    /// Finds the files of an image: those that were named with its own, in their order,
    /// or parts of its own.
    ///
    /// # Errors
    /// If they are not those that the image says.
    pub fn new(own: Arc<Device>, sup: &Super) -> std::result::Result<Self, Bad> {
        let slots = slots(&own, sup);
        let slots = slots.map_err(|_| Bad::Damaged("its table of devices is cut short".into()))?;
        let told = slots.iter().fold(0, |sum: u64, slot| sum.saturating_add(slot.length));
        let named = own.further();
        let (mut segments, mut starts) = (Vec::new(), Vec::new());
        if named.is_empty() && slots.iter().all(|slot| slot.is_in(&own)) {
            starts.extend(slots.iter().filter_map(|slot| slot.address));
            return Ok(Self { own, segments, starts, told });
        }
        if named.len() != slots.len() || own.length() > FURTHER {
            return Err(unnamed(&slots, named.len()));
        }
        let places = (0_u64..).map(|place| FURTHER.saturating_add(APART.saturating_mul(place)));
        for ((slot, device), start) in slots.iter().zip(named).zip(places) {
            let length = device.length();
            if length < slot.length || length > APART {
                let (path, told) = (shown(device.path()), slot.length);
                return Err(Bad::Devices(
                    format!("a further device of {told} bytes, and {path} has {length}"),
                    "name the file that was made with it".to_owned(),
                ));
            }
            let segment = |(start, length)| Segment { start, length, device: Arc::clone(device) };
            let addressed = slot.address.map(|address| (address, slot.length));
            segments.extend(addressed.into_iter().chain([(start, length)]).map(segment));
            starts.push(start);
        }
        Ok(Self { own, segments, starts, told })
    }

    /// Returns the image's own file, which has all metadata.
    pub fn own(&self) -> &Device {
        &self.own
    }

    /// Returns where the file of a number begins; 0 is the image's own.
    ///
    /// # Errors
    /// `EIO` if there is none.
    pub fn start(&self, number: u16) -> Result<u64> {
        let all = self.starts.len().saturating_add(1).next_power_of_two();
        // Other bits of it mean something else, some day.
        let number = usize::from(number) & all.saturating_sub(1);
        match number.checked_sub(1) {
            None => Ok(0),
            Some(further) => self.starts.get(further).copied().ok_or_else(eio),
        }
    }

    /// Returns how long all of it is, in bytes.
    pub fn length(&self) -> u64 {
        let further = self.own.further().iter().map(|device| device.length());
        further.fold(self.own.length(), u64::saturating_add)
    }

    /// Returns how long the image says that the further ones are, in bytes.
    pub const fn told(&self) -> u64 {
        self.told
    }

    /// Fills a buffer from an address.
    ///
    /// # Errors
    /// As [`Device::read`].
    pub fn read(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        if self.segments.is_empty() {
            return self.own.read(at, buf);
        }
        let mut done: usize = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = add(at, count(done))?;
            let of = |segment: &Segment| at.checked_sub(segment.start);
            let within = |segment: &&Segment| of(segment).is_some_and(|at| at < segment.length);
            let (device, from, left) = match self.segments.iter().find(within) {
                Some(segment) => {
                    let from = of(segment).ok_or_else(eio)?;
                    (&segment.device, from, segment.length.saturating_sub(from))
                }
                None => {
                    // Up to the next one.
                    let next = self.segments.iter().filter_map(|next| next.start.checked_sub(at));
                    (&self.own, at, next.min().ok_or_else(eio)?)
                }
            };
            let part = left.min(count(rest.len()));
            device.read(from, rest.get_mut(..index(part)?).ok_or_else(eio)?)?;
            done = done.saturating_add(index(part)?);
        }
        Ok(())
    }
}

/// Says which further files are to be named, and how many were.
fn unnamed(slots: &[Slot], named: usize) -> Bad {
    let tags = slots.iter().map(|slot| slot.tag.as_str()).filter(|tag| !tag.is_empty());
    let tags = tags.collect::<Vec<_>>().join(", ");
    let tags = if tags.is_empty() { tags } else { format!(": {tags}") };
    let (what, way) = match slots.len() {
        1 if named > 1 => (
            format!("data on one further device{tags}, and {named} that were named"),
            format!("name that one alone, -o device=FILE: {WHAT}"),
        ),
        0 => ("all data in one file".to_owned(), "leave the option device out".to_owned()),
        1 => {
            (format!("data on a further device{tags}"), format!("name it, -o device=FILE: {WHAT}"))
        }
        many => (
            match named {
                0 => format!("data on {many} further devices{tags}"),
                _ => format!("data on {many} further devices{tags}, not {named}"),
            },
            format!("name all of them, in this order, -o device=FILE,device=FILE: each is {WHAT}"),
        ),
    };
    Bad::Devices(what, way)
}

fn slots(own: &Device, sup: &Super) -> Result<Vec<Slot>> {
    let (many, at) = sup.devices;
    let mut slots = Vec::new();
    for number in 0..u64::from(many) {
        let mut bytes = [0; SLOT];
        own.read(add(at, mul(number, count(SLOT))?)?, &mut bytes)?;
        slots.push(Slot::parse(&bytes, sup)?);
    }
    Ok(slots)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::path::Path;

    use tempfile::NamedTempFile;

    use super::super::super::Part;
    use super::*;

    const BLOCK: u64 = 4096;

    /// Makes a file of so many blocks, each of bytes of its own.
    fn file(first: u8, blocks: u8) -> NamedTempFile {
        let mut file = NamedTempFile::new().unwrap();
        for block in 0..blocks {
            file.write_all(&[first + block; 4096]).unwrap();
        }
        file
    }

    /// Makes an image of four blocks, with further files by blocks and address.
    fn image(slots: &[(u32, u32)]) -> NamedTempFile {
        let mut image = file(0, 4);
        let mut bytes = vec![0; 144];
        bytes[..4].copy_from_slice(&[0xe2, 0xe1, 0xf5, 0xe0]);
        (bytes[12], bytes[80], bytes[88]) = (12, 8, 16);
        bytes[86] = u8::try_from(slots.len()).unwrap();
        let mut table = Vec::new();
        for (number, (blocks, address)) in slots.iter().enumerate() {
            table.extend_from_slice(format!("d{number}\x1b").as_bytes());
            table.resize(number * SLOT + 64, 0);
            table.extend([blocks.to_le_bytes(), address.to_le_bytes()].concat());
            table.resize((number + 1) * SLOT, 0);
        }
        for (at, bytes) in [(1024, bytes), (2048, table)] {
            std::io::Seek::seek(&mut image, std::io::SeekFrom::Start(at)).unwrap();
            image.write_all(&bytes).unwrap();
        }
        image
    }

    fn open(image: &Path, further: &[&Path]) -> std::result::Result<Devices, Bad> {
        let further: Vec<_> = further.iter().map(|path| path.to_path_buf()).collect();
        let own = Device::open(image, Part::default()).unwrap().with_further(&further).unwrap();
        let mut sup = [0; super::super::superblock::LENGTH];
        own.read(1024, &mut sup).unwrap();
        Devices::new(Arc::new(own), &Super::parse(&sup).unwrap())
    }

    fn at(devices: &Devices, at: u64) -> u8 {
        let mut byte = [0];
        devices.read(at, &mut byte).unwrap();
        byte[0]
    }

    #[test]
    fn each_file_has_a_place_and_perhaps_an_address() {
        let (image, one, two) = (image(&[(2, 4), (0, 0)]), file(10, 2), file(20, 3));
        let devices = open(image.path(), &[one.path(), two.path()]).unwrap();
        let starts = [0, 1, 2].map(|number| devices.start(number).unwrap());
        assert_eq!(starts.map(|start| at(&devices, start + BLOCK)), [1, 11, 21]);
        assert_eq!(at(&devices, starts[2] + 2 * BLOCK), 22);
        assert_eq!((at(&devices, 3 * BLOCK), at(&devices, 5 * BLOCK)), (3, 11));
        assert_eq!((devices.length(), devices.told()), (9 * BLOCK, 2 * BLOCK));
        // Of four numbers the last is nobody's, and higher bits mean nothing.
        assert_eq!(devices.start(4 + 1), Ok(starts[1]));
        assert!(devices.start(3).unwrap_err().is(libc::EIO));
        // From one to the next, and not beyond an end.
        let mut both = [0; 8192];
        devices.read(3 * BLOCK, &mut both).unwrap();
        assert_eq!((both[4095], both[4096]), (3, 10));
        for beyond in [6 * BLOCK, starts[1] + 2 * BLOCK, starts[2] + 3 * BLOCK, u64::MAX] {
            assert!(devices.read(beyond, &mut [0]).unwrap_err().is(libc::EIO), "{beyond}");
        }
    }

    #[test]
    fn parts_of_the_images_own_file_need_no_name() {
        let image = image(&[(1, 2), (1, 3)]);
        let devices = open(image.path(), &[]).unwrap();
        assert_eq!([1, 2].map(|number| at(&devices, devices.start(number).unwrap())), [2, 3]);
    }

    #[test]
    fn files_that_are_not_those_of_the_image_are_refused() {
        let blob = file(10, 2);
        let said = |slots: &[(u32, u32)], further: &[&Path]| {
            open(image(slots).path(), further).unwrap_err()
        };
        let Bad::Devices(what, way) = said(&[(2, 4), (2, 0)], &[blob.path()]) else { panic!() };
        assert_eq!(what, "data on 2 further devices: d0, d1, not 1");
        assert!(way.contains("in this order"));
        // Nothing in the image tells which of these it is.
        assert!(["--blobdev", "--tar=i"].iter().all(|made| way.contains(made)), "{way}");
        let Bad::Devices(what, way) = said(&[(2, 4)], &[blob.path(); 2]) else { panic!() };
        assert_eq!(what, "data on one further device: d0, and 2 that were named");
        assert!(way.contains("that one alone"));
        let devices = [said(&[(2, 4)], &[]), said(&[], &[blob.path()])];
        assert!(devices.iter().all(|bad| matches!(bad, Bad::Devices(..))), "{devices:?}");
        let Bad::Devices(what, _) = said(&[(3, 0)], &[blob.path()]) else { panic!() };
        assert!(what.starts_with("a further device of 12288 bytes, and "), "{what}");
        assert!(what.ends_with(" has 8192"), "{what}");
    }
}
