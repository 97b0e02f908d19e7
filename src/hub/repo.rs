//! Names on the Hub: repositories, commits, and `owner/name@rev` as users write it.

use std::fmt;
use std::str::FromStr;

use super::error::Error;

/// The branch that is meant where none is named.
pub const DEFAULT_REVISION: &str = "main";

/// What kind of repository: the Hub keeps them apart in its URLs and the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RepoKind {
    /// A model.
    Model,
    /// A dataset.
    Dataset,
}

impl RepoKind {
    /// Returns the plural used in API URLs and cache folders.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
        }
    }

    pub(super) const fn hf(self) -> hf_hub::RepoTypeAny {
        match self {
            Self::Model => hf_hub::RepoTypeAny::Model,
            Self::Dataset => hf_hub::RepoTypeAny::Dataset,
        }
    }
}

/// A repository: kind, owner, name. The name has been checked to be fit for URLs and paths.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repo {
    kind: RepoKind,
    owner: String,
    name: String,
}

impl Repo {
    /// Checks `owner/name`.
    ///
    /// # Errors
    /// [`Error::BadRepo`] unless it is two parts of letters, digits, `-`, `_`, `.`, neither part
    /// beginning or ending with `.` or `-` or holding `--` or `..`.
    pub fn new(kind: RepoKind, id: &str) -> Result<Self, Error> {
        let bad = || Error::BadRepo { text: crate::name::escape(id) };
        let (owner, name) = id.split_once('/').ok_or_else(bad)?;
        if is_part(owner) && is_part(name) {
            Ok(Self { kind, owner: owner.to_owned(), name: name.to_owned() })
        } else {
            Err(bad())
        }
    }

    /// Returns the kind.
    #[must_use]
    pub fn kind(&self) -> RepoKind {
        self.kind
    }

    /// Returns the owner: a user or an organisation.
    #[must_use]
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// Returns the name without its owner.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns what a reference calls it, whatever kinds are meant otherwise: `owner/name`,
    /// `datasets/owner/name`.
    #[must_use]
    pub fn address(&self) -> String {
        match self.kind {
            RepoKind::Model => self.to_string(),
            RepoKind::Dataset => format!("datasets/{self}"),
        }
    }

    /// Returns the folder of the shared cache: `models--owner--name`.
    #[must_use]
    pub fn folder_name(&self) -> String {
        format!("{}--{}--{}", self.kind.plural(), self.owner, self.name)
    }

    /// Reads a folder name of the shared cache back.
    #[must_use]
    pub fn from_folder_name(folder: &str) -> Option<Self> {
        let (plural, rest) = folder.split_once("--")?;
        let kind = match plural {
            "models" => RepoKind::Model,
            "datasets" => RepoKind::Dataset,
            _ => return None,
        };
        Self::new(kind, &rest.replacen("--", "/", 1)).ok()
    }
}

impl fmt::Display for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)
    }
}

fn is_part(part: &str) -> bool {
    let edge = |c: char| c == '.' || c == '-';
    !part.is_empty()
        && part.len() <= 96
        && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        && !part.starts_with(edge)
        && !part.ends_with(edge)
        && !part.contains("--")
        && !part.contains("..")
}

/// A git commit: forty lower-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommitSha(String);

impl CommitSha {
    /// Checks a commit id.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        (text.len() == 40 && text.bytes().all(hex)).then(|| Self(text.to_owned()))
    }

    /// Returns the hex digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CommitSha {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A repository and what of it: `[models/|datasets/]owner/name[@rev]`, or the same after `hf://`
/// with `/path` at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoRef {
    /// The repository.
    pub repo: Repo,
    /// The revision, list, glob or range, as written.
    pub revision: Option<String>,
    /// The file or folder inside, only from the `hf://` form.
    pub path: Option<String>,
}

impl RepoRef {
    /// Reads a reference; `kind` is what an unmarked one is.
    ///
    /// # Errors
    /// [`Error::BadRepo`], also for a revision that is empty or a path that leaves its folder.
    pub fn parse(text: &str, kind: RepoKind) -> Result<Self, Error> {
        match text.strip_prefix("hf://") {
            Some(rest) => Self::parse_uri(rest, kind),
            None => Self::parse_plain(text, kind),
        }
        .ok_or_else(|| Error::BadRepo { text: crate::name::escape(text) })
    }

    fn parse_plain(text: &str, kind: RepoKind) -> Option<Self> {
        // A revision may hold slashes, a repository has one.
        let (id, revision) = split_at_sign(text)?;
        let (kind, id) = match split_kind(id) {
            Some((kind, rest)) if rest.contains('/') => (kind, rest),
            _ => (kind, id),
        };
        Some(Self { repo: Repo::new(kind, id).ok()?, revision, path: None })
    }

