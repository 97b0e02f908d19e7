//! Metadata: typed values under keys, in the order in which they stand in the file.

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the names are the format's own")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Str(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// A metadata array: all elements have one type, and none is an array.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the names are the format's own")]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    Str(Vec<String>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

/// The type number of an array.
pub(super) const ARRAY_TYPE: u32 = 9;

impl Value {
    /// Returns the format's number of this value's type.
    #[must_use]
    pub fn type_id(&self) -> u32 {
        match self {
            Self::U8(_) => 0,
            Self::I8(_) => 1,
            Self::U16(_) => 2,
            Self::I16(_) => 3,
            Self::U32(_) => 4,
            Self::I32(_) => 5,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::Str(_) => 8,
            Self::Array(_) => ARRAY_TYPE,
            Self::U64(_) => 10,
            Self::I64(_) => 11,
            Self::F64(_) => 12,
        }
    }

    /// Returns the value as an unsigned number, if it is a whole one not below zero.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(n) => Some(n.into()),
            Self::U16(n) => Some(n.into()),
            Self::U32(n) => Some(n.into()),
            Self::U64(n) => Some(n),
            Self::I8(n) => n.try_into().ok(),
            Self::I16(n) => n.try_into().ok(),
            Self::I32(n) => n.try_into().ok(),
            Self::I64(n) => n.try_into().ok(),
            _ => None,
        }
    }

    /// Returns the text, if it is one.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(text) => Some(text),
            _ => None,
        }
    }

    /// Appends the value's bytes, without its type number.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::U8(n) => out.push(*n),
            Self::I8(n) => out.extend(n.to_le_bytes()),
            Self::U16(n) => out.extend(n.to_le_bytes()),
            Self::I16(n) => out.extend(n.to_le_bytes()),
            Self::U32(n) => out.extend(n.to_le_bytes()),
            Self::I32(n) => out.extend(n.to_le_bytes()),
            Self::F32(n) => out.extend(n.to_le_bytes()),
            Self::Bool(b) => out.push(u8::from(*b)),
            Self::Str(text) => encode_str(text, out),
            Self::Array(array) => array.encode(out),
            Self::U64(n) => out.extend(n.to_le_bytes()),
            Self::I64(n) => out.extend(n.to_le_bytes()),
            Self::F64(n) => out.extend(n.to_le_bytes()),
        }
    }
}

impl Array {
    /// Returns the format's number of the elements' type.
    #[must_use]
    pub fn element_type_id(&self) -> u32 {
        match self {
            Self::U8(_) => 0,
            Self::I8(_) => 1,
            Self::U16(_) => 2,
            Self::I16(_) => 3,
            Self::U32(_) => 4,
            Self::I32(_) => 5,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::Str(_) => 8,
            Self::U64(_) => 10,
            Self::I64(_) => 11,
            Self::F64(_) => 12,
        }
    }

    /// Returns the number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::U8(v) => v.len(),
            Self::I8(v) => v.len(),
            Self::U16(v) => v.len(),
            Self::I16(v) => v.len(),
            Self::U32(v) => v.len(),
            Self::I32(v) => v.len(),
            Self::F32(v) => v.len(),
            Self::Bool(v) => v.len(),
            Self::Str(v) => v.len(),
            Self::U64(v) => v.len(),
            Self::I64(v) => v.len(),
            Self::F64(v) => v.len(),
        }
    }

    /// Says whether the array has no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.element_type_id().to_le_bytes());
        out.extend((self.len() as u64).to_le_bytes());
        match self {
            Self::U8(v) => out.extend(v),
            Self::I8(v) => out.extend(v.iter().flat_map(|n| n.to_le_bytes())),
            Self::U16(v) => out.extend(v.iter().flat_map(|n| n.to_le_bytes())),
            Self::I16(v) => out.extend(v.iter().flat_map(|n| n.to_le_bytes())),
            Self::U32(v) => out.extend(v.iter().flat_map(|n| n.to_le_bytes())),
            Self::I32(v) => out.extend(v.iter().flat_map(|n| n.to_le_bytes())),
            Self::F32(v) => out.extend(v.iter().flat_map(|n| n.to_le_bytes())),
            Self::Bool(v) => out.extend(v.iter().map(|b| u8::from(*b))),
            Self::Str(v) => v.iter().for_each(|text| encode_str(text, out)),
            Self::U64(v) => out.extend(v.iter().flat_map(|n| n.to_le_bytes())),
            Self::I64(v) => out.extend(v.iter().flat_map(|n| n.to_le_bytes())),
            Self::F64(v) => out.extend(v.iter().flat_map(|n| n.to_le_bytes())),
        }
    }
}

/// Appends a string: length as u64, then its bytes.
pub(super) fn encode_str(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// Keys with their values, in file order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
}

impl Metadata {
    /// Returns an empty list.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends an entry. An empty string or array is left out, as llama.cpp's own tools do.
    pub fn push(&mut self, key: impl Into<String>, value: Value) {
        let empty = match &value {
            Value::Str(text) => text.is_empty(),
            Value::Array(array) => array.is_empty(),
            _ => false,
        };
        if !empty {
            self.entries.push((key.into(), value));
        }
    }

    /// Moves an entry to the end, if it is there.
    pub fn move_to_end(&mut self, key: &str) {
        if let Some(at) = self.entries.iter().position(|(k, _)| k == key) {
            self.entries[at..].rotate_left(1);
        }
    }

    /// Appends an entry exactly as a file held it.
    pub(super) fn push_raw(&mut self, key: String, value: Value) {
        self.entries.push((key, value));
    }

    /// Returns the value under `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }

    /// Iterates in file order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// Returns the number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Says whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
