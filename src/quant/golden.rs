//! What ggml itself made of hard values: `fixtures/quant`, written by
//! `scripts/gguf/make_golden_blocks.py`.

use sha2::{Digest as _, Sha256};

use super::codec::CODECS;

const COLUMNS: usize = 768;

fn fixture(name: &str) -> Vec<u8> {
    let path = format!("{}/fixtures/quant/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(path).expect("the fixture is there")
}

fn floats(name: &str) -> Vec<f32> {
    fixture(name).as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

#[test]
fn blocks_are_those_of_ggml() {
    let (values, importance) = (floats("values.f32"), floats("importance.f32"));
    for codec in CODECS {
        let name = codec.tensor_type().name();
        let block_bytes = codec.tensor_type().block_bytes() as usize;
        for (kind, importance) in [("alike", None), ("weighted", Some(&importance[..]))] {
            let golden = fixture(&format!("{name}.{kind}"));
            let mut out = vec![0; golden.len() / (values.len() / COLUMNS)];
            let rows = golden.chunks_exact(out.len()).zip(values.chunks_exact(COLUMNS));
            assert_eq!(rows.len(), 28);
            for (i, (golden, row)) in rows.enumerate() {
                for (who, result) in [
                    (
                        "scalar",
                        codec.quantize_scalar(row, importance, &mut out).map(|()| out.clone()),
                    ),
                    ("fastest", codec.quantize(row, importance, &mut out).map(|()| out.clone())),
                ] {
                    let blocks = result.expect("finite");
                    let same = |(a, b): (&[u8], &[u8])| a == b;
                    let mut pairs = blocks.chunks(block_bytes).zip(golden.chunks(block_bytes));
                    let at = pairs.position(|pair| !same(pair));
                    assert_eq!(at, None, "{name}.{kind}, {who}: row {i}, block");
                }
            }
        }
    }
}

#[test]
fn restored_values_are_those_of_ggml() {
    let sums = String::from_utf8(fixture("restored.sha256")).expect("text");
    for (codec, line) in CODECS.iter().zip(sums.lines()) {
        let name = codec.tensor_type().name();
        let mut values = vec![0.0_f32; 28 * COLUMNS];
        codec.dequantize(&fixture(&format!("{name}.alike")), &mut values);
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let sum: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(format!("{name} {sum}"), line);
    }
    assert_eq!(sums.lines().count(), CODECS.len());
}
