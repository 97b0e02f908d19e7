//! Importance matrices, as `llama-imatrix` writes them: how much each column of a matrix tells.
//!
//! Two formats are read. GGUF: for each tensor `NAME.in_sum2`, sums of squared activations by
//! column, and `NAME.counts`, how many were summed. Legacy (`.dat`): a count of entries, then for
//! each its name, a number of calls and the values; behind them the number of chunks and the name
//! of the text. Both as llama.cpp at 0c1e57098 reads them (`common/imatrix-loader.cpp`,
//! `tools/quantize/quantize.cpp`), but for what would crash it.

use std::collections::BTreeMap;
use std::path::Path;

use super::reader::TensorEntry;
use super::{Array, Gguf, GgufError, MAGIC, TensorType, Value};
use crate::error::{Diagnose, Kind};
use crate::fsio::{self, Mapped};
use crate::name::shorten;

/// The longest name of a tensor or a text in the legacy format, in bytes.
const NAME_LEN_MAX: usize = 4096;

/// What the tensors' names end in.
const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";

/// An importance matrix.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Imatrix {
    /// A weight for each column of each tensor, by GGUF name: finite, not below zero. Where a
    /// tensor is a stack of matrices, theirs follow each other.
    pub entries: BTreeMap<String, Vec<f32>>,
    /// The texts that it was computed on.
    pub datasets: Vec<String>,
    /// How many chunks of text; 0 if the file does not say.
    pub chunk_count: u32,
}

/// Why a file is no importance matrix.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImatrixError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] fsio::Error),
    /// The head of the GGUF file is broken.
    #[error("the file is not sound GGUF")]
    Gguf(#[from] GgufError),
    /// It is GGUF, and something else.
    #[error("the file has no `{key}`: it is not what llama-imatrix writes")]
    Key {
        /// The key.
        key: &'static str,
    },
    /// The file is neither GGUF nor the legacy format.
    #[error("{what} at byte {at}")]
    Legacy {
        /// What is wrong.
        what: &'static str,
        /// Where.
        at: usize,
    },
    /// It has no entry.
    #[error("there is no entry in it")]
    Empty,
    /// An entry is not what it should be.
    #[error("its entry for `{tensor}` {why}")]
    Entry {
        /// The tensor, escaped and cut.
        tensor: String,
        /// What is wrong.
        why: &'static str,
    },
}

impl Diagnose for ImatrixError {
    fn kind(&self) -> Kind {
        match self {
            Self::File(error) => error.kind(),
            _ => Kind::BadData,
        }
    }

    fn id(&self) -> &'static str {
        match self {
            Self::File(error) => error.id(),
            _ => "bad_imatrix",
        }
    }

    fn help(&self) -> Vec<String> {
        match self {
            Self::File(error) => error.help(),
            _ => vec!["`llama-imatrix -m MODEL.gguf -f TEXT -o FILE.gguf` computes one".into()],
        }
    }
}

impl Imatrix {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// [`ImatrixError`].
    pub fn open(path: &Path) -> Result<Self, ImatrixError> {
        Self::parse(Mapped::open(path)?.bytes())
    }

    /// Parses the bytes of a whole file of either format.
    ///
    /// # Errors
    /// [`ImatrixError`]: the first thing that is wrong. Nothing is allocated that the bytes do
    /// not hold.
    pub fn parse(bytes: &[u8]) -> Result<Self, ImatrixError> {
        let imatrix = if bytes.starts_with(MAGIC) { gguf(bytes) } else { legacy(bytes) }?;
        let usable = |weights: &Vec<f32>| weights.iter().all(|w| w.is_finite() && *w >= 0.0);
        if let Some((tensor, _)) = imatrix.entries.iter().find(|(_, weights)| !usable(weights)) {
            return Err(wrong(tensor, "holds a NaN, an infinity or a value below zero"));
        }
        if imatrix.entries.is_empty() { Err(ImatrixError::Empty) } else { Ok(imatrix) }
    }
}

fn wrong(tensor: &str, why: &'static str) -> ImatrixError {
    ImatrixError::Entry { tensor: shorten(tensor), why }
}

