//! Where everything stands in a file that is to be written: the same tensors give the same bytes.
//!
//! The `safetensors` crate orders its metadata by hash map and so differs from run to run; this
//! one keeps the given order of tensors, sorts the metadata and pads the header to eight bytes.
//! Callers write [`FileLayout::header`] and then each tensor at its range, in any order.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::{Map, Value, json};

use super::header::PREFIX_LEN;
use crate::dtype::Dtype;
use crate::name::TensorName;

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTensor {
    /// Its stored name.
    pub name: TensorName,
    /// Its element type.
    pub dtype: Dtype,
    /// Its shape, row-major.
    pub shape: Vec<u64>,
}

impl NewTensor {
    /// Returns the size of its data.
    ///
    /// No overflow for shapes that come from a checked [`super::Header`].
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.shape.iter().product::<u64>() * self.dtype.size_bytes() as u64
    }
}

/// The bytes in front of the data, and the place of each tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileLayout {
    /// Length field, JSON and padding.
    pub header: Vec<u8>,
    /// The range of each tensor in the file, in the order given.
    pub ranges: Vec<Range<u64>>,
    /// The length of the file.
    pub len_bytes: u64,
}

impl FileLayout {
    /// Lays out a file that holds `tensors` in the given order, with `metadata`.
    #[must_use]
    pub fn new(tensors: &[NewTensor], metadata: &BTreeMap<String, String>) -> Self {
        let mut object = Map::new();
        if !metadata.is_empty() {
            object.insert("__metadata__".into(), json!(metadata));
        }
        let mut offset = 0;
        for tensor in tensors {
            let end = offset + tensor.len_bytes();
            let entry = json!({
                "dtype": tensor.dtype.safetensors_name(),
                "shape": tensor.shape,
                "data_offsets": [offset, end],
            });
            object.insert(tensor.name.as_str().to_owned(), entry);
            offset = end;
        }
        let header = frame(&Value::Object(object));
        let mut at = header.len() as u64;
        let ranges = tensors
            .iter()
            .map(|tensor| {
                let start = at;
                at += tensor.len_bytes();
                start..at
            })
            .collect();
        Self { header, ranges, len_bytes: at }
    }
}

/// Returns the metadata that transformers looks for.
#[must_use]
pub fn torch_metadata() -> BTreeMap<String, String> {
    BTreeMap::from([("format".to_owned(), "pt".to_owned())])
}

/// Puts the length in front and pads with spaces, so that the data begins at a multiple of 8.
fn frame(object: &Value) -> Vec<u8> {
    let mut json = serde_json::to_vec(object).expect("maps of strings and numbers serialise");
    json.resize(json.len().next_multiple_of(PREFIX_LEN as usize), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    header
}

#[cfg(test)]
mod tests {
    use super::{FileLayout, NewTensor, torch_metadata};
    use crate::dtype::Dtype;
    use crate::name::TensorName;
    use crate::safetensors::Header;

    fn tensor(name: &str, dtype: Dtype, shape: &[u64]) -> NewTensor {
        NewTensor { name: TensorName::new(name).expect("a name"), dtype, shape: shape.to_vec() }
    }

    #[test]
    fn what_we_lay_out_we_and_the_crate_read() {
        let tensors = [
            tensor("b", Dtype::Bf16, &[3]),
            tensor("a", Dtype::F32, &[2, 2]),
            tensor("é\"", Dtype::U8, &[]),
        ];
        let layout = FileLayout::new(&tensors, &torch_metadata());
        assert_eq!(layout.header.len() % 8, 0);
        assert_eq!(layout, FileLayout::new(&tensors, &torch_metadata()));
        let mut bytes = layout.header.clone();
        bytes.resize(layout.len_bytes as usize, 7);
        let header = Header::parse(&bytes, layout.len_bytes).expect("we read it");
        let ranges: Vec<_> = header.tensors.iter().map(|t| t.range.clone()).collect();
        assert_eq!(ranges, layout.ranges);
        assert_eq!(header.metadata, torch_metadata());
        let read = safetensors::SafeTensors::deserialize(&bytes).expect("the crate reads it");
        assert_eq!(read.tensor("a").expect("is there").shape(), [2, 2]);
    }
}
