//! What is unpacked by C libraries: zstd by libzstd, LZMA by liblzma.
//!
//! Whoever made the image chose every byte, so that memory is limited whatever a
//! stream asks for. `None` is damage.

use std::cell::Cell;

#[cfg(feature = "erofs")]
use liblzma::stream::Filters;
#[cfg(feature = "squashfs")]
use liblzma::stream::Status;
use liblzma::stream::{Action, Stream};
use zstd_safe::{DCtx, DParameter, ResetDirective};
#[cfg(feature = "erofs")]
use zstd_safe::{InBuffer, OutBuffer};

/// The largest window of zstd, as a power of two: the kernel takes 1 MiB at most.
const ZSTD_WINDOW: u32 = 23;

/// The most bytes of a context that is kept: one that had a window of its own is not.
const ZSTD_KEPT: usize = 1 << 20;

/// The most bytes that a stream of xz may take: the kernel takes windows of a block,
/// which is 1 MiB at most.
#[cfg(feature = "squashfs")]
const XZ_MEMORY: u64 = 4 << 20;

/// The least and the largest window of LZMA: `Z_EROFS_LZMA_MAX_DICT_SIZE`.
#[cfg(feature = "erofs")]
const LZMA_WINDOW: (u32, u32) = (4096, 8 << 20);

thread_local! {
    /// What takes longer to make than a block takes to unpack.
    static ZSTD: Cell<Option<DCtx<'static>>> = const { Cell::new(None) };
}

/// Unpacks a frame of zstd; returns how many bytes it had.
#[cfg(feature = "squashfs")]
pub fn zstd(frame: &[u8], to: &mut [u8]) -> Option<usize> {
    with_zstd(|context| context.decompress(to, frame).ok())
}

/// Fills a buffer with what a frame of zstd begins with.
#[cfg(feature = "erofs")]
pub fn zstd_begin(frame: &[u8], to: &mut [u8]) -> Option<()> {
    with_zstd(|context| {
        let (mut from, mut to) = (InBuffer::around(frame), OutBuffer::around(to));
        while to.pos() < to.capacity() {
            let before = (from.pos(), to.pos());
            context.decompress_stream(&mut to, &mut from).ok()?;
            if (from.pos(), to.pos()) == before {
                return None;
            }
        }
        Some(())
    })
}

/// Lends the context of this thread.
fn with_zstd<T>(body: impl FnOnce(&mut DCtx<'_>) -> Option<T>) -> Option<T> {
    let mut context = ZSTD.take().or_else(|| {
        let mut made = DCtx::try_create()?;
        made.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW)).ok().map(|_| made)
    })?;
    let done = body(&mut context)?;
    // What went wrong above may have left anything in it.
    if context.sizeof() <= ZSTD_KEPT && context.reset(ResetDirective::SessionOnly).is_ok() {
        ZSTD.set(Some(context));
    }
    Some(done)
}

/// Unpacks a stream of xz with any filters; returns how many bytes it had.
#[cfg(feature = "squashfs")]
pub fn xz(stream: &[u8], to: &mut [u8]) -> Option<usize> {
    let mut decoder = Stream::new_stream_decoder(XZ_MEMORY, 0).ok()?;
    // All of both is at hand, so that one call is enough.
    let status = decoder.process(stream, to, Action::Finish).ok()?;
    let length = usize::try_from(decoder.total_out()).ok()?;
    matches!(status, Status::StreamEnd).then_some(length)
}

/// Fills a buffer with what `MicroLZMA` begins with, see lzma/container.h of XZ Utils: a
/// stream of LZMA1 whose first byte, which is always 0, has the inverted properties
/// instead.
#[cfg(feature = "erofs")]
pub fn micro_lzma(piece: &[u8], to: &mut [u8]) -> Option<()> {
    let (properties, rest) = piece.split_first()?;
    // No window needs to be larger than all there is to look back at.
    let window = u32::try_from(to.len()).ok()?.clamp(LZMA_WINDOW.0, LZMA_WINDOW.1);
    let mut options = [!properties, 0, 0, 0, 0];
    options.last_chunk_mut::<4>()?.copy_from_slice(&window.to_le_bytes());
    let mut filters = Filters::new();
    filters.lzma1_properties(&options).ok()?;
    let mut decoder = Stream::new_raw_decoder(&filters).ok()?;
    decoder.process(&[0], to, Action::Run).ok()?;
    decoder.process(rest, to, Action::Run).ok()?;
    (usize::try_from(decoder.total_out()) == Ok(to.len())).then_some(())
}

