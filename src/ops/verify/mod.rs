//! `verify`: is this checkpoint what it claims to be, and who will load it?
//!
//! Reads as much as can be read and reports everything that is wrong, not the first thing.

mod config;
mod finite;
mod hashes;
mod loaders;
mod structure;
mod tokenizer;

use std::path::Path;

use serde::Serialize;

pub use hashes::parse_sums;
pub use loaders::{Loader, LoaderVerdict, Verdict};

use crate::checkpoint::{Checkpoint, CheckpointError, read_config};
use crate::error::{Error, Kind, Result};
use crate::hash::ExpectedFile;
use crate::name;
use crate::progress::Progress;
use crate::units;

/// What to look at.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// Sizes and hashes that someone else vouches for: the Hub's.
    pub expected: &'a [ExpectedFile],
    /// Files of the Hub's revision that are not in the folder, as after `pull --include`.
    pub absent: &'a [String],
    /// Whether to read every value.
    pub values: Values,
    /// Whether to compute hashes where some are known.
    pub hashes: Hashes,
}

/// Whether values are scanned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Values {
    /// Headers only.
    #[default]
    Skip,
    /// Every value is looked at for NaN and infinity.
    Scan,
}

/// Whether hashes are computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Hashes {
    /// Where `SHA256SUMS` or [`Options::expected`] know one.
    #[default]
    Known,
    /// None.
    Skip,
}

/// How much a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The weights are not what they should be: the answer is "no".
    Error,
    /// Some program will stumble over it.
    Warning,
}

/// What was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Check {
    Hash,
    Files,
    Tensors,
    Config,
    Tokenizer,
    Values,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Finding {
    /// How much it weighs.
    pub severity: Severity,
    /// What was looked at.
    pub check: Check,
    /// The file, tensor or field.
    pub subject: String,
    /// What is wrong with it.
    pub message: String,
}

impl Finding {
    fn error(check: Check, subject: impl Into<String>, message: impl Into<String>) -> Self {
        let (subject, message) = (subject.into(), message.into());
        Self { severity: Severity::Error, check, subject, message }
    }

    fn warning(check: Check, subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(check, subject, message) }
    }
}

/// A file whose hash was compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct HashedFile {
    /// The file's name.
    pub name: String,
    /// Its size.
    pub len_bytes: u64,
    /// Who vouches for it: `Hub` or `SHA256SUMS`.
    pub source: String,
    /// Whether it is as they say.
    pub matches: bool,
}

/// What was not looked at: no finding about it says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Unchecked {
    /// What it is.
    pub check: Check,
    /// Why, and how to have it checked.
    pub why: String,
}

/// All that was found.
#[derive(Debug, Clone, Default, Serialize, schemars::JsonSchema)]
pub struct Report {
    /// Files whose hash was compared, sorted.
    pub hashed: Vec<HashedFile>,
    /// The number of tensors seen.
    pub tensors: usize,
    /// What was not looked at.
    pub unchecked: Vec<Unchecked>,
    /// What is wrong, in the order of the checks.
    pub findings: Vec<Finding>,
    /// Which programs will load it; empty if it cannot even be opened.
    pub loaders: Vec<LoaderVerdict>,
}

impl Report {
    /// Returns the number of findings of a weight.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|f| f.severity == severity).count()
    }

    /// Says whether every value was read, and none is NaN or an infinity.
    #[must_use]
    pub fn values_are_finite(&self) -> bool {
        let skipped = self.unchecked.iter().any(|unchecked| unchecked.check == Check::Values);
        let found = self.findings.iter().any(|finding| finding.check == Check::Values);
        self.tensors > 0 && !skipped && !found
    }
}

/// Verifies the checkpoint in the folder `dir`.
///
/// # Errors
/// Only when there is no such folder, no config, an unsupported architecture, or a file that this
/// process may not read: everything else is a finding.
pub fn verify(dir: &Path, options: &Options<'_>, progress: &dyn Progress) -> Result<Report> {
    let mut report = Report::default();
    let config = read_config(dir)?;
    let sums = hashes::read_sums(dir, &mut report.findings)?;
    if options.hashes == Hashes::Known {
        let mut expected = options.expected.to_vec();
        expected.extend(sums);
        hashes::check(dir, &expected, &mut report, progress)?;
    }
    report.unchecked = unchecked(options, &report.hashed);
    match Checkpoint::open(dir) {
        Ok(checkpoint) => check_contents(&checkpoint, options, &mut report, progress)?,
        Err(error) if error.kind() == Kind::Auth => return Err(error),
        Err(error) => {
            let mut faults = Vec::new();
            structure::remaining_faults(dir, &mut faults)?;
            let cause = error.causes().join(": ");
            // Opening stops at a file that is listed here too.
            if !faults.iter().any(|fault| fault.message == cause) {
                let message =
                    if cause.is_empty() { error.to_string() } else { format!("{error}: {cause}") };
                report.findings.push(Finding::error(Check::Files, "tensors", message));
            }
            report.findings.extend(faults);
            tokenizer::check(dir, &config, &mut report.findings)?;
        }
    }
    report.findings = one_a_file(std::mem::take(&mut report.findings));
    report.findings.sort_by_key(|f| f.severity);
    loaders::mind_damage(&mut report);
    Ok(report)
}

