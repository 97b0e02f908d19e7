//! Which type each matrix of a quantised file gets, as `llama-quantize` chooses it.
//!
//! A table of rules, and the two counters that some of them ask for: the choice for a matrix
//! depends on how many of its class came before it in the order of the file. Source: llama.cpp
//! at 0c1e57098, `src/llama-quant.cpp`, for dense models of the architectures known here.

use super::choices::{Choices, Head, Mix};
use crate::arch::QuantClass;
use crate::gguf::{FileType, TensorType};

use QuantClass::{AttnOutput, AttnV, FfnDown};

/// When a rule holds. `i` counts the matrices of the class, `n` is how many there are of values,
/// or the blocks of the model for the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Always,
    /// `i` is below this.
    Below(u64),
    /// `i` is below `n` divided by this.
    FirstOf(u64),
    /// As [`When::FirstOf`], without an importance matrix.
    FirstOfWithout(u64),
    /// As [`When::FirstOf`], with an importance matrix.
    FirstOfWith(u64),
    /// The first and the last eighth, and every third between them.
    MoreBits,
    /// Four query heads or more share a key and value head.
    Grouped,
}

use When::{Always, Below, FirstOf, FirstOfWith, FirstOfWithout, Grouped, MoreBits};

/// The file types that a rule is about, the class, the condition, and what the matrix then is.
type Rule = (&'static [FileType], QuantClass, When, TensorType);

/// The first rule that holds decides; the file type's own type if there is none.
#[rustfmt::skip]
const RULES: &[Rule] = &[
    (&[FileType::Q2_K],                     AttnV,      Grouped,           TensorType::Q4_K),
    (&[FileType::Q2_K],                     AttnV,      Always,            TensorType::Q3_K),
    (&[FileType::Q2_K_S],                   AttnV,      Grouped,           TensorType::Q4_K),
    (&[FileType::Q3_K_M],                   AttnV,      Below(2),          TensorType::Q5_K),
    (&[FileType::Q3_K_M],                   AttnV,      Always,            TensorType::Q4_K),
    (&[FileType::Q3_K_L],                   AttnV,      Always,            TensorType::Q5_K),
    (&[FileType::Q4_K_S],                   AttnV,      Below(4),          TensorType::Q5_K),
    (&[FileType::Q4_K_M, FileType::Q5_K_M], AttnV,      MoreBits,          TensorType::Q6_K),
    (&[FileType::IQ4_NL, FileType::IQ4_XS], AttnV,      Grouped,           TensorType::Q5_K),

    (&[FileType::Q2_K],                     AttnOutput, Always,            TensorType::Q3_K),
    (&[FileType::Q3_K_M],                   AttnOutput, Always,            TensorType::Q4_K),
    (&[FileType::Q3_K_L],                   AttnOutput, Always,            TensorType::Q5_K),

    (&[FileType::Q2_K],                     FfnDown,    Always,            TensorType::Q3_K),
    (&[FileType::Q2_K_S],                   FfnDown,    FirstOf(8),        TensorType::Q4_K),
    (&[FileType::Q3_K_M],                   FfnDown,    FirstOf(16),       TensorType::Q5_K),
    (&[FileType::Q3_K_M],                   FfnDown,    Always,            TensorType::Q4_K),
    (&[FileType::Q3_K_L],                   FfnDown,    Always,            TensorType::Q5_K),
    (&[FileType::Q4_K_S],                   FfnDown,    FirstOf(8),        TensorType::Q5_K),
    (&[FileType::Q4_K_M, FileType::Q5_K_M], FfnDown,    MoreBits,          TensorType::Q6_K),
    (&[FileType::IQ4_NL, FileType::IQ4_XS], FfnDown,    FirstOfWithout(8), TensorType::Q5_K),
    (&[FileType::Q4_0],                     FfnDown,    FirstOfWith(8),    TensorType::Q4_1),
    (&[FileType::Q5_0],                     FfnDown,    FirstOfWith(8),    TensorType::Q5_1),
];

/// What stands in for a type whose blocks do not fit a row's length.
#[rustfmt::skip]
const FALLBACKS: &[(TensorType, TensorType)] = &[
    (TensorType::Q2_K,   TensorType::Q4_0),
    (TensorType::Q3_K,   TensorType::Q4_0),
    (TensorType::Q4_K,   TensorType::Q5_0),
    (TensorType::Q5_K,   TensorType::Q5_1),
    (TensorType::Q6_K,   TensorType::Q8_0),
    (TensorType::IQ4_XS, TensorType::IQ4_NL),
];

/// Whether the head is the embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tie {
    /// The embedding is the head, and quantised as one.
    Tied,
    /// The head is a matrix of its own, or there is none.
    Untied,
}

