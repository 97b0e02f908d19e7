//! What a model's identifier says about it: name, base name, size, fine-tune, version.
//!
//! llama.cpp's converter reads these out of `org/Name-7B-Instruct-v0.2` by rules of thumb, and
//! writes them as metadata and into the file name. The same rules here, since the same
//! checkpoint must get the same keys. Source: gguf-py 0.19.0, `metadata.py`.

use std::sync::LazyLock;

use regex::Regex;

/// What a part of the name, between two dashes, was taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Basename,
    SizeLabel,
    Finetune,
    Version,
    FileType,
}

#[derive(Debug)]
struct Part {
    text: String,
    roles: Vec<Role>,
}

impl Part {
    fn is(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }
}

/// The components of an identifier.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// The name without its organization, as written.
    pub name: Option<String>,
    /// What stood before the slash.
    pub organization: Option<String>,
    /// The family: `Qwen3.5`.
    pub basename: Option<String>,
    /// Fine-tune words, joined by dashes.
    pub finetune: Option<String>,
    /// Versions, joined by dashes.
    pub version: Option<String>,
    /// Size labels, joined by dashes.
    pub size_label: Option<String>,
}

fn pattern(text: &str) -> Regex {
    Regex::new(&format!("(?i)^(?:{text})$")).expect("a fixed pattern compiles")
}

static VERSION: LazyLock<Regex> = LazyLock::new(|| pattern(r"(v|iter)?\d+([.]\d+)*"));
static FILE_TYPE: LazyLock<Regex> = LazyLock::new(|| pattern(r"i?q\d(_\w)*|b?fp?(16|32)"));
static SIZE: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"(([A]|\d+[x])?\d+([._]\d+)?[KMBT][\d]?|small|mini|medium|large|x?xl)")
});
static FINETUNE: LazyLock<Regex> = LazyLock::new(|| pattern("chat|instruct|vision|lora"));
static LEFT_ALONE: LazyLock<Regex> = LazyLock::new(|| pattern(r"v\d+(?:\.\d+)*|\d.*"));

impl Identity {
    /// Reads an identifier of a model with `total_params` parameters.
    ///
    /// A size in the name counts only when it is near the real one: `128k` is a context length.
    #[must_use]
    pub fn parse(id: &str, total_params: u64) -> Self {
        if id.contains(' ') {
            return Self { name: Some(id.to_owned()), ..Self::default() };
        }
        let (organization, name) = match id.split_once('/') {
            Some((org, name)) => (Some(org).filter(|org| !org.starts_with('.')), name),
            None => (None, id),
        };
        let mut parts: Vec<Part> = name
            .split('-')
            .filter(|text| !text.is_empty())
            .enumerate()
            .map(|(i, text)| annotate(i, text, total_params))
            .collect();
        drop_word_sizes(&mut parts);
        mark_basename(&mut parts);
        Self::assemble(name, organization, &parts)
    }

    fn assemble(name: &str, organization: Option<&str>, parts: &[Part]) -> Self {
        let join = |keep: &dyn Fn(&Part) -> bool| {
            let texts: Vec<&str> =
                parts.iter().filter(|p| keep(p)).map(|p| p.text.as_str()).collect();
            (!texts.is_empty()).then(|| texts.join("-"))
        };
        let mut sizes: Vec<&str> = Vec::new();
        for part in parts.iter().filter(|p| p.is(Role::SizeLabel)) {
            if !sizes.contains(&part.text.as_str()) {
                sizes.push(&part.text);
            }
        }
        let size_label = (!sizes.is_empty()).then(|| sizes.join("-"));
        let finetune = join(&|p| p.is(Role::Finetune));
        let version = join(&|p| p.is(Role::Version) && !p.is(Role::Basename));
        let telling = size_label.is_some() || finetune.is_some() || version.is_some();
        Self {
            name: Some(name.to_owned()),
            organization: organization.map(str::to_owned),
            basename: join(&|p| p.is(Role::Basename)).filter(|_| telling),
            finetune,
            version,
            size_label,
        }
    }
}

fn annotate(index: usize, text: &str, total_params: u64) -> Part {
    let part = |text: String, role| Part { text, roles: Vec::from_iter(role) };
    if VERSION.is_match(text) {
        part(text.to_owned(), Some(Role::Version))
    } else if FILE_TYPE.is_match(text) {
        part(text.to_uppercase(), Some(Role::FileType))
    } else if index > 0 && SIZE.is_match(text) {
        size_part(text, total_params)
    } else if index > 0 && FINETUNE.is_match(text) {
        part(text.to_owned(), Some(Role::Finetune))
    } else {
        part(text.to_owned(), None)
    }
}

