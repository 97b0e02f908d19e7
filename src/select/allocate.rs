//! Which step to try next, and on which task.
//!
//! Top-two Thompson sampling draws the scores of all steps from the posterior, takes the leader
//! that comes up and those that lead in further draws, and spends the next attempt where it tells
//! the first from the others best.
//! Uniform allocation and successive halving are here for comparison, and for those who want
//! plain means of the same number of attempts everywhere. All three give all steps the same
//! task list.

use super::rasch::{Curvature, Gain, Prior, Rasch};
use super::rng::Rng;
use super::scores::Scores;

/// How attempts are spread over steps and tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocation {
    /// Top-two Thompson sampling, with the tasks that tell the two apart.
    Ttts,
    /// The same number of attempts for all steps at all tasks.
    Uniform,
    /// Uniform among those left, of which the worse half leaves after each equal part of the
    /// budget.
    Halving,
}

/// One attempt to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// Index of the step.
    pub step: usize,
    /// Index of the task.
    pub task: usize,
}

/// What may be spent, in one of three coins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Budget {
    /// Attempts with a verdict.
    Rollouts(u64),
    /// Seconds of work.
    Secs(f64),
    /// Tokens written by the model.
    Tokens(u64),
}

/// What was spent, in all coins.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Spent {
    /// Attempts with a verdict.
    pub rollouts: u64,
    /// Seconds of work.
    pub secs: f64,
    /// Tokens written by the model.
    pub tokens: u64,
}

impl Budget {
    /// Returns the share that is spent; one or more means that nothing is left.
    #[must_use]
    pub fn share(&self, spent: &Spent) -> f64 {
        match *self {
            Self::Rollouts(most) => spent.rollouts as f64 / most as f64,
            Self::Secs(most) => spent.secs / most,
            Self::Tokens(most) => spent.tokens as f64 / most as f64,
        }
    }
}

/// Tasks at which a queue that was ordered lets all steps try before anything is known.
const OPENING: usize = 2;
/// A cell whose attempts fail this often outside the model is left alone.
const FAILURES_MAX: u32 = 3;
/// How often the spread of the difficulties is learnt anew, in verdicts.
const SPREAD_EVERY: usize = 10;
const CHALLENGER_DRAWS: usize = 60;
/// Newton's error after a step this long (in logits) is far below any that matters for sampling.
const TOLERANCE: f64 = 0.02;

/// Hands out attempts and takes their verdicts.
#[derive(Debug, Clone)]
pub struct Allocator {
    allocation: Allocation,
    model: Rasch,
    rng: Rng,
    /// Tasks in a random order that all steps share.
    order: Vec<usize>,
    /// The steps in the order in which they are tried where nothing else tells them apart.
    queue: Vec<usize>,
    /// What is asked for before anything is known, the next one last.
    opening: Vec<Ask>,
    alive: Vec<bool>,
    failures: Vec<u32>,
    round: u32,
    fresh: usize,
}

impl Allocator {
    /// Starts with nothing known.
    #[must_use]
    pub fn new(
        steps: usize,
        tasks: usize,
        allocation: Allocation,
        prior: Prior,
        seed: u64,
    ) -> Self {
        let mut rng = Rng::new(seed);
        let mut order: Vec<usize> = (0..tasks).collect();
        rng.shuffle(&mut order);
        Self {
            allocation,
            model: Rasch::new(steps, tasks, prior),
            rng,
            order,
            queue: (0..steps).collect(),
            opening: Vec::new(),
            alive: vec![true; steps],
            failures: vec![0; steps * tasks],
            round: 0,
            fresh: 0,
        }
    }

