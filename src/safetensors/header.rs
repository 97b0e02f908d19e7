//! The header of a safetensors file, parsed strictly from bytes that anyone may have written.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};

use super::fault::Fault;
use crate::dtype::Dtype;
use crate::name::{TensorName, escape};

/// The longest JSON header that the format allows.
pub const HEADER_LEN_MAX: u64 = 100_000_000;

/// The length of the field in front of the JSON.
pub const PREFIX_LEN: u64 = 8;

const METADATA: &str = "__metadata__";

/// A tensor as its file describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The stored name.
    pub name: TensorName,
    /// The element type.
    pub dtype: Dtype,
    /// The shape, row-major.
    pub shape: Vec<u64>,
    /// Its bytes, counted from the start of the file.
    pub range: Range<u64>,
}

/// A checked header: ranges lie in the file, follow each other without gap, and fit the shapes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The free `__metadata__` strings.
    pub metadata: BTreeMap<String, String>,
    /// The tensors in the order of their bytes.
    pub tensors: Vec<TensorInfo>,
    /// Where the data begins.
    pub data_start: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl Header {
    /// Returns how many bytes from the start of a file are needed to parse its header.
    ///
    /// # Errors
    /// [`Fault::Truncated`], [`Fault::HeaderTooLong`].
    pub fn needed_len(prefix: &[u8], file_len: u64) -> Result<u64, Fault> {
        let Some(field) = prefix.first_chunk::<8>() else {
            let needed_bytes = PREFIX_LEN;
            return Err(Fault::Truncated { len_bytes: prefix.len() as u64, needed_bytes });
        };
        let json_len = u64::from_le_bytes(*field);
        if json_len > HEADER_LEN_MAX {
            return Err(Fault::HeaderTooLong(json_len));
        }
        let needed_bytes = PREFIX_LEN + json_len;
        if needed_bytes > file_len {
            return Err(Fault::Truncated { len_bytes: file_len, needed_bytes });
        }
        Ok(needed_bytes)
    }

    /// Parses a header from the first bytes of a file of `file_len` bytes.
    ///
    /// `start` holds at least [`Header::needed_len`] bytes; what follows them is not looked at,
    /// so that a remote file needs only its head. A whole file may be passed.
    ///
    /// # Errors
    /// [`Fault`], naming the tensor concerned.
    pub fn parse(start: &[u8], file_len: u64) -> Result<Self, Fault> {
        let data_start = Self::needed_len(start, file_len)?;
        let end = usize::try_from(data_start).expect("capped at 100 MB");
        let Some(json) = start.get(PREFIX_LEN as usize..end) else {
            let len_bytes = start.len() as u64;
            return Err(Fault::Truncated { len_bytes, needed_bytes: data_start });
        };
        let (raw_metadata, raw_tensors) = split_entries(trim_padding(json)?)?;
        let mut tensors = raw_tensors
            .into_iter()
            .map(|(name, raw)| check_tensor(&name, &raw, data_start))
            .collect::<Result<Vec<_>, _>>()?;
        tensors.sort_by(|a, b| {
            (a.range.start, a.range.end, &a.name).cmp(&(b.range.start, b.range.end, &b.name))
        });
        check_contiguous(&tensors, data_start, file_len)?;
        Ok(Self { metadata: raw_metadata, tensors, data_start })
    }
}

/// Cuts the padding off, which must be spaces behind the object and nothing before it.
fn trim_padding(json: &[u8]) -> Result<&[u8], Fault> {
    let fault = |at: usize| Fault::Padding {
        byte: json.get(at).copied().unwrap_or_default(),
        at: PREFIX_LEN + at as u64,
    };
    if json.first() != Some(&b'{') {
        return Err(fault(0));
    }
    let end = json.iter().rposition(|b| *b != b' ').expect("it has a brace") + 1;
    if json[end - 1] != b'}' {
        return Err(fault(end - 1));
    }
    Ok(&json[..end])
}

type Entries = (BTreeMap<String, String>, Vec<(String, RawTensor)>);

fn split_entries(json: &[u8]) -> Result<Entries, Fault> {
    let mut metadata = BTreeMap::new();
    let mut tensors = Vec::new();
    let mut seen = HashSet::new();
    let mut reader = serde_json::Deserializer::from_slice(json);
    let entries: Pairs<Entry> = Pairs::deserialize(&mut reader).map_err(Fault::Json)?;
    reader.end().map_err(Fault::Json)?;
    for (name, entry) in entries.0 {
        if !seen.insert(name.clone()) {
            return Err(Fault::Duplicate(escape(&name)));
        }
        match entry {
            Entry::Tensor(raw) => tensors.push((name, raw)),
            Entry::Metadata(pairs) => {
                for (key, value) in pairs {
                    let shown = escape(&key);
                    if metadata.insert(key, value).is_some() {
                        return Err(Fault::Duplicate(shown));
                    }
                }
            }
        }
    }
    Ok((metadata, tensors))
}