/// Whether the file is made with an importance matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weighting {
    /// With one, whether or not it has an entry for every matrix.
    Imatrix,
    /// Without.
    None,
}

/// What the rules ask about a model as a whole.
#[derive(Debug, Clone, Copy)]
pub struct Model {
    /// `block_count`, MTP blocks among them; 0 for a vision tower.
    pub blocks: u64,
    /// How many matrices of class [`QuantClass::AttnV`] the file holds.
    pub attn_v: u64,
    /// Query heads a key and value head.
    pub group: u64,
    /// Whether the head is the embedding.
    pub tie: Tie,
    /// Whether there is an importance matrix.
    pub weighting: Weighting,
}

/// Chooses types for the matrices of a file, one after the other in the file's order.
#[derive(Debug)]
pub struct Chooser<'a> {
    file_type: FileType,
    choices: &'a Choices,
    model: Model,
    attn_v_seen: u64,
    ffn_down_seen: u64,
}

/// A type for a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// The type.
    pub tensor_type: TensorType,
    /// The type that was meant, where the rows are no whole number of its blocks.
    pub instead_of: Option<TensorType>,
}

impl<'a> Chooser<'a> {
    /// Makes one that has seen nothing yet.
    #[must_use]
    pub fn new(file_type: FileType, choices: &'a Choices, model: Model) -> Self {
        Self { file_type, choices, model, attn_v_seen: 0, ffn_down_seen: 0 }
    }

    /// Chooses the type of the next matrix; `None` for a head that is to be left as it is.
    pub fn choose(&mut self, name: &str, class: QuantClass, row_len: u64) -> Option<Choice> {
        if class == QuantClass::Output && self.choices.head == Head::Left {
            return None;
        }
        let meant = self.meant(name, class, row_len);
        let tensor_type = fitting(meant, row_len);
        let instead_of = (tensor_type != meant).then_some(meant);
        Some(Choice { tensor_type, instead_of })
    }

    fn meant(&mut self, name: &str, class: QuantClass, row_len: u64) -> TensorType {
        let named = match class {
            QuantClass::TokenEmbd => self.choices.token_embedding,
            QuantClass::Output => self.choices.output,
            _ => None,
        };
        let base = self.file_type.base();
        if let Some(named) = named.or_else(|| self.choices.of_name(name)) {
            return named;
        }
        // Neither a float nor a pure file has a mixture.
        if base.block_len() == 1 || self.choices.mix == Mix::Pure {
            return base;
        }
        match class {
            QuantClass::Output => head_type(base, row_len),
            QuantClass::TokenEmbd if self.model.tie == Tie::Tied => {
                self.choices.output.unwrap_or_else(|| head_type(base, row_len))
            }
            class => self.mixed(class).unwrap_or(base),
        }
    }

    /// Looks the rule up, and counts.
    fn mixed(&mut self, class: QuantClass) -> Option<TensorType> {
        let (i, n) = match class {
            AttnV => (self.attn_v_seen, self.model.attn_v),
            FfnDown => (self.ffn_down_seen, self.model.blocks),
            _ => (0, 0),
        };
        match class {
            AttnV => self.attn_v_seen += 1,
            FfnDown => self.ffn_down_seen += 1,
            _ => {}
        }
        let holds = |rule: &&Rule| {
            rule.0.contains(&self.file_type) && rule.1 == class && self.holds(rule.2, i, n)
        };
        RULES.iter().find(holds).map(|rule| rule.3)
    }

