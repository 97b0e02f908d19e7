//! A model behind an OpenAI-compatible server (`vllm serve`, SGLang, llama-server) as a
//! [`ChatModel`].
//!
//! Failures of the network and of the server are retried with growing pauses, a bounded number
//! of times. The key goes into one header and nowhere else.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::chat::{
    Auth, ChatError, ChatModel, ChatReply, ChatRequest, FinishReason, Message, Role, ToolCall,
    Usage,
};

/// Largest answer body accepted.
const BODY_BYTES_MAX: u64 = 64 << 20;
/// Longest pause that a server may ask for.
const PAUSE_MAX: Duration = Duration::from_secs(120);

/// Where the server is and how patient we are.
#[derive(Clone)]
pub struct EndpointOptions {
    /// Base address, with or without `/v1`.
    pub url: String,
    /// The model's name there.
    pub model: String,
    /// Sent as a bearer token.
    pub api_key: Option<String>,
    /// Further tries after a failure.
    pub retries: u32,
    /// Pause before the first further try; doubled for each one.
    pub pause: Duration,
}

impl std::fmt::Debug for EndpointOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let key = self.api_key.as_ref().map(|_| "…");
        f.debug_struct("EndpointOptions")
            .field("url", &without_credentials(&self.url))
            .field("model", &self.model)
            .field("api_key", &key)
            .finish_non_exhaustive()
    }
}

/// A model behind a server.
pub struct Endpoint {
    agent: ureq::Agent,
    options: EndpointOptions,
    /// `…/v1/chat/completions`.
    url: String,
}

/// How one try ended, if not well.
enum Failure {
    /// Trying again is of no use.
    Final(ChatError),
    /// The network or the server failed; it may have said when to come back.
    Again { reason: String, after: Option<Duration> },
}

impl Endpoint {
    /// Prepares the client; opens no connection.
    #[must_use]
    pub fn new(options: EndpointOptions) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // A redirect would carry the conversation to another host.
            .max_redirects(0)
            .timeout_connect(Some(Duration::from_secs(30)))
            .build();
        let base = options.url.trim_end_matches('/');
        let base = base.strip_suffix("/chat/completions").unwrap_or(base);
        let versioned = base.rsplit('/').next().is_some_and(is_version);
        let url = format!("{base}{}/chat/completions", if versioned { "" } else { "/v1" });
        Self { agent: config.new_agent(), options, url }
    }

    fn failed(&self, reason: String, auth: Auth) -> ChatError {
        ChatError::Endpoint { url: without_credentials(&self.url), reason, auth }
    }

    fn attempt(&self, body: &Value, left: Option<Duration>) -> Result<ChatReply, Failure> {
        let mut call = self.agent.post(&self.url);
        if let Some(key) = &self.options.api_key {
            call = call.header("Authorization", format!("Bearer {key}"));
        }
        let sent = call.config().timeout_global(left).build().send_json(body);
        let again = |error: ureq::Error| Failure::Again { reason: error.to_string(), after: None };
        let mut response = sent.map_err(again)?;
        let after = response.headers().get("retry-after").and_then(|value| {
            let secs = value.to_str().ok()?.trim().parse().ok()?;
            Some(Duration::from_secs(secs).min(PAUSE_MAX))
        });
        let status = response.status().as_u16();
        let limited = response.body_mut().with_config().limit(BODY_BYTES_MAX);
        let text = limited.read_to_string().map_err(again)?;
        match status {
            200 => self.read_reply(&text).map_err(Failure::Final),
            408 | 409 | 429 | 500..=599 => {
                Err(Failure::Again { reason: self.describe(status, &text), after })
            }
            _ => Err(Failure::Final(self.refusal(status, &text))),
        }
    }

    fn describe(&self, status: u16, text: &str) -> String {
        let parsed: Value = serde_json::from_str(text).unwrap_or_default();
        let message = parsed.pointer("/error/message").or_else(|| parsed.get("message"));
        let message = message.and_then(Value::as_str).unwrap_or(text);
        format!("HTTP {status}: {}", self.quote(message))
    }

    /// Returns the begin of what the server said. It may say our key back to us, and what it says
    /// goes into logs and records.
    fn quote(&self, text: &str) -> String {
        // In JSON a letter can be spelled in several ways: written anew, there is one.
        let parsed = serde_json::from_str::<Value>(text);
        let mut text = parsed.map_or_else(|_| text.to_owned(), |value| value.to_string());
        if let Some(key) = self.options.api_key.as_deref().filter(|key| !key.is_empty()) {
            let quoted = Value::from(key).to_string();
            text = text.replace(key, "[key]").replace(&quoted[1..quoted.len() - 1], "[key]");
        }
        let short: String = text.trim().chars().take(200).collect();
        crate::name::escape(&short)
    }

    fn refusal(&self, status: u16, text: &str) -> ChatError {
        if let Some((tokens, limit)) = context_overflow(text) {
            return ChatError::ContextWindow { tokens, limit };
        }
        let auth = if matches!(status, 401 | 403) { Auth::Refused } else { Auth::NotTheCause };
        self.failed(self.describe(status, text), auth)
    }

    /// Reads the body of an answer.
    ///
    /// # Errors
    /// [`ChatError::Endpoint`]: it is not a chat completion.
    pub fn read_reply(&self, text: &str) -> Result<ChatReply, ChatError> {
        let bad = |what: &str| {
            let shown = self.quote(text);
            self.failed(format!("the answer has no {what}: {shown}"), Auth::NotTheCause)
        };
        let reply: Value = serde_json::from_str(text).map_err(|_| bad("JSON"))?;
        let choice = reply.pointer("/choices/0").ok_or_else(|| bad("choice"))?;
        let given = choice.get("message").ok_or_else(|| bad("message"))?;
        let text_of = |key: &str| given.get(key).and_then(Value::as_str).map(str::to_owned);
        let message = Message {
            reasoning: text_of("reasoning_content").or_else(|| text_of("reasoning")),
            tool_calls: read_calls(given),
            ..Message::new(Role::Assistant, text_of("content").unwrap_or_default())
        };
        let finish_reason = match choice["finish_reason"].as_str() {
            Some("length") => FinishReason::Length,
            _ if message.tool_calls.is_empty() => FinishReason::Stop,
            _ => FinishReason::ToolCalls,
        };
        let count = |path: &str| reply.pointer(path).and_then(Value::as_u64).unwrap_or(0);
        let usage = Usage {
            prompt_tokens: count("/usage/prompt_tokens"),
            cached_tokens: count("/usage/prompt_tokens_details/cached_tokens"),
            completion_tokens: count("/usage/completion_tokens"),
        };
        Ok(ChatReply { message, finish_reason, usage, trace: None })
    }
}