fn check_tensor(name: &str, raw: &RawTensor, data_start: u64) -> Result<TensorInfo, Fault> {
    let checked = TensorName::new(name).map_err(Fault::Name)?;
    let tensor = || escape(name);
    let dtype = Dtype::from_safetensors(&raw.dtype)
        .ok_or_else(|| Fault::Dtype { tensor: tensor(), dtype: escape(&raw.dtype) })?;
    let (begin, end) = raw.data_offsets;
    let absolute = |offset: u64| offset.checked_add(data_start);
    let (Some(from), Some(to), true) = (absolute(begin), absolute(end), begin <= end) else {
        return Err(Fault::Range { tensor: tensor(), begin, end });
    };
    let size = raw.shape.iter().try_fold(dtype.size_bytes() as u64, |n, d| n.checked_mul(*d));
    if size != Some(end - begin) {
        let (shape, got_bytes) = (raw.shape.clone(), end - begin);
        return Err(Fault::Size { tensor: tensor(), dtype, shape, got_bytes });
    }
    Ok(TensorInfo { name: checked, dtype, shape: raw.shape.clone(), range: from..to })
}

fn check_contiguous(tensors: &[TensorInfo], data_start: u64, file_len: u64) -> Result<(), Fault> {
    let mut expected = data_start;
    for tensor in tensors {
        if tensor.range.start != expected {
            return Err(Fault::NotContiguous {
                tensor: tensor.name.to_string(),
                begin: tensor.range.start - data_start,
                expected: expected - data_start,
            });
        }
        expected = tensor.range.end;
    }
    if expected != file_len {
        return Err(Fault::Length { expected_bytes: expected, got_bytes: file_len });
    }
    Ok(())
}

enum Entry {
    Metadata(Vec<(String, String)>),
    Tensor(RawTensor),
}

/// The members of a JSON object in order, repeated keys kept: maps would swallow them.
pub(super) struct Pairs<V>(pub(super) Vec<(String, V)>);

struct PairsVisitor<V>(PhantomData<V>);

impl<'de, V: DeserializeOwned> Visitor<'de> for PairsVisitor<V> {
    type Value = Pairs<V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(Pairs(pairs))
    }
}

impl<'de, V: DeserializeOwned> Deserialize<'de> for Pairs<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PairsVisitor(PhantomData))
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Pairs<Entry>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            let entry = if key == METADATA {
                Entry::Metadata(map.next_value::<Pairs<String>>()?.0)
            } else {
                Entry::Tensor(map.next_value()?)
            };
            pairs.push((key, entry));
        }
        Ok(Pairs(pairs))
    }
}