fn gguf(bytes: &[u8]) -> Result<Imatrix, ImatrixError> {
    let file = Gguf::parse(bytes)?;
    let value = |key| file.metadata.get(key).ok_or(ImatrixError::Key { key });
    let datasets = match value("imatrix.datasets")? {
        Value::Array(Array::Str(names)) => names.clone(),
        _ => Vec::new(),
    };
    let chunk_count = value("imatrix.chunk_count")?.as_u64();
    value("imatrix.chunk_size")?;
    let mut pairs: BTreeMap<&str, [Option<&TensorEntry>; 2]> = BTreeMap::new();
    for tensor in &file.tensors {
        for (which, suffix) in [SUMS, COUNTS].into_iter().enumerate() {
            if let Some(name) = tensor.spec.name.strip_suffix(suffix) {
                pairs.entry(name).or_default()[which] = Some(tensor);
            }
        }
    }
    let mut entries = BTreeMap::new();
    for (name, pair) in pairs {
        let [Some(sums), Some(counts)] = pair else {
            return Err(wrong(name, "has sums or counts, and not both"));
        };
        let [sums, counts] = [sums, counts].map(|tensor| floats(bytes, tensor));
        let (Some(sums), Some(counts)) = (sums, counts) else {
            return Err(wrong(name, "is not in F32"));
        };
        entries.insert(name.to_owned(), means(name, &sums, &counts)?);
    }
    let chunk_count = chunk_count.and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    Ok(Imatrix { entries, datasets, chunk_count })
}

/// Returns a tensor's values if they are F32.
fn floats(bytes: &[u8], tensor: &TensorEntry) -> Option<Vec<f32>> {
    let at = |n: u64| usize::try_from(n).expect("a map fits the address space");
    let data = &bytes[at(tensor.offset)..at(tensor.offset + tensor.len_bytes)];
    (tensor.spec.tensor_type == TensorType::F32).then(|| values(data))
}

fn values(data: &[u8]) -> Vec<f32> {
    data.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect()
}

/// Divides sums by counts, each count for as many sums; 1 where nothing was counted.
fn means(tensor: &str, sums: &[f32], counts: &[f32]) -> Result<Vec<f32>, ImatrixError> {
    if counts.is_empty() || sums.is_empty() || !sums.len().is_multiple_of(counts.len()) {
        return Err(wrong(tensor, "has a number of counts that does not divide its values"));
    }
    // Beyond that the program that reads them overflows.
    if !counts.iter().all(|count| (0.0..9e18).contains(count)) {
        return Err(wrong(tensor, "has a count that is none"));
    }
    let columns = sums.len() / counts.len();
    let mean = |(sums, count): (&[f32], &f32)| -> Vec<f32> {
        // Half away from zero, as C's lround.
        let count = count.round();
        sums.iter().map(|sum| if count > 0.0 { sum / count } else { 1.0 }).collect()
    };
    Ok(sums.chunks_exact(columns).zip(counts).flat_map(mean).collect())
}