impl ChatModel for Endpoint {
    fn chat(&self, request: &ChatRequest) -> Result<ChatReply, ChatError> {
        let body = request_body(&self.options.model, request);
        let deadline = request.timeout.map(|timeout| Instant::now() + timeout);
        let late = || ChatError::Timeout { secs: request.timeout.map_or(0, |t| t.as_secs()) };
        let mut pause = self.options.pause;
        for retry in 0.. {
            if request.cancel.is_cancelled() {
                return Err(ChatError::Cancelled);
            }
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(late());
            }
            let (reason, after) = match self.attempt(&body, left) {
                Ok(reply) => return Ok(reply),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again { reason, after }) => (reason, after),
            };
            if deadline.is_some_and(|at| Instant::now() >= at) {
                return Err(late());
            }
            if retry == self.options.retries {
                let tries = retry + 1;
                return Err(self.failed(format!("{reason} (tried {tries}×)"), Auth::NotTheCause));
            }
            sleep(after.unwrap_or(pause), request, deadline);
            pause = (pause * 2).min(PAUSE_MAX);
        }
        Err(late())
    }

    fn name(&self) -> &str {
        &self.options.model
    }
}

/// Sleeps in short pieces, so that cancelling is quick.
fn sleep(pause: Duration, request: &ChatRequest, deadline: Option<Instant>) {
    let end = Instant::now() + pause;
    let end = deadline.map_or(end, |deadline| end.min(deadline));
    while Instant::now() < end && !request.cancel.is_cancelled() {
        let left = end.saturating_duration_since(Instant::now());
        std::thread::sleep(left.min(Duration::from_millis(50)));
    }
}

