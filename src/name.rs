//! Names that come out of files: shown only escaped, joined to paths only when checked.

use std::fmt;

/// The longest tensor name accepted, in bytes. Real ones are under 100.
pub const TENSOR_NAME_LEN_MAX: usize = 512;

/// A tensor's name as it stands in a file. Displays with control characters escaped.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TensorName(Box<str>);

/// Why a name was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum NameError {
    /// The name is empty.
    #[error("tensor name is empty")]
    Empty,
    /// The name is longer than [`TENSOR_NAME_LEN_MAX`].
    #[error("tensor name of {0} bytes is longer than {TENSOR_NAME_LEN_MAX}")]
    TooLong(usize),
    /// The name has something that no tensor name has and some terminal or path obeys.
    #[error("tensor name `{name}` has {what}")]
    Unsafe {
        /// The name, escaped.
        name: String,
        /// What it has.
        what: &'static str,
    },
}

impl TensorName {
    /// Checks a name read from a file.
    ///
    /// # Errors
    /// Empty, over [`TENSOR_NAME_LEN_MAX`] bytes, or with control characters, slashes or `..`.
    pub fn new(name: &str) -> Result<Self, NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > TENSOR_NAME_LEN_MAX {
            return Err(NameError::TooLong(name.len()));
        }
        match unsafe_part(name) {
            Some(what) => Err(NameError::Unsafe { name: escape(name), what }),
            None => Ok(Self(name.into())),
        }
    }

    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TensorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(&self.0))
    }
}

impl fmt::Debug for TensorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl std::borrow::Borrow<str> for TensorName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Says what is in a name that some terminal or path would obey.
fn unsafe_part(name: &str) -> Option<&'static str> {
    let parts: [(&str, bool); 5] = [
        ("a control character", name.chars().any(char::is_control)),
        ("a character that turns the direction of text", name.chars().any(is_bidi_control)),
        ("a slash", name.contains('/')),
        ("a backslash", name.contains('\\')),
        ("`..`", name.contains("..")),
    ];
    parts.into_iter().find_map(|(what, there)| there.then_some(what))
}

/// Escapes control and direction-changing characters, so that foreign text cannot drive a
/// terminal.
#[must_use]
pub fn escape(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let bad = c.is_control() || is_bidi_control(c);
            let escaped = bad.then(|| c.escape_unicode());
            let plain = (!bad).then_some(c);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}

/// Escapes `text` and cuts it after 60 characters.
#[must_use]
pub fn shorten(text: &str) -> String {
    let text = escape(text);
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

/// Most names that [`few`] spells out.
const FEW: usize = 10;

/// Joins names, escaped, on one line of bounded length: `a, b and 3 more`.
#[must_use]
pub fn few(names: &[impl AsRef<str>]) -> String {
    let shown: Vec<String> = names.iter().take(FEW).map(|name| escape(name.as_ref())).collect();
    match names.len().saturating_sub(FEW) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

fn is_bidi_control(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Says whether a file name from an index, a tree or an archive may be joined to a folder:
/// relative, no `..`, no empty or hidden-by-dot-dot part, no backslash, no control character.
#[must_use]
pub fn is_safe_relative_path(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= 1024
        && !path.starts_with('/')
        && !path.contains('\\')
        && !path.chars().any(char::is_control)
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

/// Returns the candidate nearest to `wanted`, if one is near enough to be a slip of the hand.
/// One that only looks the same is nearer than all others: a letter O typed for a zero.
#[must_use]
pub fn suggest<'a>(wanted: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| {
            let alike = looks(candidate) == looks(wanted);
            (if alike { 2.0 } else { strsim::jaro(wanted, candidate) }, candidate)
        })
        .filter(|(score, _)| *score > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(a.1)))
        .map(|(_, candidate)| candidate)
}

/// Writes characters that look alike in the same way.
fn looks(name: &str) -> String {
    let same = |c: char| match c {
        'o' | 'O' => '0',
        'l' | 'I' | 'i' => '1',
        '-' => '_',
        other => other.to_ascii_lowercase(),
    };
    name.chars().map(same).collect()
}

#[cfg(test)]
mod tests {
    use super::{NameError, TensorName, escape, few, is_safe_relative_path, shorten, suggest};

    #[test]
    fn hostile_names_are_refused() {
        assert!(TensorName::new("model.layers.0.mlp.up_proj.weight").is_ok());
        assert_eq!(TensorName::new(""), Err(NameError::Empty));
        for bad in ["../../x", "a\u{1b}[2J", "a/b", "a\u{202e}b", "a\nb"] {
            assert!(TensorName::new(bad).is_err(), "{bad:?}");
        }
        assert!(TensorName::new(&"x".repeat(513)).is_err());
    }

    #[test]
    fn escaping_leaves_plain_text_alone() {
        assert_eq!(escape("käse"), "käse");
        assert_eq!(escape("a\u{1b}b"), "a\\u{1b}b");
    }

    #[test]
    fn long_lists_and_texts_are_cut() {
        let names: Vec<String> = (0..12).map(|n| n.to_string()).collect();
        assert_eq!(few(&names[..2]), "0, 1");
        assert_eq!(few(&names), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more");
        assert_eq!(shorten(&"x".repeat(5000)).chars().count(), 61);
    }

    #[test]
    fn paths_stay_inside() {
        for good in ["model.safetensors", "tests/test.sh", "a..b"] {
            assert!(is_safe_relative_path(good), "{good}");
        }
        for bad in ["", "/etc", "../x", "a/../b", "a//b", "a\\b", "./a", "a\0"] {
            assert!(!is_safe_relative_path(bad), "{bad:?}");
        }
    }

    #[test]
    fn suggestions_need_nearness() {
        assert_eq!(suggest("step_35O", ["step_100", "step_350"]), Some("step_350"));
        assert_eq!(suggest("step_35O", ["step_35", "step_300", "step_350"]), Some("step_350"));
        assert_eq!(suggest("step-l00", ["step_200", "step_100"]), Some("step_100"));
        assert_eq!(suggest("banana", ["step_100"]), None);
    }
}