    fn holds(&self, when: When, i: u64, n: u64) -> bool {
        match when {
            Always => true,
            Below(limit) => i < limit,
            FirstOf(share) => i < n / share,
            FirstOfWithout(share) => self.model.weighting == Weighting::None && i < n / share,
            FirstOfWith(share) => self.model.weighting == Weighting::Imatrix && i < n / share,
            MoreBits => i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2,
            Grouped => self.model.group >= 4,
        }
    }
}

/// Returns the type of the head, which has more bits than the file's own.
fn head_type(base: TensorType, row_len: u64) -> TensorType {
    if base == TensorType::Q8_0 || !row_len.is_multiple_of(base.block_len()) {
        TensorType::Q8_0
    } else {
        TensorType::Q6_K
    }
}

/// Returns `meant`, or what stands in for it in rows of this length; F16 where nothing does.
fn fitting(meant: TensorType, row_len: u64) -> TensorType {
    let fits = |tensor_type: &TensorType| row_len.is_multiple_of(tensor_type.block_len());
    let fallback = FALLBACKS.iter().find(|row| row.0 == meant).map(|row| row.1);
    [Some(meant), fallback].into_iter().flatten().find(fits).unwrap_or(TensorType::F16)
}

#[cfg(test)]
mod tests {
    use super::{Chooser, Model, RULES, Tie, Weighting, fitting};
    use crate::arch::QuantClass;
    use crate::gguf::{FileType, TensorType};
    use crate::ops::export_gguf::choices::{Choices, Head, Mix};

    const MODEL: Model =
        Model { blocks: 24, attn_v: 24, group: 4, tie: Tie::Untied, weighting: Weighting::None };

    fn types(
        file_type: FileType,
        choices: &Choices,
        model: Model,
        class: QuantClass,
    ) -> Vec<String> {
        let mut chooser = Chooser::new(file_type, choices, model);
        let choose = |i| chooser.choose(&format!("blk.{i}.x.weight"), class, 512);
        (0..model.blocks)
            .map(choose)
            .map(|choice| choice.expect("not left").tensor_type.name().to_owned())
            .collect()
    }

    /// Where, among 24, the mixture leaves the base type.
    fn places(file_type: FileType, class: QuantClass, model: Model) -> Vec<usize> {
        let types = types(file_type, &Choices::default(), model, class);
        let base = file_type.base().name();
        types.iter().enumerate().filter(|(_, t)| *t != base).map(|(i, _)| i).collect()
    }

    #[test]
    fn counters_decide_where_more_bits_go() {
        let more = [0, 1, 2, 5, 8, 11, 14, 17, 20, 21, 22, 23];
        assert_eq!(places(FileType::Q4_K_M, QuantClass::FfnDown, MODEL), more);
        assert_eq!(places(FileType::Q4_K_M, QuantClass::AttnV, MODEL), more);
        assert_eq!(places(FileType::Q4_K_S, QuantClass::FfnDown, MODEL), [0, 1, 2]);
        assert_eq!(places(FileType::Q4_K_S, QuantClass::AttnV, MODEL), [0, 1, 2, 3]);
        assert!(places(FileType::Q4_K_M, QuantClass::AttnOutput, MODEL).is_empty());
        assert!(places(FileType::Q5_K_S, QuantClass::AttnV, MODEL).is_empty());
    }

    #[test]
    fn an_importance_matrix_changes_types() {
        let with = Model { weighting: Weighting::Imatrix, ..MODEL };
        for (file_type, without, with_one) in [
            (FileType::IQ4_XS, 3, 0),
            (FileType::IQ4_NL, 3, 0),
            (FileType::Q4_0, 0, 3),
            (FileType::Q5_0, 0, 3),
            (FileType::Q4_K_S, 3, 3),
        ] {
            assert_eq!(places(file_type, QuantClass::FfnDown, MODEL).len(), without);
            assert_eq!(places(file_type, QuantClass::FfnDown, with).len(), with_one);
        }
    }

