//! The head of a GGUF v3 file, and the positions of what follows it.
//!
//! Tensor data is not this module's business: whoever streams it writes to the offsets given
//! here, in any order. Padding is zero bytes, which a file grown by `set_len` already has.

use std::collections::HashSet;

use super::error::check_tensor_name;
use super::metadata::encode_str;
use super::{DEFAULT_ALIGNMENT, DIMS_MAX, GgufError, MAGIC, Metadata, TensorType};
use crate::name::escape;

/// The version that is written.
const VERSION: u32 = 3;

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// The GGUF name.
    pub name: String,
    /// The shape, row-major; the file holds it reversed.
    pub shape: Vec<u64>,
    /// The element type.
    pub tensor_type: TensorType,
}

impl TensorSpec {
    /// Returns the number of elements; `None` on overflow.
    #[must_use]
    pub fn elements(&self) -> Option<u64> {
        self.shape.iter().try_fold(1_u64, |n, dim| n.checked_mul(*dim))
    }

    /// Returns the bytes of the data.
    ///
    /// # Errors
    /// [`GgufError::Shape`]: no axis or too many, an empty one, rows that are no whole blocks,
    /// overflow.
    pub fn bytes(&self) -> Result<u64, GgufError> {
        let wrong =
            |why| GgufError::Shape { name: escape(&self.name), shape: self.shape.clone(), why };
        if self.shape.is_empty() || self.shape.len() > DIMS_MAX {
            return Err(wrong("one to four axes are possible"));
        }
        if self.shape.contains(&0) {
            return Err(wrong("an axis is empty"));
        }
        let row = *self.shape.last().expect("one axis at least");
        if !row.is_multiple_of(self.tensor_type.block_len()) {
            return Err(wrong("a row is not a whole number of blocks"));
        }
        self.elements()
            .and_then(|n| self.tensor_type.bytes(n))
            .filter(|n| *n < 1 << 62)
            .ok_or_else(|| wrong("too large"))
    }
}

/// The head of a file, and where its tensors go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Everything before the first tensor, padded.
    pub head: Vec<u8>,
    /// Each tensor's offset from the start of the file, in the order given.
    pub offsets: Vec<u64>,
    /// The length of the file.
    pub len_bytes: u64,
}

/// Lays out a file: header, metadata and tensor table in the order given, alignment 32.
///
/// # Errors
/// [`GgufError`] for what no reader would accept: duplicate keys or names, names of 64 bytes,
/// impossible shapes.
pub fn encode(metadata: &Metadata, tensors: &[TensorSpec]) -> Result<Encoded, GgufError> {
    check_unique(metadata, tensors)?;
    let mut head = Vec::new();
    head.extend(MAGIC);
    head.extend(VERSION.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata.iter() {
        encode_str(key, &mut head);
        head.extend(value.type_id().to_le_bytes());
        value.encode(&mut head);
    }
    let mut relative = 0_u64;
    let mut offsets = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let bytes = tensor.bytes()?;
        encode_str(&tensor.name, &mut head);
        head.extend((tensor.shape.len() as u32).to_le_bytes());
        for dim in tensor.shape.iter().rev() {
            head.extend(dim.to_le_bytes());
        }
        head.extend(tensor.tensor_type.id().to_le_bytes());
        head.extend(relative.to_le_bytes());
        offsets.push(relative);
        relative += bytes.next_multiple_of(DEFAULT_ALIGNMENT);
    }
    head.resize(head.len().next_multiple_of(DEFAULT_ALIGNMENT as usize), 0);
    let start = head.len() as u64;
    offsets.iter_mut().for_each(|offset| *offset += start);
    Ok(Encoded { head, offsets, len_bytes: start + relative })
}

fn check_unique(metadata: &Metadata, tensors: &[TensorSpec]) -> Result<(), GgufError> {
    let mut keys = HashSet::new();
    for (key, _) in metadata.iter() {
        if !keys.insert(key) {
            return Err(GgufError::DuplicateKey(escape(key)));
        }
    }
    let mut names = HashSet::new();
    for tensor in tensors {
        check_tensor_name(&tensor.name)?;
        if !names.insert(tensor.name.as_str()) {
            return Err(GgufError::DuplicateTensor(escape(&tensor.name)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{TensorSpec, encode};
    use crate::gguf::{Array, GgufError, Metadata, TensorType, Value};

    fn spec(name: &str, shape: &[u64], tensor_type: TensorType) -> TensorSpec {
        TensorSpec { name: name.into(), shape: shape.to_vec(), tensor_type }
    }

    #[test]
    fn head_bytes_are_those_of_the_format() {
        let mut metadata = Metadata::new();
        metadata.push("a", Value::Str("x".into()));
        metadata.push("b", Value::Array(Array::Bool(vec![true])));
        metadata.push("left.out", Value::Str(String::new()));
        let encoded = encode(&metadata, &[spec("t", &[2, 3], TensorType::F32)]).expect("encodes");
        let expected: Vec<u8> = [
            b"GGUF\x03\0\0\0".as_slice(),
            b"\x01\0\0\0\0\0\0\0",
            b"\x02\0\0\0\0\0\0\0",
            b"\x01\0\0\0\0\0\0\0a\x08\0\0\0\x01\0\0\0\0\0\0\0x",
            b"\x01\0\0\0\0\0\0\0b\x09\0\0\0\x07\0\0\0\x01\0\0\0\0\0\0\0\x01",
            b"\x01\0\0\0\0\0\0\0t\x02\0\0\0",
            b"\x03\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        ]
        .concat();
        assert_eq!(encoded.head[..expected.len()], expected);
        assert_eq!(encoded.head.len(), expected.len().next_multiple_of(32));
        assert_eq!(encoded.offsets, [encoded.head.len() as u64]);
        assert_eq!(encoded.len_bytes, encoded.head.len() as u64 + 32);
    }

    #[test]
    fn what_no_reader_takes_is_not_written() {
        let empty = Metadata::new();
        let twice = [spec("t", &[1], TensorType::F32), spec("t", &[1], TensorType::F32)];
        assert!(matches!(encode(&empty, &twice), Err(GgufError::DuplicateTensor(_))));
        let long = [spec(&"x".repeat(64), &[1], TensorType::F32)];
        assert!(matches!(encode(&empty, &long), Err(GgufError::TensorName { .. })));
        for shape in [&[2, 33][..], &[0, 32], &[], &[1, 1, 1, 1, 32], &[1 << 40, 1 << 40]] {
            let bad = [spec("t", shape, TensorType::Q8_0)];
            assert!(matches!(encode(&empty, &bad), Err(GgufError::Shape { .. })), "{shape:?}");
        }
        let mut metadata = Metadata::new();
        metadata.push("a", Value::U32(1));
        metadata.push("a", Value::U32(2));
        assert!(matches!(encode(&metadata, &[]), Err(GgufError::DuplicateKey(_))));
    }
}
