//! The fuzz targets over seeded mutations of the fixtures: no parser of foreign bytes panics.
//!
//! A short stand-in for `fuzz/` that needs no nightly compiler and is the same on every run.

use std::path::{Path, PathBuf};

#[path = "../fuzz/targets.rs"]
mod targets;

/// Mutations of each seed for each target.
const ROUNDS: u64 = 20;
/// Longer seeds are cut: parsing stops early in most mutations anyway.
const SEED_LEN_MAX: usize = 16 << 10;

/// SplitMix64, so that a failure repeats.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n.max(1) as u64).expect("below a usize")
    }
}

/// What parsers trip over.
const MORSELS: &[&[u8]] = &[
    b"\0",
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"-1",
    b"1e999",
    b"18446744073709551615",
    b"../",
    b"\x1b[",
    b"null",
    b"\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\xff",
    b"NaN",
    b"\\u0000",
    b"@",
    b"{1..9..0}",
    b"*",
];

fn mutate(seed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        match random.below(5) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            2 => {
                let morsel = MORSELS[random.below(MORSELS.len())];
                bytes.splice(at..at, morsel.iter().copied());
            }
            3 if at < bytes.len() => {
                let end = at + random.below(bytes.len() - at);
                bytes.drain(at..end);
            }
            _ => {
                let end = (at + random.below(64)).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
        }
    }
    bytes
}

fn seeds(dir: &Path, found: &mut Vec<PathBuf>) {
    let mut paths: Vec<_> =
        std::fs::read_dir(dir).expect("lists").map(|e| e.expect("an entry").path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() { seeds(&path, found) } else { found.push(path) }
    }
}

#[test]
fn no_parser_panics_on_mutated_input() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let mut files = Vec::new();
    seeds(&root.join("broken"), &mut files);
    seeds(&root.join("tasks"), &mut files);
    seeds(&root.join("trajectories"), &mut files);
    let mut contents: Vec<Vec<u8>> =
        files.iter().map(|path| std::fs::read(path).expect("reads")).collect();
    contents.iter_mut().for_each(|bytes| bytes.truncate(SEED_LEN_MAX));
    // The same bytes teach nothing twice: most cases share the sound parts.
    contents.sort();
    contents.dedup();
    let head = b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0a\x04\0\0\0";
    contents.push(head.to_vec());
    let imatrix = b"\x01\0\0\0\x01\0\0\0a\x03\0\0\0\x01\0\0\0\0\0\0\x40\x07\0\0\0\x01\0\0\0t";
    contents.push(imatrix.to_vec());
    contents.push(b"owner/name@step_{100..400..50}".to_vec());
    contents.push(b"hf://owner/name@refs%2Fpr%2F1/dir/file.json".to_vec());
    for (name, target) in targets::TARGETS {
        for (i, seed) in contents.iter().enumerate() {
            let mut random = Random(i as u64);
            for round in 0..ROUNDS {
                let bytes = mutate(seed, &mut random);
                let result = std::panic::catch_unwind(|| target(&bytes));
                assert!(result.is_ok(), "{name}: seed {i}, round {round}: {bytes:?}");
            }
        }
    }
}

#[test]
fn every_target_has_a_file_and_every_file_a_target() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    let mut files: Vec<String> = std::fs::read_dir(dir)
        .expect("lists")
        .map(|e| e.expect("an entry").file_name().to_string_lossy().replace(".rs", ""))
        .collect();
    files.sort();
    let mut names: Vec<String> = targets::TARGETS.iter().map(|(name, _)| (*name).into()).collect();
    names.sort();
    assert_eq!(files, names);
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/Cargo.toml");
    let manifest = std::fs::read_to_string(manifest).expect("reads");
    for name in &names {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "fuzz/Cargo.toml lacks {name}");
    }
}
