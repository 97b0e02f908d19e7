//! Many answers at once: one packed forward pass a step, whatever stage each sequence is in.
//!
//! A step takes one token of every answer being written and fills up with prompt tokens of new
//! ones. The state at a prompt's end is kept, and so is that at an answer's end: the next turn of
//! a conversation, or another attempt at the same task, starts from there.

use std::time::Instant;

use super::backend::{Backend, Batch, Segment};
use super::chat::{CancelFlag, Sampling};
use super::model::{Model, Workspace};
use super::sample::Sampler;

/// Bounds of the scheduler.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Answers written at the same time; further ones wait.
    pub sequences: usize,
    /// Tokens of one forward pass.
    pub step_tokens: usize,
    /// Bytes of states kept for reuse.
    pub kept_bytes: usize,
    /// Longest prompt and answer together.
    pub context: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { sequences: 32, step_tokens: 512, kept_bytes: 2 << 30, context: 65_536 }
    }
}

/// One answer to write.
#[derive(Debug, Clone)]
pub struct Job {
    /// The prompt: not empty, every id within the vocabulary, shorter than the context.
    pub prompt: Vec<u32>,
    /// How to draw.
    pub sampling: Sampling,
    /// Give up when set.
    pub cancel: CancelFlag,
    /// Give up then.
    pub deadline: Option<Instant>,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// A stop token was drawn; it is the last id.
    Stop,
    /// `max_tokens` or the context was reached.
    Length,
    /// The job was cancelled.
    Cancelled,
    /// The deadline passed.
    Timeout,
    /// The logits held NaN or infinity: the weights are damaged.
    NoProbability,
}

/// One answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// What was drawn.
    pub ids: Vec<u32>,
    /// `ln p` of each under the model, before temperature and cuts.
    pub logprobs: Vec<f32>,
    /// Why it ended.
    pub end: End,
    /// Prompt tokens whose state was reused.
    pub cached_tokens: usize,
}

/// Writes answers; `T` is what the caller knows a job by.
pub struct Generator<B: Backend, T> {
    model: Model<B>,
    workspace: Workspace<B>,
    stop: Vec<u32>,
    limits: Limits,
    waiting: std::collections::VecDeque<(Job, T)>,
    active: Vec<Sequence<B, T>>,
    kept: Vec<Kept<B>>,
    clock: u64,
}

struct Sequence<B: Backend, T> {
    tag: T,
    job: Job,
    sampler: Sampler,
    /// Prompt and answer.
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    cache: B::Cache,
    /// Tokens that the cache holds.
    position: usize,
    cached_tokens: usize,
    /// Whether the last logits were no probabilities.
    broken: bool,
}

/// A state that may be started from.
struct Kept<B: Backend> {
    tokens: Vec<u32>,
    cache: B::Cache,
    used: u64,
}

impl<B: Backend, T> Generator<B, T> {
    /// Takes the model; `stop` are the ids that end an answer.
    pub fn new(model: Model<B>, stop: Vec<u32>, limits: Limits) -> Self {
        Self {
            model,
            workspace: Workspace::default(),
            stop,
            limits,
            waiting: std::collections::VecDeque::new(),
            active: Vec::new(),
            kept: Vec::new(),
            clock: 0,
        }
    }

    /// Queues a job.
    pub fn submit(&mut self, job: Job, tag: T) {
        self.waiting.push_back((job, tag));
    }

