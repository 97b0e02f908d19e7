//! SHA-256 as lower-case hex, of bytes and of JSON.

use sha2::{Digest as _, Sha256};

/// Returns the hash of `bytes`.
#[must_use]
pub fn hex(bytes: impl AsRef<[u8]>) -> String {
    crate::units::hex(&Sha256::digest(bytes))
}

/// Returns the hash of a JSON value as it is written without spaces, keys in their order.
#[must_use]
pub fn of_json(value: &serde_json::Value) -> String {
    hex(value.to_string())
}

/// Returns the first eight bytes of the hash of `text` as a number, for seeds.
#[must_use]
pub fn number(text: &str) -> u64 {
    let hash = Sha256::digest(text);
    u64::from_le_bytes(hash[..8].try_into().expect("a hash has 32 bytes"))
}

/// Returns a UUID made from the hash of `text` (marked as version 8, "custom").
#[must_use]
pub fn uuid(text: &str) -> String {
    let h = hex(text);
    format!("{}-{}-8{}-8{}-{}", &h[..8], &h[8..12], &h[13..16], &h[17..20], &h[20..32])
}