fn request_body(model: &str, request: &ChatRequest) -> Value {
    let sampling = &request.sampling;
    let messages: Vec<Value> = request.messages.iter().map(Message::to_openai).collect();
    let mut body = Map::new();
    body.insert("model".into(), model.into());
    body.insert("messages".into(), messages.into());
    if !request.tools.is_empty() {
        body.insert("tools".into(), request.tools.clone().into());
    }
    body.insert("temperature".into(), json!(sampling.temperature));
    body.insert("top_p".into(), json!(sampling.top_p));
    if let Some(k) = sampling.top_k {
        body.insert("top_k".into(), k.into());
    }
    body.insert("max_tokens".into(), sampling.max_tokens.into());
    // Servers read the seed as a signed 64-bit number.
    body.insert("seed".into(), (sampling.seed >> 1).into());
    if !request.template_args.is_empty() {
        body.insert("chat_template_kwargs".into(), request.template_args.clone().into());
    }
    Value::Object(body)
}

fn read_calls(message: &Value) -> Vec<ToolCall> {
    let calls = message.get("tool_calls").and_then(Value::as_array);
    let read = |call: &Value| {
        let arguments = &call["function"]["arguments"];
        Some(ToolCall {
            id: call["id"].as_str().unwrap_or_default().to_owned(),
            name: call["function"]["name"].as_str()?.to_owned(),
            arguments: arguments.as_str().map_or_else(|| arguments.to_string(), str::to_owned),
        })
    };
    calls.into_iter().flatten().filter_map(read).collect()
}

/// Recognises the servers' words for a conversation that is too long, with the numbers in them.
fn context_overflow(text: &str) -> Option<(u64, u64)> {
    let lower = text.to_lowercase();
    let phrases = [
        "maximum context length",
        "context_length_exceeded",
        "exceed_context_size",
        "exceeds the available context size",
        "longer than the model's context length",
        "max_model_len",
    ];
    if !phrases.iter().any(|phrase| lower.contains(phrase)) {
        return None;
    }
    let error: Value = serde_json::from_str(text).unwrap_or_default();
    let number = |key: &str| error.pointer(&format!("/error/{key}")).and_then(Value::as_u64);
    Some((number("n_prompt_tokens").unwrap_or(0), number("n_ctx").unwrap_or(0)))
}