    /// Orders the queue of steps, which holds each once: all get their first two attempts in this
    /// order, and it breaks ties of uniform allocation and halving. The posterior is not told.
    ///
    /// # Panics
    /// When `queue` does not hold every step once.
    #[must_use]
    pub fn queued(mut self, queue: Vec<usize>) -> Self {
        let mut sorted = queue.clone();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..self.model.steps()), "a queue holds every step once");
        if self.allocation == Allocation::Ttts {
            let first = self.order.iter().take(OPENING);
            let asks = first.flat_map(|&task| queue.iter().map(move |&step| Ask { step, task }));
            self.opening = asks.collect();
            self.opening.reverse();
        }
        self.queue = queue;
        self
    }

    /// Returns the next attempt, which counts as under way until [`Self::record`] or
    /// [`Self::fail`]; `None` if every cell was given up. `spent` is the share of the budget
    /// that is gone, which only halving looks at.
    pub fn ask(&mut self, spent: f64) -> Option<Ask> {
        let ask = match self.allocation {
            Allocation::Ttts => self.opening.pop().or_else(|| self.top_two()),
            Allocation::Uniform => self.fewest(),
            Allocation::Halving => {
                self.halve(spent);
                self.fewest()
            }
        }?;
        self.model.expect(ask.step, ask.task);
        Some(ask)
    }

    /// Takes the verdict of an attempt.
    pub fn record(&mut self, ask: Ask, reward: f64) {
        self.model.settle(ask.step, ask.task);
        self.model.observe(ask.step, ask.task, reward);
        self.fresh += 1;
    }

    /// Takes note that an attempt has no verdict. After three such failures the cell is given up.
    pub fn fail(&mut self, ask: Ask) {
        self.model.settle(ask.step, ask.task);
        self.failures[ask.step * self.model.tasks() + ask.task] += 1;
    }

    /// Returns the joint posterior of the scores with what is known now.
    pub fn scores(&mut self) -> Scores {
        let curvature = self.refresh();
        self.model.scores(&curvature)
    }

    /// Returns the order in which uniform allocation goes through the tasks.
    #[must_use]
    pub fn task_order(&self) -> &[usize] {
        &self.order
    }

    fn refresh(&mut self) -> Curvature {
        self.model.fit(TOLERANCE);
        let curvature = self.model.curvature();
        if self.fresh < SPREAD_EVERY {
            return curvature;
        }
        self.fresh = 0;
        self.model.update_spread(&curvature);
        self.model.fit(TOLERANCE);
        self.model.curvature()
    }

    fn open(&self, step: usize, task: usize) -> bool {
        self.failures[step * self.model.tasks() + task] < FAILURES_MAX
    }

    /// Draws a leader and its challengers, and returns the cell that tells them apart best.
    fn top_two(&mut self) -> Option<Ask> {
        let curvature = self.refresh();
        let scores = self.model.scores_apart(&curvature);
        let (leader, challengers) = draw_top_two(&scores, &mut self.rng);
        let gains = self.model.gains(&curvature, leader, &challengers);
        let start = self.rng.below(gains.len());
        let mut best: Option<&Gain> = None;
        // Ties, of which the start is full, go to the first after a random place.
        for gain in gains[start..].iter().chain(&gains[..start]) {
            let ahead = best.is_none_or(|b| gain.share > b.share * (1.0 + 1e-9));
            if ahead && self.open(gain.step, gain.task) {
                best = Some(gain);
            }
        }
        match best {
            Some(gain) => Some(Ask { step: gain.step, task: gain.task }),
            None => self.fewest(),
        }
    }

    /// Returns the first cell, task after task, with the fewest attempts of those still in.
    fn fewest(&self) -> Option<Ask> {
        let mut best: Option<(f64, Ask)> = None;
        for &task in &self.order {
            for &step in self.queue.iter().filter(|step| self.alive[**step]) {
                if !self.open(step, task) {
                    continue;
                }
                let count = self.model.attempts(step, task) + self.model.pending(step, task);
                if best.is_none_or(|(least, _)| count < least) {
                    best = Some((count, Ask { step, task }));
                }
            }
        }
        best.map(|(_, ask)| ask)
    }

    /// Sends the worse half home at the end of each equal part of the budget.
    fn halve(&mut self, spent: f64) {
        let rounds = usize::BITS - self.model.steps().saturating_sub(1).leading_zeros();
        while self.round + 1 < rounds && spent >= f64::from(self.round + 1) / f64::from(rounds) {
            self.round += 1;
            let scores = self.scores();
            let mut left: Vec<usize> =
                (0..self.alive.len()).filter(|step| self.alive[*step]).collect();
            left.sort_by(|a, b| scores.mean[*b].total_cmp(&scores.mean[*a]));
            for step in &left[left.len().div_ceil(2)..] {
                self.alive[*step] = false;
            }
        }
    }
}

/// Draws a leader, and the steps that lead instead in further draws, weighted by how often.
fn draw_top_two(scores: &Scores, rng: &mut Rng) -> (usize, Vec<(usize, f64)>) {
    let sampler = scores.sampler();
    let mut draw = vec![0.0; scores.mean.len()];
    sampler.draw(rng, &mut draw);
    let leader = argmax(&draw);
    let mut leads = vec![0.0; draw.len()];
    for _ in 0..CHALLENGER_DRAWS {
        sampler.draw(rng, &mut draw);
        leads[argmax(&draw)] += 1.0;
    }
    leads[leader] = 0.0;
    let challengers: Vec<(usize, f64)> =
        leads.into_iter().enumerate().filter(|(_, count)| *count > 0.0).collect();
    if !challengers.is_empty() || scores.mean.len() == 1 {
        return (leader, challengers);
    }
    // The leader is all but certain: the step that is nearest in standard errors challenges.
    let distance = |step: usize| {
        (scores.mean[leader] - scores.mean[step]) / scores.difference_sd(leader, step).max(1e-6)
    };
    let nearest = (0..scores.mean.len())
        .filter(|step| *step != leader)
        .min_by(|a, b| distance(*a).total_cmp(&distance(*b)));
    (leader, nearest.into_iter().map(|step| (step, 1.0)).collect())
}

