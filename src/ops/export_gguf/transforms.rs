//! What happens to a tensor's values on the way to GGUF, each change beside its inverse.
//!
//! Every change is a permutation of rows, a permutation of columns, an elementwise function, or
//! a choice of one plane. So a tensor is a stream of rows, each made from one source row, and
//! nothing larger than a slab of rows is ever held.

use crate::arch::{LinearConfig, Transform};

/// A permutation of heads: llama.cpp repeats key heads by tiling, so value heads that stand
/// grouped by key head (`k·R + r`) must stand tiled (`r·Hk + k`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadOrder {
    /// Key heads.
    key_heads: u64,
    /// Value heads a key head.
    per_key: u64,
    /// Rows or columns a head.
    width: u64,
    /// Rows before the first value head, which stay.
    offset: u64,
}

impl HeadOrder {
    /// Returns where the row (or column) that is to stand at `to` stands in the checkpoint.
    #[must_use]
    pub fn source(self, to: u64) -> u64 {
        self.map(to, self.key_heads, self.per_key)
    }

    /// Returns where the row (or column) `from` of the checkpoint is to stand: the inverse of
    /// [`HeadOrder::source`].
    #[must_use]
    pub fn target(self, from: u64) -> u64 {
        self.map(from, self.per_key, self.key_heads)
    }

    /// Says whether nothing moves.
    #[must_use]
    pub fn is_identity(self) -> bool {
        self.key_heads == 1 || self.per_key == 1
    }

    /// Returns how many rows (or columns) in a row stay together.
    #[must_use]
    pub fn width(self) -> u64 {
        self.width
    }

    /// Transposes a `[slow, fast]` grid of heads that is given fast-last.
    fn map(self, at: u64, fast: u64, slow: u64) -> u64 {
        let Some(behind) = at.checked_sub(self.offset) else { return at };
        let (head, within) = (behind / self.width, behind % self.width);
        let moved = (head % fast) * slow + head / fast;
        self.offset + moved * self.width + within
    }
}

/// An elementwise function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Elementwise {
    /// `w + 1`, in f32.
    AddOne,
    /// `-exp(w)`: the exponential in f64, rounded once to f32.
    NegExp,
}

impl Elementwise {
    /// Applies the function.
    #[must_use]
    pub fn apply(self, value: f32) -> f32 {
        match self {
            Self::AddOne => value + 1.0,
            Self::NegExp => -(f64::from(value).exp() as f32),
        }
    }

    /// Applies the inverse, up to rounding.
    #[must_use]
    pub fn invert(self, value: f32) -> f32 {
        match self {
            Self::AddOne => value - 1.0,
            Self::NegExp => f64::from(-value).ln() as f32,
        }
    }
}

/// A plane of a `[C, in, T, p, p]` kernel: output row `(c, i)` is source row `(c, i, plane)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plane {
    /// Which.
    pub plane: u64,
    /// Of how many.
    pub planes: u64,
}

/// How the rows of one output tensor are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RowRecipe {
    /// Rows move.
    pub rows: Option<HeadOrder>,
    /// Columns move, within every row alike.
    pub columns: Option<HeadOrder>,
    /// Values change.
    pub elementwise: Option<Elementwise>,
    /// One temporal plane is taken.
    pub plane: Option<Plane>,
}

impl RowRecipe {
    /// Returns the recipe of a transform; `plane` chooses among the outputs of a split.
    #[must_use]
    pub fn new(transform: Transform, linear: Option<&LinearConfig>, plane: Plane) -> Self {
        let heads = |width: fn(&LinearConfig) -> u64, offset: fn(&LinearConfig) -> u64| {
            let linear = linear?;
            let order = HeadOrder {
                key_heads: linear.num_key_heads,
                per_key: linear.num_value_heads / linear.num_key_heads,
                width: width(linear),
                offset: offset(linear),
            };
            (!order.is_identity()).then_some(order)
        };
        let by_head = |l: &LinearConfig| l.value_head_dim;
        let none = Self::default();
        match transform {
            Transform::Copy => none,
            Transform::AddOne => Self { elementwise: Some(Elementwise::AddOne), ..none },
            Transform::NegExp => Self {
                elementwise: Some(Elementwise::NegExp),
                columns: heads(|_| 1, |_| 0),
                ..none
            },
            Transform::ValueHeadRows => Self { rows: heads(by_head, |_| 0), ..none },
            Transform::ValueHeadEntries => Self { rows: heads(|_| 1, |_| 0), ..none },
            Transform::QkvValueRows | Transform::ConvChannels => {
                Self { rows: heads(by_head, |l| 2 * l.key_dim()), ..none }
            }
            Transform::ValueHeadColumns => Self { columns: heads(by_head, |_| 0), ..none },
            Transform::SplitTemporal => Self { plane: Some(plane), ..none },
        }
    }

