//! Names on the Hub: repositories, commits, and `owner/name@rev` as users write it.

use std::fmt;
use std::str::FromStr;

use super::error::Error;

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

/// A repository and what of it: `owner/name[@rev]` or `hf://[models/|datasets/]owner/name[@rev]`.
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
    /// [`Error::BadRepo`].
    pub fn parse(text: &str, kind: RepoKind) -> Result<Self, Error> {
        let Some(rest) = text.strip_prefix("hf://") else {
            let (id, revision) = split_at_sign(text);
            return Ok(Self { repo: Repo::new(kind, id)?, revision, path: None });
        };
        let (kind, rest) = match rest.split_once('/') {
            Some(("models", rest)) => (RepoKind::Model, rest),
            Some(("datasets", rest)) => (RepoKind::Dataset, rest),
            _ => (kind, rest),
        };
        // owner/name@rev/path: a slash inside the revision is written %2F in this form.
        let bad = || Error::BadRepo { text: crate::name::escape(text) };
        let (owner, rest) = rest.split_once('/').ok_or_else(bad)?;
        let (name, path) = match rest.split_once('/') {
            Some((name, path)) if !path.is_empty() => (name, Some(path.to_owned())),
            Some((name, _)) => (name, None),
            None => (rest, None),
        };
        let (name, revision) = split_at_sign(name);
        let revision = revision.map(|r| r.replace("%2F", "/"));
        Ok(Self { repo: Repo::new(kind, &format!("{owner}/{name}"))?, revision, path })
    }
}

fn split_at_sign(text: &str) -> (&str, Option<String>) {
    match text.split_once('@') {
        Some((id, rev)) if !rev.is_empty() => (id, Some(rev.to_owned())),
        Some((id, _)) => (id, None),
        None => (text, None),
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
    }

    #[test]
    fn hostile_ids_are_refused() {
        for bad in ["x", "/x", "a/", "../x", "a/../b", "a/b/c", "a b/c", "-a/b", "a/b--c", "a/.b"] {
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