/// The legacy format, from its first byte.
fn legacy(bytes: &[u8]) -> Result<Imatrix, ImatrixError> {
    let mut cursor = Cursor { bytes, at: 0 };
    // An entry takes 17 bytes at least: a name of one byte, a value, three numbers.
    let count = cursor.length("neither GGUF nor a count of entries", 17)?;
    let mut imatrix = Imatrix::default();
    for _ in 0..count {
        let name = cursor.text("no name of a tensor")?;
        let calls = cursor.number("no number of calls")?;
        let len = cursor.length("no number of values", 4)?;
        let mut weights = values(cursor.take(4 * len, "too few values")?);
        if calls > 0 {
            weights.iter_mut().for_each(|weight| *weight /= calls as f32);
        }
        let before = imatrix.entries.insert(name.to_owned(), weights);
        if before.is_some() {
            return Err(wrong(name, "stands twice"));
        }
    }
    if cursor.at < bytes.len() {
        let chunks = cursor.number("no number of chunks")?;
        imatrix.chunk_count = u32::try_from(chunks).unwrap_or(0);
    }
    if cursor.at < bytes.len() {
        imatrix.datasets.push(cursor.text("no name of a text")?.to_owned());
    }
    if cursor.at < bytes.len() {
        return Err(ImatrixError::Legacy { what: "something behind the end", at: cursor.at });
    }
    Ok(imatrix)
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], ImatrixError> {
        let taken = self.bytes[self.at..].get(..len);
        let taken = taken.ok_or(ImatrixError::Legacy { what, at: self.at })?;
        self.at += len;
        Ok(taken)
    }

    fn number(&mut self, what: &'static str) -> Result<i32, ImatrixError> {
        let four = self.take(4, what)?;
        Ok(i32::from_le_bytes(four.try_into().expect("take returns what was asked for")))
    }

    /// Reads a count, above zero, of things that take `least` bytes each.
    fn length(&mut self, what: &'static str, least: usize) -> Result<usize, ImatrixError> {
        let at = self.at;
        let count = usize::try_from(self.number(what)?).unwrap_or(0);
        if count == 0 || count > (self.bytes.len() - self.at) / least {
            return Err(ImatrixError::Legacy { what, at });
        }
        Ok(count)
    }

    fn text(&mut self, what: &'static str) -> Result<&'a str, ImatrixError> {
        let at = self.at;
        let wrong = || ImatrixError::Legacy { what, at };
        let len = usize::try_from(self.number(what)?).unwrap_or(usize::MAX);
        if len > NAME_LEN_MAX {
            return Err(wrong());
        }
        let text = std::str::from_utf8(self.take(len, what)?).map_err(|_| wrong())?;
        if text.chars().any(char::is_control) { Err(wrong()) } else { Ok(text) }
    }
}

#[cfg(test)]
mod tests {
    use super::{Imatrix, ImatrixError};
    use crate::gguf::{Array, Metadata, TensorSpec, TensorType, Value, writer};

    /// A file as llama-imatrix writes it: each entry's sums and counts.
    fn file(entries: &[(&str, &[f32], &[f32])]) -> Vec<u8> {
        let mut metadata = Metadata::new();
        metadata.push("general.type", Value::Str("imatrix".into()));
        metadata.push("imatrix.datasets", Value::Array(Array::Str(vec!["text.txt".into()])));
        metadata.push("imatrix.chunk_count", Value::U32(3));
        metadata.push("imatrix.chunk_size", Value::U32(512));
        let spec = |name: String, len: usize| TensorSpec {
            name,
            shape: vec![len as u64],
            tensor_type: TensorType::F32,
        };
        let parts = entries.iter().flat_map(|(name, sums, counts)| {
            [(format!("{name}.in_sum2"), *sums), (format!("{name}.counts"), *counts)]
        });
        let parts: Vec<(String, &[f32])> = parts.collect();
        let specs: Vec<_> = parts.iter().map(|(n, v)| spec(n.clone(), v.len())).collect();
        let encoded = writer::encode(&metadata, &specs).expect("encodes");
        let mut bytes = encoded.head.clone();
        bytes.resize(encoded.len_bytes as usize, 0);
        for (offset, (_, values)) in encoded.offsets.iter().zip(&parts) {
            let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            bytes[*offset as usize..][..data.len()].copy_from_slice(&data);
        }
        bytes
    }

