//! The two hashes by which content is named: SHA-256, of the Hub's LFS files and of `SHA256SUMS`,
//! and git's blob SHA-1 of all other files of the Hub. What a file must be, and what one is.

use std::fmt;
use std::io::Read as _;
use std::path::Path;

use sha2::Digest as _;

use crate::fsio;

/// Bytes hashed at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// The hash that a file's bytes must have. Its hex form is the Hub's ETag and the blob's name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hash {
    /// SHA-256 of the bytes.
    Sha256([u8; 32]),
    /// Git's blob id: SHA-1 of `blob {size}\0` and the bytes.
    GitSha1([u8; 20]),
}

impl Hash {
    /// Reads 64 (SHA-256) or 40 (git) lower-case hex digits.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        match text.len() {
            64 => Some(Self::Sha256(unhex(text)?)),
            40 => Some(Self::GitSha1(unhex(text)?)),
            _ => None,
        }
    }

    /// Returns the hex digits.
    #[must_use]
    pub fn hex(&self) -> String {
        let bytes: &[u8] = match self {
            Self::Sha256(bytes) => bytes,
            Self::GitSha1(bytes) => bytes,
        };
        crate::units::hex(bytes)
    }

    /// Returns what people call the hash: `sha256`, `git`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sha256(_) => "sha256",
            Self::GitSha1(_) => "git",
        }
    }

    /// Returns a hasher of the same kind, for content of `size` bytes.
    #[must_use]
    pub fn hasher(&self, size: u64) -> Hasher {
        match self {
            Self::Sha256(_) => Hasher::Sha256(Box::default()),
            Self::GitSha1(_) => {
                let mut inner = Box::<sha1::Sha1>::default();
                inner.update(format!("blob {size}\0"));
                Hasher::GitSha1(inner)
            }
        }
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name(), self.hex())
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A running hash.
#[derive(Debug)]
pub enum Hasher {
    /// Of [`Hash::Sha256`].
    Sha256(Box<sha2::Sha256>),
    /// Of [`Hash::GitSha1`].
    GitSha1(Box<sha1::Sha1>),
}

impl Hasher {
    /// Takes in the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(inner) => inner.update(bytes),
            Self::GitSha1(inner) => inner.update(bytes),
        }
    }

    /// Returns the hash of all bytes taken in.
    #[must_use]
    pub fn finish(self) -> Hash {
        match self {
            Self::Sha256(inner) => Hash::Sha256(inner.finalize().into()),
            Self::GitSha1(inner) => Hash::GitSha1(inner.finalize().into()),
        }
    }
}

/// Who vouches for a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Voucher {
    /// The Hub, when the file was pulled.
    Hub,
    /// A `SHA256SUMS` beside it.
    Sums,
}

impl fmt::Display for Voucher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hub => "Hub",
            Self::Sums => "SHA256SUMS",
        })
    }
}

/// What somebody says of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedFile {
    /// Its path inside the checkpoint's folder.
    pub path: String,
    /// Its size, where that is known.
    pub len_bytes: Option<u64>,
    /// Its hash.
    pub hash: Hash,
    /// Who says so.
    pub voucher: Voucher,
}

/// Hashes a file as `kind` is hashed, and tells `advance` of bytes that it has read.
///
/// # Errors
/// [`fsio::Error::NotRegular`], [`fsio::Error::Io`].
pub fn hash_file(path: &Path, kind: &Hash, advance: &dyn Fn(u64)) -> fsio::Result<Hash> {
    let (mut file, meta) = fsio::open_regular(path)?;
    let mut hasher = kind.hasher(meta.len());
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut buffer).map_err(fsio::Error::io("read", path))? {
            0 => return Ok(hasher.finish()),
            n => {
                hasher.update(&buffer[..n]);
                advance(n as u64);
            }
        }
    }
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::Hash;

    #[test]
    fn both_kinds_match_git_and_coreutils() {
        // `printf abc | sha256sum`, `printf abc | git hash-object --stdin`.
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let git = "f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f";
        for hex in [sha256, git] {
            let want = Hash::from_hex(hex).expect("hex");
            let mut hasher = want.hasher(3);
            hasher.update(b"a");
            hasher.update(b"bc");
            assert_eq!(hasher.finish(), want);
            assert_eq!(want.hex(), hex);
        }
        assert_eq!(Hash::from_hex("abc"), None);
        assert_eq!(Hash::from_hex(&"G".repeat(64)), None);
    }
}
