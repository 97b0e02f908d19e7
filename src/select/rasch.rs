//! A shared-difficulty (Rasch) model of pass rates, and its Laplace posterior.
//!
//! The reward of step `s` on task `t` has the mean `p = logistic(ability[s] - difficulty[t] +
//! interaction[s, t])`. Difficulties are shared by all steps, so an attempt of one step teaches
//! something about all; the interaction, normal with a small spread, says that steps gain and
//! lose single tasks, and so bounds what any number of attempts at one task can say about the
//! others. Rewards in `[0, 1]` enter through the Bernoulli log-likelihood (quasi-likelihood).
//!
//! What is estimated is the score of each step: the mean of `p` over *these* tasks. The posterior
//! is the Gaussian at the mode. The Hessian is an arrowhead (steps dense, tasks diagonal,
//! interactions diagonal below them), so that an update costs O(steps² · tasks).
//!
//! Two spreads are not known beforehand, and a wrong one makes the stop too sure. That of the
//! difficulties has many tasks to be learnt from, and is fitted. That of the steps has as few as
//! two: no fit is to be trusted, so that several are weighed by their marginal likelihood.

#![allow(clippy::needless_range_loop, reason = "one index walks several arrays in the formulas")]

use super::linear::{Square, dot};
use super::scores::{Part, Scores};

/// The prior, in logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prior {
    /// Spread of the task difficulties; the start value if `fit_spreads` is used.
    pub task_sd: f64,
    /// Spreads of the steps around their common level, smallest first, equally likely before the
    /// first attempt.
    pub step_sds: [f64; STEP_SDS],
    /// Spread of the step × task interaction.
    pub interaction_sd: f64,
    /// Spread of the common level.
    pub level_sd: f64,
}

impl Default for Prior {
    fn default() -> Self {
        Self {
            task_sd: 2.0,
            step_sds: [0.12, 0.2, 0.33, 0.54, 0.9],
            interaction_sd: 0.3,
            level_sd: 3.0,
        }
    }
}

/// Number of spreads of the steps that are weighed against each other.
const STEP_SDS: usize = 5;

/// How many tasks' worth of belief the start value of the difficulty spread carries. It is little,
/// because a spread that is too large passes noise for difficulty and takes attempts to be worth
/// more than they are: with eight tasks' worth of 2.5 logits the stop was far too sure on tasks
/// that are all alike (BENCHMARKS.md).
const TASK_SD_WEIGHT: f64 = 1.0;
/// Newton steps longer than this are cut: far from the mode the quadratic overshoots.
const STEP_MAX_LOGITS: f64 = 3.0;
const ITERATIONS_MAX: usize = 60;

/// Counts, mode and prior. Cells are row-major `[step, task]`.
#[derive(Debug, Clone)]
pub struct Rasch {
    steps: usize,
    tasks: usize,
    prior: Prior,
    task_variance: f64,
    attempts: Vec<f64>,
    rewards: Vec<f64>,
    pending: Vec<f64>,
    ability: Vec<f64>,
    difficulty: Vec<f64>,
    interaction: Vec<f64>,
}

/// The curvature of the log-posterior at the mode, with the interactions and the tasks
/// eliminated.
#[derive(Debug, Clone)]
pub struct Curvature {
    /// Pass probability of each cell at the mode.
    pub p: Vec<f64>,
    /// Fisher information of each cell, attempts included.
    information: Vec<f64>,
    /// Share of a cell's residual that is not its own interaction.
    shared: Vec<f64>,
    /// Information of each cell about ability minus difficulty.
    weight: Vec<f64>,
    /// Diagonal of the task block.
    task: Vec<f64>,
    /// Precision of the abilities under the middle one of the prior's spreads of the steps.
    precision: Square,
    /// Its inverse: their covariance.
    ability: Square,
    /// Precision of an interaction under the prior.
    kappa: f64,
}

/// A cell of the table and what one more attempt there is worth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gain {
    /// Index of the step.
    pub step: usize,
    /// Index of the task.
    pub task: usize,
    /// By what share the variances of the leads in question are expected to fall.
    pub share: f64,
}

