//! The connection to a Hub: one HTTP client, one runtime, one retry rule for every request.
//!
//! hf-hub does refs, commits, authentication, the byte stream and Xet. The file list is read
//! here (see [`super::tree`]). hf-hub's own retries are off: they ignore `Retry-After`.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderMap, LINK, RETRY_AFTER};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::config::{HubConfig, Timeouts, Token};
use super::error::{Error, Result, Retry, said};
use super::repo::{CommitSha, Repo};
use super::tree::{self, TREE_FILES_MAX, TREE_PAGES_MAX, TreeFile};
use crate::name::escape;
use crate::progress::{Cancel, SharedProgress};

/// The largest JSON answer read.
const JSON_CAP_BYTES: usize = 64 << 20;

/// A Hub as its user sees it. Every method blocks.
#[derive(Debug)]
pub struct Hub {
    pub(super) config: HubConfig,
    online: Option<(tokio::runtime::Runtime, Arc<Online>)>,
}

/// What needs the network.
#[derive(Debug)]
pub(super) struct Online {
    pub hf: hf_hub::HFClient,
    http: reqwest::Client,
    pub endpoint: Url,
    token: Option<Token>,
    pub timeouts: Timeouts,
    pub segment_bytes: u64,
    /// No request starts before this: set by `Retry-After`, for all connections at once.
    not_before: Mutex<Instant>,
}

impl Hub {
    /// Makes a Hub; opens no connection yet, and none ever when offline.
    ///
    /// # Errors
    /// [`Error::BadEndpoint`]; [`Error::Worker`] when no thread can be started.
    pub fn new(config: HubConfig) -> Result<Self> {
        if config.offline {
            return Ok(Self { config, online: None });
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(config.jobs.clamp(1, 4))
            .enable_all()
            .build()
            .map_err(|e| Error::Worker(e.to_string()))?;
        let online = Arc::new(Online::new(&config)?);
        Ok(Self { config, online: Some((runtime, online)) })
    }

    /// Returns what this Hub was told.
    #[must_use]
    pub fn config(&self) -> &HubConfig {
        &self.config
    }

    /// Runs asynchronous work, or says what is missing and which command would fetch it.
    pub(super) fn block_on<T, F: Future<Output = Result<T>>>(
        &self,
        missing: impl FnOnce() -> (String, String),
        work: impl FnOnce(Arc<Online>) -> F,
    ) -> Result<T> {
        match &self.online {
            Some((runtime, online)) => runtime.block_on(work(Arc::clone(online))),
            None => {
                let (what, command) = missing();
                Err(Error::Offline { what, command })
            }
        }
    }
}

impl Online {
    fn new(config: &HubConfig) -> Result<Self> {
        let bad = |why: String| Error::BadEndpoint { endpoint: escape(&config.endpoint), why };
        let endpoint = Url::parse(&config.endpoint).map_err(|e| bad(e.to_string()))?;
        if !matches!(endpoint.scheme(), "http" | "https") || endpoint.host_str().is_none() {
            return Err(bad("it must begin with https:// or http://".into()));
        }
        let agent = concat!("tmax-ckpt/", env!("CARGO_PKG_VERSION"));
        let http = reqwest::Client::builder()
            .user_agent(agent)
            .connect_timeout(config.timeouts.connect)
            .redirect(redirects(endpoint.clone(), config.token.clone()))
            // Several ranges of a file shall be several connections, not streams in one.
            .http1_only()
            .tcp_nodelay(true)
            .build()
            .map_err(|e| bad(e.to_string()))?;
        // hf-hub looks for a token in the environment when it is given none. A line break is
        // not valid in a header, so that with this token it sends no header at all.
        let token = config.token.as_ref().map_or("\n", Token::secret);
        let hf = hf_hub::HFClient::builder()
            .endpoint(config.endpoint.trim_end_matches('/'))
            .token(token)
            .user_agent(agent)
            .client(http.clone())
            .cache_dir(&config.cache_dir)
            .cache_enabled(false)
            .retry_max_attempts(0)
            .build()
            .map_err(|e| bad(e.to_string()))?;
        Ok(Self {
            hf,
            http,
            endpoint,
            token: config.token.clone(),
            timeouts: config.timeouts,
            segment_bytes: config.segment_bytes,
            not_before: Mutex::new(Instant::now()),
        })
    }

