//! What ggml itself made of hard values: `fixtures/quant`, written by
//! `scripts/gguf/make_golden_blocks.py`.

use sha2::{Digest as _, Sha256};

use super::codec::{CODECS, Codec};
use super::isa::Isa;

const COLUMNS: usize = 768;
const ROWS: usize = 28;

fn fixture(name: &str) -> Vec<u8> {
    let path = format!("{}/fixtures/quant/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(path).expect("the fixture is there")
}

fn floats(name: &str) -> Vec<f32> {
    fixture(name).as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// The instruction sets that this processor has; the scalar one is the oracle of the others.
fn instruction_sets() -> impl Iterator<Item = Isa> {
    Isa::ALL.iter().copied().filter(|isa| isa.is_here())
}

/// Returns the first block in which two rows differ.
fn first_difference(codec: &Codec, a: &[u8], b: &[u8]) -> Option<usize> {
    let len = codec.tensor_type().block_bytes() as usize;
    a.chunks(len).zip(b.chunks(len)).position(|(a, b)| a != b)
}

#[test]
fn blocks_are_those_of_ggml() {
    let (values, importance) = (floats("values.f32"), floats("importance.f32"));
    for codec in CODECS {
        let name = codec.tensor_type().name();
        for (kind, importance) in [("alike", None), ("weighted", Some(&importance[..]))] {
            let golden = fixture(&format!("{name}.{kind}"));
            let mut out = vec![0; golden.len() / ROWS];
            let rows = golden.chunks_exact(out.len()).zip(values.chunks_exact(COLUMNS));
            assert_eq!(rows.len(), ROWS);
            for (i, (golden, row)) in rows.enumerate() {
                for isa in instruction_sets() {
                    codec.quantize_with(isa, row, importance, &mut out).expect("finite");
                    let at = first_difference(codec, &out, golden);
                    assert_eq!(at, None, "{name}.{kind}, {isa:?}: row {i}, block");
                }
            }
        }
    }
}

/// A fixed sequence, each value in `-1..1`.
fn noise(len: usize, mut state: u32) -> Vec<f32> {
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn every_instruction_set_gives_the_bits_of_the_scalar_code() {
    // Rows of 1 to 7 superblocks: full registers, and every rest.
    for blocks in 1..=7 {
        let base = noise(256 * blocks, 5 + blocks as u32);
        let importance: Vec<f32> = noise(base.len(), 99)
            .iter()
            .map(|v| (v * 9.0).exp2() - 0.1)
            .map(|v| v.max(0.0))
            .collect();
        let kinds: [fn(f32) -> f32; 9] = [
            |v| v * 0.05,
            |v| v * v * v * 3.0,
            |v| f32::from_bits((v * 0.05).to_bits() & 0xffff_0000),
            |v| v * 1e-15,
            |v| v * 1e-40,
            |v| v.abs() + 1.0,
            |v| (v * 254.0).round() / 2.0,
            |v| if v.abs() < 0.9 { v * 0.0 } else { v },
            |v| v * (v * 40.0).exp2().min(1e4),
        ];
        for (k, kind) in kinds.into_iter().enumerate() {
            let row: Vec<f32> = base.iter().map(|v| kind(*v)).collect();
            for codec in CODECS {
                for importance in [None, Some(&importance[..])] {
                    let len = codec.tensor_type().bytes(row.len() as u64).expect("whole") as usize;
                    let (mut want, mut out) = (vec![0; len], vec![0; len]);
                    codec.quantize_scalar(&row, importance, &mut want).expect("finite");
                    for isa in instruction_sets() {
                        codec.quantize_with(isa, &row, importance, &mut out).expect("finite");
                        let at = first_difference(codec, &out, &want);
                        let (name, weighted) = (codec.tensor_type().name(), importance.is_some());
                        assert_eq!(at, None, "{name} {isa:?}, weighted: {weighted}, kind {k}");
                    }
                }
            }
        }
    }
}

#[test]
fn every_type_refuses_what_it_cannot_hold() {
    for codec in CODECS {
        let mut out = vec![0; codec.tensor_type().bytes(512).expect("whole") as usize];
        for isa in instruction_sets() {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e10, -1e30, f32::MAX] {
                let mut row = noise(512, 3);
                row[300] = bad;
                let found = codec.quantize_with(isa, &row, None, &mut out).expect_err("refused");
                assert_eq!((found.index, found.value.to_bits()), (300, bad.to_bits()));
            }
        }
    }
}

#[test]
fn restored_values_are_those_of_ggml() {
    let sums = String::from_utf8(fixture("restored.sha256")).expect("text");
    for (codec, line) in CODECS.iter().zip(sums.lines()) {
        let name = codec.tensor_type().name();
        let mut values = vec![0.0_f32; ROWS * COLUMNS];
        codec.dequantize(&fixture(&format!("{name}.alike")), &mut values);
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let sum: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(format!("{name} {sum}"), line);
    }
    assert_eq!(sums.lines().count(), CODECS.len());
}
