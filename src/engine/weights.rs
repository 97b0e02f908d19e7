//! Where a model finds its tensors, and what can be wrong with them.
//!
//! Names, shapes and whether a norm's weight is stored around zero come from the architecture's
//! table; nothing is named twice.

use std::collections::BTreeMap;

use crate::arch::{ModelConfig, Part, Transform};
use crate::dtype::{Dtype, widen_to_f32};
use crate::engine::backend::Rows;
use crate::error::{Diagnose, Kind};

/// A tensor in memory.
#[derive(Debug, Clone)]
pub struct TensorView<'a> {
    /// Element type.
    pub dtype: Dtype,
    /// Shape, row-major.
    pub shape: Vec<u64>,
    /// Little-endian values.
    pub bytes: &'a [u8],
}

/// Finds a tensor by its canonical name.
pub type Find<'f, 'a> = &'f dyn Fn(&str) -> Option<TensorView<'a>>;

/// Why a model cannot be built of a checkpoint.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum WeightsError {
    /// A tensor that the config promises is not there.
    #[error("tensor `{name}` is missing")]
    Missing {
        /// Its canonical name.
        name: String,
    },
    /// A tensor has another shape than the config says.
    #[error("tensor `{name}` has shape {got:?}, expected {expected:?}")]
    Shape {
        /// Its canonical name.
        name: String,
        /// As stored.
        got: Vec<u64>,
        /// As the config says.
        expected: Vec<u64>,
    },
    /// A tensor's elements are not floats.
    #[error("tensor `{name}` has dtype {dtype}, expected F32, F16 or BF16")]
    Dtype {
        /// Its canonical name.
        name: String,
        /// As stored.
        dtype: Dtype,
    },
}

impl Diagnose for WeightsError {
    fn kind(&self) -> Kind {
        Kind::BadData
    }

    fn id(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "missing_tensor",
            Self::Shape { .. } => "wrong_shape",
            Self::Dtype { .. } => "wrong_dtype",
        }
    }

    fn help(&self) -> Vec<String> {
        vec!["`tmax-ckpt verify` lists everything that is wrong with a checkpoint".into()]
    }
}

/// The text model's tensors, all there and of the right shape.
pub struct Weights<'a> {
    tensors: BTreeMap<String, (TensorView<'a>, Transform)>,
}

impl<'a> Weights<'a> {
    /// Looks up every tensor that the config promises.
    ///
    /// # Errors
    /// [`WeightsError`], for the first tensor that is wrong.
    pub fn check(config: &ModelConfig, find: Find<'_, 'a>) -> Result<Self, WeightsError> {
        let mut tensors = BTreeMap::new();
        for expected in config.architecture.expected(config, &[Part::Text], 0) {
            let name = expected.name;
            let Some(view) = find(&name) else { return Err(WeightsError::Missing { name }) };
            if view.shape != expected.shape {
                let (got, expected) = (view.shape, expected.shape);
                return Err(WeightsError::Shape { name, got, expected });
            }
            if !view.dtype.is_float() {
                return Err(WeightsError::Dtype { name, dtype: view.dtype });
            }
            tensors.insert(name, (view, expected.rule.transform));
        }
        Ok(Self { tensors })
    }

    fn get(&self, name: &str) -> &(TensorView<'a>, Transform) {
        self.tensors.get(name).expect("the architecture's table has every name the model uses")
    }

    /// Says whether the checkpoint has the tensor.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Returns the rows of a matrix `[out, in]`.
    #[must_use]
    pub fn rows(&self, name: &str) -> Rows<'a> {
        let view = &self.get(name).0;
        let columns = view.shape.last().map_or(1, |&n| n as usize);
        Rows { dtype: view.dtype, bytes: view.bytes, columns }
    }

    /// Returns a small tensor in f32, one added where the model's norm does.
    #[must_use]
    pub fn values(&self, name: &str) -> Vec<f32> {
        let (view, transform) = self.get(name);
        let mut values = vec![0.0; view.bytes.len() / view.dtype.size_bytes()];
        widen_to_f32(view.dtype, view.bytes, &mut values);
        if *transform == Transform::AddOne {
            values.iter_mut().for_each(|value| *value += 1.0);
        }
        values
    }

    /// Returns a convolution `[channels, 1, taps]` in f32, tap-major: `[taps, channels]`.
    #[must_use]
    pub fn taps(&self, name: &str) -> Vec<f32> {
        let taps = self.rows(name).columns;
        let values = self.values(name);
        (0..taps).flat_map(|tap| values.iter().skip(tap).step_by(taps).copied()).collect()
    }
}
