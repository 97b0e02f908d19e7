//! `model.safetensors.index.json`: which shard holds which tensor.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::fault::{Error, IndexFault};
use super::header::{Header, Pairs};
use crate::name::{TensorName, escape, is_safe_relative_path};

/// The file's name.
pub const INDEX_FILE: &str = "model.safetensors.index.json";

/// The largest index read: a million tensors with long names stay below it.
const INDEX_LEN_MAX: u64 = 256 << 20;

/// A checked index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// `metadata.total_size`, if it says so.
    pub total_size_bytes: Option<u64>,
    /// Stored tensor name to shard, sorted.
    pub weight_map: BTreeMap<TensorName, String>,
}

#[derive(Deserialize)]
struct RawIndex {
    #[serde(default)]
    metadata: Map<String, Value>,
    weight_map: Pairs<String>,
}

impl Index {
    /// Reads and checks the index at `path`. Whether it fits the shards: [`Index::faults`].
    ///
    /// # Errors
    /// The file cannot be read, is too large, is not JSON, or names something unsafe.
    pub fn read(path: &Path) -> crate::error::Result<Self> {
        let bytes = crate::fsio::read_capped(path, INDEX_LEN_MAX)?;
        Ok(Self::parse(&bytes).map_err(|fault| Error::Index { path: path.to_owned(), fault })?)
    }

    /// Parses the bytes of an index.
    ///
    /// # Errors
    /// [`IndexFault`].
    pub fn parse(bytes: &[u8]) -> Result<Self, IndexFault> {
        let raw: RawIndex = serde_json::from_slice(bytes).map_err(IndexFault::Json)?;
        let mut weight_map = BTreeMap::new();
        for (name, shard) in raw.weight_map.0 {
            let tensor = TensorName::new(&name).map_err(IndexFault::Name)?;
            let plain = is_safe_relative_path(&shard) && !shard.contains('/');
            if !plain || !shard.ends_with(".safetensors") {
                return Err(IndexFault::ShardName(escape(&shard)));
            }
            if weight_map.insert(tensor, shard).is_some() {
                return Err(IndexFault::Duplicate(escape(&name)));
            }
        }
        if weight_map.is_empty() {
            return Err(IndexFault::Empty);
        }
        // Some tools write the size as a float.
        let total_size_bytes = raw.metadata.get("total_size").and_then(|v| {
            v.as_u64().or_else(|| v.as_f64().filter(|f| *f >= 0.0 && *f < 9e15).map(|f| f as u64))
        });
        Ok(Self { total_size_bytes, weight_map })
    }

    /// Returns the shards, sorted, each once.
    #[must_use]
    pub fn shards(&self) -> Vec<&str> {
        let mut shards: Vec<&str> = self.weight_map.values().map(String::as_str).collect();
        shards.sort_unstable();
        shards.dedup();
        shards
    }

    /// Returns every disagreement between the index and the headers of the shards, by name.
    #[must_use]
    pub fn faults(&self, shards: &[(&str, &Header)]) -> Vec<IndexFault> {
        let mut held: BTreeMap<(&str, &str), bool> = BTreeMap::new();
        for (shard, header) in shards {
            held.extend(header.tensors.iter().map(|t| ((t.name.as_str(), *shard), false)));
        }
        let mut faults = Vec::new();
        for (name, shard) in &self.weight_map {
            match held.get_mut(&(name.as_str(), shard.as_str())) {
                Some(mapped) => *mapped = true,
                None => {
                    let (tensor, shard) = (name.to_string(), shard.clone());
                    faults.push(IndexFault::NotInShard { tensor, shard });
                }
            }
        }
        let stray = held.into_iter().filter(|(_, mapped)| !mapped);
        faults.extend(stray.map(|((tensor, shard), _)| IndexFault::NotInIndex {
            tensor: escape(tensor),
            shard: shard.to_owned(),
        }));
        faults
    }

    /// Returns the file's bytes, as transformers lays them out: indented by two, sorted names.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let map: Map<String, Value> = self
            .weight_map
            .iter()
            .map(|(name, shard)| (name.as_str().to_owned(), Value::from(shard.as_str())))
            .collect();
        let metadata = match self.total_size_bytes {
            Some(n) => json!({ "total_size": n }),
            None => json!({}),
        };
        let document = json!({ "metadata": metadata, "weight_map": map });
        let mut bytes = serde_json::to_vec_pretty(&document).expect("maps of strings serialise");
        bytes.push(b'\n');
        bytes
    }
}

/// Returns the name of shard `number` (from 1) of `count`; one shard alone has no number.
#[must_use]
pub fn shard_file_name(number: usize, count: usize) -> String {
    match count {
        1 => super::SINGLE_FILE.into(),
        _ => format!("model-{number:05}-of-{count:05}.safetensors"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Index, IndexFault};

    #[test]
    fn an_index_round_trips() {
        let text = br#"{"metadata":{"total_size":12},"weight_map":{"b":"x.safetensors","a":"y.safetensors"}}"#;
        let index = Index::parse(text).expect("parses");
        assert_eq!(index.shards(), ["x.safetensors", "y.safetensors"]);
        assert_eq!(index.total_size_bytes, Some(12));
        assert_eq!(Index::parse(&index.to_bytes()).expect("parses"), index);
    }

    #[test]
    fn shards_stay_in_the_folder() {
        for shard in [
            "../x.safetensors",
            "/x.safetensors",
            "a/b.safetensors",
            "x.bin",
            "",
            "a\\nb.safetensors",
        ] {
            let text = format!(r#"{{"weight_map":{{"a":"{shard}"}}}}"#);
            assert!(
                matches!(Index::parse(text.as_bytes()), Err(IndexFault::ShardName(_))),
                "{shard}"
            );
        }
        let twice = br#"{"weight_map":{"a":"x.safetensors","a":"y.safetensors"}}"#;
        assert!(matches!(Index::parse(twice), Err(IndexFault::Duplicate(_))));
        let hostile = br#"{"weight_map":{"../a":"x.safetensors"}}"#;
        assert!(matches!(Index::parse(hostile), Err(IndexFault::Name(_))));
        assert!(matches!(Index::parse(br#"{"weight_map":{}}"#), Err(IndexFault::Empty)));
        assert!(matches!(Index::parse(b"[]"), Err(IndexFault::Json(_))));
    }
}