impl Rasch {
    /// Starts with no attempts.
    #[must_use]
    pub fn new(steps: usize, tasks: usize, prior: Prior) -> Self {
        let cells = steps * tasks;
        Self {
            steps,
            tasks,
            prior,
            task_variance: prior.task_sd * prior.task_sd,
            attempts: vec![0.0; cells],
            rewards: vec![0.0; cells],
            pending: vec![0.0; cells],
            ability: vec![0.0; steps],
            difficulty: vec![0.0; tasks],
            interaction: vec![0.0; cells],
        }
    }

    /// Returns the number of steps.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// Returns the number of tasks.
    #[must_use]
    pub fn tasks(&self) -> usize {
        self.tasks
    }

    /// Adds one finished attempt with a reward in `[0, 1]`.
    pub fn observe(&mut self, step: usize, task: usize, reward: f64) {
        let cell = step * self.tasks + task;
        self.attempts[cell] += 1.0;
        self.rewards[cell] += reward.clamp(0.0, 1.0);
    }

    /// Returns the number of finished attempts of a cell.
    #[must_use]
    pub fn attempts(&self, step: usize, task: usize) -> f64 {
        self.attempts[step * self.tasks + task]
    }

    /// Marks an attempt as under way: its information counts, its reward is not known.
    pub fn expect(&mut self, step: usize, task: usize) {
        self.pending[step * self.tasks + task] += 1.0;
    }

    /// Takes back one [`Self::expect`]: the attempt ended, whatever came of it.
    pub fn settle(&mut self, step: usize, task: usize) {
        let cell = step * self.tasks + task;
        self.pending[cell] = (self.pending[cell] - 1.0).max(0.0);
    }

    /// Returns the number of attempts under way in a cell.
    #[must_use]
    pub fn pending(&self, step: usize, task: usize) -> f64 {
        self.pending[step * self.tasks + task]
    }

    /// Moves to the mode by Newton's method from where it is; a handful of iterations after a
    /// few new attempts.
    pub fn fit(&mut self, tolerance: f64) {
        for _ in 0..ITERATIONS_MAX {
            if self.newton() < tolerance {
                return;
            }
        }
    }

    /// Alternates modes and spreads until the spread of the difficulties settles.
    pub fn fit_spreads(&mut self) {
        for _ in 0..ITERATIONS_MAX {
            self.fit(1e-8);
            let before = self.task_variance;
            self.update_spread(&self.curvature());
            if (self.task_variance / before - 1.0).abs() < 1e-4 {
                break;
            }
        }
        self.fit(1e-8);
    }

    /// Moves the spread of the difficulties towards the one that explains the attempts best.
    ///
    /// MacKay's fixed point: the squares of the difficulties over the number of difficulties that
    /// the attempts determine. It is the fixed point of expectation maximisation too, whose steps
    /// die away as the spread gets small, so that tasks that are all alike kept a spread for long.
    pub fn update_spread(&mut self, curvature: &Curvature) {
        let start = self.prior.task_sd * self.prior.task_sd;
        let mut squares = TASK_SD_WEIGHT * start;
        let mut open = 0.0;
        let mut column = vec![0.0; self.steps];
        for t in 0..self.tasks {
            self.column(&curvature.weight, t, &mut column);
            let d = curvature.task[t];
            let spread = dot(&column, &curvature.ability.times(&column)) / (d * d);
            squares += self.difficulty[t] * self.difficulty[t];
            open += (1.0 / d + spread) / self.task_variance;
        }
        let determined = (self.tasks as f64 - open).max(0.0);
        self.task_variance = squares / (TASK_SD_WEIGHT + determined);
    }

    /// Returns the current spread of the difficulties.
    #[must_use]
    pub fn task_sd(&self) -> f64 {
        self.task_variance.sqrt()
    }

    /// Returns the curvature at the present parameters, attempts under way included.
    #[must_use]
    pub fn curvature(&self) -> Curvature {
        let cells = self.steps * self.tasks;
        let kappa = 1.0 / (self.prior.interaction_sd * self.prior.interaction_sd);
        let mut c = Curvature {
            p: vec![0.0; cells],
            information: vec![0.0; cells],
            shared: vec![0.0; cells],
            weight: vec![0.0; cells],
            task: vec![1.0 / self.task_variance; self.tasks],
            precision: Square::zero(0),
            ability: Square::zero(0),
            kappa,
        };
        for s in 0..self.steps {
            for t in 0..self.tasks {
                let i = s * self.tasks + t;
                let p = logistic(self.ability[s] - self.difficulty[t] + self.interaction[i]);
                let information = (self.attempts[i] + self.pending[i]) * p * (1.0 - p);
                c.p[i] = p;
                c.information[i] = information;
                c.shared[i] = kappa / (information + kappa);
                c.weight[i] = information * c.shared[i];
                c.task[t] += c.weight[i];
            }
        }
        c.precision = self.ability_precision(&c);
        c.ability = c.precision.inverse();
        c
    }