    /// The legacy format: each entry's calls and values; the chunks and the text behind them.
    fn dat(entries: &[(&str, i32, &[f32])], tail: Option<(i32, &str)>) -> Vec<u8> {
        let mut bytes = (entries.len() as i32).to_le_bytes().to_vec();
        for (name, calls, values) in entries {
            bytes.extend((name.len() as i32).to_le_bytes());
            bytes.extend(name.as_bytes());
            bytes.extend(calls.to_le_bytes());
            bytes.extend((values.len() as i32).to_le_bytes());
            bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        }
        if let Some((chunks, text)) = tail {
            bytes.extend(chunks.to_le_bytes());
            bytes.extend((text.len() as i32).to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        bytes
    }

    #[test]
    fn both_formats_give_means() {
        let new = file(&[("a", &[6.0, 3.0], &[3.0]), ("b", &[4.0, 2.0, 5.0, 7.0], &[2.0, 0.0])]);
        let new = Imatrix::parse(&new).expect("reads");
        assert_eq!(new.entries["a"], [2.0, 1.0]);
        // A matrix of the stack that nothing went through: all columns tell the same.
        assert_eq!(new.entries["b"], [2.0, 1.0, 1.0, 1.0]);
        assert_eq!((new.chunk_count, new.datasets), (3, vec!["text.txt".to_owned()]));

        let old = dat(&[("a", 3, &[6.0, 3.0]), ("b", 0, &[0.5])], Some((7, "t")));
        let old = Imatrix::parse(&old).expect("reads");
        assert_eq!((&old.entries["a"][..], &old.entries["b"][..]), (&[2.0, 1.0][..], &[0.5][..]));
        assert_eq!((old.chunk_count, old.datasets), (7, vec!["t".to_owned()]));
        let bare = Imatrix::parse(&dat(&[("a", 1, &[1.0])], None)).expect("reads");
        assert_eq!((bare.chunk_count, bare.datasets.len()), (0, 0));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let nan = f32::NAN;
        let mut model = Metadata::new();
        model.push("general.type", Value::Str("model".into()));
        let model = writer::encode(&model, &[]).expect("encodes").head;
        let mut behind = dat(&[("a", 1, &[1.0])], Some((7, "t")));
        behind.push(0);
        for (bytes, says) in [
            (Vec::new(), "neither GGUF nor"),
            (b"PK\x03\x04 a zip archive".to_vec(), "neither GGUF nor"),
            (model, "no `imatrix.datasets`"),
            (file(&[]), "no entry in it"),
            (file(&[("a", &[1.0, 2.0, 3.0], &[1.0, 1.0])]), "does not divide"),
            (file(&[("a", &[nan], &[1.0])]), "holds a NaN"),
            (file(&[("a", &[f32::MAX], &[0.1])]), ""),
            (file(&[("a", &[1.0], &[nan])]), "a count that is none"),
            (file(&[("a", &[1.0], &[-1.0])]), "a count that is none"),
            (dat(&[("a", 1, &[-1.0])], None), "below zero"),
            (dat(&[("a", 1, &[1.0]), ("a", 1, &[1.0])], None), "stands twice"),
            (dat(&[("\u{1b}[2J", 1, &[1.0])], None), "no name of a tensor at byte 4"),
            (behind, "something behind the end"),
        ] {
            match (Imatrix::parse(&bytes), says) {
                (Ok(_), "") => {}
                (Ok(read), _) => panic!("{says}: {read:?}"),
                (Err(error), _) => assert!(error.to_string().contains(says), "{says}: {error}"),
            }
        }
        let mut half = file(&[("a", &[1.0], &[1.0])]);
        let at = half.windows(8).position(|eight| eight == b"a.counts").expect("there");
        half[at] = b'b';
        assert!(matches!(Imatrix::parse(&half), Err(ImatrixError::Entry { .. })));
    }

    #[test]
    fn every_truncation_is_an_error_and_no_changed_byte_panics() {
        let whole = dat(&[("ab", 3, &[6.0, 3.0]), ("b", 1, &[0.5])], Some((7, "t")));
        // Without chunks and text, or without the text, it is whole too.
        let ends = [whole.len() - 9, whole.len() - 5];
        for len in (0..whole.len()).filter(|len| !ends.contains(len)) {
            assert!(Imatrix::parse(&whole[..len]).is_err(), "{len}");
        }
        for sample in [whole, file(&[("a", &[6.0, 3.0], &[3.0])])] {
            for at in 0..sample.len() {
                for value in [0, 1, 0x7f, 0x80, 0xff] {
                    let mut changed = sample.clone();
                    changed[at] = value;
                    // Only that it returns: some changes are harmless.
                    let _ = Imatrix::parse(&changed);
                }
            }
        }
    }
}
