//! Revisions as users name several at once: lists, globs over the branches, numeric ranges.
//!
//! - `step_100,step_200`: each must exist.
//! - `step_*`: the branches and tags that match, at least one.
//! - `step_{100..400..50}`: 100, 150, … 400; each must exist.
//! - `step_{100..400}`: the branches whose number lies between, at least one.

use super::error::{Error, Result};
use super::steps::natural_key;
use crate::name::{escape, suggest};

/// More names than a range may stand for.
const RANGE_MAX: u64 = 10_000;

/// A part of a revision list.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Item {
    Name(String),
    Glob(String),
    Between { before: String, low: u64, high: u64, after: String },
}

/// A revision argument, read but not yet held against what exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    items: Vec<Item>,
}

impl Pattern {
    /// Reads a revision argument.
    ///
    /// # Errors
    /// [`Error::BadPattern`].
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |why: &str| Error::BadPattern { pattern: escape(text), why: why.to_owned() };
        let mut items = Vec::new();
        for part in split_list(text) {
            if part.is_empty() {
                return Err(bad("a name is empty"));
            }
            if part.chars().any(char::is_control) || part.contains("..") && !part.contains('{') {
                return Err(bad("no branch can have this name"));
            }
            items.extend(parse_item(part).map_err(|why| bad(&why))?);
        }
        Ok(Self { items })
    }

    /// Returns the one name that this is, if it is no list, glob or range.
    #[must_use]
    pub fn as_single(&self) -> Option<&str> {
        match self.items.as_slice() {
            [Item::Name(name)] => Some(name),
            _ => None,
        }
    }

    /// Returns the names that this stands for among those that exist, in the order written,
    /// matches of a glob in numeric order, none twice. Names are not checked to exist.
    ///
    /// # Errors
    /// [`Error::RevisionNotFound`] for a glob or range that matches nothing.
    pub fn expand<'a>(
        &self,
        repo: &str,
        existing: impl Iterator<Item = &'a str> + Clone,
    ) -> Result<Vec<String>> {
        let mut names: Vec<String> = Vec::new();
        for item in &self.items {
            let mut found: Vec<String> = match item {
                Item::Name(name) => vec![name.clone()],
                Item::Glob(glob) => {
                    let matcher = compile(glob)?;
                    let fits = existing.clone().filter(|name| matcher.is_match(name));
                    fits.map(str::to_owned).collect()
                }
                Item::Between { before, low, high, after } => {
                    let number = |name: &str| -> Option<u64> {
                        name.strip_prefix(before.as_str())?
                            .strip_suffix(after.as_str())?
                            .parse()
                            .ok()
                    };
                    let between =
                        |name: &&str| number(name).is_some_and(|n| (low..=high).contains(&&n));
                    existing.clone().filter(between).map(str::to_owned).collect()
                }
            };
            if found.is_empty() {
                return Err(not_found(repo, &item.text(), existing));
            }
            found.sort_by_key(|name| natural_key(name));
            for name in found {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        Ok(names)
    }
}

impl Item {
    fn text(&self) -> String {
        match self {
            Self::Name(text) | Self::Glob(text) => text.clone(),
            Self::Between { before, low, high, after } => {
                format!("{before}{{{low}..{high}}}{after}")
            }
        }
    }
}

/// Makes the error for a revision that does not exist, with the nearest names that do.
pub(super) fn not_found<'a>(
    repo: &str,
    revision: &str,
    existing: impl Iterator<Item = &'a str> + Clone,
) -> Error {
    let stem = revision.split(['*', '{', '?', '[']).next().unwrap_or_default();
    let mut near: Vec<String> = Vec::new();
    let wanted = if stem.is_empty() { revision } else { stem };
    let mut left: Vec<&str> = existing.clone().collect();
    let count = left.len();
    while near.len() < 2 {
        let Some(name) = suggest(wanted, left.iter().copied()) else { break };
        near.push(escape(name));
        left.retain(|n| *n != name);
    }
    if wanted == revision {
        near.truncate(1);
    }
    Error::RevisionNotFound { repo: repo.to_owned(), revision: escape(revision), near, count }
}

