//! File names: llama.cpp's naming convention, templates and splits.

/// Returns the size label of a parameter count: `15M`, `1.9B`, two digits at least.
#[must_use]
pub fn size_label(params: u64) -> String {
    let value = params as f64;
    let (scaled, suffix) = match value {
        v if v > 1e12 => (v * 1e-12, "T"),
        v if v > 1e9 => (v * 1e-9, "B"),
        v if v > 1e6 => (v * 1e-6, "M"),
        v => (v * 1e-3, "K"),
    };
    // Ties go to even here, as Python's `round` has it.
    let digits = format!("{}", scaled.round_ties_even());
    let digits = digits.trim_start_matches('0').len();
    format!("{scaled:.*}{suffix}", 2_usize.saturating_sub(digits))
}

/// The parts of a default file name.
#[derive(Debug, Clone, Copy, Default)]
pub struct NameParts<'a> {
    /// `mmproj` for a vision file.
    pub prefix: Option<&'a str>,
    /// `general.name`.
    pub name: Option<&'a str>,
    /// `general.basename`, which wins over the name.
    pub basename: Option<&'a str>,
    /// `general.size_label`.
    pub size_label: Option<&'a str>,
    /// `general.finetune`.
    pub finetune: Option<&'a str>,
    /// `general.version`.
    pub version: Option<&'a str>,
    /// The step or other revision, which no key has.
    pub revision: Option<&'a str>,
    /// The file type: `BF16`.
    pub file_type: &'a str,
}

/// Returns the default file name, with its extension.
///
/// Slashes become dashes in every part: a name must not lead out of its folder.
#[must_use]
pub fn default_name(parts: &NameParts<'_>) -> String {
    let clean = |text: &str| {
        let dashed = text.trim().replace([' ', '/', '\\'], "-");
        dashed.chars().filter(|c| !c.is_control()).collect::<String>()
    };
    let stem = clean(parts.basename.or(parts.name).unwrap_or("ggml-model"));
    let rest = [parts.size_label, parts.finetune, parts.version];
    let mut name = parts.prefix.map(|p| format!("{p}-")).unwrap_or_default() + &stem;
    for part in rest.into_iter().flatten() {
        name.push('-');
        name.push_str(&clean(part));
    }
    if let Some(revision) = parts.revision.map(clean) {
        let said = |part: &str| clean(part).eq_ignore_ascii_case(&revision);
        if !said(&stem) && !rest.into_iter().flatten().any(said) {
            name.push('-');
            name.push_str(&revision);
        }
    }
    let name = name.trim_start_matches('.');
    format!("{name}-{}.gguf", parts.file_type.to_uppercase())
}

/// Fills the file type into a template: `{ftype}`, `{outtype}`, `{}` in lower case,
/// `{FTYPE}`, `{OUTTYPE}` in upper case.
#[must_use]
pub fn fill_template(template: &str, file_type: &str) -> String {
    let (lower, upper) = (file_type.to_lowercase(), file_type.to_uppercase());
    template
        .replace("{ftype}", &lower)
        .replace("{outtype}", &lower)
        .replace("{}", &lower)
        .replace("{FTYPE}", &upper)
        .replace("{OUTTYPE}", &upper)
}

/// Returns the name of file `number` (from 1) of `count`, for an unsplit name.
#[must_use]
pub fn split_name(name: &str, number: usize, count: usize) -> String {
    let stem = match name.rsplit_once('.') {
        Some((stem, _)) if !stem.is_empty() => stem,
        _ => name,
    };
    format!("{stem}-{number:05}-of-{count:05}.gguf")
}

#[cfg(test)]
mod tests {
    use super::{NameParts, default_name, fill_template, size_label, split_name};

    #[test]
    fn size_labels_have_two_digits() {
        for (params, label) in [
            (1_942_000_000, "1.9B"),
            (15_300_000, "15M"),
            (752_393_024, "752M"),
            (9_409_813_744, "9.4B"),
            (27_000_000_000, "27B"),
            (999_999_999, "1000M"),
            (420_000, "420K"),
            (4_100, "4.1K"),
            (120, "0.12K"),
        ] {
            assert_eq!(size_label(params), label, "{params}");
        }
    }

    #[test]
    fn names_follow_the_convention() {
        let parts = NameParts {
            basename: Some("Qwen3.5"),
            name: Some("not used"),
            size_label: Some("2B"),
            finetune: Some("RL step"),
            version: Some("v1"),
            file_type: "bf16",
            ..NameParts::default()
        };
        assert_eq!(default_name(&parts), "Qwen3.5-2B-RL-step-v1-BF16.gguf");
        let mmproj = NameParts {
            prefix: Some("mmproj"),
            name: Some("../../x y"),
            file_type: "F16",
            ..NameParts::default()
        };
        assert_eq!(default_name(&mmproj), "mmproj-..-..-x-y-F16.gguf");
    }

    #[test]
    fn steps_of_one_model_have_names_of_their_own() {
        let name = |name, version, revision| {
            let (name, revision) = (Some(name), Some(revision));
            default_name(&NameParts {
                name,
                version,
                revision,
                file_type: "BF16",
                ..NameParts::default()
            })
        };
        assert_eq!(name("tmax 9B", None, "step_600"), "tmax-9B-step_600-BF16.gguf");
        assert_eq!(name("tmax", Some("v1"), "pr/1\u{1b}"), "tmax-v1-pr-1-BF16.gguf");
        // Said once is enough.
        assert_eq!(name("Step_600", None, "step_600"), "Step_600-BF16.gguf");
        assert_eq!(name("tmax", Some("step_60"), "step_60"), "tmax-step_60-BF16.gguf");
        assert_eq!(name("Step_600", None, "step_60"), "Step_600-step_60-BF16.gguf");
    }

    #[test]
    fn templates_and_splits() {
        assert_eq!(fill_template("m-{ftype}-{FTYPE}.gguf", "Q8_0"), "m-q8_0-Q8_0.gguf");
        assert_eq!(split_name("a.b.gguf", 2, 3), "a.b-00002-of-00003.gguf");
        assert_eq!(split_name("plain", 1, 1), "plain-00001-of-00001.gguf");
    }
}