    #[test]
    fn what_is_named_does_not_count() {
        let choices = Choices {
            tensor_types: vec!["blk.0.=q8_0".parse().expect("parses")],
            ..Choices::default()
        };
        let got = types(FileType::Q4_K_S, &choices, MODEL, QuantClass::AttnV);
        assert_eq!(got[..6], ["Q8_0", "Q5_K", "Q5_K", "Q5_K", "Q5_K", "Q4_K"]);
    }

    #[test]
    fn the_head_and_what_overrides_it() {
        let mut choices = Choices::default();
        let choose = |choices: &Choices, file_type, class, tie, row_len| {
            let mut chooser = Chooser::new(file_type, choices, Model { tie, ..MODEL });
            chooser.choose("x", class, row_len).map(|choice| choice.tensor_type.name())
        };
        let (head, embedding) = (QuantClass::Output, QuantClass::TokenEmbd);
        let q4 = FileType::Q4_K_M;
        assert_eq!(choose(&choices, q4, head, Tie::Untied, 512), Some("Q6_K"));
        assert_eq!(choose(&choices, q4, head, Tie::Untied, 96), Some("Q8_0"));
        assert_eq!(choose(&choices, FileType::Q4_0, head, Tie::Untied, 96), Some("Q8_0"));
        assert_eq!(choose(&choices, FileType::Q4_0, head, Tie::Untied, 48), Some("F16"));
        assert_eq!(choose(&choices, FileType::Q8_0, head, Tie::Untied, 512), Some("Q8_0"));
        assert_eq!(choose(&choices, q4, embedding, Tie::Untied, 512), Some("Q4_K"));
        assert_eq!(choose(&choices, q4, embedding, Tie::Tied, 512), Some("Q6_K"));
        choices.output = Some(TensorType::Q5_K);
        assert_eq!(choose(&choices, q4, embedding, Tie::Tied, 512), Some("Q5_K"));
        assert_eq!(choose(&choices, q4, head, Tie::Untied, 512), Some("Q5_K"));
        choices.token_embedding = Some(TensorType::BF16);
        assert_eq!(choose(&choices, q4, embedding, Tie::Tied, 512), Some("BF16"));
        choices.mix = Mix::Pure;
        choices.head = Head::Left;
        assert_eq!(choose(&choices, q4, head, Tie::Untied, 512), None);
        assert_eq!(choose(&choices, q4, QuantClass::FfnDown, Tie::Tied, 512), Some("Q4_K"));
    }

    #[test]
    fn every_type_has_something_for_every_row() {
        for (file_type, of_96, of_48) in [
            (FileType::Q2_K, "Q4_0", "F16"),
            (FileType::Q3_K_L, "Q4_0", "F16"),
            (FileType::Q4_K_M, "Q5_0", "F16"),
            (FileType::Q5_K_M, "Q5_1", "F16"),
            (FileType::Q6_K, "Q8_0", "F16"),
            (FileType::IQ4_XS, "IQ4_NL", "F16"),
            (FileType::IQ4_NL, "IQ4_NL", "F16"),
            (FileType::Q8_0, "Q8_0", "F16"),
            (FileType::BF16, "BF16", "BF16"),
        ] {
            assert_eq!(fitting(file_type.base(), 96).name(), of_96);
            assert_eq!(fitting(file_type.base(), 48).name(), of_48);
            assert_eq!(fitting(file_type.base(), 512), file_type.base());
        }
    }

    #[test]
    fn no_rule_is_dead() {
        for (k, rule) in RULES.iter().enumerate() {
            let always_before = RULES[..k].iter().any(|before| {
                before.1 == rule.1
                    && before.2 == super::Always
                    && rule.0.iter().all(|file_type| before.0.contains(file_type))
            });
            assert!(!always_before, "rule {k} is never reached");
        }
    }
}
