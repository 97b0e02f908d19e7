//! `verify`: hashes, headers, index, shapes, config, tokenizer, and who will load it.

use clap::ValueHint;
use schemars::JsonSchema;
use serde::Serialize;

use super::context::Context;
use super::outcome::{self, Outcome};
use super::render::{BAD, DIM, GOOD, STRONG, WARN, paint};
use super::resolve;
use crate::error::Result;
use crate::hub;
use crate::ops::verify::{
    Check, Finding, Hashes, Options, Report, Severity, Values, Verdict, verify,
};
use crate::units;

/// Check a checkpoint: hashes, headers, every expected tensor, config, tokenizer
///
/// Answers whether the weights are whole and as the config promises, and says for vLLM,
/// transformers, SGLang and llama.cpp whether they will load them and with which flag. Faults
/// make the answer "no" (exit code 1); warnings do not.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Checkpoints: a path, owner/name@revision, or hf://owner/name@revision
    #[arg(required = true, value_name = "CKPT", value_hint = ValueHint::AnyPath)]
    checkpoints: Vec<String>,
    /// Read every value and look for NaN and infinity
    #[arg(long)]
    finite: bool,
    /// Do not compute hashes
    #[arg(long)]
    no_hash: bool,
}

/// The JSON document.
#[derive(Serialize, JsonSchema)]
pub(super) struct Document<'a> {
    /// Whether no checkpoint has a fault.
    ok: bool,
    /// The checkpoints, in the order of the arguments.
    checkpoints: Vec<Verified<'a>>,
}

impl outcome::Document for Document<'_> {
    const NAME: &'static str = "verify/1";
}

/// One checkpoint.
#[derive(Serialize, JsonSchema)]
struct Verified<'a> {
    /// The checkpoint, as it was named.
    checkpoint: &'a str,
    /// Whether it has no fault; warnings and loaders do not count.
    ok: bool,
    /// What was found.
    report: &'a Report,
}

/// Runs the command.
///
/// # Errors
/// A checkpoint that cannot be found or is of an unsupported architecture.
pub fn run(args: Args, ctx: &Context) -> Result<Outcome> {
    let mut reports = Vec::new();
    for text in &args.checkpoints {
        for local in resolve::resolve(text, ctx)? {
            let expected = hub::expected_hashes(&local.path).unwrap_or_default();
            let absent = hub::files_left_out(&local.path);
            let checks = hub::Checks::of(&local.path);
            let options = Options {
                expected: &expected,
                absent: &absent,
                values: if args.finite { Values::Scan } else { Values::Skip },
                hashes: if args.no_hash { Hashes::Skip } else { Hashes::Known },
            };
            let report = verify(&local.path, &options, &*ctx.progress())?;
            for file in &report.hashed {
                // What was right when it was pulled and is not now must not pass for pulled.
                let noted = match file.matches {
                    true => checks.renew(&file.name),
                    false => hub::forget_verified(&local.path, &file.name),
                };
                if let Err(error) = noted {
                    // The report matters more, and a folder may well be read-only.
                    tracing::warn!(%error, file = file.name, "its record stays as it was");
                }
            }
            reports.push((local.label, report));
        }
    }
    let faults: usize = reports.iter().map(|(_, r)| r.count(Severity::Error)).sum();
    let checkpoints = reports.iter().map(|(label, report)| Verified {
        checkpoint: label,
        ok: report.count(Severity::Error) == 0,
        report,
    });
    let document = Document { ok: faults == 0, checkpoints: checkpoints.collect() };
    let human: String = reports.iter().map(|(label, report)| human(label, report)).collect();
    let quiet: Vec<&str> = reports.iter().map(|(label, _)| label.as_str()).collect();
    let outcome = Outcome::new(&document).human(human).quiet(quiet.join("\n"));
    if faults == 0 {
        return Ok(outcome);
    }
    Ok(outcome.problem(problem(&reports), help(&reports)))
}

