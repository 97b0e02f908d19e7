//! A strict reader of GGUF heads, versions 2 and 3, little-endian.
//!
//! Every count is checked against what the file can still hold before anything is allocated.
//! Tensor data is not looked at, only that it is where the table says.

use std::collections::HashSet;
use std::path::Path;

use super::error::check_tensor_name;
use super::metadata::ARRAY_TYPE;
use super::{
    Array, DEFAULT_ALIGNMENT, DIMS_MAX, GgufError, MAGIC, Metadata, TensorSpec, TensorType, Value,
};
use crate::fsio::Mapped;
use crate::name::escape;

/// The longest string and array that llama.cpp accepts.
const LEN_MAX: u64 = 1 << 30;

/// The longest metadata key, in bytes.
const KEY_LEN_MAX: u64 = 65_535;

/// The largest `general.alignment` accepted.
const ALIGNMENT_MAX: u64 = 65_536;

/// A tensor of a file that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorEntry {
    /// Name, shape and type.
    pub spec: TensorSpec,
    /// Where its data starts, from the start of the file.
    pub offset: u64,
    /// The bytes of its data.
    pub len_bytes: u64,
}

/// The head of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Gguf {
    /// The format's version.
    pub version: u32,
    /// Keys and values, in file order.
    pub metadata: Metadata,
    /// The tensors, in file order.
    pub tensors: Vec<TensorEntry>,
}

impl Gguf {
    /// Reads the head of the file at `path` and checks that its tensors are all there.
    ///
    /// # Errors
    /// [`GgufError`].
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let file = Mapped::open(path)?;
        Self::parse(file.bytes())
    }

    /// Parses the bytes of a whole file.
    ///
    /// # Errors
    /// [`GgufError`]; the first thing that is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, GgufError> {
        let mut cursor = Cursor { bytes, at: 0 };
        if cursor.take(4, "magic").map_err(|_| GgufError::NotGguf)? != MAGIC {
            return Err(GgufError::NotGguf);
        }
        let version = cursor.u32("version")?;
        if !(2..=3).contains(&version) {
            return Err(GgufError::Version(version));
        }
        // A tensor takes 32 bytes of head at least, an entry 13.
        let tensor_count = cursor.count("tensor count", 32)?;
        let entry_count = cursor.count("metadata count", 13)?;
        let metadata = cursor.metadata(entry_count)?;
        let alignment = alignment(&metadata)?;
        let tensors = cursor.tensors(tensor_count, alignment)?;
        Ok(Self { version, metadata, tensors })
    }

    /// Returns the tensor of this name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorEntry> {
        self.tensors.iter().find(|tensor| tensor.spec.name == name)
    }
}

