//! The examples in the help of each command: one table. `tests/readme.rs` holds each of them, as
//! docs/cli.md shows it, to the parser.

use std::fmt::Write as _;

/// What the long help of a command ends with.
struct Entry {
    /// The command, as typed after `tmax-ckpt`.
    command: &'static str,
    /// Command lines, after `tmax-ckpt`; at most 64 characters, so that no terminal breaks them.
    examples: &'static [&'static str],
    /// When the exit code is 1: for commands whose answer may be "no".
    no: Option<&'static str>,
}

const fn entry(command: &'static str, examples: &'static [&'static str]) -> Entry {
    Entry { command, examples, no: None }
}

const fn question(
    command: &'static str,
    examples: &'static [&'static str],
    no: &'static str,
) -> Entry {
    Entry { command, examples, no: Some(no) }
}

#[rustfmt::skip]
const TABLE: &[Entry] = &[
    entry("steps", &[
        "steps allenai/tmax-9b",
        "steps allenai/tmax-9b --json | jq -r '.steps[].name'",
    ]),
    entry("pull", &[
        "pull allenai/tmax-9b@step_400",
        "pull allenai/tmax-9b --revision 'step_{100..400..100}'",
        "pull allenai/tmax-9b@step_400 --local-dir step_400",
    ]),
    question("verify", &[
        "verify allenai/tmax-9b@step_400",
        "verify text/ --finite",
        "verify step_*/ --json",
    ], "something is damaged or missing"),
    entry("inspect", &[
        "inspect allenai/tmax-9b@step_400",
        "inspect text/ --tensor 'model.layers.0.*' --stats",
        "inspect Tmax-9B-Q8_0.gguf",
    ]),
    question("diff", &[
        "diff allenai/tmax-9b@step_300 allenai/tmax-9b@step_400 --top 20",
        "diff step_400/ text/ -q",
    ], "the checkpoints differ"),
    entry("strip", &[
        "strip allenai/tmax-9b@step_400 -o text/",
        "strip step_400/ -o text/ --layout text --dry-run",
    ]),
    entry("score", &[
        "score allenai/tmax-9b@step_400 --tasks tasks/ -o jobs/step_400",
        "score --agent oracle --tasks tasks/ -o jobs/oracle",
        "score --endpoint-url http://gpu:8000 --model tmax --tasks t -o j",
    ]),
    entry("score import", &["score import jobs/step_400"]),
    entry("select", &[
        "select 'allenai/tmax-9b@step_*' --metric tblite --tasks tasks/",
        "select step_*/ --tasks tasks/ --budget 2h --report select.html",
        "select --from jobs/step_300 jobs/step_400",
    ]),
    entry("export", &[
        "export gguf text/ --outtype q8_0",
        "export --format gguf text/ --outtype q8_0",
    ]),
    entry("export safetensors", &[
        "export safetensors text/ -o one/",
        "export safetensors text/ -o f/ --dtype f32 --max-shard-size 5GB",
    ]),
    entry("export gguf", &[
        "export gguf text/ --outtype q8_0",
        "export gguf step_400/ --outtype q4_k_m --imatrix imatrix.gguf",
        "export gguf text/ --outtype q4_k_m --tensor-type attn_v=q8_0 -n",
        "export gguf step_400/ --outtype bf16 --outfile tmax-{ftype}.gguf",
        "export gguf step_400/ --mmproj",
    ]),
    entry("logprobs", &[
        "logprobs text/ --text 'ls -l'",
        "logprobs text/ --token-ids ids.txt",
    ]),
    entry("cache", &["cache list", "cache prune --dry-run"]),
    entry("cache dir", &["cache dir"]),
    entry("cache list", &["cache list"]),
    question("cache rm", &[
        "cache rm allenai/tmax-9b@step_100",
        "cache rm 'allenai/tmax-9b@step_{100..300..100}' --yes",
    ], "the question was answered with no"),
    entry("cache prune", &["cache prune --dry-run"]),
    entry("config", &["config show", "config path"]),
    entry("config show", &["config show --offline"]),
    entry("config path", &["config path"]),
    question("doctor", &["doctor"], "something needs mending"),
    entry("completions", &["completions zsh > ~/.zfunc/_tmax-ckpt"]),
];

/// Adds the examples to the long help of every command that is shown.
#[must_use]
pub(super) fn add_to(command: clap::Command) -> clap::Command {
    below(command, "")
}

fn below(command: clap::Command, path: &str) -> clap::Command {
    command.mut_subcommands(|sub| {
        let path = format!("{path} {}", sub.get_name()).trim_start().to_owned();
        let sub = match TABLE.iter().find(|entry| entry.command == path) {
            Some(entry) => end_with(sub, entry),
            None => sub,
        };
        below(sub, &path)
    })
}

fn end_with(command: clap::Command, entry: &Entry) -> clap::Command {
    let mut text = String::new();
    if let Some(already) = command.get_after_help() {
        write!(text, "{already}\n\n").expect("strings grow");
    }
    text.push_str("Examples:\n");
    for example in entry.examples {
        writeln!(text, "  tmax-ckpt {example}").expect("strings grow");
    }
    if let Some(no) = entry.no {
        write!(text, "\nExit code 1: {no}. All codes: `tmax-ckpt --help`.").expect("strings grow");
    } else {
        text.push_str("\nExit codes: `tmax-ckpt --help`.");
    }
    command.after_long_help(text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::TABLE;
    use crate::cli::args::command;

    /// The commands that are shown, with their parents' names before them.
    fn shown(command: &clap::Command, path: &str, found: &mut BTreeSet<String>) {
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
            let path = format!("{path} {}", sub.get_name()).trim_start().to_owned();
            shown(sub, &path, found);
            found.insert(path);
        }
    }

    #[test]
    fn every_command_has_examples_and_no_other() {
        let mut wanted = BTreeSet::new();
        shown(&command(), "", &mut wanted);
        let found: BTreeSet<String> = TABLE.iter().map(|entry| entry.command.to_owned()).collect();
        assert_eq!(found, wanted);
    }

    #[test]
    fn every_example_is_short_and_of_its_command() {
        for entry in TABLE {
            for example in entry.examples {
                assert!(example.len() <= 64, "too long for narrow terminals: {example}");
                let plain = example.replace("--format gguf", "gguf");
                assert!(plain.starts_with(entry.command), "{example} is no {}", entry.command);
            }
        }
    }
}