/// Says why a file cannot be read, which is a finding, unless this process may not: then nothing
/// is known of the file, and the answer is neither "yes" nor "no".
fn unreadable(error: Error) -> Result<String> {
    if error.kind() == Kind::Auth {
        return Err(error);
    }
    let chain: Vec<String> = std::iter::once(error.to_string()).chain(error.causes()).collect();
    Ok(chain.join(": "))
}

fn unchecked(options: &Options<'_>, hashed: &[HashedFile]) -> Vec<Unchecked> {
    let mut list = Vec::new();
    let mut add = |check, why: &str| list.push(Unchecked { check, why: why.into() });
    if options.hashes == Hashes::Skip {
        add(Check::Hash, "not computed, as asked");
    } else if hashed.is_empty() {
        add(Check::Hash, "none to check against: no SHA256SUMS, and no snapshot of the Hub cache");
    }
    if !options.absent.is_empty() {
        let files = units::plural(options.absent.len() as u64, "file");
        let names = name::few(options.absent);
        add(Check::Files, &format!("of the revision that are not here: {files} ({names})"));
    }
    if options.values == Values::Skip {
        add(Check::Values, "not read; --finite looks for NaN and infinity");
    }
    list
}

/// Most faults of one file that are spelled out: a bad index has thousands.
const FAULTS_A_FILE_MAX: usize = 3;

/// Joins the faults of one damaged file: a wrong hash and what follows from it are one fault.
fn one_a_file(findings: Vec<Finding>) -> Vec<Finding> {
    let of_file = |f: &Finding| {
        f.severity == Severity::Error
            && matches!(f.check, Check::Hash | Check::Files | Check::Tokenizer)
    };
    let mut joined: Vec<(Finding, usize)> = Vec::new();
    for finding in findings {
        let same = |(f, _): &&mut (Finding, usize)| of_file(f) && f.subject == finding.subject;
        match joined.iter_mut().find(same).filter(|_| of_file(&finding)) {
            Some((first, count)) => {
                *count += 1;
                if *count <= FAULTS_A_FILE_MAX {
                    first.message += &format!("; {}", finding.message);
                }
            }
            None => joined.push((finding, 1)),
        }
    }
    let cut = |(mut first, count): (Finding, usize)| {
        if count > FAULTS_A_FILE_MAX {
            first.message += &format!("; and {} more", count - FAULTS_A_FILE_MAX);
        }
        first
    };
    joined.into_iter().map(cut).collect()
}

fn check_contents(
    checkpoint: &Checkpoint,
    options: &Options<'_>,
    report: &mut Report,
    progress: &dyn Progress,
) -> Result<()> {
    report.tensors = checkpoint.tensors().len();
    structure::check(checkpoint, &mut report.findings);
    config::check(checkpoint, &mut report.findings);
    tokenizer::check(&checkpoint.dir, &checkpoint.config, &mut report.findings)?;
    if options.values == Values::Scan {
        finite::check(checkpoint, &mut report.findings, progress);
    }
    report.loaders = loaders::verdicts(checkpoint);
    Ok(())
}

/// Makes an error of a report with faults, for commands that must not go on.
///
/// # Errors
/// [`CheckpointError::Incomplete`] when text tensors are missing, misshapen or unknown.
pub fn require_text(checkpoint: &Checkpoint) -> Result<(), CheckpointError> {
    use crate::arch::Part;
    let problems =
        crate::checkpoint::expect::compare(&checkpoint.config, checkpoint.tensors(), &[Part::Text]);
    if problems.is_empty() { Ok(()) } else { Err(CheckpointError::Incomplete { problems }) }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::path::Path;

    use super::{Check, Finding, one_a_file, unreadable};
    use crate::error::Kind;
    use crate::fsio;

    #[test]
    fn thousands_of_faults_of_one_file_are_one_short_line() {
        let fault = |n: usize| Finding::error(Check::Files, "index", format!("fault {n}"));
        let all = one_a_file((0..5000).map(fault).collect());
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].message, "fault 0; fault 1; fault 2; and 4997 more");
        let three = one_a_file((0..3).map(fault).collect());
        assert_eq!(three[0].message, "fault 0; fault 1; fault 2");
    }

    #[test]
    fn a_file_that_may_not_be_read_is_neither_sound_nor_damaged() {
        let of = |kind: ErrorKind| {
            unreadable(fsio::Error::io("open", Path::new("x"))(kind.into()).into())
        };
        let denied = of(ErrorKind::PermissionDenied).expect_err("nothing is known");
        assert_eq!((denied.kind(), denied.kind().exit_code()), (Kind::Auth, 4));
        assert_eq!(denied.help(), ["check who owns x"]);
        let message = of(ErrorKind::InvalidData).expect("a finding");
        assert_eq!(message, "cannot open x: invalid data");
    }
}