/// Reads `7B`, `0_5b`, `8x22B`, `7b1`; what is far from the real size becomes a fine-tune word.
fn size_part(text: &str, total_params: u64) -> Part {
    let mut chars: Vec<char> = text.replace('_', ".").chars().collect();
    let mut last = chars.len() - 1;
    if chars[last].is_ascii_digit() && last >= 1 {
        // `7b1` means 7.1B.
        chars.splice(last - 1.., ['.', chars[last], chars[last - 1]]);
        last = chars.len() - 1;
    }
    if last >= 1 && chars[last - 1].is_ascii_digit() && "kmbt".contains(chars[last]) {
        chars[last] = chars[last].to_ascii_uppercase();
    }
    let number: String = chars[..last].iter().collect();
    let exponent = "KMBT".find(chars[last]).map(|at| at as i32 + 1);
    let far = match (total_params, number.parse::<f64>()) {
        (0, _) | (_, Err(_)) => false,
        (total, Ok(number)) => {
            // A letter that is no unit counts as a thousandth: no size is near that.
            let label = number * 1000_f64.powi(exponent.unwrap_or(-1));
            (label - total as f64).abs() > (7 * total / 8) as f64
        }
    };
    if far {
        chars[last] = chars[last].to_ascii_lowercase();
    }
    let role = if far { Role::Finetune } else { Role::SizeLabel };
    Part { text: chars.into_iter().collect(), roles: vec![role] }
}

/// Words such as `small` are no sizes when a number is there too.
fn drop_word_sizes(parts: &mut [Part]) {
    let numbered =
        parts.iter().any(|p| p.is(Role::SizeLabel) && p.text.chars().any(|c| c.is_ascii_digit()));
    if numbered {
        for part in parts.iter_mut().filter(|p| p.text.chars().all(char::is_alphabetic)) {
            part.roles.retain(|role| *role != Role::SizeLabel);
        }
    }
}

/// Marks the leading words as base name; what is left without a role is a fine-tune word.
fn mark_basename(parts: &mut [Part]) {
    let mut at_start = true;
    for part in parts.iter_mut() {
        let word = part.roles.is_empty() && part.text.starts_with(char::is_alphabetic);
        if at_start && (word || part.is(Role::Version)) {
            part.roles.push(Role::Basename);
        } else {
            at_start = false;
            if part.roles.is_empty() {
                part.roles.push(Role::Finetune);
            }
        }
    }
    // A version at the very end is a version, not the name.
    for part in parts.iter_mut().rev() {
        if !(part.is(Role::Basename) && part.roles.len() > 1) {
            break;
        }
        part.roles.retain(|role| *role != Role::Basename);
    }
}

