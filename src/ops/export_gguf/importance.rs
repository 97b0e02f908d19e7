//! The importance matrix: which entry is whose, and what the file says of it.

use std::path::{Path, PathBuf};

use super::ExportError;
use super::plan::PlannedTensor;
use crate::arch::QuantClass;
use crate::gguf::{FileType, Imatrix, Metadata, TensorType, Value};
use crate::name;

/// What llama-quantize keeps of a text in the keys, in bytes.
const TEXT_LEN_MAX: usize = 127;

/// An importance matrix and where it is from.
#[derive(Debug)]
pub struct Importance {
    path: PathBuf,
    imatrix: Imatrix,
}

impl Importance {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ExportError::Imatrix`].
    pub fn open(path: &Path) -> Result<Self, ExportError> {
        let imatrix = Imatrix::open(path);
        let imatrix =
            imatrix.map_err(|fault| ExportError::Imatrix { path: path.to_owned(), fault })?;
        Ok(Self { path: path.to_owned(), imatrix })
    }

    /// Appends the keys that llama-quantize writes.
    pub fn write_keys(&self, out: &mut Metadata) {
        let text = |text: &str| Value::Str(text[..text.floor_char_boundary(TEXT_LEN_MAX)].into());
        let entries = u32::try_from(self.imatrix.entries.len()).unwrap_or(u32::MAX);
        out.push("quantize.imatrix.file", text(&self.path.to_string_lossy()));
        if let Some(dataset) = self.imatrix.datasets.first() {
            out.push("quantize.imatrix.dataset", text(dataset));
        }
        out.push("quantize.imatrix.entries_count", Value::U32(entries));
        if self.imatrix.chunk_count > 0 {
            out.push("quantize.imatrix.chunks_count", Value::U32(self.imatrix.chunk_count));
        }
    }

    /// Gives every matrix its weights; returns the names of those that go without although their
    /// type would use them.
    ///
    /// # Errors
    /// [`ExportError::ImatrixForeign`], [`ExportError::ImatrixSize`].
    pub fn assign(mut self, tensors: &mut [PlannedTensor]) -> Result<Vec<String>, ExportError> {
        let mut without = Vec::new();
        let mut found = 0;
        for tensor in tensors {
            let Some(class) = tensor.class else { continue };
            let (name, expected) = (&tensor.spec.name, tensor.row_len);
            let entry = self.imatrix.entries.remove(name);
            let got = entry.as_ref().map_or(0, |weights| weights.len() as u64);
            match entry {
                Some(weights) if got == expected => {
                    found += 1;
                    tensor.importance = Some(weights);
                }
                // Computed where the embedding is the head, perhaps: llama-quantize lets it pass.
                Some(_) if class != QuantClass::TokenEmbd => {
                    let (path, tensor) = (self.path, name.clone());
                    return Err(ExportError::ImatrixSize { path, tensor, got, expected });
                }
                _ if uses_weights(tensor.spec.tensor_type) => without.push(name.clone()),
                _ => {}
            }
        }
        if found == 0 {
            let entry = self.imatrix.entries.keys().next().map(|name| name::shorten(name));
            let entry = entry.unwrap_or_default();
            return Err(ExportError::ImatrixForeign { path: self.path, entry });
        }
        Ok(without)
    }
}

/// Says whether weights change what a type makes of values.
fn uses_weights(tensor_type: TensorType) -> bool {
    tensor_type.block_len() > 1 && tensor_type != TensorType::Q8_0
}

/// Fails if a matrix has a type that is of no use without weights, and has none.
///
/// The 2 bits of a Q2_K_S file, where its mixture has put them or the user; the embedding and the
/// head may go without.
///
/// # Errors
/// [`ExportError::NeedsImatrix`].
pub fn check(
    file_type: FileType,
    tensors: &[PlannedTensor],
    given: Option<&Path>,
) -> Result<(), ExportError> {
    let needs = |tensor: &&PlannedTensor| {
        let exempt = matches!(tensor.class, Some(QuantClass::TokenEmbd | QuantClass::Output));
        let two_bits = tensor.spec.tensor_type == TensorType::Q2_K;
        two_bits && !exempt && tensor.importance.is_none()
    };
    match tensors.iter().find(needs) {
        Some(tensor) if file_type == FileType::Q2_K_S => Err(ExportError::NeedsImatrix {
            tensor: tensor.spec.name.clone(),
            tensor_type: tensor.spec.tensor_type.name(),
            file_type: file_type.name(),
            given: given.is_some(),
        }),
        _ => Ok(()),
    }
}

/// Says in one line which matrices go without weights.
#[must_use]
pub fn note(without: &[String]) -> Option<String> {
    let matrices = if without.len() == 1 { "matrix" } else { "matrices" };
    (!without.is_empty()).then(|| {
        format!(
            "the importance matrix has no entry for {} {matrices}, quantised without: {}",
            without.len(),
            name::few(without)
        )
    })
}
