//! What packed pieces become.

use std::io::Read as _;
use std::sync::Mutex;

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

use super::bytes::{eio, index};
use super::lz4;
use crate::error::Result;
use crate::sync::lock;

/// The most bytes of a packed piece: `Z_EROFS_PCLUSTER_MAX_SIZE`.
pub const MOST_PACKED: u64 = 1 << 20;

/// The most bytes that it becomes: `Z_EROFS_PCLUSTER_MAX_DSIZE`.
pub const MOST_UNPACKED: u64 = 12 << 20;

/// How an algorithm is numbered.
const LZ4: u8 = 0;
const LZMA: u8 = 1;
const DEFLATE: u8 = 2;
const ZSTD: u8 = 3;

/// The largest window of LZMA: `Z_EROFS_LZMA_MAX_DICT_SIZE`.
const LZMA_WINDOW: u32 = 8 << 20;

/// How many decoders wait to be used again.
const SPARE: usize = 8;

/// Unpacks pieces; keeps what is expensive to begin with.
#[derive(Default)]
pub struct Unpacker {
    zstd: Mutex<Vec<FrameDecoder>>,
}

impl std::fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Unpacker")
    }
}

impl Unpacker {
    /// Returns that many bytes, which a piece begins with once it is unpacked; zeros at
    /// its own beginning are none of it if it is `padded`.
    ///
    /// What else there is in the piece is not looked at: several files may share one.
    pub fn unpack(
        &self,
        algorithm: u8,
        piece: &[u8],
        padded: bool,
        length: u64,
    ) -> Result<Vec<u8>> {
        if length > MOST_UNPACKED {
            return Err(eio());
        }
        let zeros = if padded { piece.iter().take_while(|byte| **byte == 0).count() } else { 0 };
        let piece = piece.get(zeros..).filter(|piece| !piece.is_empty()).ok_or_else(eio)?;
        let mut to = vec![0; index(length)?];
        match algorithm {
            LZ4 => lz4::unpack(piece, &mut to),
            LZMA => lzma(piece, &mut to),
            DEFLATE => deflate(piece, &mut to),
            ZSTD => self.zstd(piece, &mut to),
            _ => None,
        }
        .ok_or_else(eio)?;
        Ok(to)
    }

    fn zstd(&self, piece: &[u8], to: &mut [u8]) -> Option<()> {
        let mut decoder = lock(&self.zstd).pop().unwrap_or_default();
        decoder.set_max_window_size(MOST_UNPACKED);
        let mut stream = StreamingDecoder::new_with_decoder(piece, decoder).ok()?;
        stream.read_exact(to).ok()?;
        let mut spare = lock(&self.zstd);
        if spare.len() < SPARE {
            spare.push(stream.into_frame_decoder());
        }
        Some(())
    }
}

fn deflate(piece: &[u8], to: &mut [u8]) -> Option<()> {
    let flags = inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
    let mut state = Box::<DecompressorOxide>::default();
    let (status, _, written) = decompress(&mut state, piece, to, 0, flags);
    let stopped = matches!(status, TINFLStatus::Done | TINFLStatus::HasMoreOutput);
    (stopped && written == to.len()).then_some(())
}

/// `MicroLZMA`, see lzma/container.h of XZ Utils: a stream of LZMA1 whose first byte, which is
/// always 0, has the inverted properties instead.
fn lzma(piece: &[u8], to: &mut [u8]) -> Option<()> {
    let (properties, rest) = piece.split_first()?;
    let stream = [0].chain(rest);
    // A length that is known would have to be that of the whole stream.
    let length = u64::MAX;
    // No window needs to be larger than all there is to look back at.
    let window = u32::try_from(to.len()).ok()?.clamp(4096, LZMA_WINDOW);
    let mut reader =
        lzma_rust2::LzmaReader::new_with_props(stream, length, !properties, window, None).ok()?;
    reader.read_exact(to).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_pieces_are_errors() {
        let unpacker = Unpacker::default();
        for algorithm in 0..=4 {
            for piece in [&[][..], &[0; 16], &[0xff; 64], b"no such thing", &[0, 0, 0, 1]] {
                let unpacked = unpacker.unpack(algorithm, piece, true, 100_000);
                assert!(unpacked.is_err(), "{algorithm}: {piece:?}");
            }
        }
        assert!(unpacker.unpack(LZ4, &[0x10, b'a'], true, 13 << 20).is_err());
    }

    #[test]
    fn zeros_in_front_are_no_part_of_a_padded_piece() {
        let unpacker = Unpacker::default();
        let padded = [0, 0, 0x30, b'a', b'b', b'c'];
        assert_eq!(unpacker.unpack(LZ4, &padded, true, 3).unwrap(), b"abc");
        assert!(unpacker.unpack(LZ4, &padded, false, 3).is_err());
    }

    #[test]
    fn a_window_larger_than_anything_can_be_is_not_allocated() {
        // Magic, no single segment, a window of 2^41 bytes, one raw block.
        let piece = [0x28, 0xb5, 0x2f, 0xfd, 0, 0xf8, 0x09, 0, 0, b'a'];
        assert!(Unpacker::default().unpack(ZSTD, &piece, true, 1).is_err());
    }
}
