//! Directories that ext4 encrypts (fscrypt), and their keys: linux/fscrypt.h.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use super::calls;
use super::raw::Sys;

/// `FS_IOC_SET_ENCRYPTION_POLICY`.
const SET_POLICY: u64 = 0x800c_6613;
/// `FS_IOC_ADD_ENCRYPTION_KEY`.
const ADD_KEY: u64 = 0xc050_6617;
/// `FS_IOC_REMOVE_ENCRYPTION_KEY`.
const REMOVE_KEY: u64 = 0xc040_6618;

/// `FSCRYPT_KEY_SPEC_TYPE_IDENTIFIER`, which version 2 of policies has.
const BY_IDENTIFIER: u32 = 2;

/// What a key is called: a hash of it.
#[derive(Debug, Clone, Copy)]
pub struct Key([u8; 16]);

/// Calls ioctl(2) on a directory with a structure, of which these are the bytes.
fn call(dir: &Path, number: u64, bytes: &mut [u8]) -> Sys<()> {
    let dir = File::open(dir).map_err(|e| e.raw_os_error().unwrap_or(0))?;
    calls::ioctl(dir.as_fd(), number, bytes).map(drop)
}

/// `struct fscrypt_key_specifier` of a key.
fn specifier(key: Key) -> [u8; 40] {
    let mut bytes = [0; 40];
    bytes[..4].copy_from_slice(&BY_IDENTIFIER.to_ne_bytes());
    bytes[8..24].copy_from_slice(&key.0);
    bytes
}

/// Gives the file system of a directory a key that is always the same.
pub fn add_key(dir: &Path) -> Sys<Key> {
    let mut bytes = [0; 80 + 64];
    bytes[..40].copy_from_slice(&specifier(Key([0; 16])));
    bytes[40..44].copy_from_slice(&64_u32.to_ne_bytes());
    bytes[80..].copy_from_slice(&[7; 64]);
    call(dir, ADD_KEY, &mut bytes)?;
    Ok(Key(bytes[8..24].try_into().expect("sixteen")))
}

/// Has an empty directory, and all that comes into it, be encrypted by a key.
pub fn encrypt(dir: &Path, key: Key) -> Sys<()> {
    // Version 2; AES-256-XTS for contents, AES-256-CTS for names, padded to 32 bytes.
    let mut bytes = [0; 24];
    bytes[..4].copy_from_slice(&[2, 1, 4, 3]);
    bytes[8..].copy_from_slice(&key.0);
    call(dir, SET_POLICY, &mut bytes)
}

/// Takes a key away; whether nothing is left that uses it.
pub fn remove_key(dir: &Path, key: Key) -> Sys<bool> {
    let mut bytes = [0; 64];
    bytes[..40].copy_from_slice(&specifier(key));
    call(dir, REMOVE_KEY, &mut bytes)?;
    Ok(bytes[40..44] == [0; 4])
}