    /// Reads what follows `hf://`: a slash inside the revision is written `%2F` there.
    fn parse_uri(rest: &str, kind: RepoKind) -> Option<Self> {
        let (kind, rest) = split_kind(rest).unwrap_or((kind, rest));
        let (owner, rest) = rest.split_once('/')?;
        let (name, path) = match rest.split_once('/') {
            Some((name, path)) => (name, Some(path.trim_end_matches('/'))),
            None => (rest, None),
        };
        let path = path.filter(|path| !path.is_empty());
        if path.is_some_and(|path| !crate::name::is_safe_relative_path(path)) {
            return None;
        }
        let (name, revision) = split_at_sign(name)?;
        let revision = revision.map(|r| r.replace("%2F", "/").replace("%2f", "/"));
        let repo = Repo::new(kind, &format!("{owner}/{name}")).ok()?;
        Some(Self { repo, revision, path: path.map(str::to_owned) })
    }

    /// Returns the revision expression, `main` when none was written.
    #[must_use]
    pub fn revision_or_main(&self) -> &str {
        self.revision.as_deref().unwrap_or(DEFAULT_REVISION)
    }
}

impl fmt::Display for RepoRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.repo, crate::name::escape(self.revision_or_main()))
    }
}

fn split_kind(text: &str) -> Option<(RepoKind, &str)> {
    match text.split_once('/')? {
        ("models", rest) => Some((RepoKind::Model, rest)),
        ("datasets", rest) => Some((RepoKind::Dataset, rest)),
        _ => None,
    }
}

/// Splits `x@rev`; `None` when the revision is empty.
fn split_at_sign(text: &str) -> Option<(&str, Option<String>)> {
    match text.split_once('@') {
        Some((_, "")) => None,
        Some((id, rev)) => Some((id, Some(rev.to_owned()))),
        None => Some((text, None)),
    }
}

impl FromStr for RepoRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text, RepoKind::Model)
    }
}

#[cfg(test)]
mod tests {
    use super::{CommitSha, Repo, RepoKind, RepoRef};

    #[test]
    fn references_parse() {
        let plain: RepoRef = "allenai/tmax-9b@step_{100..400..50}".parse().expect("parses");
        assert_eq!(plain.repo.to_string(), "allenai/tmax-9b");
        assert_eq!(plain.revision.as_deref(), Some("step_{100..400..50}"));
        let uri: RepoRef = "hf://datasets/o/n@a%2Fb/dir/x.txt".parse().expect("parses");
        assert_eq!(uri.repo.kind(), RepoKind::Dataset);
        assert_eq!(uri.revision.as_deref(), Some("a/b"));
        assert_eq!(uri.path.as_deref(), Some("dir/x.txt"));
        let marked: RepoRef = "datasets/o/n@feature/x".parse().expect("parses");
        assert_eq!((marked.repo.kind(), marked.path), (RepoKind::Dataset, None));
        assert_eq!(marked.revision.as_deref(), Some("feature/x"));
        let owner: RepoRef = "datasets/n".parse().expect("parses");
        assert_eq!((owner.repo.kind(), owner.repo.owner()), (RepoKind::Model, "datasets"));
    }

    #[test]
    fn hostile_ids_are_refused() {
        for bad in [
            "x",
            "/x",
            "a/",
            "../x",
            "a/../b",
            "a/b/c",
            "a b/c",
            "-a/b",
            "a/b--c",
            "a/.b",
            "a/b@",
            "datasets/a/b/c",
            "datasets/../b",
            "hf://datasets/a",
            "hf://a/b@r/../x",
            "hf://a/b@r//x",
        ] {
            assert!(bad.parse::<RepoRef>().is_err(), "{bad}");
        }
    }

    #[test]
    fn cache_folders_go_there_and_back() {
        let repo = Repo::new(RepoKind::Model, "allenai/tmax-9b").expect("valid");
        assert_eq!(repo.folder_name(), "models--allenai--tmax-9b");
        assert_eq!(Repo::from_folder_name(&repo.folder_name()), Some(repo));
        assert_eq!(Repo::from_folder_name("version.txt"), None);
    }

    #[test]
    fn commits_are_forty_lower_hex() {
        assert!(CommitSha::new(&"a1".repeat(20)).is_some());
        for bad in ["", "main", &"A1".repeat(20), &"g".repeat(40)] {
            assert!(CommitSha::new(bad).is_none(), "{bad}");
        }
    }
}
