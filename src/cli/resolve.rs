//! CKPT arguments: an existing path, `hf://owner/name@rev[/path]`, or `owner/name[@rev]`.

use std::path::{Path, PathBuf};

use super::context::Context;
use super::failure::{Failure, NOT_CACHED};
use super::hub::short;
use crate::error::Result;
use crate::fsio;
use crate::hub::{
    self, CommitSha, DEFAULT_REVISION, Pattern, RepoCache, RepoKind, RepoRef, step_number,
};
use crate::name::{escape, suggest};

/// What a CKPT argument names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// A file or folder on this machine.
    Local(PathBuf),
    /// Something on the Hub.
    Hub(RepoRef),
}

impl Reference {
    /// Parses an argument. An existing path wins; `./x` and `/x` are always paths.
    ///
    /// # Errors
    /// [`Failure::NotACheckpoint`].
    pub fn parse(text: &str) -> Result<Self, Failure> {
        if !text.starts_with("hf://") && is_path(text) {
            return Ok(Self::Local(text.into()));
        }
        let reference: Result<RepoRef, _> = text.parse();
        reference
            .ok()
            .filter(|reference| reference.repo.kind() == RepoKind::Model)
            .map(Self::Hub)
            .ok_or_else(|| not_a_checkpoint(text))
    }
}

/// Says whether an argument is a path by its form, or because there is one.
#[must_use]
pub fn is_path(text: &str) -> bool {
    let explicit = ["./", "../", "/"].iter().any(|start| text.starts_with(start));
    explicit || text == "." || text == ".." || Path::new(text).exists()
}

fn not_a_checkpoint(text: &str) -> Failure {
    let help = if text.contains("://") {
        "write `hf://owner/name@revision/path`"
    } else if text.contains('/') {
        "a path must exist; a repository is `owner/name[@revision]`"
    } else {
        "write `./name` for a path, `owner/name[@revision]` for a repository on the Hub"
    };
    Failure::NotACheckpoint { text: escape(text), help: help.into() }
}

/// A checkpoint on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// The argument that named it, or `owner/name@rev` for one of several.
    pub label: String,
    /// The folder or file.
    pub path: PathBuf,
    /// The step or other revision that it is, as far as its place tells; none for the default one.
    pub revision: Option<String>,
}

impl Local {
    fn at(path: PathBuf, label: &str) -> Self {
        let revision = revision_of(&path);
        Self { label: label.to_owned(), path, revision }
    }
}

/// Tells the revision of a path from its name, if it is a step, or from the branches of the cache
/// that lead to it.
fn revision_of(path: &Path) -> Option<String> {
    let dir = path.canonicalize().ok()?;
    let name = dir.file_name()?.to_str()?.to_owned();
    if step_number(&name).is_some() {
        return Some(name);
    }
    let (repository, commit) = (RepoCache::of_snapshot(&dir)?, CommitSha::new(&name)?);
    name_of_commit(&repository, &commit)
}

/// The step that a commit is called after, else another branch: none for the default one. Its
/// first digits where nothing leads to it.
fn name_of_commit(repository: &RepoCache, commit: &CommitSha) -> Option<String> {
    let refs = repository.refs();
    let mine = || refs.iter().filter(|(_, of)| of == commit).map(|(name, _)| name);
    let step = mine().find(|name| step_number(name).is_some());
    match step.or_else(|| mine().find(|name| *name != DEFAULT_REVISION)) {
        Some(name) => Some(name.clone()),
        None if mine().next().is_some() => None,
        None => Some(short(commit).to_owned()),
    }
}

/// Resolves one CKPT argument to what lies on this machine: a path, or snapshots in the cache,
/// which nobody removes while the command runs.
///
/// # Errors
/// The path does not exist, or the cache lacks the revision; the help line says how to pull it.
pub fn resolve(text: &str, ctx: &Context) -> Result<Vec<Local>> {
    match Reference::parse(text)? {
        Reference::Local(path) if fsio::exists(&path)? => {
            if let Some(repository) = RepoCache::of_snapshot(&path) {
                ctx.hold(&repository)?;
            }
            Ok(vec![Local::at(path, text)])
        }
        Reference::Local(_) => {
            let help = "check the path".to_owned();
            Err(Failure::NotACheckpoint { text: escape(text), help }.into())
        }
        Reference::Hub(hub) => cached(&hub, ctx),
    }
}

/// Resolves an argument that must name exactly one checkpoint.
///
/// # Errors
/// As [`resolve`], and when the revision names several.
pub fn resolve_one(text: &str, ctx: &Context) -> Result<Local> {
    let mut found = resolve(text, ctx)?;
    match (found.pop(), found.is_empty()) {
        (Some(one), true) => Ok(one),
        _ => {
            let message = format!("`{}` names several checkpoints, one is needed", escape(text));
            Err(Failure::Usage(message, vec!["name one revision".into()]).into())
        }
    }
}

/// Where one checkpoint is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// On this machine.
    Local(Local),
    /// On the Hub alone, as far as the cache knows.
    Hub(RepoRef),
}

