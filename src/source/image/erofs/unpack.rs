//! What packed pieces become.

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};

use super::super::codec;
use super::bytes::{eio, index};
use super::lz4;
use crate::error::Result;

/// The most bytes of a packed piece: `Z_EROFS_PCLUSTER_MAX_SIZE`.
pub const MOST_PACKED: u64 = 1 << 20;

/// The most bytes that it becomes: `Z_EROFS_PCLUSTER_MAX_DSIZE`.
pub const MOST_UNPACKED: u64 = 12 << 20;

/// How an algorithm is numbered.
const LZ4: u8 = 0;
const LZMA: u8 = 1;
const DEFLATE: u8 = 2;
const ZSTD: u8 = 3;

/// Returns that many bytes, which a piece begins with once it is unpacked; zeros at
/// its own beginning are none of it if it is `padded`.
///
/// What else there is in the piece is not looked at: several files may share one.
pub fn unpack(algorithm: u8, piece: &[u8], padded: bool, length: u64) -> Result<Vec<u8>> {
    if length > MOST_UNPACKED {
        return Err(eio());
    }
    let zeros = if padded { piece.iter().take_while(|byte| **byte == 0).count() } else { 0 };
    let piece = piece.get(zeros..).filter(|piece| !piece.is_empty()).ok_or_else(eio)?;
    let mut to = vec![0; index(length)?];
    match algorithm {
        LZ4 => lz4::unpack(piece, &mut to),
        LZMA => codec::micro_lzma(piece, &mut to),
        DEFLATE => deflate(piece, &mut to),
        ZSTD => codec::zstd_begin(piece, &mut to),
        _ => None,
    }
    .ok_or_else(eio)?;
    Ok(to)
}

fn deflate(piece: &[u8], to: &mut [u8]) -> Option<()> {
    let flags = inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
    let mut state = Box::<DecompressorOxide>::default();
    let (status, _, written) = decompress(&mut state, piece, to, 0, flags);
    let stopped = matches!(status, TINFLStatus::Done | TINFLStatus::HasMoreOutput);
    (stopped && written == to.len()).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_pieces_are_errors() {
        for algorithm in 0..=4 {
            for piece in [&[][..], &[0; 16], &[0xff; 64], b"no such thing", &[0, 0, 0, 1]] {
                let unpacked = unpack(algorithm, piece, true, 100_000);
                assert!(unpacked.is_err(), "{algorithm}: {piece:?}");
            }
        }
        assert!(unpack(LZ4, &[0x10, b'a'], true, 13 << 20).is_err());
    }

    #[test]
    fn zeros_in_front_are_no_part_of_a_padded_piece() {
        let padded = [0, 0, 0x30, b'a', b'b', b'c'];
        assert_eq!(unpack(LZ4, &padded, true, 3).unwrap(), b"abc");
        assert!(unpack(LZ4, &padded, false, 3).is_err());
    }

    #[test]
    fn a_window_larger_than_what_the_kernel_takes_is_not_allocated() {
        // Magic, no single segment, a window of 2^(10 + log) bytes, a raw block that is
        // not the last one.
        let piece = |log: u8| [0x28, 0xb5, 0x2f, 0xfd, 0, log << 3, 0x08, 0, 0, b'a'];
        assert_eq!(unpack(ZSTD, &piece(10), true, 1).unwrap(), b"a");
        for log in [14, 17, 20, 31] {
            assert!(unpack(ZSTD, &piece(log), true, 1).is_err(), "{log}");
        }
    }
}
