//! Element types of GGUF tensors: numbers, names, block geometry.

/// A tensor's element type, by the number that stands in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TensorType(&'static Row);

#[derive(Debug, PartialEq, Eq, Hash)]
struct Row {
    id: u32,
    name: &'static str,
    block_len: u64,
    block_bytes: u64,
}

const fn row(id: u32, name: &'static str, block_len: u64, block_bytes: u64) -> Row {
    Row { id, name, block_len, block_bytes }
}

/// Every type that llama.cpp at 0c1e57098 reads.
const TABLE: &[Row] = &[
    row(0, "F32", 1, 4),
    row(1, "F16", 1, 2),
    row(2, "Q4_0", 32, 18),
    row(3, "Q4_1", 32, 20),
    row(6, "Q5_0", 32, 22),
    row(7, "Q5_1", 32, 24),
    row(8, "Q8_0", 32, 34),
    row(9, "Q8_1", 32, 36),
    row(10, "Q2_K", 256, 84),
    row(11, "Q3_K", 256, 110),
    row(12, "Q4_K", 256, 144),
    row(13, "Q5_K", 256, 176),
    row(14, "Q6_K", 256, 210),
    row(15, "Q8_K", 256, 292),
    row(16, "IQ2_XXS", 256, 66),
    row(17, "IQ2_XS", 256, 74),
    row(18, "IQ3_XXS", 256, 98),
    row(19, "IQ1_S", 256, 50),
    row(20, "IQ4_NL", 32, 18),
    row(21, "IQ3_S", 256, 110),
    row(22, "IQ2_S", 256, 82),
    row(23, "IQ4_XS", 256, 136),
    row(24, "I8", 1, 1),
    row(25, "I16", 1, 2),
    row(26, "I32", 1, 4),
    row(27, "I64", 1, 8),
    row(28, "F64", 1, 8),
    row(29, "IQ1_M", 256, 56),
    row(30, "BF16", 1, 2),
    row(34, "TQ1_0", 256, 54),
    row(35, "TQ2_0", 256, 66),
    row(39, "MXFP4", 32, 17),
];

impl TensorType {
    /// 32-bit float.
    pub const F32: Self = Self(&TABLE[0]);
    /// 16-bit IEEE float.
    pub const F16: Self = Self(&TABLE[1]);
    /// bfloat16.
    pub const BF16: Self = Self(&TABLE[28]);
    /// Blocks of 32 signed bytes with an f16 scale.
    pub const Q8_0: Self = Self(&TABLE[6]);
    /// Blocks of 32 four-bit codes with an f16 scale.
    pub const Q4_0: Self = Self(&TABLE[2]);
    /// Blocks of 32 four-bit codes with an f16 scale and minimum.
    pub const Q4_1: Self = Self(&TABLE[3]);
    /// Blocks of 32 five-bit codes with an f16 scale.
    pub const Q5_0: Self = Self(&TABLE[4]);
    /// Blocks of 32 five-bit codes with an f16 scale and minimum.
    pub const Q5_1: Self = Self(&TABLE[5]);
    /// Superblocks of 16 × 16 two-bit codes, four-bit scales and minima.
    pub const Q2_K: Self = Self(&TABLE[8]);
    /// Superblocks of 16 × 16 three-bit codes, six-bit scales.
    pub const Q3_K: Self = Self(&TABLE[9]);
    /// Superblocks of 8 × 32 four-bit codes, six-bit scales and minima.
    pub const Q4_K: Self = Self(&TABLE[10]);
    /// Superblocks of 8 × 32 five-bit codes, six-bit scales and minima.
    pub const Q5_K: Self = Self(&TABLE[11]);
    /// Superblocks of 16 × 16 six-bit codes, eight-bit scales.
    pub const Q6_K: Self = Self(&TABLE[12]);
    /// Blocks of 32 four-bit codes into an uneven table, with an f16 scale.
    pub const IQ4_NL: Self = Self(&TABLE[18]);
    /// Superblocks of 8 × 32 four-bit codes into an uneven table, six-bit scales.
    pub const IQ4_XS: Self = Self(&TABLE[21]);

    /// Iterates over all types, by number.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(Self)
    }

    /// Finds a type by its number.
    #[must_use]
    pub fn from_id(id: u32) -> Option<Self> {
        TABLE.iter().find(|row| row.id == id).map(Self)
    }

    /// Returns the number.
    #[must_use]
    pub fn id(self) -> u32 {
        self.0.id
    }

    /// Returns the name, as llama.cpp prints it.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// Returns how many elements of a row make one block.
    #[must_use]
    pub fn block_len(self) -> u64 {
        self.0.block_len
    }

    /// Returns the size of one block in bytes.
    #[must_use]
    pub fn block_bytes(self) -> u64 {
        self.0.block_bytes
    }

    /// Returns the bytes of `elements` elements; `None` on overflow or a broken block.
    #[must_use]
    pub fn bytes(self, elements: u64) -> Option<u64> {
        if !elements.is_multiple_of(self.0.block_len) {
            return None;
        }
        (elements / self.0.block_len).checked_mul(self.0.block_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::{TABLE, TensorType};

    #[test]
    fn named_constants_are_the_rows_they_name() {
        for (constant, name, id) in [
            (TensorType::F32, "F32", 0),
            (TensorType::F16, "F16", 1),
            (TensorType::Q4_0, "Q4_0", 2),
            (TensorType::Q4_1, "Q4_1", 3),
            (TensorType::Q5_0, "Q5_0", 6),
            (TensorType::Q5_1, "Q5_1", 7),
            (TensorType::Q8_0, "Q8_0", 8),
            (TensorType::Q2_K, "Q2_K", 10),
            (TensorType::Q3_K, "Q3_K", 11),
            (TensorType::Q4_K, "Q4_K", 12),
            (TensorType::Q5_K, "Q5_K", 13),
            (TensorType::Q6_K, "Q6_K", 14),
            (TensorType::IQ4_NL, "IQ4_NL", 20),
            (TensorType::IQ4_XS, "IQ4_XS", 23),
            (TensorType::BF16, "BF16", 30),
        ] {
            assert_eq!((constant.name(), constant.id()), (name, id));
        }
    }

    #[test]
    fn numbers_are_unique_and_ascend() {
        assert!(TABLE.windows(2).all(|pair| pair[0].id < pair[1].id));
        assert_eq!(TensorType::Q8_0.bytes(64), Some(68));
        assert_eq!(TensorType::Q8_0.bytes(33), None);
    }
}