    fn ability_precision(&self, c: &Curvature) -> Square {
        let mut m = Square::zero(self.steps);
        let (own, common) = self.prior_precision(self.step_sd());
        for s in 0..self.steps {
            let weight_s = &c.weight[s * self.tasks..(s + 1) * self.tasks];
            m.add(s, s, own + weight_s.iter().sum::<f64>());
            for r in 0..=s {
                let weight_r = &c.weight[r * self.tasks..(r + 1) * self.tasks];
                let through: f64 =
                    weight_s.iter().zip(weight_r).zip(&c.task).map(|((a, b), d)| a * b / d).sum();
                m.add(s, r, -common - through);
                if r < s {
                    m.add(r, s, -common - through);
                }
            }
        }
        m
    }

    /// Returns `(a, b)` such that the prior precision of the abilities is `a · I - b · 1 1ᵀ`.
    fn prior_precision(&self, step_sd: f64) -> (f64, f64) {
        let own = step_sd * step_sd;
        let level = self.prior.level_sd * self.prior.level_sd;
        (1.0 / own, level / (own * (own + self.steps as f64 * level)))
    }

    /// Takes one damped Newton step and returns its largest component.
    fn newton(&mut self) -> f64 {
        let c = self.curvature();
        let (own, common) = self.prior_precision(self.step_sd());
        let level: f64 = self.ability.iter().sum();
        let mut ability: Vec<f64> =
            self.ability.iter().map(|a| -own * a + common * level).collect();
        let mut task: Vec<f64> = self.difficulty.iter().map(|b| -b / self.task_variance).collect();
        let mut residual = vec![0.0; c.p.len()];
        for s in 0..self.steps {
            for t in 0..self.tasks {
                let i = s * self.tasks + t;
                let raw = self.rewards[i] - self.attempts[i] * c.p[i];
                residual[i] = raw - c.kappa * self.interaction[i];
                let share = raw - (1.0 - c.shared[i]) * residual[i];
                ability[s] += share;
                task[t] -= share;
            }
        }
        for s in 0..self.steps {
            for t in 0..self.tasks {
                ability[s] += c.weight[s * self.tasks + t] * task[t] / c.task[t];
            }
        }
        let ability = c.ability.times(&ability);
        self.move_by(&c, &ability, &task, &residual)
    }

    /// Applies the Newton step: abilities given, tasks and interactions by back-substitution.
    fn move_by(&mut self, c: &Curvature, ability: &[f64], task: &[f64], own: &[f64]) -> f64 {
        let mut difficulty = task.to_vec();
        for (s, step) in ability.iter().enumerate() {
            for t in 0..self.tasks {
                difficulty[t] += c.weight[s * self.tasks + t] * step;
            }
        }
        difficulty.iter_mut().zip(&c.task).for_each(|(d, diagonal)| *d /= diagonal);
        let largest =
            ability.iter().chain(&difficulty).fold(0.0_f64, |most, step| most.max(step.abs()));
        let damp = if largest > STEP_MAX_LOGITS { STEP_MAX_LOGITS / largest } else { 1.0 };
        for s in 0..self.steps {
            self.ability[s] += damp * ability[s];
            for t in 0..self.tasks {
                let i = s * self.tasks + t;
                let shift = own[i] - c.information[i] * (ability[s] - difficulty[t]);
                self.interaction[i] += damp * shift / (c.information[i] + c.kappa);
            }
        }
        self.difficulty.iter_mut().zip(&difficulty).for_each(|(b, step)| *b += damp * step);
        largest
    }

    fn column(&self, cells: &[f64], task: usize, into: &mut [f64]) {
        for (s, value) in into.iter_mut().enumerate() {
            *value = cells[s * self.tasks + task];
        }
    }

    /// Returns the joint posterior of the scores, by the delta method at the mode: a mixture over
    /// the prior's spreads of the steps. This is what is believed.
    #[must_use]
    pub fn scores(&self, c: &Curvature) -> Scores {
        self.scores_under(c, self.abilities(c))
    }