    pub fn repository(&self, repo: &Repo) -> hf_hub::HFRepository<hf_hub::RepoTypeAny> {
        self.hf.repository(repo.kind().hf(), repo.owner(), repo.name())
    }

    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Waits until requests are welcome again.
    pub async fn wait_for_turn(&self) {
        let until = *self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
        sleep_until(until).await;
    }

    fn hold_until(&self, until: Instant) {
        let mut not_before = self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
        *not_before = (*not_before).max(until);
    }

    /// Waits as a failure asks for, or hands the failure back when another try is pointless.
    pub async fn back_off(
        &self,
        error: Error,
        failures: u32,
        progress: &SharedProgress,
    ) -> Result<()> {
        match error.retry() {
            Retry::Never => Err(error),
            Retry::After(wait) if wait > self.timeouts.retry_after_max => Err(error),
            Retry::After(wait) => {
                let text = crate::units::duration(wait.as_secs_f64());
                progress.note(&format!("the Hub asks to wait {text}"));
                let until = Instant::now() + wait;
                self.hold_until(until);
                sleep_until(until).await;
                Ok(())
            }
            Retry::Backoff => {
                let wait = self.timeouts.backoff * 2_u32.saturating_pow(failures.min(6));
                sleep(wait.min(Duration::from_secs(30))).await;
                Ok(())
            }
        }
    }

    /// Asks until there is an answer, the failure is final, or tries run out.
    pub async fn retrying<T, F: Future<Output = Result<T>>>(
        &self,
        what: &str,
        progress: &SharedProgress,
        mut ask: impl FnMut() -> F,
    ) -> Result<T> {
        for failures in 0.. {
            self.wait_for_turn().await;
            let patience = self.timeouts.connect + self.timeouts.read;
            let answer = timeout(patience, ask()).await;
            let error = match answer {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => error,
                Err(_) => Error::Stalled { what: what.to_owned(), after: patience },
            };
            // A host that cannot be reached at the outset will not appear in half a minute:
            // one more try, then say so.
            if matches!(error, Error::Connect { .. }) && failures > 0 {
                return Err(error);
            }
            if failures >= self.timeouts.attempts && error.retry() != Retry::Never {
                let source = Box::new(error);
                return Err(Error::GaveUp {
                    what: what.to_owned(),
                    attempts: failures + 1,
                    source,
                });
            }
            self.back_off(error, failures, progress).await?;
        }
        unreachable!("the loop above ends by returning")
    }

    /// Returns branches and tags with their commits.
    pub async fn refs(&self, repo: &Repo, progress: &SharedProgress) -> Result<Refs> {
        let what = format!("the branches of {repo}");
        let answer = self
            .retrying(&what, progress, || async {
                let refs = self.repository(repo).list_refs().send().await;
                refs.map_err(|e| Error::from_hf(e, &what))
            })
            .await
            .map_err(|e| self.name_repo(repo, e))?;
        let read = |list: Vec<hf_hub::repository::GitRefInfo>| -> Result<Vec<_>> {
            list.into_iter()
                .map(|r| match CommitSha::new(&r.target_commit) {
                    Some(commit) => Ok((r.name, commit)),
                    None => Err(Error::Protocol {
                        what: what.clone(),
                        why: format!("`{}` is no commit", escape(&r.target_commit)),
                    }),
                })
                .collect()
        };
        Ok(Refs { branches: read(answer.branches)?, tags: read(answer.tags)? })
    }