/// Finds one checkpoint for commands that can look at the Hub: what is cached wins.
///
/// # Errors
/// As [`resolve_one`], save that a whole revision which is not in the cache is no error.
pub fn locate(text: &str, ctx: &Context) -> Result<Location> {
    let hub = match Reference::parse(text)? {
        Reference::Hub(hub) if hub.path.is_none() => hub,
        _ => return resolve_one(text, ctx).map(Location::Local),
    };
    match resolve_one(text, ctx) {
        Ok(local) => Ok(Location::Local(local)),
        Err(error) if error.id() == NOT_CACHED => Ok(Location::Hub(hub)),
        Err(error) => Err(error),
    }
}

/// Looks revisions up in the shared cache: names, lists, globs and ranges over what is there.
fn cached(wanted: &RepoRef, ctx: &Context) -> Result<Vec<Local>> {
    let cache = RepoCache::new(ctx.cache_dir(), &wanted.repo);
    let refs = cache.refs();
    let names = || refs.iter().map(|(name, _)| name.as_str());
    let missing = |revision: &str| Failure::NotCached {
        reference: format!("{}@{}", wanted.repo, escape(revision)),
        path: wanted.path.as_deref().map(escape),
        near: suggest(revision, names()).filter(|near| *near != revision).map(escape),
    };
    let revisions = Pattern::parse(wanted.revision_or_main())?
        .expand(&wanted.repo.to_string(), names())
        .map_err(|_| missing(wanted.revision_or_main()))?;
    let local = |revision: String| -> Result<Local> {
        let commit = CommitSha::new(&revision).or_else(|| cache.read_ref(&revision));
        let commit = commit.ok_or_else(|| missing(&revision))?;
        if let Some(path) = &wanted.path {
            check_listed(&cache, &commit, path, &format!("{}@{}", wanted.repo, escape(&revision)))?;
        }
        let mut path = cache.snapshot(&commit);
        path.extend(&wanted.path);
        // What is not there needs no lock, and what is there may be about to go.
        if path.exists() {
            ctx.hold(&cache)?;
        }
        if !path.exists() {
            return Err(missing(&revision).into());
        }
        let label = format!("{}@{}", wanted.repo, escape(&revision));
        let revision = if revision == commit.as_str() {
            name_of_commit(&cache, &commit)
        } else {
            Some(revision).filter(|name| name != DEFAULT_REVISION)
        };
        Ok(Local { label, path, revision })
    };
    revisions.into_iter().map(local).collect()
}

/// Checks that a commit has the file or folder, as far as its files are known: one that it does
/// not have cannot be fetched either.
fn check_listed(
    cache: &RepoCache,
    commit: &CommitSha,
    path: &str,
    reference: &str,
) -> Result<(), hub::Error> {
    let Some(files) = cache.listed(commit) else { return Ok(()) };
    let is_it =
        |file: &String| file.strip_prefix(path).is_some_and(|r| r.is_empty() || r.starts_with('/'));
    if files.iter().any(is_it) {
        return Ok(());
    }
    let near = suggest(path, files.iter().map(String::as_str)).map(escape);
    Err(hub::Error::FileNotFound { repo: reference.to_owned(), path: escape(path), near })
}

#[cfg(test)]
mod tests {
    use super::Reference;
    use crate::hub::{Repo, RepoKind, RepoRef};

    fn hub(repo: &str, revision: Option<&str>, path: Option<&str>) -> Reference {
        Reference::Hub(RepoRef {
            repo: Repo::new(RepoKind::Model, repo).expect("valid"),
            revision: revision.map(str::to_owned),
            path: path.map(str::to_owned),
        })
    }

    #[test]
    fn the_three_forms_are_told_apart() {
        let cases = [
            ("allenai/tmax-9b", hub("allenai/tmax-9b", None, None)),
            (
                "allenai/tmax-9b@step_{100..400..50}",
                hub("allenai/tmax-9b", Some("step_{100..400..50}"), None),
            ),
            (
                "hf://allenai/tmax-9b@step_1/a/b.json",
                hub("allenai/tmax-9b", Some("step_1"), Some("a/b.json")),
            ),
            ("hf://models/a/b@refs%2Fpr%2F1", hub("a/b", Some("refs/pr/1"), None)),
            ("./allenai/tmax-9b", Reference::Local("./allenai/tmax-9b".into())),
            ("src", Reference::Local("src".into())),
        ];
        for (text, want) in cases {
            assert_eq!(Reference::parse(text).expect(text), want, "{text}");
        }
    }

    #[test]
    fn hostile_and_mistyped_arguments_are_refused() {
        for bad in [
            "",
            "nosuch",
            "a/b/c",
            "a/../b",
            "a/b@",
            "hf://a",
            "hf://a/b@r/../x",
            "a/-b",
            "a/b\u{1b}",
            "datasets/a/b",
        ] {
            assert!(Reference::parse(bad).is_err(), "{bad:?}");
        }
    }
}