    /// Returns the same under the middle spread of the steps alone, by which attempts are handed
    /// out: where no step is better than another it does not matter who tries, so that spreads too
    /// small to matter have no say, and their draws would send attempts anywhere.
    #[must_use]
    pub fn scores_apart(&self, c: &Curvature) -> Scores {
        let (mean, covariance) = (self.ability.clone(), c.ability.clone());
        self.scores_under(c, vec![Part { weight: 1.0, mean, covariance }])
    }

    /// Turns a mixture of abilities into one of scores.
    fn scores_under(&self, c: &Curvature, abilities: Vec<Part>) -> Scores {
        let gradients = self.gradients(c);
        let total = 1.0 / self.tasks as f64;
        let mean: Vec<f64> = (0..self.steps)
            .map(|s| c.p[s * self.tasks..(s + 1) * self.tasks].iter().sum::<f64>() * total)
            .collect();
        let given = self.covariance_given_abilities(c, &gradients);
        let parts = abilities.into_iter().map(|part| {
            let moves = part.mean.iter().zip(&self.ability);
            let moves: Vec<f64> = moves.map(|(to, from)| to - from).collect();
            let moved = |s: usize| mean[s] + dot(&gradients[s].ability, &moves);
            let mut covariance = given.clone();
            for s in 0..self.steps {
                let through = part.covariance.times(&gradients[s].ability);
                for r in 0..self.steps {
                    covariance.add(s, r, dot(&through, &gradients[r].ability));
                }
            }
            Part { weight: part.weight, mean: (0..self.steps).map(moved).collect(), covariance }
        });
        Scores::mixture(parts.collect())
    }

    /// Returns the covariance of the scores that is left when the abilities are known.
    fn covariance_given_abilities(&self, c: &Curvature, gradients: &[Gradient]) -> Square {
        let mut covariance = Square::zero(self.steps);
        for s in 0..self.steps {
            covariance.add(s, s, gradients[s].own);
            for r in 0..self.steps {
                let (a, b) = (&gradients[s].shared, &gradients[r].shared);
                let shared = a.iter().zip(b).zip(&c.task).map(|((a, b), d)| a * b / d).sum();
                covariance.add(s, r, shared);
            }
        }
        covariance
    }

    /// Returns the posterior of the abilities under each of the prior's spreads of the steps,
    /// weighted by the marginal likelihood of the attempts under it.
    ///
    /// Difficulties and interactions integrated out, the likelihood of the abilities is taken to be
    /// the Gaussian that it is at the mode: other spreads then need no modes of their own, and each
    /// costs O(steps³).
    fn abilities(&self, c: &Curvature) -> Vec<Part> {
        let n = self.steps as f64;
        let (own, common) = self.prior_precision(self.step_sd());
        let pull = c.precision.times(&self.ability);
        let under = |step_sd: &f64| {
            let (new_own, new_common) = self.prior_precision(*step_sd);
            let mut precision = c.precision.clone();
            for s in 0..self.steps {
                precision.add(s, s, new_own - own);
                for r in 0..self.steps {
                    precision.add(s, r, common - new_common);
                }
            }
            let covariance = precision.inverse();
            let mean = covariance.times(&pull);
            // The determinant of a I - b 1 1ᵀ is aⁿ (1 - n b / a).
            let ln_prior = n * new_own.ln() + (1.0 - n * new_common / new_own).ln();
            let weight = 0.5 * (ln_prior - precision.ln_determinant() + dot(&pull, &mean));
            Part { weight, mean, covariance }
        };
        let mut parts: Vec<Part> = self.prior.step_sds.iter().map(under).collect();
        let most = parts.iter().map(|part| part.weight).fold(f64::NEG_INFINITY, f64::max);
        parts.iter_mut().for_each(|part| part.weight = (part.weight - most).exp());
        let total: f64 = parts.iter().map(|part| part.weight).sum();
        parts.iter_mut().for_each(|part| part.weight /= total);
        parts
    }

    /// Returns the spread of the steps under which the mode is found.
    fn step_sd(&self) -> f64 {
        self.prior.step_sds[STEP_SDS / 2]
    }