fn problem(reports: &[(String, Report)]) -> String {
    let hashed: Vec<_> = reports.iter().flat_map(|(_, r)| &r.hashed).collect();
    let bad = hashed.iter().filter(|file| !file.matches).count() as u64;
    if bad > 0 {
        let verb = if bad == 1 { "does" } else { "do" };
        return format!("{bad} of {} {verb} not match", units::plural(hashed.len() as u64, "file"));
    }
    let faults: usize = reports.iter().map(|(_, r)| r.count(Severity::Error)).sum();
    format!("{} found", units::plural(faults as u64, "fault"))
}

/// One line a kind of fault, in the order of the checks.
fn help(reports: &[(String, Report)]) -> Vec<String> {
    let mut lines = Vec::new();
    for (label, report) in reports {
        let errors = report.findings.iter().filter(|f| f.severity == Severity::Error);
        for line in errors.map(|finding| remedy(label, finding)) {
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
    }
    lines
}

/// What to do about one fault.
fn remedy(label: &str, finding: &Finding) -> String {
    let pulled = label.contains('@');
    let subject = &finding.subject;
    match finding.check {
        Check::Hash | Check::Files | Check::Tokenizer if pulled => {
            format!("`tmax-ckpt pull {label}` fetches only the bad files again")
        }
        Check::Hash => format!("copy {subject} again from where its hash comes from"),
        Check::Files => format!("copy the weights of {label} again, or save them again"),
        Check::Tokenizer => "take the tokenizer's files from the base model".into(),
        Check::Tensors => {
            format!("save {label} again with every tensor of its config, or take another step")
        }
        Check::Config => "compare config.json with that of the base model".into(),
        Check::Values => {
            format!("take a step before {label}: training has diverged, or the copy is bad")
        }
    }
}

fn human(label: &str, report: &Report) -> String {
    let mut text = format!("{}\n", paint(STRONG, label));
    let good = report.hashed.iter().filter(|file| file.matches).count() as u64;
    if good > 0 {
        let bytes = report.hashed.iter().filter(|f| f.matches).map(|f| f.len_bytes).sum();
        let files = units::plural(good, "file");
        let bytes = units::bytes(bytes);
        text += &format!("  {}  {files}, {bytes}: hashes match\n", paint(GOOD, "ok  "));
    }
    if report.tensors > 0 && report.count(Severity::Error) == 0 {
        let tensors = units::plural(report.tensors as u64, "tensor");
        text += &format!("  {}  {tensors}: all that config.json promises\n", paint(GOOD, "ok  "));
    }
    if report.values_are_finite() {
        let tensors = units::plural(report.tensors as u64, "tensor");
        text += &format!("  {}  {tensors}: no NaN, no infinity\n", paint(GOOD, "ok  "));
    }
    for unchecked in &report.unchecked {
        let what = match unchecked.check {
            Check::Hash => "hashes",
            Check::Files => "files",
            _ => "values",
        };
        text += &format!("  {}  {what} {}\n", paint(DIM, "note"), unchecked.why);
    }
    for finding in &report.findings {
        let mark = match finding.severity {
            Severity::Error => paint(BAD, "FAIL"),
            Severity::Warning => paint(WARN, "warn"),
        };
        text += &format!("  {mark}  {}  {}\n", finding.subject, finding.message);
    }
    for verdict in &report.loaders {
        let (mark, word) = match verdict.verdict {
            Verdict::Loads => (paint(GOOD, "ok  "), "loads"),
            Verdict::LoadsWith => (paint(GOOD, "ok  "), "loads with"),
            // No fault of the checkpoint: another layout or program is the way, see the detail.
            Verdict::LoadsWrong => (paint(WARN, "no  "), "loads, and is wrong:"),
            Verdict::Fails => (paint(WARN, "no  "), "does not load:"),
            Verdict::Damaged => (paint(WARN, "no  "), "is given damaged data:"),
            Verdict::Untried => ("  ? ".into(), "not tried:"),
        };
        let line = format!("{:<17}  {word} {}", verdict.loader.name(), verdict.detail);
        text += &format!("  {mark}  {}\n", line.trim_end());
    }
    text
}
