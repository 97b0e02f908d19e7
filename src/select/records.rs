//! The table that all statistics read: steps × tasks, each cell a list of attempts.
//!
//! Nothing here knows where an attempt came from. An attempt without a verdict is an
//! infrastructure failure: it is counted, shown, and never taken for a zero.

use super::Error;

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// The agent finished and was graded.
    Finished,
    /// The agent ran out of time; what it left was graded.
    Timeout,
    /// The model ended the run: too many format errors, context overflow; what it left was graded.
    ModelFailure,
    /// There is no verdict: the sandbox, the endpoint or the verifier failed, or it never ran.
    Infrastructure,
}

/// One attempt of one step at one task.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attempt {
    /// How it ended.
    pub outcome: Outcome,
    /// The verdict, in `[0, 1]`; absent exactly for infrastructure failures.
    pub reward: Option<f64>,
    /// Tokens that the model wrote.
    pub tokens: Option<u64>,
    /// Turns of the model.
    pub turns: Option<u64>,
    /// Replies that held no usable tool call.
    pub format_errors: Option<u64>,
    /// Seconds from start to end.
    pub secs: Option<f64>,
}

impl Attempt {
    /// Returns a graded attempt without further measurements.
    #[must_use]
    pub fn graded(reward: f64) -> Self {
        Self { reward: Some(reward), ..Self::failed() }.with_outcome(Outcome::Finished)
    }

    /// Returns an attempt without a verdict.
    #[must_use]
    pub fn failed() -> Self {
        Self {
            outcome: Outcome::Infrastructure,
            reward: None,
            tokens: None,
            turns: None,
            format_errors: None,
            secs: None,
        }
    }

    /// Returns the same attempt with another outcome.
    #[must_use]
    pub fn with_outcome(self, outcome: Outcome) -> Self {
        Self { outcome, ..self }
    }
}

/// Steps × tasks × attempts. Steps keep the order in which they were given, which is the order of
/// training; tasks are sorted by name.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    steps: Vec<String>,
    tasks: Vec<String>,
    cells: Vec<Vec<Attempt>>,
}

