//! Tensors of one or more safetensors files, under their canonical names.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::error::CheckpointError;
use crate::arch::{Architecture, Namespace, Part, TensorRule, layout};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::fsio::{self, Mapped};
use crate::gguf::is_gguf;
use crate::name::TensorName;
use crate::safetensors::{self, Header, INDEX_FILE, Index, IndexFault, SINGLE_FILE};

/// One tensor of a checkpoint.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// The canonical name, which the tables use.
    pub name: String,
    /// The name in the file.
    pub stored: TensorName,
    /// Which of the files holds it.
    pub file: usize,
    /// The element type.
    pub dtype: Dtype,
    /// The shape, row-major.
    pub shape: Vec<u64>,
    /// Its bytes, counted from the start of the file.
    pub range: Range<u64>,
    /// Its line of the architecture's table and its layer; `None` if the table lacks it.
    pub rule: Option<(&'static TensorRule, usize)>,
}

impl Tensor {
    /// Returns the size of its data.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Returns the number of its elements.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.len_bytes() / self.dtype.size_bytes() as u64
    }

    /// Returns the part it belongs to, `None` if the table lacks it.
    #[must_use]
    pub fn part(&self) -> Option<Part> {
        self.rule.map(|(rule, _)| rule.part)
    }
}

/// A safetensors file, mapped, with its header.
#[derive(Debug)]
pub struct ShardFile {
    /// The file's name in its folder.
    pub name: String,
    /// The map.
    pub mapped: Mapped,
    /// The header.
    pub header: Header,
}

impl ShardFile {
    /// Maps a file and parses its header.
    ///
    /// # Errors
    /// The file cannot be mapped, or its header is unsound.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mapped = Mapped::open(path)?;
        let bytes = mapped.bytes();
        let header = Header::parse(bytes, bytes.len() as u64)
            .map_err(|fault| safetensors::Error::File { path: path.to_owned(), fault })?;
        Ok(Self { name, mapped, header })
    }

    /// Returns the size of the file.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.mapped.bytes().len() as u64
    }
}

/// The tensors of a folder or of a single file.
#[derive(Debug)]
pub struct TensorSet {
    /// The folder, or the single file.
    pub path: PathBuf,
    /// The index, if the folder has one.
    pub index: Option<Index>,
    files: Vec<ShardFile>,
    tensors: Vec<Tensor>,
}

impl TensorSet {
    /// Opens a folder with `model.safetensors` or an index, or a single safetensors file.
    ///
    /// # Errors
    /// No such files, both of them, an unsound header or index, an index that disagrees with
    /// its shards, two stored names for one tensor.
    pub fn open(path: &Path) -> Result<Self> {
        if is_gguf(path) {
            return Err(CheckpointError::Gguf { path: path.to_owned() }.into());
        }
        let (index, files) =
            if path.is_dir() { open_folder(path)? } else { (None, vec![ShardFile::open(path)?]) };
        let headers: Vec<(&str, &Header)> =
            files.iter().map(|f| (f.name.as_str(), &f.header)).collect();
        if let Some(index) = &index
            && let Some(fault) = index.faults(&headers).into_iter().next()
        {
            return Err(safetensors::Error::Index { path: path.join(INDEX_FILE), fault }.into());
        }
        let tensors = collect(&headers)?;
        Ok(Self { path: path.to_owned(), index, files, tensors })
    }

    /// Finds each tensor's line in the table of `architecture`.
    pub fn apply_rules(&mut self, architecture: Architecture) {
        for tensor in &mut self.tensors {
            tensor.rule = architecture.find(&tensor.name);
        }
    }

    /// Returns the tensors, sorted by canonical name.
    #[must_use]
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// Finds a tensor by its canonical name.
    #[must_use]
    pub fn find(&self, canonical: &str) -> Option<&Tensor> {
        let at = self.tensors.binary_search_by(|t| t.name.as_str().cmp(canonical)).ok()?;
        Some(&self.tensors[at])
    }

    /// Returns a tensor's bytes.
    #[must_use]
    pub fn data(&self, tensor: &Tensor) -> &[u8] {
        let at = |offset| usize::try_from(offset).expect("a mapped file fits the address space");
        let range = at(tensor.range.start)..at(tensor.range.end);
        &self.files[tensor.file].mapped.bytes()[range]
    }

    /// Returns the files.
    #[must_use]
    pub fn files(&self) -> &[ShardFile] {
        &self.files
    }

    /// Returns the namespace of the text tensors; `None` if they show none or several.
    #[must_use]
    pub fn namespace(&self) -> Option<Namespace> {
        let mut shown = self.tensors.iter().filter_map(|t| layout::canonical(t.stored.as_str()).1);
        let first = shown.next()?;
        shown.all(|namespace| namespace == first).then_some(first)
    }
}

/// Lists the tensors of several headers under their canonical names, sorted by them.
///
/// Works on headers alone, so that a remote checkpoint can be listed. No rules are applied.
///
/// # Errors
/// [`CheckpointError::SameTensor`].
pub fn collect(headers: &[(&str, &Header)]) -> Result<Vec<Tensor>, CheckpointError> {
    let mut tensors: Vec<Tensor> = Vec::new();
    for (file, (_, header)) in headers.iter().enumerate() {
        tensors.extend(header.tensors.iter().map(|info| Tensor {
            name: layout::canonical(info.name.as_str()).0,
            stored: info.name.clone(),
            file,
            dtype: info.dtype,
            shape: info.shape.clone(),
            range: info.range.clone(),
            rule: None,
        }));
    }
    tensors.sort_by(|a, b| (&a.name, a.file, &a.stored).cmp(&(&b.name, b.file, &b.stored)));
    let twins = tensors.windows(2).find(|pair| pair[0].name == pair[1].name);
    if let Some([a, b]) = twins.and_then(|pair| pair.first_chunk()) {
        let shown = |t: &Tensor| format!("{} in {}", t.stored, headers[t.file].0);
        let canonical = crate::name::escape(&a.name);
        return Err(CheckpointError::SameTensor { canonical, first: shown(a), second: shown(b) });
    }
    Ok(tensors)
}

fn open_folder(dir: &Path) -> Result<(Option<Index>, Vec<ShardFile>)> {
    let (index_path, single) = (dir.join(INDEX_FILE), dir.join(SINGLE_FILE));
    match (fsio::exists(&index_path)?, fsio::exists(&single)?) {
        (true, true) => Err(CheckpointError::Ambiguous { dir: dir.to_owned() }.into()),
        (false, false) => Err(no_tensors(dir).into()),
        (false, true) => Ok((None, vec![ShardFile::open(&single)?])),
        (true, false) => {
            let index = Index::read(&index_path)?;
            let mut files = Vec::new();
            for shard in index.shards() {
                let path = dir.join(shard);
                if !fsio::exists(&path)? {
                    let fault = IndexFault::MissingShard(shard.to_owned());
                    return Err(safetensors::Error::Index { path: index_path, fault }.into());
                }
                files.push(ShardFile::open(&path)?);
            }
            Ok((Some(index), files))
        }
    }
}

fn no_tensors(dir: &Path) -> CheckpointError {
    let weights = |name: &String| {
        [".safetensors", ".bin", ".pt", ".pth", ".gguf"].iter().any(|end| name.ends_with(end))
    };
    let mut other: Vec<String> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(crate::name::escape(entry.ok()?.file_name().to_str()?)))
        .filter(weights)
        .collect();
    other.sort();
    other.truncate(5);
    CheckpointError::NoTensors { dir: dir.to_owned(), other }
}