/// Splits at commas outside braces.
fn split_list(text: &str) -> Vec<&str> {
    let mut depth = 0_i32;
    text.split(|c| {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        c == ',' && depth <= 0
    })
    .collect()
}

fn parse_item(part: &str) -> Result<Vec<Item>, String> {
    if let Some((before, rest)) = part.split_once('{')
        && let Some((inside, after)) = rest.split_once('}')
        && inside.contains("..")
    {
        return parse_range(before, inside, after);
    }
    if !part.contains(['*', '?', '[', '{']) {
        return Ok(vec![Item::Name(part.to_owned())]);
    }
    compile(part).map_err(|e| match e {
        Error::BadPattern { why, .. } => why,
        other => other.to_string(),
    })?;
    Ok(vec![Item::Glob(part.to_owned())])
}

fn parse_range(before: &str, inside: &str, after: &str) -> Result<Vec<Item>, String> {
    if before.contains(['*', '?', '[']) || after.contains(['*', '?', '[', '{']) {
        return Err("a range and a glob cannot be mixed".into());
    }
    let numbers: Vec<u64> = inside
        .split("..")
        .map(|n| n.parse().map_err(|_| format!("`{}` is no number", escape(n))))
        .collect::<Result<_, _>>()?;
    let (low, high, step) = match numbers.as_slice() {
        [low, high] => (*low, *high, None),
        [low, high, step] if *step > 0 => (*low, *high, Some(*step)),
        _ => return Err("write {first..last} or {first..last..step}".into()),
    };
    if low > high {
        return Err(format!("{low} is more than {high}"));
    }
    let (before, after) = (before.to_owned(), after.to_owned());
    let Some(step) = step else { return Ok(vec![Item::Between { before, low, high, after }]) };
    if (high - low) / step >= RANGE_MAX {
        return Err(format!("it stands for more than {RANGE_MAX} names"));
    }
    let names = (low..=high).step_by(usize::try_from(step).unwrap_or(usize::MAX));
    Ok(names.map(|n| Item::Name(format!("{before}{n}{after}"))).collect())
}

/// Compiles one glob as `hf` reads them: `*` also matches `/`.
pub(super) fn compile(glob: &str) -> Result<globset::GlobMatcher> {
    let built = globset::GlobBuilder::new(glob).literal_separator(false).build();
    built
        .map(|g| g.compile_matcher())
        .map_err(|e| Error::BadPattern { pattern: escape(glob), why: e.kind().to_string() })
}

#[cfg(test)]
mod tests {
    use super::{Error, Pattern};

    const BRANCHES: [&str; 6] =
        ["main", "step_100", "step_1000", "step_200", "step_250", "other-step_200"];

    fn expand(text: &str) -> Result<Vec<String>, Error> {
        Pattern::parse(text)?.expand("o/n", BRANCHES.into_iter())
    }

    #[test]
    fn lists_globs_and_ranges_expand_in_order() {
        let cases: [(&str, &[&str]); 7] = [
            ("main", &["main"]),
            ("step_200,main,step_200", &["step_200", "main"]),
            ("step_*", &["step_100", "step_200", "step_250", "step_1000"]),
            ("step_{100,250}", &["step_100", "step_250"]),
            ("step_{100..300}", &["step_100", "step_200", "step_250"]),
            ("step_{100..200..50}", &["step_100", "step_150", "step_200"]),
            ("no-such-branch", &["no-such-branch"]),
        ];
        for (text, want) in cases {
            assert_eq!(expand(text).expect(text), want, "{text}");
        }
    }

    #[test]
    fn a_glob_without_a_match_names_what_is_near() {
        let Err(Error::RevisionNotFound { near, count, .. }) = expand("stap_*") else {
            panic!("matched")
        };
        assert_eq!((near.is_empty(), count), (false, 6), "{near:?}");
        assert!(expand("step_{300..900}").is_err());
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            "",
            "a,,b",
            "a..b",
            "step_{9..1}",
            "step_{1..9..0}",
            "step_{a..b}",
            "x\u{7}",
            "a[",
            "step_{0..99999999}{1..2}",
            "step_{0..9999999..1}",
            "*_{1..2}",
        ] {
            assert!(matches!(Pattern::parse(bad), Err(Error::BadPattern { .. })), "{bad:?}");
        }
    }
}