/// Returns the index of the largest value, the first of equals.
#[must_use]
pub fn argmax(values: &[f64]) -> usize {
    let mut best = 0;
    for (i, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = i;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::{Allocation, Allocator, Ask, Budget, Spent};
    use crate::select::rasch::Prior;

    fn allocator(allocation: Allocation) -> Allocator {
        Allocator::new(4, 6, allocation, Prior::default(), 5)
    }

    #[test]
    fn uniform_gives_all_steps_the_same_tasks() {
        let mut a = allocator(Allocation::Uniform);
        let asks: Vec<Ask> = (0..8).map(|_| a.ask(0.0).unwrap()).collect();
        assert!(asks[..4].iter().all(|ask| ask.task == asks[0].task));
        assert_eq!(asks[..4].iter().map(|ask| ask.step).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert_ne!(asks[4].task, asks[0].task);
    }

    #[test]
    fn halving_keeps_the_better_half() {
        let mut a = allocator(Allocation::Halving);
        for i in 0..48 {
            let ask = a.ask(f64::from(i) / 96.0).unwrap();
            a.record(ask, if ask.step >= 2 { 1.0 } else { 0.0 });
        }
        for i in 48..60 {
            let ask = a.ask(f64::from(i) / 96.0).unwrap();
            assert!(ask.step >= 2, "{ask:?}");
            a.record(ask, 1.0);
        }
    }

    #[test]
    fn top_two_spends_on_the_contenders_and_pairs_them_by_task() {
        let mut a = Allocator::new(4, 30, Allocation::Ttts, Prior::default(), 5);
        let mut count = [0; 4];
        let mut touched = [[false; 30]; 4];
        for i in 0..300 {
            let ask = a.ask(0.0).unwrap();
            let chance = if ask.step >= 2 { 0.8 } else { 0.1 };
            a.record(ask, if (f64::from(i) * 0.618).fract() < chance { 1.0 } else { 0.0 });
            count[ask.step] += 1;
            touched[ask.step][ask.task] = true;
        }
        assert!(count[2] + count[3] > 3 * (count[0] + count[1]), "{count:?}");
        let both = (0..30).filter(|t| touched[2][*t] && touched[3][*t]).count();
        let either = (0..30).filter(|t| touched[2][*t] || touched[3][*t]).count();
        // Unpaired, each leader would miss a task that the other tried far more often.
        assert!(3 * both >= 2 * either, "{both} of {either} tasks were tried by both leaders");
    }

    #[test]
    fn an_ordered_queue_comes_first_and_all_are_tried() {
        let queue = vec![2, 0, 3, 1];
        for allocation in [Allocation::Ttts, Allocation::Uniform] {
            let mut a = allocator(allocation).queued(queue.clone());
            let asks: Vec<Ask> = (0..8).map(|_| a.ask(0.0).unwrap()).collect();
            let steps: Vec<usize> = asks.iter().map(|ask| ask.step).collect();
            assert_eq!(steps, [queue.clone(), queue.clone()].concat(), "{allocation:?}");
            assert!(asks[..4].iter().all(|ask| ask.task == asks[0].task));
            assert!(asks[4..].iter().all(|ask| ask.task == asks[4].task));
        }
    }

    #[test]
    fn a_cell_that_keeps_failing_is_given_up() {
        for allocation in [Allocation::Ttts, Allocation::Uniform] {
            let mut a = Allocator::new(1, 2, allocation, Prior::default(), 1);
            let mut asked = 0;
            while let Some(ask) = a.ask(0.0) {
                a.fail(ask);
                asked += 1;
            }
            assert_eq!(asked, 6);
        }
    }

    #[test]
    fn the_same_seed_asks_the_same() {
        let run = || {
            let mut a = allocator(Allocation::Ttts);
            (0..40)
                .map(|i| {
                    let ask = a.ask(0.0).unwrap();
                    a.record(ask, f64::from(i % 2));
                    ask
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(run(), run());
    }

    #[test]
    fn budgets_count_their_own_coin() {
        let spent = Spent { rollouts: 10, secs: 30.0, tokens: 500 };
        assert_eq!(Budget::Rollouts(40).share(&spent), 0.25);
        assert_eq!(Budget::Secs(60.0).share(&spent), 0.5);
        assert_eq!(Budget::Tokens(500).share(&spent), 1.0);
    }
}