impl Table {
    /// Makes an empty table.
    ///
    /// # Errors
    /// A step or a task is named twice, or there is none.
    pub fn new(steps: Vec<String>, mut tasks: Vec<String>) -> Result<Self, Error> {
        tasks.sort();
        for (names, what) in [(&steps, "step"), (&tasks, "task")] {
            let mut sorted: Vec<&String> = names.iter().collect();
            sorted.sort();
            if sorted.is_empty() {
                return Err(Error::Empty { what });
            }
            if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
                return Err(Error::Twice { what, name: pair[0].clone() });
            }
        }
        let cells = vec![Vec::new(); steps.len() * tasks.len()];
        Ok(Self { steps, tasks, cells })
    }

    /// Returns the names of the steps, in the order of training.
    #[must_use]
    pub fn steps(&self) -> &[String] {
        &self.steps
    }

    /// Returns the names of the tasks, sorted.
    #[must_use]
    pub fn tasks(&self) -> &[String] {
        &self.tasks
    }

    /// Returns the index of a step.
    #[must_use]
    pub fn step_index(&self, name: &str) -> Option<usize> {
        self.steps.iter().position(|step| step == name)
    }

    /// Returns the index of a task.
    #[must_use]
    pub fn task_index(&self, name: &str) -> Option<usize> {
        self.tasks.binary_search_by(|task| task.as_str().cmp(name)).ok()
    }

    /// Returns the attempts of a cell.
    #[must_use]
    pub fn cell(&self, step: usize, task: usize) -> &[Attempt] {
        &self.cells[step * self.tasks.len() + task]
    }

    /// Returns the verdicts of a cell; infrastructure failures have none.
    pub fn rewards(&self, step: usize, task: usize) -> impl Iterator<Item = f64> + Clone + '_ {
        self.cell(step, task).iter().filter_map(|attempt| attempt.reward)
    }

    /// Returns the table of the tasks that some step tried: what a folder of records can say of
    /// itself, and so what every answer is about.
    ///
    /// # Errors
    /// Nothing was tried.
    pub fn tried(&self) -> Result<Self, Error> {
        let width = self.tasks.len();
        let tried = |task: &usize| (0..self.steps.len()).any(|s| !self.cell(s, *task).is_empty());
        let kept: Vec<usize> = (0..width).filter(tried).collect();
        let names = kept.iter().map(|task| self.tasks[*task].clone()).collect();
        let mut table = Self::new(self.steps.clone(), names)?;
        for step in 0..self.steps.len() {
            for (at, task) in kept.iter().enumerate() {
                table.cells[step * kept.len() + at] = self.cell(step, *task).to_vec();
            }
        }
        Ok(table)
    }

    /// Adds an attempt.
    ///
    /// # Errors
    /// The reward is not a number in `[0, 1]`, or its presence contradicts the outcome.
    pub fn push(&mut self, step: usize, task: usize, attempt: Attempt) -> Result<(), Error> {
        let graded = attempt.outcome != Outcome::Infrastructure;
        let fits = match attempt.reward {
            Some(reward) => graded && (0.0..=1.0).contains(&reward),
            None => !graded,
        };
        if !fits {
            return Err(Error::Reward {
                step: self.steps[step].clone(),
                task: self.tasks[task].clone(),
                got: attempt.reward.map_or_else(|| "none".to_owned(), |r| r.to_string()),
            });
        }
        let width = self.tasks.len();
        self.cells[step * width + task].push(attempt);
        Ok(())
    }

    /// Returns the table in which an attempt without a verdict counts as a zero, which is what
    /// Harbor's own mean and published tables do.
    #[must_use]
    pub fn missing_as_zero(&self) -> Self {
        let mut table = self.clone();
        for attempt in table.cells.iter_mut().flatten() {
            if attempt.reward.is_none() {
                attempt.reward = Some(0.0);
                attempt.outcome = Outcome::Finished;
            }
        }
        table
    }

    /// Returns all attempts of a step, task after task.
    pub fn attempts(&self, step: usize) -> impl Iterator<Item = &Attempt> + '_ {
        self.cells[step * self.tasks.len()..(step + 1) * self.tasks.len()].iter().flatten()
    }

    /// Says whether every cell holds the same number of verdicts, so that plain means of all
    /// steps can be compared.
    #[must_use]
    pub fn is_balanced(&self) -> bool {
        let count = |i: usize| self.cells[i].iter().filter(|a| a.reward.is_some()).count();
        (1..self.cells.len()).all(|i| count(i) == count(0))
    }
}

#[cfg(test)]
mod tests {
    use super::{Attempt, Outcome, Table};

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn infrastructure_failures_are_kept_apart_from_zeros() {
        let mut table = Table::new(names(&["a"]), names(&["y", "x"])).unwrap();
        assert_eq!(table.tasks(), ["x", "y"]);
        table.push(0, 0, Attempt::graded(1.0)).unwrap();
        table.push(0, 0, Attempt::failed()).unwrap();
        assert_eq!(table.rewards(0, 0).collect::<Vec<_>>(), [1.0]);
        assert_eq!(table.missing_as_zero().rewards(0, 0).collect::<Vec<_>>(), [1.0, 0.0]);
        assert!(!table.is_balanced());
    }

    #[test]
    fn tasks_that_nobody_tried_are_left_out() {
        let mut table = Table::new(names(&["a", "b"]), names(&["x", "y", "z"])).unwrap();
        assert!(table.tried().is_err());
        table.push(1, 2, Attempt::graded(1.0)).unwrap();
        table.push(0, 0, Attempt::failed()).unwrap();
        let tried = table.tried().unwrap();
        assert_eq!((tried.tasks(), tried.steps()), (&names(&["x", "z"])[..], table.steps()));
        assert_eq!(tried.cell(1, 1), table.cell(1, 2));
        assert_eq!(tried.cell(0, 0).len(), 1);
    }

    #[test]
    fn contradictions_are_refused() {
        assert!(Table::new(names(&["a", "a"]), names(&["x"])).is_err());
        assert!(Table::new(names(&["a"]), names(&[])).is_err());
        let mut table = Table::new(names(&["a"]), names(&["x"])).unwrap();
        for bad in [
            Attempt::graded(1.5),
            Attempt::graded(f64::NAN),
            Attempt::graded(1.0).with_outcome(Outcome::Infrastructure),
            Attempt::failed().with_outcome(Outcome::Timeout),
        ] {
            assert!(table.push(0, 0, bad).is_err(), "{bad:?}");
        }
    }
}
