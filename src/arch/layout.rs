//! Where the same tensor stands under different names: the namespaces seen in the wild.
//!
//! Inside the program a tensor has its canonical name (`model.`, `lm_head.`, `mtp.`,
//! `model.visual.`), which the tables use. This file maps stored names to it and back.
//! Sources: transformers 5.3.0 to 5.10.4 saves, vLLM 0.19.1 `qwen3_vl.py`.

/// How a file names its text tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Namespace {
    /// `model.language_model.*`: what the Hub holds and vLLM 0.19.1 serves.
    Composite,
    /// `language_model.model.*`: vLLM's own inner names.
    Inner,
    /// `model.*`: a text-only model.
    Text,
    /// `model.language_model.language_model.language_model.*`: a defect of transformers 5.4.0.
    Nested,
}

/// Stored prefix, canonical prefix, and the namespace that it betrays. Longer prefixes first.
const PREFIXES: &[(&str, &str, Option<Namespace>)] = &[
    ("model.language_model.visual.", "model.visual.", None),
    ("model.visual.", "model.visual.", None),
    ("visual.", "model.visual.", None),
    ("model.language_model.language_model.language_model.", "model.", Some(Namespace::Nested)),
    ("model.language_model.lm_head.", "lm_head.", None),
    ("model.language_model.", "model.", Some(Namespace::Composite)),
    ("language_model.model.", "model.", Some(Namespace::Inner)),
    ("language_model.lm_head.", "lm_head.", None),
    ("model.", "model.", Some(Namespace::Text)),
];

/// Returns the canonical form of a stored name, and the namespace if the name shows one.
///
/// A name under no known prefix is returned as it is: the tables decide whether it is known.
#[must_use]
pub fn canonical(stored: &str) -> (String, Option<Namespace>) {
    for (prefix, replacement, namespace) in PREFIXES {
        if let Some(rest) = stored.strip_prefix(prefix) {
            return (format!("{replacement}{rest}"), *namespace);
        }
    }
    (stored.to_owned(), None)
}

impl Namespace {
    /// Returns the name under which `canonical` stands in this namespace.
    #[must_use]
    pub fn stored(self, canonical: &str) -> String {
        if canonical.starts_with("model.visual.") || canonical.starts_with("mtp.") {
            return canonical.to_owned();
        }
        match (self, canonical.strip_prefix("model.")) {
            (Self::Text, _) => canonical.to_owned(),
            (Self::Composite, Some(rest)) => format!("model.language_model.{rest}"),
            (Self::Nested, Some(rest)) => {
                format!("model.language_model.language_model.language_model.{rest}")
            }
            (Self::Inner, Some(rest)) => format!("language_model.model.{rest}"),
            (Self::Inner, None) => format!("language_model.{canonical}"),
            (Self::Composite | Self::Nested, None) => canonical.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Namespace, canonical};

    #[test]
    fn every_layout_seen_in_the_wild_is_understood() {
        let norm = "model.norm.weight";
        for (stored, expected, namespace) in [
            ("model.language_model.norm.weight", norm, Some(Namespace::Composite)),
            ("language_model.model.norm.weight", norm, Some(Namespace::Inner)),
            ("model.norm.weight", norm, Some(Namespace::Text)),
            (
                "model.language_model.language_model.language_model.norm.weight",
                norm,
                Some(Namespace::Nested),
            ),
            ("language_model.lm_head.weight", "lm_head.weight", None),
            ("lm_head.weight", "lm_head.weight", None),
            ("mtp.fc.weight", "mtp.fc.weight", None),
            ("visual.pos_embed.weight", "model.visual.pos_embed.weight", None),
            ("model.visual.pos_embed.weight", "model.visual.pos_embed.weight", None),
            ("model.language_model.visual.pos_embed.weight", "model.visual.pos_embed.weight", None),
        ] {
            assert_eq!(canonical(stored), (expected.to_owned(), namespace), "{stored}");
        }
    }

    #[test]
    fn stored_names_come_back() {
        for namespace in
            [Namespace::Composite, Namespace::Inner, Namespace::Text, Namespace::Nested]
        {
            for name in ["model.norm.weight", "lm_head.weight", "mtp.fc.weight"] {
                assert_eq!(canonical(&namespace.stored(name)).0, name, "{namespace:?}");
            }
        }
    }
}
