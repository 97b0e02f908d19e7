//! Which programs load a checkpoint of this layout, with which flag, or why not.
//!
//! vLLM: 0.19.1, tried with tiny weights of every layout. transformers: 5.17, tried likewise.
//! llama.cpp: `convert_hf_to_gguf.py` at 0c1e57098, tried. SGLang: it takes vLLM's model
//! classes and names; not tried, and the verdict says so.

use serde::Serialize;

use super::{Check, Report, Severity};
use crate::arch::{Architecture, Fused, Namespace, Part};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::expect::{Problem, compare};

/// A program that loads checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Loader {
    #[serde(rename = "vllm 0.19.1")]
    Vllm,
    #[serde(rename = "transformers 5.17")]
    Transformers,
    #[serde(rename = "sglang")]
    Sglang,
    #[serde(rename = "llama.cpp")]
    LlamaCpp,
}

impl Loader {
    /// Returns the name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vllm => "vLLM 0.19.1",
            Self::Transformers => "transformers 5.17",
            Self::Sglang => "SGLang",
            Self::LlamaCpp => "llama.cpp",
        }
    }
}

/// Whether it loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It loads as it is.
    Loads,
    /// It loads with the flag in the detail.
    LoadsWith,
    /// It seems to load and computes something else: the worst case.
    LoadsWrong,
    /// It does not load.
    Fails,
    /// The layout is one that it loads; a file is damaged.
    Damaged,
    /// Nothing speaks against it, and nobody has tried.
    Untried,
}

/// What one loader does, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct LoaderVerdict {
    /// The loader.
    pub loader: Loader,
    /// Whether it loads.
    pub verdict: Verdict,
    /// The flag, the reason, or what to mind; may be empty.
    pub detail: String,
}

/// What decides about loading.
struct Facts {
    architecture: Architecture,
    text_config: bool,
    namespace: Option<Namespace>,
    vision: Vision,
    mtp_orphaned: bool,
    missing: Option<(String, Fused)>,
    misshapen: Option<String>,
    stranger: Option<String>,
    duplicate_head: bool,
}

#[derive(PartialEq, Eq)]
enum Vision {
    None,
    Whole,
    /// Under `model.language_model.visual.`, or incomplete.
    Unusable,
}

impl Facts {
    fn of(checkpoint: &Checkpoint) -> Self {
        let config = &checkpoint.config;
        let problems = compare(config, checkpoint.tensors(), &[Part::Text]);
        let mut missing: Vec<(String, Fused)> = Vec::new();
        let (mut misshapen, mut stranger) = (None, None);
        for problem in problems {
            match problem {
                Problem::Missing { name, fused } => missing.push((name, fused)),
                Problem::Shape { name, .. } | Problem::Dtype { name, .. } => {
                    misshapen = misshapen.or(Some(name));
                }
                Problem::Unexpected { name } => stranger = stranger.or(Some(name)),
            }
        }
        // What a loader notices comes first; only fused parts go unnoticed.
        missing.sort_by_key(|(_, fused)| *fused != Fused::No);
        Self {
            architecture: config.architecture,
            text_config: config.text_only,
            namespace: checkpoint.namespace(),
            vision: vision(checkpoint),
            mtp_orphaned: config.text.mtp_num_hidden_layers > 0
                && checkpoint.mtp_layers_present() == 0,
            missing: missing.into_iter().next(),
            misshapen,
            stranger,
            duplicate_head: checkpoint.stored_duplicate_head(),
        }
    }
}

fn vision(checkpoint: &Checkpoint) -> Vision {
    if !checkpoint.has_vision() {
        return Vision::None;
    }
    let nested = |name: &str| name.starts_with("model.language_model.visual.");
    let misplaced = checkpoint.tensors().iter().any(|t| nested(t.stored.as_str()));
    let whole = checkpoint.config.vision.is_some()
        && compare(&checkpoint.config, checkpoint.tensors(), &[Part::Vision])
            .iter()
            .all(|p| matches!(p, Problem::Unexpected { .. }));
    if misplaced || !whole { Vision::Unusable } else { Vision::Whole }
}

/// Returns one verdict a loader.
#[must_use]
pub fn verdicts(checkpoint: &Checkpoint) -> Vec<LoaderVerdict> {
    let facts = Facts::of(checkpoint);
    [
        (Loader::Vllm, vllm(&facts)),
        (Loader::Transformers, transformers(&facts)),
        (Loader::Sglang, sglang(&facts)),
        (Loader::LlamaCpp, llama_cpp(&facts)),
    ]
    .into_iter()
    .map(|(loader, (verdict, detail))| LoaderVerdict { loader, verdict, detail })
    .collect()
}