    fn gradients(&self, c: &Curvature) -> Vec<Gradient> {
        let total = 1.0 / self.tasks as f64;
        (0..self.steps)
            .map(|s| {
                let mut gradient = Gradient {
                    shared: vec![0.0; self.tasks],
                    ability: vec![0.0; self.steps],
                    own: 0.0,
                };
                for t in 0..self.tasks {
                    let i = s * self.tasks + t;
                    let slope = c.p[i] * (1.0 - c.p[i]) * total;
                    let shared = slope * c.shared[i];
                    gradient.own += slope * slope / (c.information[i] + c.kappa);
                    gradient.shared[t] = shared;
                    gradient.ability[s] += shared;
                    for r in 0..self.steps {
                        gradient.ability[r] -= c.weight[r * self.tasks + t] * shared / c.task[t];
                    }
                }
                gradient
            })
            .collect()
    }

    /// Returns the worth of one more attempt in each cell of the leader and its challengers: by
    /// how much it is expected to cut the variance of the leader's lead over each challenger, as
    /// a share of that variance, summed with the challengers' weights.
    ///
    /// These are the informative tasks: those that neither step always solves nor always fails,
    /// that were not tried often, and whose difficulty the other steps have pinned down. An
    /// attempt of the leader serves all its leads at once, which gives it the larger part that
    /// optimal allocation gives it.
    #[must_use]
    pub fn gains(&self, c: &Curvature, leader: usize, challengers: &[(usize, f64)]) -> Vec<Gain> {
        let gradients = self.gradients(c);
        let scores = self.scores_apart(c);
        let mut gains: Vec<Gain> = std::iter::once(leader)
            .chain(challengers.iter().map(|challenger| challenger.0))
            .flat_map(|step| (0..self.tasks).map(move |task| Gain { step, task, share: 0.0 }))
            .collect();
        let spreads: Vec<Spread> = (0..self.tasks).map(|t| self.spread(c, t)).collect();
        for (i, &(challenger, weight)) in challengers.iter().enumerate() {
            let sd = scores.difference_sd(leader, challenger);
            let factor = weight / (sd * sd).max(f64::MIN_POSITIVE);
            let (a, b) = (&gradients[leader], &gradients[challenger]);
            let contrast: Vec<f64> = a.ability.iter().zip(&b.ability).map(|(x, y)| x - y).collect();
            let through = c.ability.times(&contrast);
            for t in 0..self.tasks {
                let apart = a.shared[t] - b.shared[t];
                let shared = (apart - dot(&through, &spreads[t].column)) / c.task[t];
                for (place, s, sign) in [(0, leader, 1.0), (i + 1, challenger, -1.0)] {
                    let cut = self.reduction(c, &spreads[t], s, t, sign, shared + through[s]);
                    gains[place * self.tasks + t].share += factor * cut;
                }
            }
        }
        gains
    }

    fn spread(&self, c: &Curvature, task: usize) -> Spread {
        let mut column = vec![0.0; self.steps];
        self.column(&c.weight, task, &mut column);
        let through = c.ability.times(&column);
        let both = dot(&column, &through) / (c.task[task] * c.task[task]);
        Spread { column, through, both }
    }

    /// Returns the fall of the variance of a lead by one attempt at a cell, whose covariance with
    /// the lead through abilities and difficulties is `shared`.
    fn reduction(
        &self,
        c: &Curvature,
        spread: &Spread,
        step: usize,
        task: usize,
        sign: f64,
        shared: f64,
    ) -> f64 {
        let i = step * self.tasks + task;
        let unit = c.p[i] * (1.0 - c.p[i]);
        let own = 1.0 / (c.information[i] + c.kappa);
        let f = c.shared[i];
        let d = c.task[task];
        let covariance = sign * unit * own / self.tasks as f64 + f * shared;
        let ability = c.ability.at(step, step) - 2.0 * spread.through[step] / d + spread.both;
        let variance = own + f * f * (1.0 / d + ability);
        covariance * covariance / (1.0 / unit + variance)
    }
}

/// One task's column of weights, and what the covariance of the abilities makes of it.
struct Spread {
    column: Vec<f64>,
    through: Vec<f64>,
    both: f64,
}

/// The gradient of one step's score, interactions and tasks eliminated.
struct Gradient {
    shared: Vec<f64>,
    ability: Vec<f64>,
    own: f64,
}

/// Returns `1 / (1 + e^-x)`, kept away from 0 and 1 so that `p (1 - p)` never underflows to zero.
#[must_use]
pub fn logistic(x: f64) -> f64 {
    1.0 / (1.0 + (-x.clamp(-30.0, 30.0)).exp())
}

