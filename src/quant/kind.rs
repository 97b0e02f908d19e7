//! What a block type must say of itself, and the way that all searched types go: the scales of
//! some hundred values' sub-blocks, then block by block what is stored.

use super::scalar::{Found, Search, largest};
use crate::gguf::TensorType;

/// Values whose scales are searched together: sub-blocks for every lane of the widest register.
pub const CHUNK: usize = 1024;

/// The most sub-blocks that a chunk has.
const SUB_BLOCKS_MAX: usize = CHUNK / 16;

/// How one instruction set searches.
pub trait Level {
    /// Searches the scales of whole sub-blocks of `len` values, at most [`CHUNK`] in all, and
    /// their minima. `given` are the weights where a column has its own.
    fn scales(search: &SubBlocks, x: &[f32], given: Option<&[f32]>, found: &mut [Found]);
    /// Returns the value of largest magnitude, the first of several; 0 for zeros of either sign.
    fn largest(x: &[f32; 32]) -> f32;
    /// Returns the least and the greatest value, the first of several zeros.
    fn range(x: &[f32; 32]) -> (f32, f32);
}

/// One value after the other: the oracle.
pub struct Plain;

impl Level for Plain {
    #[inline(always)]
    fn scales(search: &SubBlocks, x: &[f32], given: Option<&[f32]>, found: &mut [Found]) {
        for (i, found) in found.iter_mut().enumerate() {
            *found = search.one(x, given, i);
        }
    }

    #[inline(always)]
    fn largest(x: &[f32; 32]) -> f32 {
        largest(x).0
    }

    #[inline(always)]
    fn range(x: &[f32; 32]) -> (f32, f32) {
        x[1..].iter().fold((x[0], x[0]), |(min, max), x| {
            (if *x < min { *x } else { min }, if *x > max { *x } else { max })
        })
    }
}

/// A block type that is written and read.
pub trait Kind {
    /// The type.
    const TYPE: TensorType;
    /// Where the f16 scales of a block stand, in bytes.
    const SCALES: &'static [usize];
    /// Quantises a row of finite values.
    fn quantize<L: Level>(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]);
    /// Restores values.
    fn dequantize(blocks: &[u8], out: &mut [f32]);
}

/// The weight of a value that comes from its sub-block alone.
#[derive(Debug, Clone, Copy)]
pub enum Weights {
    /// Its magnitude.
    Magnitude,
    /// Its magnitude, and the root of the mean square.
    Spread,
    /// Its square.
    Square,
}

impl Weights {
    fn fill(self, x: &[f32], w: &mut [f32]) {
        let root = match self {
            Self::Spread => (square_sum(x) / x.len() as f32).sqrt(),
            Self::Magnitude | Self::Square => 0.0,
        };
        for (w, x) in w.iter_mut().zip(x) {
            *w = match self {
                Self::Magnitude => x.abs(),
                Self::Spread => root + x.abs(),
                Self::Square => x * x,
            };
        }
    }
}

/// How the sub-blocks of a type are searched.
#[derive(Debug, Clone, Copy)]
pub struct SubBlocks {
    /// Values in a sub-block: 16 or 32.
    pub len: usize,
    /// How.
    pub search: Search,
    /// The weights, where none are given.
    pub weights: Weights,
}

impl SubBlocks {
    /// Searches sub-block `i` of `x`.
    fn one(&self, x: &[f32], given: Option<&[f32]>, i: usize) -> Found {
        let range = i * self.len..(i + 1) * self.len;
        let x = &x[range.clone()];
        let mut own = [0.0; 32];
        let own = &mut own[..self.len];
        let w = match given {
            Some(given) => &given[range],
            None => {
                self.weights.fill(x, own);
                own
            }
        };
        self.search.one(x, w)
    }
}