fn is_version(segment: &str) -> bool {
    let digits = segment.strip_prefix('v').unwrap_or_default();
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

/// Takes user and password out of an address.
fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (host, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    use std::net::TcpListener;
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::{Endpoint, EndpointOptions, context_overflow};
    use crate::engine::chat::{
        Auth, ChatError, ChatModel as _, ChatRequest, FinishReason, Message, Role,
    };

    /// Serves the given raw answers, one a connection; returns the address and what was asked.
    fn serve(answers: Vec<String>) -> (String, std::thread::JoinHandle<Vec<(String, Value)>>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://user:pass@{}", listener.local_addr().expect("an address"));
        let thread = std::thread::spawn(move || {
            let one = |answer: String| {
                let (mut stream, _) = listener.accept().expect("a caller");
                let mut reader = BufReader::new(stream.try_clone().expect("a clone"));
                let (mut head, mut length) = (String::new(), 0);
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).expect("a line");
                    let lower = line.to_lowercase();
                    if let Some(value) = lower.strip_prefix("content-length:") {
                        length = value.trim().parse().expect("a length");
                    }
                    head.push_str(&line);
                    if line == "\r\n" {
                        break;
                    }
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).expect("a body");
                stream.write_all(answer.as_bytes()).expect("an answer");
                (head, serde_json::from_slice(&body).expect("JSON"))
            };
            answers.into_iter().map(one).collect()
        });
        (url, thread)
    }

    fn http(status: &str, headers: &str, body: &str) -> String {
        let length = body.len();
        format!(
            "HTTP/1.1 {status}\r\n{headers}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    }

    fn endpoint(url: &str) -> Endpoint {
        Endpoint::new(EndpointOptions {
            url: url.to_owned(),
            model: "m".into(),
            api_key: Some("secret".into()),
            retries: 2,
            pause: Duration::from_millis(1),
        })
    }

    fn request() -> ChatRequest {
        let messages = vec![Message::new(Role::User, "hi")];
        ChatRequest { messages, ..ChatRequest::default() }
    }

    #[test]
    fn a_busy_server_is_asked_again_and_its_answer_read() {
        let answer = json!({"choices": [{"finish_reason": "tool_calls", "message": {
            "role": "assistant", "content": null, "reasoning_content": "hm", "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "bash", "arguments": "{}"}}]}}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3}});
        let (url, server) = serve(vec![
            http("503 Busy", "", "later"),
            http("429 Slow", "Retry-After: 0\r\n", "later"),
            http("200 OK", "Content-Type: application/json\r\n", &answer.to_string()),
        ]);
        let reply = endpoint(&url).chat(&request()).expect("an answer");
        assert_eq!(reply.finish_reason, FinishReason::ToolCalls);
        assert_eq!(reply.message.tool_calls[0].name, "bash");
        assert_eq!(reply.message.reasoning.as_deref(), Some("hm"));
        assert_eq!((reply.usage.prompt_tokens, reply.usage.completion_tokens), (7, 3));
        let asked = server.join().expect("served");
        assert!(asked[2].0.starts_with("POST /v1/chat/completions HTTP/1.1"), "{}", asked[2].0);
        assert!(asked[2].0.contains("Bearer secret"));
        assert_eq!(asked[2].1["messages"], json!([{"role": "user", "content": "hi"}]));
        assert_eq!(asked[2].1["top_p"], 0.95);
    }

    #[test]
    fn refusals_are_told_apart_and_never_show_secrets() {
        let overflow = r#"{"error":{"code":400,"type":"exceed_context_size_error","message":
            "the request exceeds the available context size","n_prompt_tokens":9,"n_ctx":8}}"#;
        let answers = vec![
            http("401 No", "", r#"{"error":{"message":"bad key secret given"}}"#),
            http("400 Bad", "", overflow),
            http("404 No", "", "no such model"),
            http("200 OK", "", "you are secret"),
            http("200 OK", "", r#"{"detail": "you are \u0073ecret"}"#),
            http("422 No", "", &format!("{}secret", "x".repeat(197))),
        ];
        let (url, server) = serve(answers);
        let client = endpoint(&url);
        let errors = [(); 6].map(|()| client.chat(&request()).expect_err("refused"));
        assert!(matches!(errors[0], ChatError::Endpoint { auth: Auth::Refused, .. }));
        assert!(matches!(errors[1], ChatError::ContextWindow { tokens: 9, limit: 8 }));
        assert!(matches!(errors[2], ChatError::Endpoint { auth: Auth::NotTheCause, .. }));
        for error in &errors {
            let text = error.to_string();
            assert!(!text.contains("pass") && !text.contains("sec"), "{text}");
        }
        assert!(errors[0].to_string().ends_with("HTTP 401: bad key [key] given"), "{}", errors[0]);
        assert!(!format!("{:?}", client.options).contains("secret"));
        server.join().expect("served");
    }

    #[test]
    fn retries_end() {
        let (url, server) = serve(vec![http("500 Oh", "", "x"); 3]);
        let error = endpoint(&url).chat(&request()).expect_err("fails");
        assert!(error.to_string().contains("tried 3"), "{error}");
        server.join().expect("served");
    }

    #[test]
    fn cut_answers_are_asked_for_again_and_pages_are_refused() {
        let cut = "HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n{\"choices\": [".to_owned();
        let answer = json!({"choices": [{"message": {"content": "hi"}}]}).to_string();
        let page = "<html>log in</html>";
        let (url, server) = serve(vec![cut, http("200 OK", "", &answer), http("200 OK", "", page)]);
        let client = endpoint(&url);
        assert_eq!(client.chat(&request()).expect("an answer").message.content, "hi");
        let error = client.chat(&request()).expect_err("is no answer").to_string();
        assert!(error.contains("no JSON") && error.contains("log in"), "{error}");
        server.join().expect("served");
    }

    #[test]
    fn a_server_that_says_nothing_is_a_timeout() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let patient = ChatRequest { timeout: Some(Duration::from_millis(300)), ..request() };
        let error = endpoint(&url).chat(&patient).expect_err("no answer");
        assert!(matches!(error, ChatError::Timeout { .. }), "{error}");
    }

    #[test]
    fn addresses_are_completed() {
        for (given, full) in [
            ("http://h:1", "http://h:1/v1/chat/completions"),
            ("http://h:1/v1/", "http://h:1/v1/chat/completions"),
            ("http://h/x/v2", "http://h/x/v2/chat/completions"),
            ("http://h/v1/chat/completions", "http://h/v1/chat/completions"),
        ] {
            assert_eq!(endpoint(given).url, full);
        }
        let vllm = "This model's maximum context length is 8 tokens";
        assert_eq!(context_overflow(vllm), Some((0, 0)));
        assert_eq!(context_overflow("no such tool"), None);
    }
}
