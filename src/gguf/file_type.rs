//! File types: the number under `general.file_type`, and what llama.cpp's tools call it.

use super::TensorType;

/// A file's type: which type most of its matrices have, and by which mixture the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileType(&'static Row);

#[derive(Debug, PartialEq, Eq, Hash)]
struct Row {
    id: u32,
    name: &'static str,
    word: &'static str,
    base: TensorType,
    about: &'static str,
}

const fn row(
    id: u32,
    name: &'static str,
    word: &'static str,
    base: TensorType,
    about: &'static str,
) -> Row {
    Row { id, name, word, base, about }
}

/// Every file type that can be written. Numbers: `llama_ftype` of llama.cpp at 0c1e57098.
#[rustfmt::skip]
const TABLE: &[Row] = &[
    row(0,  "F32",    "f32",    TensorType::F32,    "32-bit float"),
    row(1,  "F16",    "f16",    TensorType::F16,    "16-bit IEEE float"),
    row(2,  "Q4_0",   "q4_0",   TensorType::Q4_0,   "4 bits, blocks of 32 with a scale"),
    row(3,  "Q4_1",   "q4_1",   TensorType::Q4_1,   "4 bits, blocks of 32 with a scale and a minimum"),
    row(7,  "Q8_0",   "q8_0",   TensorType::Q8_0,   "8 bits, blocks of 32 with a scale: half the size of bf16"),
    row(8,  "Q5_0",   "q5_0",   TensorType::Q5_0,   "5 bits, blocks of 32 with a scale"),
    row(9,  "Q5_1",   "q5_1",   TensorType::Q5_1,   "5 bits, blocks of 32 with a scale and a minimum"),
    row(10, "Q2_K",   "q2_k",   TensorType::Q2_K,   "2 bits, 3 or 4 where it matters most"),
    row(11, "Q3_K_S", "q3_k_s", TensorType::Q3_K,   "3 bits"),
    row(12, "Q3_K_M", "q3_k_m", TensorType::Q3_K,   "3 bits, 4 or 5 where it matters most"),
    row(13, "Q3_K_L", "q3_k_l", TensorType::Q3_K,   "3 bits, 5 where it matters most"),
    row(14, "Q4_K_S", "q4_k_s", TensorType::Q4_K,   "4 bits, 5 in the first layers"),
    row(15, "Q4_K_M", "q4_k_m", TensorType::Q4_K,   "4 bits, 6 where it matters most: the usual choice"),
    row(16, "Q5_K_S", "q5_k_s", TensorType::Q5_K,   "5 bits"),
    row(17, "Q5_K_M", "q5_k_m", TensorType::Q5_K,   "5 bits, 6 where it matters most"),
    row(18, "Q6_K",   "q6_k",   TensorType::Q6_K,   "6 bits"),
    row(21, "Q2_K_S", "q2_k_s", TensorType::Q2_K,   "2 bits; needs an importance matrix"),
    row(25, "IQ4_NL", "iq4_nl", TensorType::IQ4_NL, "4 bits on a curve, blocks of 32"),
    row(30, "IQ4_XS", "iq4_xs", TensorType::IQ4_XS, "4 bits on a curve, blocks of 256"),
    row(32, "BF16",   "bf16",   TensorType::BF16,   "bfloat16"),
];

/// Other names of llama-quantize for some of them.
const ALIASES: &[(&str, FileType)] =
    &[("q3_k", FileType::Q3_K_M), ("q4_k", FileType::Q4_K_M), ("q5_k", FileType::Q5_K_M)];

#[allow(missing_docs, reason = "the names are llama.cpp's; the table above says what they are")]
impl FileType {
    pub const F32: Self = Self(&TABLE[0]);
    pub const F16: Self = Self(&TABLE[1]);
    pub const Q4_0: Self = Self(&TABLE[2]);
    pub const Q4_1: Self = Self(&TABLE[3]);
    pub const Q8_0: Self = Self(&TABLE[4]);
    pub const Q5_0: Self = Self(&TABLE[5]);
    pub const Q5_1: Self = Self(&TABLE[6]);
    pub const Q2_K: Self = Self(&TABLE[7]);
    pub const Q3_K_S: Self = Self(&TABLE[8]);
    pub const Q3_K_M: Self = Self(&TABLE[9]);
    pub const Q3_K_L: Self = Self(&TABLE[10]);
    pub const Q4_K_S: Self = Self(&TABLE[11]);
    pub const Q4_K_M: Self = Self(&TABLE[12]);
    pub const Q5_K_S: Self = Self(&TABLE[13]);
    pub const Q5_K_M: Self = Self(&TABLE[14]);
    pub const Q6_K: Self = Self(&TABLE[15]);
    pub const Q2_K_S: Self = Self(&TABLE[16]);
    pub const IQ4_NL: Self = Self(&TABLE[17]);
    pub const IQ4_XS: Self = Self(&TABLE[18]);
    pub const BF16: Self = Self(&TABLE[19]);
}