#[cfg(test)]
mod tests {
    use super::{Prior, Rasch};
    use crate::select::linear::Square;

    fn filled() -> Rasch {
        let mut model = Rasch::new(3, 4, Prior::default());
        // A lopsided table: cells with none, one and several attempts.
        for (step, task, solved, attempts) in
            [(0, 0, 3, 4), (0, 1, 0, 2), (1, 0, 4, 4), (1, 2, 1, 3), (2, 1, 1, 1), (2, 3, 2, 5)]
        {
            for attempt in 0..attempts {
                model.observe(step, task, if attempt < solved { 1.0 } else { 0.0 });
            }
        }
        model
    }

    /// The log-posterior at abilities, difficulties, interactions, written down naively.
    fn log_posterior(model: &Rasch, x: &[f64]) -> f64 {
        let (s, t) = (model.steps, model.tasks);
        let (ability, rest) = x.split_at(s);
        let (difficulty, interaction) = rest.split_at(t);
        let (own, common) = model.prior_precision(model.step_sd());
        let sum: f64 = ability.iter().sum();
        let mut value = -0.5 * own * ability.iter().map(|a| a * a).sum::<f64>();
        value += 0.5 * common * sum * sum;
        value -= difficulty.iter().map(|b| b * b).sum::<f64>() / (2.0 * model.task_variance);
        let sd = model.prior.interaction_sd;
        value -= interaction.iter().map(|e| e * e).sum::<f64>() / (2.0 * sd * sd);
        for i in 0..s {
            for j in 0..t {
                let cell = i * t + j;
                let eta = ability[i] - difficulty[j] + interaction[cell];
                value += model.rewards[cell] * eta;
                value -= model.attempts[cell] * (1.0 + eta.exp()).ln();
            }
        }
        value
    }

    fn parameters(model: &Rasch) -> Vec<f64> {
        [&model.ability[..], &model.difficulty, &model.interaction].concat()
    }

    fn moved(x: &[f64], i: usize, h: f64) -> Vec<f64> {
        let mut x = x.to_vec();
        x[i] += h;
        x
    }

    /// The whole Hessian by differences, inverted densely: the oracle of the arrowhead algebra.
    fn dense_covariance(model: &Rasch) -> Square {
        let x = parameters(model);
        let h = 1e-4;
        let mut hessian = Square::zero(x.len());
        for i in 0..x.len() {
            for j in 0..x.len() {
                let f = |a: f64, b: f64| log_posterior(model, &moved(&moved(&x, i, a), j, b));
                let second = (f(h, h) - f(h, -h) - f(-h, h) + f(-h, -h)) / (4.0 * h * h);
                hessian.add(i, j, -second);
            }
        }
        hessian.inverse()
    }

    fn score_gradient(model: &Rasch, step: usize) -> Vec<f64> {
        let c = model.curvature();
        let mut gradient = vec![0.0; model.steps + model.tasks + model.steps * model.tasks];
        for t in 0..model.tasks {
            let cell = step * model.tasks + t;
            let slope = c.p[cell] * (1.0 - c.p[cell]) / model.tasks as f64;
            gradient[step] += slope;
            gradient[model.steps + t] -= slope;
            gradient[model.steps + model.tasks + cell] += slope;
        }
        gradient
    }

    #[test]
    fn newton_finds_the_mode() {
        let mut model = filled();
        model.fit(1e-10);
        let x = parameters(&model);
        for i in 0..x.len() {
            let slope = (log_posterior(&model, &moved(&x, i, 1e-5))
                - log_posterior(&model, &moved(&x, i, -1e-5)))
                / 2e-5;
            assert!(slope.abs() < 1e-6, "parameter {i} has slope {slope}");
        }
    }

    #[test]
    fn covariance_of_the_scores_is_that_of_the_dense_hessian() {
        let mut model = filled();
        model.fit(1e-10);
        let dense = dense_covariance(&model);
        let scores = model.scores_apart(&model.curvature());
        for s in 0..3 {
            let through = dense.times(&score_gradient(&model, s));
            for r in 0..3 {
                let expected = super::dot(&through, &score_gradient(&model, r));
                let got = scores.covariance.at(s, r);
                assert!((got - expected).abs() < 1e-6, "{s} {r}: {got} {expected}");
            }
        }
    }