impl Pairs<Entry> {
    /// The header's object: what a value is depends on its key.
    fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Fault, Header};
    use crate::dtype::Dtype;

    fn file(json: &str, data_len: usize) -> Vec<u8> {
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(json.as_bytes());
        bytes.resize(bytes.len() + data_len, 0);
        bytes
    }

    fn parse(json: &str, data_len: usize) -> Result<Header, Fault> {
        let bytes = file(json, data_len);
        Header::parse(&bytes, bytes.len() as u64)
    }

    fn tensor(name: &str, shape: &str, begin: i64, end: i64) -> String {
        format!(r#""{name}":{{"dtype":"F32","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
    }

    #[test]
    fn a_good_header_gives_absolute_ranges() {
        let json = format!(
            r#"{{"__metadata__":{{"format":"pt"}},{},{},{}}}   "#,
            tensor("b", "[2]", 4, 12),
            tensor("a", "[]", 0, 4),
            tensor("empty", "[0,7]", 12, 12)
        );
        let header = parse(&json, 12).expect("parses");
        let start = 8 + json.len() as u64;
        assert_eq!(header.data_start, start);
        assert_eq!(header.metadata["format"], "pt");
        let seen: Vec<_> =
            header.tensors.iter().map(|t| (t.name.as_str(), t.range.clone())).collect();
        assert_eq!(
            seen,
            [
                ("a", start..start + 4),
                ("b", start + 4..start + 12),
                ("empty", start + 12..start + 12)
            ]
        );
        assert_eq!(header.tensors[0].dtype, Dtype::F32);
    }

    #[test]
    fn what_the_crate_lets_through_is_refused() {
        let a = tensor("a", "[1]", 0, 4);
        let twice = format!("{{{a},{a}}}");
        assert!(matches!(parse(&twice, 4), Err(Fault::Duplicate(_))));
        let meta = format!(r#"{{"__metadata__":{{}},"__metadata__":{{}},{a}}}"#);
        assert!(matches!(parse(&meta, 4), Err(Fault::Duplicate(_))));
        let key = format!(r#"{{"__metadata__":{{"k":"1","k":"2"}},{a}}}"#);
        assert!(matches!(parse(&key, 4), Err(Fault::Duplicate(_))));
        assert!(matches!(parse(&format!("  {{{a}}}"), 4), Err(Fault::Padding { at: 8, .. })));
        assert!(matches!(parse(&format!("{{{a}}}\n "), 4), Err(Fault::Padding { byte: 10, .. })));
        assert!(matches!(parse(&format!("{{{a}}}\0"), 4), Err(Fault::Padding { byte: 0, .. })));
        for name in ["../../x", "a\\u001b[2J", "", "a\\nb"] {
            let json = format!("{{{}}}", tensor(name, "[1]", 0, 4));
            assert!(matches!(parse(&json, 4), Err(Fault::Name(_))), "{name}");
        }
    }

    #[test]
    fn ranges_must_fit_shape_order_and_file() {
        let one = |shape: &str, begin, end| format!("{{{}}}", tensor("a", shape, begin, end));
        assert!(matches!(parse(&one("[2]", 0, 4), 4), Err(Fault::Size { .. })));
        assert!(matches!(parse(&one("[4611686018427387904,4]", 0, 0), 0), Err(Fault::Size { .. })));
        assert!(matches!(parse(&one("[1]", 4, 0), 4), Err(Fault::Range { .. })));
        assert!(matches!(parse(&one("[1]", 4, 8), 8), Err(Fault::NotContiguous { .. })));
        assert!(matches!(parse(&one("[1]", 0, 4), 3), Err(Fault::Length { .. })));
        assert!(matches!(parse(&one("[1]", 0, 4), 5), Err(Fault::Length { .. })));
        assert!(matches!(parse(&one("[-1]", 0, 4), 4), Err(Fault::Json(_))));
        assert!(matches!(parse(&one("[1.5]", 0, 4), 4), Err(Fault::Json(_))));
        let overlap = format!("{{{},{}}}", tensor("a", "[2]", 0, 8), tensor("b", "[1]", 4, 8));
        assert!(matches!(parse(&overlap, 8), Err(Fault::NotContiguous { .. })));
        let same = format!("{{{},{}}}", tensor("a", "[1]", 0, 4), tensor("b", "[1]", 0, 4));
        assert!(matches!(parse(&same, 4), Err(Fault::NotContiguous { .. })));
        let dtype = one("[1]", 0, 4).replace("F32", "Q4_K");
        assert!(matches!(parse(&dtype, 4), Err(Fault::Dtype { .. })));
        let meta = r#"{"__metadata__":{"epoch":3}}"#;
        assert!(matches!(parse(meta, 0), Err(Fault::Json(_))));
        let extra = one("[1]", 0, 4).replace("\"dtype\"", "\"x\":1,\"dtype\"");
        assert!(matches!(parse(&extra, 4), Err(Fault::Json(_))));
    }

    #[test]
    fn lengths_are_checked_before_anything_is_read() {
        assert!(matches!(Header::parse(&[1, 2, 3], 3), Err(Fault::Truncated { .. })));
        let huge = u64::MAX.to_le_bytes();
        assert!(matches!(Header::parse(&huge, 8), Err(Fault::HeaderTooLong(_))));
        let long = 50_u64.to_le_bytes();
        assert!(matches!(Header::parse(&long, 8), Err(Fault::Truncated { needed_bytes: 58, .. })));
        assert!(matches!(Header::parse(&long, 4096), Err(Fault::Truncated { .. })));
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Header::parse(&bytes, bytes.len() as u64);
        }

        #[test]
        fn any_json_like_text_is_parsed_or_refused(
            text in r#"\{("(a|b|__metadata__|\.\.)":(\{("(dtype|shape|data_offsets|k)":("F32"|"v"|\[-?[0-9]{0,20}(,[0-9]{1,20})?\]),?){0,4}\}|1),?){0,4}\} {0,3}"#,
            data_len in 0_usize..64,
        ) {
            if let Ok(header) = parse(&text, data_len) {
                let total: u64 = header.tensors.iter().map(|t| t.range.end - t.range.start).sum();
                prop_assert_eq!(total, data_len as u64);
            }
        }

        /// Our parser is stricter than the `safetensors` crate, and never laxer.
        #[test]
        fn what_we_accept_the_crate_accepts(
            cuts in proptest::collection::vec(0_u64..5, 1..6), slip in 0_u64..3, tail in 0_usize..3,
        ) {
            let mut at = 0;
            let mut parts = Vec::new();
            for (i, n) in cuts.iter().enumerate() {
                let begin = if i == 1 { at + slip } else { at };
                parts.push(tensor(&format!("t{i}"), &format!("[{n}]"), begin as i64, (at + 4 * n) as i64));
                at += 4 * n;
            }
            let bytes = file(&format!("{{{}}}", parts.join(",")), at as usize + tail);
            let ours = Header::parse(&bytes, bytes.len() as u64);
            let theirs = safetensors::SafeTensors::deserialize(&bytes);
            prop_assert_eq!(ours.is_ok(), theirs.is_ok());
        }
    }
}