impl FileType {
    /// Iterates over all of them, by number.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(Self)
    }

    /// Finds one by its name or another that llama-quantize takes, in either case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let same = |other: &str| other.eq_ignore_ascii_case(name);
        let alias = ALIASES.iter().find(|(alias, _)| same(alias)).map(|(_, file_type)| *file_type);
        Self::all().find(|file_type| same(file_type.name())).or(alias)
    }

    /// Returns the other names that [`FileType::from_name`] takes for this one.
    pub fn aliases(self) -> impl Iterator<Item = &'static str> {
        ALIASES.iter().filter(move |(_, file_type)| *file_type == self).map(|(alias, _)| *alias)
    }

    /// Returns the number under `general.file_type`.
    #[must_use]
    pub fn id(self) -> u32 {
        self.0.id
    }

    /// Returns the name, as it stands in file names: `Q4_K_M`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// Returns the name, as command lines take it: `q4_k_m`.
    #[must_use]
    pub fn word(self) -> &'static str {
        self.0.word
    }

    /// Returns the type of the matrices that no rule of the mixture names.
    #[must_use]
    pub fn base(self) -> TensorType {
        self.0.base
    }

    /// Returns what it is, for a list of choices.
    #[must_use]
    pub fn about(self) -> &'static str {
        self.0.about
    }
}

#[cfg(test)]
mod tests {
    use super::{FileType, TABLE};

    #[test]
    fn named_constants_are_the_rows_they_name() {
        for (constant, name, id) in [
            (FileType::F32, "F32", 0),
            (FileType::F16, "F16", 1),
            (FileType::Q4_0, "Q4_0", 2),
            (FileType::Q4_1, "Q4_1", 3),
            (FileType::Q8_0, "Q8_0", 7),
            (FileType::Q5_0, "Q5_0", 8),
            (FileType::Q5_1, "Q5_1", 9),
            (FileType::Q2_K, "Q2_K", 10),
            (FileType::Q3_K_S, "Q3_K_S", 11),
            (FileType::Q3_K_M, "Q3_K_M", 12),
            (FileType::Q3_K_L, "Q3_K_L", 13),
            (FileType::Q4_K_S, "Q4_K_S", 14),
            (FileType::Q4_K_M, "Q4_K_M", 15),
            (FileType::Q5_K_S, "Q5_K_S", 16),
            (FileType::Q5_K_M, "Q5_K_M", 17),
            (FileType::Q6_K, "Q6_K", 18),
            (FileType::Q2_K_S, "Q2_K_S", 21),
            (FileType::IQ4_NL, "IQ4_NL", 25),
            (FileType::IQ4_XS, "IQ4_XS", 30),
            (FileType::BF16, "BF16", 32),
        ] {
            assert_eq!((constant.name(), constant.id()), (name, id));
            assert_eq!(constant.word(), name.to_lowercase());
        }
        assert!(TABLE.windows(2).all(|pair| pair[0].id < pair[1].id));
        assert_eq!(TABLE.len(), 20);
    }

    #[test]
    fn names_are_read_in_either_case() {
        assert_eq!(FileType::from_name("q4_k_m"), Some(FileType::Q4_K_M));
        assert_eq!(FileType::from_name("Q4_K"), Some(FileType::Q4_K_M));
        assert_eq!(FileType::from_name("iq2_xxs"), None);
        assert_eq!(FileType::Q5_K_M.aliases().collect::<Vec<_>>(), ["q5_k"]);
        // A file type's name begins with that of its matrices.
        assert!(FileType::all().all(|t| t.name().starts_with(t.base().name())));
    }
}