fn alignment(metadata: &Metadata) -> Result<u64, GgufError> {
    let Some(value) = metadata.get("general.alignment") else { return Ok(DEFAULT_ALIGNMENT) };
    let got = value.as_u64().unwrap_or(0);
    if got.is_power_of_two() && got <= ALIGNMENT_MAX {
        Ok(got)
    } else {
        Err(GgufError::Alignment(got))
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], GgufError> {
        if len > self.left() {
            return Err(GgufError::Truncated { what, at: self.at as u64 });
        }
        let slice = &self.bytes[self.at..self.at + len];
        self.at += len;
        Ok(slice)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], GgufError> {
        Ok(self.take(N, what)?.try_into().expect("take returns what was asked for"))
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// Reads a count of things that take `least` bytes each, so that no count can promise more
    /// than the file holds.
    fn count(&mut self, what: &'static str, least: usize) -> Result<usize, GgufError> {
        let got = self.u64(what)?;
        let most = ((self.left() / least) as u64).min(LEN_MAX);
        if got > most {
            return Err(GgufError::TooMany { what, got, most });
        }
        Ok(got as usize)
    }

    fn string(&mut self, what: &'static str, cap: u64) -> Result<&'a str, GgufError> {
        let at = self.at as u64;
        let got = self.u64(what)?;
        if got > cap {
            return Err(GgufError::TooMany { what, got, most: cap });
        }
        let bytes = self.take(got as usize, what)?;
        std::str::from_utf8(bytes).map_err(|_| GgufError::NotUtf8 { what, at })
    }

    fn metadata(&mut self, count: usize) -> Result<Metadata, GgufError> {
        let mut metadata = Metadata::new();
        let mut seen = HashSet::new();
        for _ in 0..count {
            let key = self.string("metadata key", KEY_LEN_MAX)?;
            if !seen.insert(key) {
                return Err(GgufError::DuplicateKey(escape(key)));
            }
            let value = self.value(key)?;
            metadata.push_raw(key.to_owned(), value);
        }
        Ok(metadata)
    }

    fn value(&mut self, key: &str) -> Result<Value, GgufError> {
        const WHAT: &str = "metadata value";
        let type_id = self.u32(WHAT)?;
        Ok(match type_id {
            0 => Value::U8(u8::from_le_bytes(self.array(WHAT)?)),
            1 => Value::I8(i8::from_le_bytes(self.array(WHAT)?)),
            2 => Value::U16(u16::from_le_bytes(self.array(WHAT)?)),
            3 => Value::I16(i16::from_le_bytes(self.array(WHAT)?)),
            4 => Value::U32(self.u32(WHAT)?),
            5 => Value::I32(i32::from_le_bytes(self.array(WHAT)?)),
            6 => Value::F32(f32::from_le_bytes(self.array(WHAT)?)),
            7 => Value::Bool(self.array::<1>(WHAT)?[0] != 0),
            8 => Value::Str(self.string(WHAT, LEN_MAX)?.to_owned()),
            ARRAY_TYPE => Value::Array(self.values(key)?),
            10 => Value::U64(self.u64(WHAT)?),
            11 => Value::I64(i64::from_le_bytes(self.array(WHAT)?)),
            12 => Value::F64(f64::from_le_bytes(self.array(WHAT)?)),
            got => return Err(GgufError::ValueType { key: escape(key), got }),
        })
    }

    fn values(&mut self, key: &str) -> Result<Array, GgufError> {
        const WHAT: &str = "metadata array";
        let type_id = self.u32(WHAT)?;
        Ok(match type_id {
            0 => Array::U8(self.numbers(u8::from_le_bytes)?),
            1 => Array::I8(self.numbers(i8::from_le_bytes)?),
            2 => Array::U16(self.numbers(u16::from_le_bytes)?),
            3 => Array::I16(self.numbers(i16::from_le_bytes)?),
            4 => Array::U32(self.numbers(u32::from_le_bytes)?),
            5 => Array::I32(self.numbers(i32::from_le_bytes)?),
            6 => Array::F32(self.numbers(f32::from_le_bytes)?),
            7 => Array::Bool(self.numbers(|[byte]| byte != 0)?),
            8 => {
                let count = self.count(WHAT, 8)?;
                let strings = (0..count).map(|_| self.string(WHAT, LEN_MAX).map(str::to_owned));
                Array::Str(strings.collect::<Result<_, _>>()?)
            }
            10 => Array::U64(self.numbers(u64::from_le_bytes)?),
            11 => Array::I64(self.numbers(i64::from_le_bytes)?),
            12 => Array::F64(self.numbers(f64::from_le_bytes)?),
            got => return Err(GgufError::ValueType { key: escape(key), got }),
        })
    }

    fn numbers<const N: usize, T>(&mut self, from: fn([u8; N]) -> T) -> Result<Vec<T>, GgufError> {
        let count = self.count("metadata array", N)?;
        let bytes = self.take(count * N, "metadata array")?;
        Ok(bytes.as_chunks::<N>().0.iter().map(|chunk| from(*chunk)).collect())
    }

    fn tensors(&mut self, count: usize, alignment: u64) -> Result<Vec<TensorEntry>, GgufError> {
        let mut entries = Vec::with_capacity(count);
        let mut seen = HashSet::new();
        let mut expected = 0_u64;
        for _ in 0..count {
            let (spec, got) = self.tensor()?;
            if !seen.insert(spec.name.clone()) {
                return Err(GgufError::DuplicateTensor(escape(&spec.name)));
            }
            if got != expected {
                return Err(GgufError::Offset { name: escape(&spec.name), got, expected });
            }
            let len_bytes = spec.bytes()?;
            let (end, len) = (got.saturating_add(len_bytes), self.bytes.len() as u64);
            // Checked here too, so that no sum below can overflow.
            if end > len {
                return Err(GgufError::ShortFile { got: len, needed: end });
            }
            expected = end.next_multiple_of(alignment);
            entries.push(TensorEntry { spec, offset: got, len_bytes });
        }
        let start = (self.at as u64).next_multiple_of(alignment);
        for entry in &mut entries {
            entry.offset += start;
        }
        let needed = entries.last().map_or(0, |last| last.offset + last.len_bytes);
        let got = self.bytes.len() as u64;
        if needed > got {
            return Err(GgufError::ShortFile { got, needed });
        }
        Ok(entries)
    }

    fn tensor(&mut self) -> Result<(TensorSpec, u64), GgufError> {
        const WHAT: &str = "tensor table";
        let name = self.string("tensor name", LEN_MAX)?;
        check_tensor_name(name)?;
        let dims = self.u32(WHAT)?;
        if dims as usize > DIMS_MAX {
            let most = DIMS_MAX as u64;
            return Err(GgufError::TooMany { what: "axes of a tensor", got: dims.into(), most });
        }
        let mut shape = Vec::with_capacity(DIMS_MAX);
        for _ in 0..dims {
            shape.push(self.u64(WHAT)?);
        }
        shape.reverse();
        let got = self.u32(WHAT)?;
        let tensor_type = TensorType::from_id(got)
            .ok_or_else(|| GgufError::TensorType { name: escape(name), got })?;
        let offset = self.u64(WHAT)?;
        Ok((TensorSpec { name: name.to_owned(), shape, tensor_type }, offset))
    }
}

#[cfg(test)]
mod tests {
    use super::Gguf;
    use crate::gguf::{Array, GgufError, Metadata, TensorSpec, TensorType, Value, writer};

    fn sample() -> Vec<u8> {
        let mut metadata = Metadata::new();
        metadata.push("general.name", Value::Str("käse".into()));
        metadata.push("n", Value::F64(0.5));
        metadata.push("list", Value::Array(Array::Str(vec![String::new(), "b".into()])));
        metadata.push("sections", Value::Array(Array::I32(vec![11, 11, 10, 0])));
        let tensors = [
            TensorSpec { name: "a".into(), shape: vec![3, 32], tensor_type: TensorType::Q8_0 },
            TensorSpec { name: "b".into(), shape: vec![5], tensor_type: TensorType::F32 },
        ];
        let encoded = writer::encode(&metadata, &tensors).expect("encodes");
        let mut bytes = encoded.head.clone();
        bytes.resize(encoded.len_bytes as usize, 0);
        bytes
    }

    #[test]
    fn what_was_written_is_read() {
        let gguf = Gguf::parse(&sample()).expect("parses");
        assert_eq!(gguf.version, 3);
        assert_eq!(gguf.metadata.get("general.name"), Some(&Value::Str("käse".into())));
        assert_eq!(gguf.metadata.len(), 4);
        assert_eq!(gguf.tensors[0].len_bytes, 102);
        assert_eq!(gguf.tensors[1].offset, gguf.tensors[0].offset + 128);
        assert_eq!(gguf.tensor("b").expect("there").spec.shape, [5]);
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = sample();
        // The padding behind the last tensor may be missing, nothing else.
        let end = bytes.len() - 12;
        for len in 0..end {
            assert!(Gguf::parse(&bytes[..len]).is_err(), "{len}");
        }
        assert!(Gguf::parse(&bytes[..end]).is_ok());
    }

    #[test]
    fn no_changed_byte_panics() {
        let bytes = sample();
        for at in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[at] = value;
                // Only that it returns: some changes are harmless.
                let _ = Gguf::parse(&changed);
            }
        }
    }

    #[test]
    fn huge_counts_are_refused_before_allocating() {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(u64::MAX.to_le_bytes());
        bytes.extend(0_u64.to_le_bytes());
        assert!(matches!(Gguf::parse(&bytes), Err(GgufError::TooMany { .. })));
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(0_u64.to_le_bytes());
        bytes.extend(1_u64.to_le_bytes());
        bytes.extend(b"\x01\0\0\0\0\0\0\0a\x09\0\0\0\x04\0\0\0");
        bytes.extend((1_u64 << 61).to_le_bytes());
        assert!(matches!(Gguf::parse(&bytes), Err(GgufError::TooMany { .. })));
        bytes.truncate(bytes.len() - 12);
        bytes.extend(9_u32.to_le_bytes());
        bytes.extend(1_u64.to_le_bytes());
        assert!(matches!(Gguf::parse(&bytes), Err(GgufError::ValueType { got: 9, .. })));
    }

    #[test]
    fn other_files_and_versions_are_named() {
        assert!(matches!(Gguf::parse(b""), Err(GgufError::NotGguf)));
        assert!(matches!(Gguf::parse(b"PK\x03\x04xxxx"), Err(GgufError::NotGguf)));
        let big_endian = b"GGUF\0\0\0\x03";
        assert!(matches!(Gguf::parse(big_endian), Err(GgufError::Version(0x0300_0000))));
    }
}