#[cfg(test)]
mod tests {
    #[cfg(feature = "squashfs")]
    use liblzma::stream::{Check, Filters};
    use liblzma::stream::{LzmaOptions, Status};

    use super::*;

    /// Bytes that pack, some of which look like calls to a filter of programs.
    fn plain() -> Vec<u8> {
        (0..50_000_u32).flat_map(|n| [0xe8, n.to_le_bytes()[0] / 3, 0, 0, 0]).collect()
    }

    fn encoded(mut encoder: Stream) -> Vec<u8> {
        let mut packed = Vec::with_capacity(1 << 20);
        let status = encoder.process_vec(&plain(), &mut packed, Action::Finish).unwrap();
        assert_eq!(status, Status::StreamEnd);
        packed
    }

    fn options(window: u32) -> LzmaOptions {
        let mut options = LzmaOptions::new_preset(6).unwrap();
        options.dict_size(window);
        options
    }

    #[cfg(feature = "squashfs")]
    fn packed_xz(window: u32, is_filtered: bool) -> Vec<u8> {
        let mut filters = Filters::new();
        if is_filtered {
            filters.x86();
        }
        filters.lzma2(&options(window));
        encoded(Stream::new_stream_encoder(&filters, Check::Crc32).unwrap())
    }

    #[test]
    #[cfg(feature = "squashfs")]
    fn a_stream_of_xz_is_unpacked_whole_or_not_at_all() {
        let (plain, mut to) = (plain(), vec![0; plain().len()]);
        for is_filtered in [false, true] {
            let packed = packed_xz(1 << 20, is_filtered);
            assert_eq!(xz(&packed, &mut to), Some(plain.len()));
            assert_eq!(to, plain);
            let mut larger = vec![0; plain.len() + 1];
            assert_eq!(xz(&packed, &mut larger), Some(plain.len()));
            assert_eq!(xz(&packed, &mut larger[..plain.len() - 1]), None);
            for length in [0, 10, packed.len() / 2, packed.len() - 1] {
                assert_eq!(xz(&packed[..length], &mut to), None, "{length}");
            }
        }
        // A window that the kernel refuses.
        assert_eq!(xz(&packed_xz(64 << 20, false), &mut to), None);
    }

    #[test]
    #[cfg(feature = "erofs")]
    fn the_beginning_of_lzma_is_enough() {
        let encoded = encoded(Stream::new_lzma_encoder(&options(1 << 16)).unwrap());
        // Behind 13 bytes of a header, the first of which has the properties, is a zero.
        let mut packed = encoded[13..].to_vec();
        packed[0] = !encoded[0];
        let plain = plain();
        for length in [1, 100, 70_000, plain.len()] {
            let mut to = vec![0; length];
            assert_eq!(micro_lzma(&packed, &mut to), Some(()));
            assert_eq!(to, plain[..length]);
        }
        assert_eq!(micro_lzma(&packed[..packed.len() / 2], &mut vec![0; plain.len()]), None);
        assert_eq!(micro_lzma(&packed, &mut vec![0; plain.len() + 1]), None);
    }

    #[test]
    #[cfg(all(feature = "erofs", feature = "squashfs"))]
    fn a_frame_of_zstd_is_unpacked_whole_or_its_beginning() {
        let plain = plain();
        let mut packed = vec![0; zstd_safe::compress_bound(plain.len())];
        let length = zstd_safe::compress(&mut packed[..], &plain, 3).unwrap();
        let packed = &packed[..length];
        // A context that met damage is not used again.
        for _ in 0..3 {
            let mut to = vec![0; plain.len() + 1];
            assert_eq!(zstd(packed, &mut to), Some(plain.len()));
            assert_eq!(to[..plain.len()], plain);
            assert_eq!(zstd(packed, &mut to[..plain.len() - 1]), None);
            assert_eq!(zstd(&packed[..length - 1], &mut to), None);
            assert_eq!(zstd_begin(packed, &mut to), None);
            for length in [0, 1, 100, 70_000, plain.len()] {
                let mut to = vec![0; length];
                assert_eq!(zstd_begin(packed, &mut to), Some(()));
                assert_eq!(to, plain[..length]);
            }
        }
        let kept = ZSTD.take().unwrap();
        assert!(kept.sizeof() <= ZSTD_KEPT);
    }
}