    /// Returns the recipe for a tensor of one axis, which is one row: entries are columns.
    #[must_use]
    pub fn for_vector(self) -> Self {
        Self { rows: None, columns: self.rows.or(self.columns), ..self }
    }

    /// Returns the source row of output row `row`.
    #[must_use]
    pub fn source_row(&self, row: u64) -> u64 {
        match (self.rows, self.plane) {
            (Some(order), _) => order.source(row),
            (None, Some(plane)) => row * plane.planes + plane.plane,
            (None, None) => row,
        }
    }

    /// Says whether rows are copied whole, in order: the tensor's bytes are one range.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }
}

/// Copies `source` into `out`, moving columns as `order` says. Both hold one row.
pub fn permute_columns<T: Copy>(order: HeadOrder, source: &[T], out: &mut [T]) {
    let width = usize::try_from(order.width()).expect("a row fits in memory");
    for (i, chunk) in out.chunks_exact_mut(width).enumerate() {
        let from = order.source((i * width) as u64) as usize;
        chunk.copy_from_slice(&source[from..from + width]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};

    use super::{Elementwise, HeadOrder, Plane, RowRecipe, permute_columns};
    use crate::arch::{LinearConfig, Transform};

    #[test]
    fn grouped_heads_become_tiled() {
        // Two key heads, three value heads each, one row a head, four rows before them.
        let order = HeadOrder { key_heads: 2, per_key: 3, width: 1, offset: 4 };
        let sources: Vec<u64> = (0..10).map(|to| order.source(to)).collect();
        assert_eq!(sources, [0, 1, 2, 3, 4, 7, 5, 8, 6, 9]);
    }

    #[test]
    fn equal_head_counts_move_nothing() {
        let linear = LinearConfig {
            num_key_heads: 4,
            num_value_heads: 4,
            key_head_dim: 8,
            value_head_dim: 8,
            conv_kernel_dim: 4,
        };
        for transform in
            [Transform::ValueHeadRows, Transform::QkvValueRows, Transform::ValueHeadColumns]
        {
            let recipe = RowRecipe::new(transform, Some(&linear), Plane { plane: 0, planes: 1 });
            assert!(recipe.is_plain(), "{transform:?}");
        }
    }

    #[test]
    fn planes_interleave() {
        let plane =
            |plane| RowRecipe::new(Transform::SplitTemporal, None, Plane { plane, planes: 2 });
        let rows: Vec<u64> =
            (0..3).flat_map(|r| [plane(0).source_row(r), plane(1).source_row(r)]).collect();
        assert_eq!(rows, [0, 1, 2, 3, 4, 5]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn head_orders_have_their_inverse(
            key_heads in 1_u64..9, per_key in 1_u64..9, width in 1_u64..5, offset in 0_u64..20,
        ) {
            let order = HeadOrder { key_heads, per_key, width, offset };
            let len = offset + key_heads * per_key * width;
            let mut seen = vec![false; len as usize];
            for to in 0..len {
                let from = order.source(to);
                prop_assert!(!std::mem::replace(&mut seen[from as usize], true));
                prop_assert_eq!(order.target(from), to);
                prop_assert_eq!(order.source(order.target(to)), to);
            }
        }

        #[test]
        fn columns_move_as_their_order_says(
            key_heads in 1_u64..5, per_key in 1_u64..5, width in 1_u64..5,
        ) {
            let order = HeadOrder { key_heads, per_key, width, offset: 0 };
            let row: Vec<u64> = (0..key_heads * per_key * width).collect();
            let mut out = vec![0; row.len()];
            permute_columns(order, &row, &mut out);
            for (to, from) in out.into_iter().enumerate() {
                prop_assert_eq!(from, order.source(to as u64));
            }
        }

        #[test]
        fn elementwise_functions_have_their_inverse(bits in any::<u32>()) {
            let value = f32::from_bits(bits);
            if value.abs() < 60.0 {
                for function in [Elementwise::AddOne, Elementwise::NegExp] {
                    let back = function.invert(function.apply(value));
                    prop_assert!((back - value).abs() <= 1e-5 * (1.0 + value.abs()), "{value} {back}");
                }
            }
        }
    }
}