/// Makes a title of an identifier: dashes become blanks, lower-case words get a capital, save
/// versions and what starts with a digit.
#[must_use]
pub fn title(id: &str) -> String {
    let spaced = id.replace('-', " ");
    let words = spaced.split_whitespace().map(|word| {
        let lower = word.chars().any(char::is_lowercase) && !word.chars().any(char::is_uppercase);
        if lower && !LEFT_ALONE.is_match(word) { capitalise(word) } else { word.to_owned() }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Capitalises every letter that does not follow a letter: `qwen3.5b` becomes `Qwen3.5B`.
fn capitalise(word: &str) -> String {
    let mut out = String::with_capacity(word.len());
    let mut after_letter = false;
    for c in word.chars() {
        if after_letter {
            out.push(c);
        } else {
            out.extend(c.to_uppercase());
        }
        after_letter = c.is_alphabetic();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{Identity, title};

    fn row(id: &str, total: u64) -> [Option<String>; 6] {
        let i = Identity::parse(id, total);
        [i.name, i.organization, i.basename, i.finetune, i.version, i.size_label]
    }

    fn expected(fields: [&str; 6]) -> [Option<String>; 6] {
        fields.map(|f| (!f.is_empty()).then(|| f.to_owned()))
    }

    /// Expected values: gguf-py 0.19.0, `Metadata.get_model_id_components`.
    #[test]
    fn identifiers_are_read_as_the_converter_reads_them() {
        for (id, total, fields) in [
            ("Qwen3.5-Tiny-VL", 15000000, ["Qwen3.5-Tiny-VL", "", "", "", "", ""]),
            ("Qwen3-Tiny", 15000000, ["Qwen3-Tiny", "", "", "", "", ""]),
            ("allenai/tmax-2b", 1942000000, ["tmax-2b", "allenai", "tmax", "", "", "2B"]),
            (
                "Qwen/Qwen3.5-2B-Base",
                1942000000,
                ["Qwen3.5-2B-Base", "Qwen", "Qwen3.5", "Base", "", "2B"],
            ),
            ("tmax-9b-step-100", 9409813744, ["tmax-9b-step-100", "", "tmax", "step", "100", "9B"]),
            ("step_100", 1942000000, ["step_100", "", "", "", "", ""]),
            ("step-100", 1942000000, ["step-100", "", "step", "", "100", ""]),
            ("Qwen3-8B", 8190735360, ["Qwen3-8B", "", "Qwen3", "", "", "8B"]),
            (
                "Mistral-7B-Instruct-v0.2",
                7241732096,
                ["Mistral-7B-Instruct-v0.2", "", "Mistral", "Instruct", "v0.2", "7B"],
            ),
            (
                "Phi-3-mini-128k-instruct",
                3821079552,
                ["Phi-3-mini-128k-instruct", "", "Phi-3", "128k-instruct", "", "mini"],
            ),
            ("bloom-7b1", 7069016064, ["bloom-7b1", "", "bloom", "", "", "7.1B"]),
            (
                "Mixtral-8x7B-v0.1",
                46702792704,
                ["Mixtral-8x7B-v0.1", "", "Mixtral", "", "v0.1", "8x7B"],
            ),
            ("./local-7B", 7000000000, ["local-7B", "", "local", "", "", "7B"]),
            ("my model", 5, ["my model", "", "", "", "", ""]),
            (
                "Llama-3.1-Nemotron-70B-Instruct-HF",
                70553706496,
                [
                    "Llama-3.1-Nemotron-70B-Instruct-HF",
                    "",
                    "Llama-3.1-Nemotron",
                    "Instruct-HF",
                    "",
                    "70B",
                ],
            ),
            ("x-small-3b", 3000000000, ["x-small-3b", "", "x-small", "", "", "3B"]),
            ("Q8_0-bf16-foo", 100, ["Q8_0-bf16-foo", "", "", "foo", "", ""]),
            ("1cce58a2aa", 5, ["1cce58a2aa", "", "", "1cce58a2aa", "", ""]),
            ("v2", 5, ["v2", "", "", "", "v2", ""]),
            ("gpt-2-xl", 1600000000, ["gpt-2-xl", "", "gpt-2", "", "", "xl"]),
            ("a--b", 0, ["a--b", "", "", "", "", ""]),
            ("model-0_5b", 500000000, ["model-0_5b", "", "model", "", "", "0.5B"]),
            ("model-A3B-30B", 30000000000, ["model-A3B-30B", "", "model", "", "", "A3B-30B"]),
            ("Qwen3-30B-A3B", 30000000000, ["Qwen3-30B-A3B", "", "Qwen3", "", "", "30B-A3B"]),
            (
                "qwen3.5-tmax-rl-2b-step_200",
                1942000000,
                ["qwen3.5-tmax-rl-2b-step_200", "", "qwen3.5-tmax-rl", "step_200", "", "2B"],
            ),
            ("model-2B-2b", 2000000000, ["model-2B-2b", "", "model", "", "", "2B"]),
            ("hidden-size-512K", 2000000, ["hidden-size-512K", "", "hidden-size", "", "", "512K"]),
        ] {
            assert_eq!(row(id, total), expected(fields), "{id}");
        }
    }

    #[test]
    fn titles() {
        for (id, expected) in [
            ("tmax-2b", "Tmax 2b"),
            ("Qwen3.5-2B", "Qwen3.5 2B"),
            ("qwen3.5-base", "Qwen3.5 Base"),
            ("a_b-v1.5-x3y", "A_B v1.5 X3Y"),
            ("v2-foo", "v2 Foo"),
            ("step_100", "Step_100"),
            ("1cce58a", "1cce58a"),
            ("o'neil-d'x", "O'Neil D'X"),
            ("Ünï-éa", "Ünï Éa"),
        ] {
            assert_eq!(title(id), expected);
        }
    }
}
