//! A checkpoint on this machine as a [`ChatModel`].

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Zoned;

use super::backend::WeightPrecision;
use super::chat::{
    ChatError, ChatModel, ChatReply, ChatRequest, FinishReason, Message, Role, TokenTrace,
    ToolCall, Usage,
};
use super::cpu::CpuBackend;
use super::device::{Device, DeviceChoice};
use super::generate::{Answer, End, Generator, Job, Limits};
use super::model::Model;
use super::sample::Rng;
use super::template::{ChatTemplate, Ending, TemplateError, template_message};
use super::tokens::{SpeechFiles, Tokens, check_ids};
use super::toolcall::ToolFormat;
use super::weights::TensorView;
use crate::checkpoint::Checkpoint;
use crate::error::Result;

/// How a checkpoint is run.
#[derive(Debug, Clone)]
pub struct LocalOptions {
    /// Where.
    pub device: DeviceChoice,
    /// How weights are kept.
    pub precision: WeightPrecision,
    /// Bounds of the scheduler; the context is also bounded by the model's own.
    pub limits: Limits,
    /// What `strftime_now` in a template tells.
    pub now: Zoned,
}

/// A checkpoint in memory, with a thread that runs it.
pub struct LocalModel {
    name: String,
    tokens: Tokens,
    template: ChatTemplate,
    format: ToolFormat,
    context: usize,
    jobs: Option<Sender<Work>>,
    worker: Option<JoinHandle<()>>,
}

type Work = (Job, Sender<Answer>);

/// Loads the text model of a checkpoint.
///
/// # Errors
/// No such device; a tensor missing or of the wrong shape.
pub fn load_model(
    checkpoint: &Checkpoint,
    device: DeviceChoice,
    precision: WeightPrecision,
) -> Result<Model<CpuBackend>> {
    let Device::Cpu = device.resolve()?;
    let find = |name: &str| {
        let tensor = checkpoint.find(name)?;
        let (dtype, shape) = (tensor.dtype, tensor.shape.clone());
        Some(TensorView { dtype, shape, bytes: checkpoint.data(tensor) })
    };
    Ok(Model::load(CpuBackend::new(precision), &checkpoint.config, &find)?)
}

/// Reads the tokenizer of a checkpoint.
///
/// # Errors
/// No tokenizer, or one that cannot be read.
pub fn load_tokens(checkpoint: &Checkpoint) -> Result<(Tokens, SpeechFiles)> {
    let files = SpeechFiles {
        tokenizer: checkpoint.aux("tokenizer.json")?,
        tokenizer_config: checkpoint.aux("tokenizer_config.json")?,
        generation_config: checkpoint.aux("generation_config.json")?,
        chat_template: checkpoint.aux("chat_template.jinja")?,
    };
    let config = &checkpoint.config;
    let tokens = Tokens::new(&files, config.raw_text(), config.text.vocab_size)?;
    Ok((tokens, files))
}

/// Reads the chat template of a checkpoint and tries it out; also tells how it writes tool calls.
///
/// # Errors
/// No template, or one that cannot be used.
pub fn load_template(files: &SpeechFiles, now: Zoned) -> Result<(ChatTemplate, ToolFormat)> {
    let source = files.template().ok_or(TemplateError::Missing)?;
    let template = ChatTemplate::new(&source, now)?;
    template.try_out()?;
    Ok((template, ToolFormat::of_template(&source)))
}

impl LocalModel {
    /// Loads a checkpoint and starts its thread. `name` is for records.
    ///
    /// # Errors
    /// No such device; weights, tokenizer or template missing or unreadable.
    pub fn load(checkpoint: &Checkpoint, name: &str, options: &LocalOptions) -> Result<Self> {
        let (tokens, files) = load_tokens(checkpoint)?;
        let (template, format) = load_template(&files, options.now.clone())?;
        let model = load_model(checkpoint, options.device, options.precision)?;
        let mut limits = options.limits;
        limits.context = limits.context.min(model.config().max_position_embeddings as usize);
        let generator = Generator::new(model, tokens.stop().to_vec(), limits);
        let (jobs, inbox) = channel();
        let worker = std::thread::spawn(move || work(generator, &inbox));
        Ok(Self {
            name: name.to_owned(),
            tokens,
            format,
            template,
            context: limits.context,
            jobs: Some(jobs),
            worker: Some(worker),
        })
    }