    #[test]
    fn gain_is_the_fall_of_the_variance_when_the_attempt_is_added() {
        let mut model = filled();
        model.fit(1e-10);
        let c = model.curvature();
        let spread = |m: &Rasch| {
            let v = m.scores_apart(&m.curvature()).covariance;
            v.at(0, 0) + v.at(2, 2) - 2.0 * v.at(0, 2)
        };
        for gain in model.gains(&c, 0, &[(2, 1.0)]) {
            let mut tried = model.clone();
            tried.expect(gain.step, gain.task);
            let fall = 1.0 - spread(&tried) / spread(&model);
            assert!((fall - gain.share).abs() < 1e-9, "{gain:?} {fall}");
        }
    }

    #[test]
    fn hopeless_and_trivial_tasks_teach_less_than_open_ones() {
        let mut model = Rasch::new(2, 3, Prior::default());
        for step in 0..2 {
            for attempt in 0..4 {
                model.observe(step, 0, 0.0);
                model.observe(step, 1, f64::from(attempt % 2));
                model.observe(step, 2, 1.0);
            }
        }
        model.fit(1e-9);
        let gains = model.gains(&model.curvature(), 0, &[(1, 1.0)]);
        let of = |task| gains.iter().filter(|g| g.task == task).map(|g| g.share).sum::<f64>();
        assert!(of(1) > 2.0 * of(0) && of(1) > 2.0 * of(2));
    }

    /// Three steps that solve `solved[s]` of ten attempts at each of 30 tasks.
    fn even(solved: [u32; 3], step_sds: [f64; 5]) -> Rasch {
        let mut model = Rasch::new(3, 30, Prior { step_sds, ..Prior::default() });
        for (step, solved) in solved.into_iter().enumerate() {
            for task in 0..30 {
                for attempt in 0..10 {
                    model.observe(step, task, f64::from(u8::from(attempt < solved)));
                }
            }
        }
        model.fit(1e-10);
        model
    }

    #[test]
    fn spreads_of_the_steps_are_weighed_by_what_they_explain() {
        let sds = Prior::default().step_sds;
        let weights = |solved| -> Vec<f64> {
            let model = even(solved, sds);
            model.abilities(&model.curvature()).iter().map(|part| part.weight).collect()
        };
        let (alike, apart) = (weights([5, 5, 5]), weights([1, 5, 9]));
        assert!(alike.is_sorted_by(|a, b| a > b), "{alike:?}");
        assert!(apart.is_sorted_by(|a, b| a < b), "{apart:?}");
        assert!((alike.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn another_spread_needs_no_other_mode() {
        let mixed = even([4, 5, 6], [0.2, 0.2, 0.33, 0.33, 0.33]);
        let parts = mixed.abilities(&mixed.curvature());
        let own = even([4, 5, 6], [0.2; 5]);
        let (c, part) = (own.curvature(), &parts[0]);
        for s in 0..3 {
            assert!((part.mean[s] - own.ability[s]).abs() < 0.003, "{part:?} {:?}", own.ability);
            assert!((part.covariance.at(s, s) / c.ability.at(s, s) - 1.0).abs() < 0.02);
        }
        // One spread alone is the Gaussian at its mode.
        let (one, all) = (own.scores_apart(&c), own.scores(&c));
        for s in 0..3 {
            assert!((one.mean[s] - all.mean[s]).abs() < 1e-9);
            assert!((one.covariance.at(s, 0) - all.covariance.at(s, 0)).abs() < 1e-9);
        }
    }

    #[test]
    fn tasks_that_are_all_alike_are_found_out_soon() {
        let mut model = even([5, 5, 5], Prior::default().step_sds);
        for _ in 0..5 {
            model.update_spread(&model.curvature());
            model.fit(1e-6);
        }
        assert!(model.task_sd() < 0.5, "{}", model.task_sd());
    }

    #[test]
    fn the_spread_of_the_difficulties_is_learnt() {
        let mut model = Rasch::new(4, 60, Prior::default());
        for step in 0..4 {
            for task in 0..60 {
                for attempt in 0..6 {
                    model.observe(step, task, f64::from((attempt + step as u32) % 2));
                }
            }
        }
        model.fit_spreads();
        assert!(model.task_sd() < 0.5, "{}", model.task_sd());
    }
}