    /// Says whether nothing is left to do.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.active.is_empty()
    }

    /// Runs one forward pass; returns the answers that ended.
    pub fn step(&mut self) -> Vec<(T, Answer)> {
        self.admit();
        let mut done = self.give_up();
        let counts = self.plan();
        if counts.iter().all(|&n| n == 0) {
            return done;
        }
        self.forward(&counts);
        self.draw(&counts);
        self.keep_prompt_states();
        done.extend(self.collect_ended());
        done
    }

    fn admit(&mut self) {
        while self.active.len() < self.limits.sequences {
            let Some((job, tag)) = self.waiting.pop_front() else { return };
            let (cache, position) = self.start(&job.prompt);
            self.active.push(Sequence {
                tag,
                sampler: Sampler::new(&job.sampling),
                tokens: job.prompt.clone(),
                logprobs: Vec::new(),
                cache,
                position,
                cached_tokens: position,
                broken: false,
                job,
            });
        }
    }

    /// The longest kept state that the prompt continues by at least one token.
    fn start(&mut self, prompt: &[u32]) -> (B::Cache, usize) {
        self.clock += 1;
        let fits = |kept: &&mut Kept<B>| {
            kept.tokens.len() < prompt.len() && prompt.starts_with(&kept.tokens)
        };
        match self.kept.iter_mut().filter(fits).max_by_key(|kept| kept.tokens.len()) {
            Some(kept) => {
                kept.used = self.clock;
                (kept.cache.clone(), kept.tokens.len())
            }
            None => (self.model.cache(), 0),
        }
    }

    /// Ends cancelled and late sequences.
    fn give_up(&mut self) -> Vec<(T, Answer)> {
        let late = |job: &Job| job.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        let mut done = Vec::new();
        for index in (0..self.active.len()).rev() {
            let job = &self.active[index].job;
            let end = match (job.cancel.is_cancelled(), late(job)) {
                (true, _) => End::Cancelled,
                (_, true) => End::Timeout,
                _ => continue,
            };
            let sequence = self.active.remove(index);
            done.push(sequence.finish(end));
        }
        done
    }

    /// Tokens that each sequence feeds: answers first, then prompts in order of arrival.
    ///
    /// A prompt's last token is fed apart, so that the state before it can be kept.
    fn plan(&self) -> Vec<usize> {
        let mut left = self.limits.step_tokens.max(1);
        let mut counts = vec![0; self.active.len()];
        for writing in [true, false] {
            for (sequence, count) in self.active.iter().zip(&mut counts) {
                let pending = sequence.tokens.len() - sequence.position;
                if writing == (pending == 1) {
                    *count = (pending - usize::from(pending > 1)).min(left);
                    left -= *count;
                }
            }
        }
        counts
    }

    fn forward(&mut self, counts: &[usize]) {
        let (mut ids, mut segments, mut caches) = (Vec::new(), Vec::new(), Vec::new());
        for (sequence, &len) in self.active.iter_mut().zip(counts).filter(|(_, n)| **n > 0) {
            let position = sequence.position;
            segments.push(Segment { offset: ids.len(), len, position });
            ids.extend_from_slice(&sequence.tokens[position..position + len]);
            caches.push(&mut sequence.cache);
        }
        self.model.forward(&ids, &mut Batch { segments, caches }, &mut self.workspace);
    }

    /// Draws a token for every sequence whose tokens are now all in its cache.
    fn draw(&mut self, counts: &[usize]) {
        let (mut row, mut rows, mut ready) = (0, Vec::new(), Vec::new());
        for (index, (sequence, &count)) in self.active.iter_mut().zip(counts).enumerate() {
            row += count;
            sequence.position += count;
            if count > 0 && sequence.position == sequence.tokens.len() {
                rows.push(row - 1);
                ready.push(index);
            }
        }
        if rows.is_empty() {
            return;
        }
        let logits = self.model.logits(&self.workspace, &rows);
        let width = logits.len() / rows.len();
        for (index, logits) in ready.into_iter().zip(logits.chunks(width)) {
            let sequence = &mut self.active[index];
            // Some token could be drawn of these too, and what follows be taken for an answer.
            sequence.broken = logits.iter().any(|logit| !logit.is_finite());
            if sequence.broken {
                continue;
            }
            let id = sequence.sampler.draw(logits);
            sequence.logprobs.push(logits[id as usize] - super::cpu::log_sum_exp(logits));
            sequence.tokens.push(id);
        }
    }

    /// Keeps the state of every prompt that has one token left.
    fn keep_prompt_states(&mut self) {
        for index in 0..self.active.len() {
            let sequence = &self.active[index];
            let prompt = &sequence.job.prompt;
            let at_end = sequence.position + 1 == prompt.len();
            if at_end && sequence.cached_tokens < sequence.position {
                let tokens = prompt[..sequence.position].to_vec();
                let cache = sequence.cache.clone();
                self.keep(tokens, cache);
            }
        }
    }

    fn keep(&mut self, tokens: Vec<u32>, cache: B::Cache) {
        self.clock += 1;
        let used = self.clock;
        if let Some(kept) = self.kept.iter_mut().find(|kept| kept.tokens == tokens) {
            kept.used = used;
            return;
        }
        self.kept.push(Kept { tokens, cache, used });
        let backend = self.model.backend();
        let size = |kept: &[Kept<B>]| -> usize {
            kept.iter().map(|kept| backend.cache_bytes(&kept.cache)).sum()
        };
        while !self.kept.is_empty() && size(&self.kept) > self.limits.kept_bytes {
            let oldest = (0..self.kept.len()).min_by_key(|&i| self.kept[i].used).unwrap_or(0);
            self.kept.swap_remove(oldest);
        }
    }

    fn collect_ended(&mut self) -> Vec<(T, Answer)> {
        let mut done = Vec::new();
        let mut index = 0;
        while index < self.active.len() {
            let Some(end) = self.active[index].end(&self.stop, self.limits.context) else {
                index += 1;
                continue;
            };
            let mut sequence = self.active.remove(index);
            let cache = std::mem::replace(&mut sequence.cache, self.model.cache());
            self.keep(sequence.tokens[..sequence.position].to_vec(), cache);
            done.push(sequence.finish(end));
        }
        done
    }
}

impl<B: Backend, T> Sequence<B, T> {
    fn end(&self, stop: &[u32], context: usize) -> Option<End> {
        if self.broken {
            return Some(End::NoProbability);
        }
        let drawn = self.logprobs.len();
        let last = *self.tokens.last()?;
        if drawn > 0 && stop.contains(&last) {
            return Some(End::Stop);
        }
        let full = drawn >= self.job.sampling.max_tokens as usize || self.tokens.len() >= context;
        (drawn > 0 && full).then_some(End::Length)
    }

    fn finish(self, end: End) -> (T, Answer) {
        let ids = self.tokens[self.job.prompt.len()..].to_vec();
        let cached_tokens = self.cached_tokens;
        (self.tag, Answer { ids, logprobs: self.logprobs, end, cached_tokens })
    }
}
