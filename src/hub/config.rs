//! What a [`Hub`](super::Hub) is told at its birth. Nothing here reads the environment.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The endpoint that is used when the user names none.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// An access token. Never displayed, never logged.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Wraps a token, whitespace around it dropped; `None` when nothing is left.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }

    /// Returns the secret itself, for the one header that carries it.
    pub(super) fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// How long to wait for what, and how often to try again.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// For a connection to stand.
    pub connect: Duration,
    /// Without a byte arriving, before a transfer counts as stalled.
    pub read: Duration,
    /// Before the first new try; doubled for each further one.
    pub backoff: Duration,
    /// The longest `Retry-After` that is obeyed rather than reported.
    pub retry_after_max: Duration,
    /// Tries in a row without a new byte before giving up.
    pub attempts: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            read: Duration::from_secs(30),
            backoff: Duration::from_millis(500),
            retry_after_max: Duration::from_secs(300),
            attempts: 5,
        }
    }
}

/// Where the Hub is, who asks, and where the bytes go.
#[derive(Debug, Clone)]
pub struct HubConfig {
    /// Base URL of the Hub.
    pub endpoint: String,
    /// Token for the Hub's own host.
    pub token: Option<Token>,
    /// The shared cache (`$HF_HUB_CACHE`).
    pub cache_dir: PathBuf,
    /// Never open a socket.
    pub offline: bool,
    /// Waiting and retrying.
    pub timeouts: Timeouts,
    /// Connections at once.
    pub jobs: usize,
    /// Bytes asked for at once. Each such range costs the Hub two requests, and it counts them.
    pub segment_bytes: u64,
}

impl HubConfig {
    /// Returns the defaults over a cache folder: the public Hub, anonymous, eight connections.
    #[must_use]
    pub fn new(cache_dir: impl Into<PathBuf>) -> Self {
        Self {
            endpoint: DEFAULT_ENDPOINT.to_owned(),
            token: None,
            cache_dir: cache_dir.into(),
            offline: false,
            timeouts: Timeouts::default(),
            jobs: 8,
            segment_bytes: 32 << 20,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Token;

    #[test]
    fn tokens_do_not_show() {
        let token = Token::new(" hf_secret\n").expect("not empty");
        assert_eq!(token.secret(), "hf_secret");
        assert!(!format!("{token:?}").contains("secret"));
        assert_eq!(Token::new("  \n"), None);
    }
}