    /// Returns the prompt's ids.
    ///
    /// # Errors
    /// The template refuses, the tokenizer fails, or the prompt leaves no room for an answer.
    pub fn prompt(&self, request: &ChatRequest) -> Result<Vec<u32>, ChatError> {
        let engine = |error: crate::error::Error| ChatError::Engine(Arc::new(error));
        let messages: Vec<_> = request.messages.iter().map(template_message).collect();
        let (args, ending) = (&request.template_args, Ending::GenerationPrompt);
        let text = self
            .template
            .render(&messages, &request.tools, args, ending)
            .map_err(|e| engine(e.into()))?;
        let ids = self.tokens.encode(&text).map_err(|e| engine(e.into()))?;
        check_ids(&ids, u64::from(u32::MAX)).map_err(|e| engine(e.into()))?;
        if ids.is_empty() || ids.len() >= self.context {
            let (tokens, limit) = (ids.len() as u64, self.context as u64);
            return Err(ChatError::ContextWindow { tokens, limit });
        }
        Ok(ids)
    }

    fn wait(&self, job: Job, timeout: Option<Duration>) -> Result<Answer, ChatError> {
        let (reply, answer) = channel();
        let cancel = job.cancel.clone();
        let jobs = self.jobs.as_ref().ok_or(ChatError::Cancelled)?;
        jobs.send((job, reply)).map_err(|_| ChatError::Cancelled)?;
        let answer = answer.recv().map_err(|_| ChatError::Cancelled)?;
        match answer.end {
            End::Cancelled => Err(ChatError::Cancelled),
            End::Timeout => {
                Err(ChatError::Timeout { secs: timeout.map_or(0, |time| time.as_secs()) })
            }
            End::NoProbability => Err(ChatError::NoProbability),
            End::Stop | End::Length if cancel.is_cancelled() => Err(ChatError::Cancelled),
            End::Stop | End::Length => Ok(answer),
        }
    }

    fn reply(&self, prompt: Vec<u32>, answer: Answer, request: &ChatRequest) -> Result<ChatReply> {
        let ended = answer.end == End::Stop;
        let text = match answer.ids.split_last() {
            Some((_, rest)) if ended => self.tokens.decode(rest)?,
            _ => self.tokens.decode(&answer.ids)?,
        };
        let (content, calls) = self.format.parse(&text, &request.tools);
        let mut ids = Rng::new(request.sampling.seed ^ (prompt.len() as u64).rotate_left(32));
        let calls: Vec<ToolCall> = calls
            .into_iter()
            .map(|call| {
                let id = format!("call_{:016x}", ids.next_u64());
                ToolCall { id, name: call.name, arguments: call.arguments }
            })
            .collect();
        let finish_reason = match (ended, calls.is_empty()) {
            (false, _) => FinishReason::Length,
            (true, true) => FinishReason::Stop,
            (true, false) => FinishReason::ToolCalls,
        };
        let usage = Usage {
            prompt_tokens: prompt.len() as u64,
            cached_tokens: answer.cached_tokens as u64,
            completion_tokens: answer.ids.len() as u64,
        };
        let message = Message { tool_calls: calls, ..Message::new(Role::Assistant, content) };
        let trace = TokenTrace {
            prompt_ids: prompt,
            completion_ids: answer.ids,
            logprobs: answer.logprobs,
        };
        Ok(ChatReply { message, finish_reason, usage, trace: Some(trace) })
    }
}

impl ChatModel for LocalModel {
    fn chat(&self, request: &ChatRequest) -> Result<ChatReply, ChatError> {
        let prompt = self.prompt(request)?;
        let job = Job {
            prompt: prompt.clone(),
            sampling: request.sampling,
            cancel: request.cancel.clone(),
            deadline: request.timeout.map(|timeout| Instant::now() + timeout),
        };
        let answer = self.wait(job, request.timeout)?;
        self.reply(prompt, answer, request).map_err(|error| ChatError::Engine(Arc::new(error)))
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for LocalModel {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(worker) = self.worker.take() {
            // A panic of the worker has already failed the chats that waited for it.
            let _ = worker.join();
        }
    }
}

/// Runs jobs until the model is dropped; sleeps when there are none.
fn work(mut generator: Generator<CpuBackend, Sender<Answer>>, inbox: &Receiver<Work>) {
    loop {
        if generator.is_idle() {
            let Ok((job, reply)) = inbox.recv() else { return };
            generator.submit(job, reply);
            // Callers that ask at the same time are answered in one batch from the start.
            while let Ok((job, reply)) = inbox.recv_timeout(Duration::from_micros(200)) {
                generator.submit(job, reply);
            }
        }
        loop {
            match inbox.recv_timeout(Duration::ZERO) {
                Ok((job, reply)) => generator.submit(job, reply),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        for (reply, answer) in generator.step() {
            // The caller may have gone.
            let _ = reply.send(answer);
        }
    }
}