/// A type whose scales are searched.
pub trait Searched {
    /// Values in a block: 256, or 32.
    const BLOCK_LEN: usize;
    /// Bytes of a block.
    const BLOCK_BYTES: usize;
    /// The search without importance weights.
    const ALIKE: SubBlocks;
    /// The search with them.
    const WEIGHTED: SubBlocks;
    /// The weight of a value with importance `q` is `q * sqrt(this * mean square + x²)`, where the
    /// mean is that of the block; it is `q` for `None`.
    const ENERGY: Option<f32>;
    /// Writes one block from what was found.
    fn pack(block: &Block<'_>, out: &mut [u8]);
}

/// One block whose sub-blocks were searched.
pub struct Block<'a> {
    /// The values.
    pub x: &'a [f32],
    /// What was found for each sub-block.
    pub found: &'a [Found],
    given: Option<&'a [f32]>,
    search: &'a SubBlocks,
}

impl Block<'_> {
    /// Returns the sums of the importance weights of the sub-blocks; `None` without such weights.
    pub fn weight_sums<const N: usize>(&self) -> Option<[f32; N]> {
        let given = self.given?;
        let mut sums = [0.0; N];
        for (sum, w) in sums.iter_mut().zip(given.chunks_exact(self.search.len)) {
            *sum = w.iter().fold(0.0, |sum, w| sum + w);
        }
        Some(sums)
    }

    /// Writes the codes that the search found for sub-block `i`: those that stay when its scale
    /// is stored as 0.
    pub fn found_codes(&self, i: usize, codes: &mut [u8]) {
        let x = &self.x[i * self.search.len..(i + 1) * self.search.len];
        self.search.search.codes(x, &self.found[i], codes);
    }
}

/// Quantises a row of a searched type.
#[inline(always)]
pub fn quantize<K: Searched, L: Level>(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let search = if importance.is_some() { &K::WEIGHTED } else { &K::ALIKE };
    let mut given = [0.0_f32; CHUNK];
    let mut found = [Found::default(); SUB_BLOCKS_MAX];
    let outs = out.chunks_mut(CHUNK / K::BLOCK_LEN * K::BLOCK_BYTES);
    for (i, (x, out)) in row.chunks(CHUNK).zip(outs).enumerate() {
        let given = importance.map(|q| {
            let q = &q[i * CHUNK..][..x.len()];
            weigh::<K>(x, q, &mut given[..x.len()]);
            &given[..x.len()]
        });
        let found = &mut found[..x.len() / search.len];
        L::scales(search, x, given, found);
        let (len, per_block) = (K::BLOCK_LEN, K::BLOCK_LEN / search.len);
        for (j, out) in out.chunks_exact_mut(K::BLOCK_BYTES).enumerate() {
            let block = Block {
                x: &x[j * len..(j + 1) * len],
                found: &found[j * per_block..(j + 1) * per_block],
                given: given.map(|w| &w[j * len..(j + 1) * len]),
                search,
            };
            K::pack(&block, out);
        }
    }
}

/// Writes the weights of whole blocks from the importance `q` of their columns.
#[inline(always)]
fn weigh<K: Searched>(x: &[f32], q: &[f32], w: &mut [f32]) {
    let Some(factor) = K::ENERGY else {
        w.copy_from_slice(q);
        return;
    };
    let len = K::BLOCK_LEN;
    for ((x, q), w) in x.chunks_exact(len).zip(q.chunks_exact(len)).zip(w.chunks_exact_mut(len)) {
        scale_importance(x, q, factor * square_sum(x) / len as f32, w);
    }
}

/// Writes `q * sqrt(energy + x²)`.
#[inline(always)]
pub fn scale_importance(x: &[f32], q: &[f32], energy: f32, w: &mut [f32]) {
    for ((x, q), w) in x.iter().zip(q).zip(w) {
        *w = q * (energy + x * x).sqrt();
    }
}

/// Sums squares in order.
#[inline(always)]
pub fn square_sum(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |sum, x| sum + x * x)
}
