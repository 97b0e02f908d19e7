//! The JSON that the program prints is what `docs/schemas/` says, and no more.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use jsonschema::Validator;
use serde_json::{Value, json};

use crate::broken;
use crate::cli::binary;
use crate::hub_server::{Content, Server};
use crate::select::write_job;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The committed schemas by document.
fn committed() -> BTreeMap<String, Value> {
    let entries = std::fs::read_dir(root().join("docs/schemas")).expect("lists");
    let read = |path: PathBuf| -> Value {
        serde_json::from_slice(&std::fs::read(path).expect("reads")).expect("JSON")
    };
    entries
        .map(|entry| read(entry.expect("an entry").path()))
        .map(|schema| (schema["title"].as_str().expect("a title").to_owned(), schema))
        .collect()
}

/// Forbids every field that is not declared. The published schemas allow them: a field that is
/// added is no new version.
fn strict(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            object.values_mut().for_each(strict);
            let branches = ["oneOf", "anyOf"];
            let open =
                object.contains_key("properties") && !object.contains_key("additionalProperties");
            if open {
                object.insert("unevaluatedProperties".into(), Value::Bool(false));
                // What one branch does not know, the others or the whole may.
                for branch in branches.iter().filter_map(|key| object.get(*key).cloned()) {
                    for one in branch.as_array().expect("a list") {
                        assert!(one.get("$ref").is_none(), "closed by itself: {one}");
                    }
                }
                for branch in branches {
                    for one in
                        object.get_mut(branch).and_then(Value::as_array_mut).into_iter().flatten()
                    {
                        one.as_object_mut().expect("a schema").remove("unevaluatedProperties");
                    }
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(strict),
        _ => {}
    }
}

/// The strict schemas, and which of them something was held to.
struct Held {
    validators: BTreeMap<String, Validator>,
    seen: BTreeSet<String>,
}

impl Held {
    fn new() -> Self {
        let compile = |(name, mut schema): (String, Value)| {
            strict(&mut schema);
            let options = jsonschema::options().should_validate_formats(true);
            (name, options.build(&schema).expect("a schema"))
        };
        Self { validators: committed().into_iter().map(compile).collect(), seen: BTreeSet::new() }
    }

    /// Holds every JSON document in `text` to its schema.
    fn check(&mut self, text: &str, whence: &str) -> Vec<Value> {
        let documents = serde_json::Deserializer::from_str(text).into_iter::<Value>();
        let documents: Vec<Value> =
            documents.map(|one| one.unwrap_or_else(|e| panic!("{whence}: {e}\n{text}"))).collect();
        for document in &documents {
            let name =
                document["schema"].as_str().unwrap_or_else(|| panic!("{whence}: {document}"));
            let validator =
                self.validators.get(name).unwrap_or_else(|| panic!("{whence}: no schema {name}"));
            let faults: Vec<String> = validator
                .iter_errors(document)
                .map(|fault| format!("{}: {fault}", fault.instance_path()))
                .collect();
            assert!(faults.is_empty(), "{whence}: {faults:#?}\n{document:#}");
            // The schemas can say no: nothing undeclared passes, wherever it is.
            for path in objects(document, "") {
                let mut more = document.clone();
                let object = more.pointer_mut(&path).and_then(Value::as_object_mut);
                object.expect("an object").insert("undeclared".into(), json!({}));
                assert!(!validator.is_valid(&more), "{whence}: {name} takes more in `{path}`");
            }
            for path in told(document, "") {
                let mut other = document.clone();
                *other.pointer_mut(&path).expect("is there") = json!("12 June");
                assert!(!validator.is_valid(&other), "{whence}: {name} takes any `{path}`");
            }
            self.seen.insert(name.to_owned());
        }
        documents
    }

    /// Runs a command with `--json` and returns its documents: stdout's, or stderr's error.
    fn run(&mut self, command: &mut Command, code: i32) -> Vec<Value> {
        let whence = format!("{command:?}");
        let output = command.arg("--json").output().expect("runs");
        let (out, err) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{whence}: {out}{err}");
        let lines =
            err.lines().filter(|line| line.starts_with('{')).map(|line| format!("{line}\n"));
        let err: String = lines.collect();
        let mut documents = self.check(&out, &whence);
        documents.extend(self.check(&err, &whence));
        assert!(!documents.is_empty(), "{whence} prints no JSON");
        documents
    }
}

#[test]
fn every_broken_input_is_answered_in_json_too() {
    let mut held = Held::new();
    let (root, cases) = broken::cases();
    for case in &cases {
        let home = tempfile::tempdir().expect("a temp dir");
        let code = case["exit_code"].as_i64().expect("a number") as i32;
        held.run(&mut broken::command(&root, case, home.path()), code);
    }
    for name in ["error/1", "verify/1"] {
        assert!(held.seen.contains(&format!("tmax-ckpt.{name}")), "{:?}", held.seen);
    }
}

fn repository(server: &Server) {
    let dir = root().join("fixtures/tiny-raw/step_600");
    let content = |name: &str| Content::lfs(name, std::fs::read(dir.join(name)).expect("reads"));
    for branch in ["step_600", "main"] {
        server.branch(branch, &["config.json", "model.safetensors"].map(content));
    }
}

/// Command lines and how they end, in an order in which each finds what it needs.
const LINES: [(&str, i32); 38] = [
    ("steps o/n", 0),
    ("steps o/m", 3),
    ("inspect o/n@step_600", 0),
    ("pull o/n@step_600 -n", 0),
    ("pull o/n@step_600 --progress json", 0),
    ("pull o/n@step_6O0", 3),
    ("cache dir", 0),
    ("cache list", 0),
    ("cache prune -n", 0),
    ("cache rm o/n -n", 0),
    ("verify RAW OTHER --finite", 0),
    ("verify o/n@step_600", 0),
    ("inspect RAW --tensor *norm* --stats", 0),
    ("inspect VL", 0),
    ("diff RAW RAW", 0),
    ("diff RAW OTHER", 1),
    ("diff RAW VL", 1),
    ("strip RAW -o text -n", 0),
    ("strip RAW -o text --layout text", 0),
    ("strip RAW -o text --layout text", 0),
    ("strip RAW -o text", 2),
    ("export safetensors text -o cast --dtype float32 --max-shard-size 2MB", 0),
    ("export gguf text -o text.gguf -n", 0),
    ("export gguf text -o text.gguf --outtype q8_0", 0),
    ("export gguf text -o q4.gguf --outtype q4_k_m --tensor-type attn_v=q8_0 -n", 0),
    ("inspect text.gguf --tensor blk.0.*", 0),
    ("export gguf VL --mmproj --outfile .", 0),
    ("logprobs text --text To_be_or_not", 0),
    ("bench-engine text --prompt 4 --generate 2 --repetitions 1", 0),
    ("bench-select --replicates 1 --regime TB2-like", 0),
    ("score text --tasks TASKS -o job -n", 0),
    ("select RAW OTHER --tasks TASKS -o job -n", 0),
    ("select RAW text --metric nll --trajectories TOLD -o job", 0),
    ("select RAW text --metric nll --trajectories TOLD -o job -n", 0),
    ("config show --token hf_secret", 0),
    ("config path", 0),
    ("completions bash", 0),
    ("man pages -n", 0),
];

#[test]
fn what_commands_print_is_what_their_schemas_say() {
    let mut held = Held::new();
    let home = tempfile::tempdir().expect("a temp dir");
    let server = Server::start();
    repository(&server);
    let fixture = |name: &str| root().join("fixtures").join(name).display().to_string();
    let names = [
        ("RAW", fixture("tiny-raw/step_600")),
        ("OTHER", fixture("tiny-raw/step_660")),
        ("TOLD", fixture("trajectories/label-sum.json")),
        ("TASKS", fixture("tasks")),
        ("VL", fixture("gguf/vl")),
    ];
    for (line, code) in LINES {
        let line =
            names.iter().fold(line.to_owned(), |line, (name, path)| line.replace(name, path));
        let mut command = binary(home.path());
        command.env("HF_ENDPOINT", &server.endpoint).args(line.split(' '));
        let printed = held.run(&mut command, code);
        if line.contains("--progress json") {
            let events: Vec<&Value> = printed.iter().filter_map(|one| one.get("event")).collect();
            let ends = (events.first(), events.last());
            assert_eq!(ends, (Some(&&json!("start")), Some(&&json!("finish"))));
        }
    }
    // A machine may lack a sandbox: then the answer is "no", in the same form.
    let mut doctor = binary(home.path());
    let doctor = doctor.args(["doctor", "--json", "--offline"]).output().expect("runs");
    held.check(&String::from_utf8_lossy(&doctor.stdout), "doctor");

    for (step, rewards) in [("step_1", [0.0, 1.0]), ("step_2", [1.0, 1.0])] {
        let dir = home.path().join(step);
        for task in ["a", "b", "c"] {
            write_job(&dir, task, &rewards);
        }
    }
    for line in ["score import step_1", "select --from step_1 step_2 --report report.html"] {
        held.run(binary(home.path()).args(line.split(' ')), 0);
    }

    let unseen: Vec<&String> =
        held.validators.keys().filter(|name| !held.seen.contains(*name)).collect();
    assert!(unseen.is_empty(), "nothing was held to {unseen:?}");
}

/// The JSON pointers of some objects in a document, those with free keys left out.
fn objects(value: &Value, path: &str) -> Vec<String> {
    let free = ["/settings", "/metadata"];
    match value {
        _ if free.iter().any(|end| path.ends_with(end)) => Vec::new(),
        Value::Object(object) => {
            let inner = object.iter().flat_map(|(key, one)| {
                objects(one, &format!("{path}/{}", key.replace('~', "~0").replace('/', "~1")))
            });
            std::iter::once(path.to_owned()).chain(inner).collect()
        }
        Value::Array(list) => list
            .iter()
            .take(2)
            .enumerate()
            .flat_map(|(i, one)| objects(one, &format!("{path}/{i}")))
            .collect(),
        _ => Vec::new(),
    }
}

/// The pointers to the hashes, commits and dates of a document: text whose form the schema tells.
fn told(value: &Value, path: &str) -> Vec<String> {
    let inner: Vec<(String, &Value)> = match value {
        Value::Object(object) => object.iter().map(|(key, one)| (key.clone(), one)).collect(),
        Value::Array(list) => {
            list.iter().enumerate().take(2).map(|(i, one)| (i.to_string(), one)).collect()
        }
        _ => Vec::new(),
    };
    let free = ["/settings", "/metadata", "/config"];
    let inner = inner.into_iter().filter(|_| !free.iter().any(|end| path.ends_with(end)));
    inner
        .flat_map(|(key, one)| {
            let path = format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"));
            let of_form = ["sha256", "blake3", "commit", "hash", "date"].contains(&key.as_str());
            if of_form && one.is_string() { vec![path] } else { told(one, &path) }
        })
        .collect()
}

#[test]
fn hashes_and_dates_tell_their_form() {
    let mut seen = 0;
    for (name, schema) in committed() {
        walk(&schema, &mut |field, of| {
            let wanted = match field {
                "sha256" | "blake3" | "commit" | "hash" => "pattern",
                "date" => "format",
                _ => return,
            };
            seen += 1;
            assert!(of.get(wanted).is_some(), "{name}: {field} {of}");
        });
    }
    assert!(seen >= 9, "{seen}");
}

/// Says what is wrong with the name of a field, by the rules that all documents share.
fn misnamed(field: &str, schema: &Value) -> bool {
    let types = schema["type"].to_string();
    let (float, integer) = (types.contains("number"), types.contains("integer"));
    let words: Vec<&str> = field.split('_').collect();
    let any = |of: &[&str]| words.iter().any(|word| of.contains(word));
    let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let is_bytes = field.ends_with("_bytes");
    let is_secs = words.last() == Some(&"secs") || field.ends_with("per_sec");
    let counts = ["files", "tensors", "trials", "tasks", "attempts", "rows", "total"];
    !field.chars().all(lower)
        || (any(&["bytes", "size"]) && !is_bytes)
        || (is_bytes && (float || !integer))
        || (any(&["secs", "sec", "seconds", "ms", "duration", "time"]) && !is_secs)
        || (counts.contains(&words[0]) && float)
}

#[test]
fn sizes_times_and_counts_are_spelled_alike() {
    let mut wrong = Vec::new();
    for (name, schema) in committed() {
        walk(&schema, &mut |field, of| {
            if misnamed(field, of) {
                wrong.push(format!("{name}: {field} {of}"));
            }
        });
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let number = json!({"type": ["number", "null"]});
    for bad in ["Size", "size", "size_bytes", "time_ms", "secs_left", "tasks_needed"] {
        assert!(misnamed(bad, &number), "{bad}");
    }
}

/// Calls `each` with every declared field and its schema.
fn walk(schema: &Value, each: &mut dyn FnMut(&str, &Value)) {
    match schema {
        Value::Object(object) => {
            for (field, of) in
                object.get("properties").and_then(Value::as_object).into_iter().flatten()
            {
                each(field, of);
            }
            object.values().for_each(|one| walk(one, each));
        }
        Value::Array(list) => list.iter().for_each(|one| walk(one, each)),
        _ => {}
    }
}
