//! Hostile and damaged GGUF heads, each with what the reader says about it.

use std::time::{Duration, Instant};

use tmax_ckpt::error::{Diagnose as _, Kind};
use tmax_ckpt::gguf::Gguf;

/// Number of the value type "array", and of "string" and "u32".
const ARRAY: u32 = 9;
const STRING: u32 = 8;
const U32: u32 = 4;
/// Numbers of tensor types.
const F32: u32 = 0;

/// Bytes in the making.
#[derive(Clone, Default)]
struct Head(Vec<u8>);

impl Head {
    fn new(tensors: u64, entries: u64) -> Self {
        Self(b"GGUF".to_vec()).u32(3).u64(tensors).u64(entries)
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn string(self, text: &str) -> Self {
        self.u64(text.len() as u64).bytes(text.as_bytes())
    }

    fn tensor(self, name: &str, shape: &[u64], kind: u32, offset: u64) -> Self {
        let head = self.string(name).u32(shape.len() as u32);
        shape.iter().fold(head, |head, axis| head.u64(*axis)).u32(kind).u64(offset)
    }

    fn alignment(value: u32) -> Self {
        Self::new(1, 1).string("general.alignment").u32(U32).u32(value).tensor("a", &[8], F32, 0)
    }

    /// Zeros, so that what a count promises could be there.
    fn zeros(mut self, count: usize) -> Self {
        self.0.resize(self.0.len() + count, 0);
        self
    }
}

#[test]
fn every_hostile_head_is_refused_at_once() {
    let key = || Head::new(0, 1).string("k");
    let nested = (0..1000).fold(key().u32(ARRAY), |head, _| head.u32(ARRAY).u64(1));
    let two = |second: u64| {
        Head::new(2, 0).tensor("a", &[8], F32, 0).tensor("b", &[8], F32, second).zeros(256)
    };
    let cases = [
        ("2^40 tensors", Head::new(1 << 40, 0).zeros(4096), "tensor count is 1099511627776"),
        ("2^64 - 1 entries", Head::new(0, u64::MAX).zeros(4096), "metadata count is"),
        ("key of 2^63 bytes", Head::new(0, 1).u64(1 << 63).zeros(64), "metadata key is"),
        ("text of 2^63 bytes", key().u32(STRING).u64(1 << 63).zeros(64), "metadata value is"),
        ("text past the end", key().u32(STRING).u64(1 << 20).zeros(64), "file ends inside"),
        ("text of 2^63 in an array", key().u32(ARRAY).u32(STRING).u64(1).u64(1 << 63), "at most"),
        ("array of 2^61", key().u32(ARRAY).u32(U32).u64(1 << 61).zeros(64), "metadata array is"),
        ("arrays in arrays", nested, "has value type 9"),
        ("unknown value type", key().u32(77), "has value type 77"),
        (
            "key twice",
            Head::new(0, 2).string("k").u32(U32).u32(1).string("k").u32(U32).u32(1),
            "stands twice",
        ),
        ("key not UTF-8", Head::new(0, 1).u64(2).bytes(b"\xff\xfe").zeros(64), "is not UTF-8"),
        ("alignment 0", Head::alignment(0).zeros(256), "alignment 0 is not a power"),
        ("alignment 3", Head::alignment(3).zeros(256), "alignment 3 is not a power"),
        ("alignment 2^31", Head::alignment(1 << 31).zeros(256), "is not a power"),
        (
            "axes overflow",
            Head::new(1, 0).tensor("a", &[1 << 32; 4], F32, 0).zeros(64),
            "has shape",
        ),
        ("axes of 2^63", Head::new(1, 0).tensor("a", &[1 << 63, 2], F32, 0).zeros(64), "has shape"),
        ("bytes overflow", Head::new(1, 0).tensor("a", &[1 << 62], F32, 0).zeros(64), "has shape"),
        ("5 axes", Head::new(1, 0).tensor("a", &[1; 5], F32, 0).zeros(64), "axes of a tensor is 5"),
        ("2^32 - 1 axes", Head::new(1, 0).string("a").u32(u32::MAX).zeros(64), "axes of a tensor"),
        (
            "unknown tensor type",
            Head::new(1, 0).tensor("a", &[8], 999, 0).zeros(64),
            "unknown type",
        ),
        ("overlapping tensors", two(0), "starts at 0, expected 32"),
        ("hole between tensors", two(64), "starts at 64, expected 32"),
        ("unaligned tensor", two(33), "starts at 33, expected 32"),
        ("offset of 2^64 - 1", two(u64::MAX), "expected 32"),
        (
            "tensor past the end",
            Head::new(1, 0).tensor("a", &[1 << 20], F32, 0).zeros(64),
            "its tensors need",
        ),
        (
            "tensor twice",
            Head::new(2, 0).tensor("a", &[8], F32, 0).tensor("a", &[8], F32, 32).zeros(256),
            "stands twice",
        ),
        ("empty name", Head::new(1, 0).tensor("", &[8], F32, 0).zeros(64), "tensor name"),
        (
            "name with escape codes",
            Head::new(1, 0).tensor("\x1b[2J", &[8], F32, 0).zeros(64),
            "\\u{1b}[2J",
        ),
        (
            "name of 64 bytes",
            Head::new(1, 0).tensor(&"n".repeat(64), &[8], F32, 0).zeros(64),
            "longer than 63",
        ),
        ("version 4", Head(b"GGUF".to_vec()).u32(4).zeros(64), "version 0x4 is not supported"),
    ];
    for (name, head, says) in cases {
        let start = Instant::now();
        let error = Gguf::parse(&head.0).expect_err(name);
        assert_eq!(error.kind(), Kind::BadData, "{name}");
        assert!(error.to_string().contains(says), "{name}: {error}");
        assert!(!error.help().is_empty(), "{name}");
        assert!(start.elapsed() < Duration::from_secs(20), "{name} takes long");
    }
    Gguf::parse(&two(32).0).expect("the sound one beside them is read");
}