    /// Returns the date of a commit, if the server keeps one and it can be read.
    pub async fn commit_date(
        &self,
        repo: &Repo,
        commit: &CommitSha,
        progress: &SharedProgress,
    ) -> Result<Option<jiff::Timestamp>> {
        use futures::StreamExt as _;
        let what = format!("the history of {repo}");
        let answer = self
            .retrying(&what, progress, || async {
                let handle = self.repository(repo);
                let commits = handle.list_commits().revision(commit.as_str()).limit(1).send();
                let mut commits = std::pin::pin!(commits.map_err(|e| Error::from_hf(e, &what))?);
                commits.next().await.transpose().map_err(|e| Error::from_hf(e, &what))
            })
            .await;
        match answer {
            Ok(commit) => Ok(commit.and_then(|c| c.date?.parse().ok())),
            // Static mirrors and small servers keep no history: the date is then unknown.
            Err(Error::FileNotFound { .. } | Error::Status { .. } | Error::Protocol { .. }) => {
                Ok(None)
            }
            Err(Error::GaveUp { source, .. }) if matches!(*source, Error::Status { .. }) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the commit of a revision that is no branch or tag, such as a short commit id.
    pub async fn resolve(
        &self,
        repo: &Repo,
        revision: &str,
        progress: &SharedProgress,
    ) -> Result<Option<CommitSha>> {
        let url = self.api_url(repo, &["revision", revision]);
        match self.get_json(url, &format!("{repo}@{}", escape(revision)), progress).await {
            Ok((body, _)) => {
                let info: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
                Ok(info["sha"].as_str().and_then(CommitSha::new))
            }
            Err(Error::FileNotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns all files of a commit, sorted by path.
    pub async fn tree(
        &self,
        repo: &Repo,
        commit: &CommitSha,
        progress: &SharedProgress,
    ) -> Result<Vec<TreeFile>> {
        let what = format!("the file list of {repo}@{commit}");
        let mut url = self.api_url(repo, &["tree", commit.as_str()]);
        url.set_query(Some("recursive=true"));
        let mut files = Vec::new();
        let name = repo.to_string();
        // A server whose pages lead in a circle ends too.
        for _ in 0..TREE_PAGES_MAX {
            let (body, next) =
                self.get_json(url, &what, progress).await.map_err(|e| self.name_repo(repo, e))?;
            files.extend(tree::parse_page(&name, &body)?);
            let more = next.filter(|_| files.len() <= TREE_FILES_MAX);
            match more {
                Some(next) => url = next,
                None if files.len() <= TREE_FILES_MAX => return tree::finish(&name, files),
                None => {
                    let why = format!("more than {TREE_FILES_MAX} files");
                    return Err(Error::Protocol { what, why });
                }
            }
        }
        Err(Error::Protocol { what, why: format!("more than {TREE_PAGES_MAX} pages") })
    }

    fn api_url(&self, repo: &Repo, parts: &[&str]) -> Url {
        let mut url = self.endpoint.clone();
        url.path_segments_mut()
            .expect("checked to be http or https at construction")
            .pop_if_empty()
            .extend(["api", repo.kind().plural(), repo.owner(), repo.name()])
            .extend(parts);
        url
    }

    /// Gets a JSON answer and the address of its next page.
    async fn get_json(
        &self,
        url: Url,
        what: &str,
        progress: &SharedProgress,
    ) -> Result<(Vec<u8>, Option<Url>)> {
        self.retrying(what, progress, || self.get_once(url.clone(), what)).await
    }

    async fn get_once(&self, url: Url, what: &str) -> Result<(Vec<u8>, Option<Url>)> {
        let mut request = self.http.get(url.clone());
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.secret()));
        }
        let transport = |e| Error::from_reqwest(e, what.to_owned());
        let mut response = request.send().await.map_err(transport)?;
        if !response.status().is_success() {
            return Err(status_error(what, response.status().as_u16(), response.headers()));
        }
        let next = self.next_page(&url, response.headers(), what)?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(transport)? {
            if body.len() + chunk.len() > JSON_CAP_BYTES {
                let why = format!("more than {} of JSON", crate::units::bytes(64 << 20));
                return Err(Error::Protocol { what: what.to_owned(), why });
            }
            body.extend_from_slice(&chunk);
        }
        Ok((body, next))
    }

    /// Reads `Link: <…>; rel="next"`. The token goes with it, so it must stay on the Hub.
    fn next_page(&self, url: &Url, headers: &HeaderMap, what: &str) -> Result<Option<Url>> {
        let Some(link) = headers.get(LINK).and_then(|v| v.to_str().ok()) else { return Ok(None) };
        let next = link.split(',').find(|part| part.contains("rel=\"next\""));
        let Some(target) = next.and_then(|p| p.split_once('<')?.1.split_once('>')) else {
            return Ok(None);
        };
        match url.join(target.0) {
            Ok(next) if next.origin() == self.endpoint.origin() && next != *url => Ok(Some(next)),
            _ => Err(Error::Protocol {
                what: what.to_owned(),
                why: "its next page is not on the Hub".into(),
            }),
        }
    }

    /// Says "repository not found" where a request about the whole repository got a 404, which
    /// the Hub also answers (as 401) for private ones.
    fn name_repo(&self, repo: &Repo, error: Error) -> Error {
        match error {
            Error::FileNotFound { .. } => Error::RepoNotFound {
                repo: repo.to_string(),
                endpoint: self.endpoint.to_string(),
                with_token: self.has_token(),
            },
            other => other,
        }
    }
}

/// Branches and tags.
#[derive(Debug)]
pub(super) struct Refs {
    pub branches: Vec<(String, CommitSha)>,
    pub tags: Vec<(String, CommitSha)>,
}

impl Refs {
    pub fn find(&self, name: &str) -> Option<&CommitSha> {
        self.branches.iter().chain(&self.tags).find(|(n, _)| n == name).map(|(_, commit)| commit)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.branches.iter().chain(&self.tags).map(|(name, _)| name.as_str())
    }
}

/// Which redirects are followed. `reqwest` takes the token out of a request to another host, but
/// puts it back when that host redirects to itself: such a chain is only followed without one.
fn redirects(hub: Url, token: Option<Token>) -> reqwest::redirect::Policy {
    reqwest::redirect::Policy::custom(move |attempt| {
        let next = attempt.url().origin();
        let stays = attempt.previous().last().is_some_and(|from| from.origin() == next);
        let downgrade = attempt.url().scheme() == "http"
            && attempt.previous().last().is_some_and(|from| from.scheme() == "https");
        if downgrade {
            attempt.error("a redirect from https to http")
        } else if attempt.previous().len() > 10 {
            attempt.error("more than ten redirects")
        } else if token.is_some() && stays && next != hub.origin() {
            attempt.error("a redirect within another host, which would be shown the token")
        } else {
            attempt.follow()
        }
    })
}

fn status_error(what: &str, status: u16, headers: &HeaderMap) -> Error {
    let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let retry_after = headers
        .get(RETRY_AFTER)
        .and_then(|v| v.to_str().ok()?.trim().parse().ok())
        .map(Duration::from_secs);
    let what = what.to_owned();
    match status {
        401 if header("x-error-code").as_deref() == Some("RepoNotFound") => {
            Error::FileNotFound { repo: what.clone(), path: what, near: None }
        }
        401 | 403 => Error::Auth { what, message: said(header("x-error-message"), status) },
        404 => Error::FileNotFound { repo: what.clone(), path: what, near: None },
        429 => Error::RateLimited { retry_after },
        _ => {
            let message = said(header("x-error-message"), status);
            Error::Status { what, status, message, retry_after }
        }
    }
}

/// Resolves when the flag is set.
pub(super) async fn cancelled(cancel: &Cancel) {
    while !cancel.is_set() {
        sleep(Duration::from_millis(50)).await;
    }
}