/// Takes back what was said for the layout where a file is damaged or a value is none.
pub(super) fn mind_damage(report: &mut Report) {
    let damage = report.findings.iter().find(|finding| {
        finding.severity == Severity::Error
            && matches!(
                finding.check,
                Check::Hash | Check::Files | Check::Tokenizer | Check::Values
            )
    });
    let Some(subject) = damage.map(|finding| finding.subject.clone()) else { return };
    for loader in &mut report.loaders {
        let layout = match loader.verdict {
            Verdict::Loads | Verdict::Untried => "the layout alone is right".to_owned(),
            Verdict::LoadsWith => format!("the layout alone loads with {}", loader.detail),
            Verdict::LoadsWrong | Verdict::Damaged | Verdict::Fails => continue,
        };
        loader.verdict = Verdict::Damaged;
        loader.detail = format!("{subject}; {layout}");
    }
}

type Judgement = (Verdict, String);

fn fails(why: impl Into<String>) -> Judgement {
    (Verdict::Fails, why.into())
}

/// Missing and misshapen tensors, as vLLM meets them.
fn vllm_tensors(facts: &Facts) -> Option<Judgement> {
    if let Some(name) = &facts.misshapen {
        return Some(fails(format!("`{name}` has the wrong shape")));
    }
    match &facts.missing {
        None => None,
        Some((name, Fused::No)) => Some(fails(format!("`{name}` is missing"))),
        Some((name, _)) => Some((
            Verdict::LoadsWrong,
            format!("`{name}` is missing and stays uninitialised without a word"),
        )),
    }
}

fn vllm(facts: &Facts) -> Judgement {
    if let Some(judgement) = vllm_tensors(facts) {
        return judgement;
    }
    if facts.architecture == Architecture::Qwen3 {
        return match facts.namespace {
            Some(Namespace::Text) => (Verdict::Loads, String::new()),
            _ => fails("the tensors are not under `model.`"),
        };
    }
    if facts.text_config {
        return fails("it has no Qwen3_5ForCausalLM; `strip --layout composite` makes one for it");
    }
    match facts.namespace {
        Some(Namespace::Composite | Namespace::Inner) => {}
        Some(Namespace::Nested) => {
            return fails(
                "the names are nested as transformers 5.4.0 wrote them; `strip` mends it",
            );
        }
        _ => return fails("the tensors are not under `model.language_model.`; `strip` mends it"),
    }
    if let Some(name) = facts.stranger.as_ref().filter(|n| !n.starts_with("model.")) {
        return fails(format!("it knows no `{name}`"));
    }
    let mtp = if facts.mtp_orphaned { "; no speculative decoding: MTP is absent" } else { "" };
    match facts.vision {
        Vision::Whole => (Verdict::Loads, mtp.trim_start_matches("; ").to_owned()),
        Vision::None | Vision::Unusable => {
            (Verdict::LoadsWith, format!("--language-model-only{mtp}"))
        }
    }
}

/// transformers fills in what is missing with random values and only logs it.
fn transformers(facts: &Facts) -> Judgement {
    if let Some(name) = &facts.misshapen {
        return fails(format!("`{name}` has the wrong shape"));
    }
    if let Some((name, _)) = &facts.missing {
        let detail = format!("`{name}` is missing and gets random values");
        return (Verdict::LoadsWrong, detail);
    }
    let known = match facts.architecture {
        Architecture::Qwen3 => facts.namespace == Some(Namespace::Text),
        Architecture::Qwen3_5 => {
            matches!(facts.namespace, Some(Namespace::Text | Namespace::Composite))
        }
    };
    if !known {
        let detail = "it knows none of the names and gives random values; `strip` mends it";
        return (Verdict::LoadsWrong, detail.into());
    }
    let composite_class = facts.architecture == Architecture::Qwen3_5
        && !facts.text_config
        && !(facts.vision == Vision::Whole && facts.namespace == Some(Namespace::Composite));
    if composite_class {
        let detail = "AutoModelForCausalLM; the class with vision would get random values";
        return (Verdict::LoadsWith, detail.into());
    }
    (Verdict::Loads, String::new())
}

fn sglang(facts: &Facts) -> Judgement {
    let as_vllm = |(verdict, detail): Judgement| (verdict, format!("{detail} (as in vLLM)"));
    let untried = || (Verdict::Untried, "nothing in the layout speaks against it".into());
    vllm_tensors(facts).map_or_else(untried, as_vllm)
}

fn llama_cpp(facts: &Facts) -> Judgement {
    if let Some(name) = facts.missing.as_ref().map(|(name, _)| name).or(facts.misshapen.as_ref()) {
        return fails(format!("the converted file lacks a sound `{name}`"));
    }
    if let Some(name) = &facts.stranger {
        return fails(format!("convert_hf_to_gguf.py: Can not map tensor `{name}`"));
    }
    let mut detail = vec!["`export gguf`"];
    if facts.mtp_orphaned {
        detail.push("or convert_hf_to_gguf.py --no-mtp: MTP is declared and absent");
    }
    if facts.duplicate_head {
        detail.push("their converter writes the duplicate head too");
    }
    if facts.vision == Vision::Unusable {
        detail.push("their --mmproj writes an empty file: vision is incomplete or misplaced");
    }
    (Verdict::LoadsWith, detail.join("; "))
}
