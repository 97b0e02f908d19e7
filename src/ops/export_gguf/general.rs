//! The `general.*` keys: who made the model, from what, under which licence, how to sample.
//!
//! Sources in the order of trust: the caller's name, the front matter of README.md, the config's
//! `_name_or_path`, the folder's name. Source of the rules: gguf-py 0.19.0, `metadata.py`.

use serde_json::{Map, Value as Json};
use serde_yaml_ng::{Mapping, Value as Yaml};

use super::identity::{Identity, title};
use crate::gguf::{Array, Metadata, Value};

/// What the keys are made from.
#[derive(Debug, Clone, Default)]
pub struct Sources<'a> {
    /// The name asked for by the user.
    pub model_name: Option<&'a str>,
    /// README.md.
    pub readme: Option<&'a str>,
    /// config.json.
    pub config: Option<&'a Map<String, Json>>,
    /// generation_config.json.
    pub generation: Option<&'a Map<String, Json>>,
    /// The name of the checkpoint's folder.
    pub folder: &'a str,
    /// Elements of all tensors that are written.
    pub total_params: u64,
}

/// The keys' values, as far as they are text.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct General {
    sampling: Vec<(&'static str, Value)>,
    texts: Vec<Option<String>>,
    base_models: Option<Vec<Relative>>,
    datasets: Option<Vec<Relative>>,
    tags: Vec<String>,
    languages: Vec<String>,
}

/// Text keys in the order in which they are written, each with the card fields that give it,
/// the first that is there winning.
const TEXTS: &[(&str, &[&str])] = &[
    ("name", &["name", "model_name"]),
    ("author", &["author", "model_author", "model_creator"]),
    ("version", &["version", "model_version"]),
    ("organization", &["organization", "model_organization"]),
    ("finetune", &["finetune", "model_finetune"]),
    ("basename", &["basename", "model_basename", "model_type"]),
    ("description", &["description", "model_description"]),
    ("size_label", &["size_label", "model_size_label"]),
    ("license", &["license"]),
    ("license.name", &["license_name"]),
    ("license.link", &["license_link"]),
    ("source.url", &["url", "model_url"]),
    ("source.doi", &["doi", "model_doi"]),
    ("source.uuid", &["uuid", "model_uuid"]),
    ("source.repo_url", &["repo_url", "model_repo_url"]),
];

/// How a sampling parameter is written.
#[derive(Clone, Copy)]
enum Kind {
    I32,
    F32,
    Str,
}

/// Sampling keys in order: key, fields of generation_config.json, type.
const SAMPLING: &[(&str, &[&str], Kind)] = &[
    ("sequence", &["sequence"], Kind::Str),
    ("top_k", &["top_k"], Kind::I32),
    ("top_p", &["top_p"], Kind::F32),
    ("min_p", &["min_p"], Kind::F32),
    ("xtc_probability", &["xtc_probability"], Kind::F32),
    ("xtc_threshold", &["xtc_threshold"], Kind::F32),
    ("temp", &["temperature"], Kind::F32),
    ("penalty_last_n", &["penalty_last_n"], Kind::I32),
    ("penalty_repeat", &["penalty_repeat", "repetition_penalty"], Kind::F32),
    ("mirostat", &["mirostat"], Kind::I32),
    ("mirostat_tau", &["mirostat_tau"], Kind::F32),
    ("mirostat_eta", &["mirostat_eta"], Kind::F32),
];

/// Keys of a base model or data set, in order.
const RELATIVE_KEYS: &[&str] =
    &["name", "author", "version", "organization", "description", "url", "doi", "uuid", "repo_url"];

/// A base model or data set: values for [`RELATIVE_KEYS`].
type Relative = Vec<(&'static str, String)>;

impl General {
    /// Gathers the values.
    #[must_use]
    pub fn gather(sources: &Sources<'_>) -> Self {
        let card = sources.readme.map(front_matter).unwrap_or_default();
        let mut general = Self {
            sampling: sources.generation.map(sampling).unwrap_or_default(),
            texts: TEXTS.iter().map(|(_, fields)| first_text(&card, fields)).collect(),
            base_models: relatives(
                &card,
                &["base_model", "base_models", "base_model_sources"],
                sources.total_params,
            ),
            datasets: relatives(
                &card,
                &["datasets", "dataset", "dataset_sources"],
                sources.total_params,
            ),
            tags: lists(&card, &["tags", "pipeline_tag"]),
            languages: lists(&card, &["languages", "language"]),
        };
        let declared = sources.config.and_then(|c| c.get("_name_or_path")).and_then(Json::as_str);
        // More than one slash is a path on someone's machine.
        if let Some(id) = declared.filter(|id| id.matches('/').count() <= 1 && !id.is_empty()) {
            general.fill(&Identity::parse(id, sources.total_params));
        }
        general.fill(&Identity::parse(sources.folder, sources.total_params));
        if let Some(name) = sources.model_name {
            general.set("name", name.to_owned());
        }
        if general.text("size_label").is_none() && sources.total_params > 0 {
            general.set("size_label", crate::gguf::naming::size_label(sources.total_params));
        }
        general
    }

    /// Returns a text key without its `general.`.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        self.texts[slot(key)].as_deref()
    }

    /// Appends the keys, from `general.sampling.*` on, in the converter's order.
    pub fn write(&self, out: &mut Metadata) {
        for (key, value) in &self.sampling {
            out.push(format!("general.sampling.{key}"), value.clone());
        }
        for ((key, _), text) in TEXTS.iter().zip(&self.texts) {
            if let Some(text) = text {
                out.push(format!("general.{key}"), Value::Str(text.clone()));
            }
        }
        write_relatives("base_model", self.base_models.as_deref(), out);
        write_relatives("dataset", self.datasets.as_deref(), out);
        out.push("general.tags", Value::Array(Array::Str(self.tags.clone())));
        out.push("general.languages", Value::Array(Array::Str(self.languages.clone())));
    }

    fn set(&mut self, key: &str, value: String) {
        self.texts[slot(key)] = Some(value);
    }

    /// Fills what is still open.
    fn fill(&mut self, identity: &Identity) {
        let title = identity.name.as_deref().map(title);
        for (key, value) in [
            ("name", &title),
            ("organization", &identity.organization),
            ("basename", &identity.basename),
            ("finetune", &identity.finetune),
            ("version", &identity.version),
            ("size_label", &identity.size_label),
        ] {
            let slot = &mut self.texts[slot(key)];
            if slot.is_none() {
                slot.clone_from(value);
            }
        }
    }
}

fn slot(key: &str) -> usize {
    TEXTS.iter().position(|row| row.0 == key).expect("only keys of the table are asked for")
}

fn sampling(generation: &Map<String, Json>) -> Vec<(&'static str, Value)> {
    let row = |(key, fields, kind): &(&'static str, &[&str], Kind)| {
        let json = fields.iter().find_map(|f| generation.get(*f).filter(|v| !v.is_null()))?;
        let value = match kind {
            Kind::I32 => Value::I32(i32::try_from(json.as_i64()?).ok()?),
            Kind::F32 => Value::F32(json.as_f64()? as f32),
            Kind::Str => Value::Str(json.as_str()?.to_owned()),
        };
        Some((*key, value))
    };
    SAMPLING.iter().filter_map(row).collect()
}

/// Parses the YAML between the first two `---` lines; nothing usable yields no fields.
fn front_matter(readme: &str) -> Mapping {
    let mut lines = readme.lines();
    if lines.next() != Some("---") {
        return Mapping::new();
    }
    let yaml: Vec<&str> = lines.take_while(|line| *line != "---").collect();
    // Tabs are not YAML, yet stand in published cards.
    let text = yaml.join("\n").replace('\t', "  ");
    match serde_yaml_ng::from_str(&text) {
        Ok(Yaml::Mapping(map)) => map,
        _ => Mapping::new(),
    }
}

fn scalar(value: &Yaml) -> Option<String> {
    match value {
        Yaml::String(text) => Some(text.clone()),
        Yaml::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn first_text(card: &Mapping, fields: &[&str]) -> Option<String> {
    fields.iter().find_map(|field| match card.get(*field)? {
        Yaml::Sequence(list) => {
            let texts: Vec<String> = list.iter().filter_map(scalar).collect();
            (!texts.is_empty()).then(|| texts.join(","))
        }
        value => scalar(value),
    })
}

fn lists(card: &Mapping, fields: &[&str]) -> Vec<String> {
    fields.iter().filter_map(|field| card.get(*field)).flat_map(one_or_many).collect()
}

fn one_or_many(value: &Yaml) -> Vec<String> {
    match value {
        Yaml::Sequence(list) => list.iter().filter_map(scalar).collect(),
        value => scalar(value).into_iter().collect(),
    }
}

/// Reads base models or data sets; `None` when the card has no such field at all.
fn relatives(card: &Mapping, fields: &[&str], total_params: u64) -> Option<Vec<Relative>> {
    let value = fields.iter().find_map(|field| card.get(*field))?;
    let entries = match value {
        Yaml::Sequence(list) => list.as_slice(),
        Yaml::Null => &[],
        one => std::slice::from_ref(one),
    };
    Some(entries.iter().map(|entry| relative(entry, total_params)).collect())
}

fn relative(entry: &Yaml, total_params: u64) -> Relative {
    if let Yaml::Mapping(map) = entry {
        let field = |key: &&'static str| Some((*key, map.get(*key).and_then(scalar)?));
        return RELATIVE_KEYS.iter().filter_map(field).collect();
    }
    let Some(id) = scalar(entry) else { return Vec::new() };
    let url = ["http://", "https://", "ssh://"].iter().any(|scheme| id.starts_with(scheme));
    if !url {
        let identity = Identity::parse(&id, total_params);
        let repo_url = match (&identity.organization, &identity.name) {
            (Some(org), Some(name)) => Some(format!("https://huggingface.co/{org}/{name}")),
            _ => None,
        };
        return identity_fields(&identity, repo_url);
    }
    let path = id.split_once("://").and_then(|(_, rest)| rest.strip_prefix("huggingface.co/"));
    let web = id.starts_with("http");
    match path.filter(|path| web && path.matches('/').count() == 1 && !path.ends_with('/')) {
        Some(path) => identity_fields(&Identity::parse(path, total_params), Some(id.clone())),
        None => vec![("repo_url", id)],
    }
}

fn identity_fields(identity: &Identity, repo_url: Option<String>) -> Relative {
    let fields = [
        ("name", identity.name.as_deref().map(title)),
        ("version", identity.version.clone()),
        ("organization", identity.organization.as_deref().map(title)),
        ("repo_url", repo_url),
    ];
    fields.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

fn write_relatives(kind: &str, relatives: Option<&[Relative]>, out: &mut Metadata) {
    let Some(relatives) = relatives else { return };
    let count = u32::try_from(relatives.len()).expect("a card is under 4 GB");
    out.push(format!("general.{kind}.count"), Value::U32(count));
    for (i, relative) in relatives.iter().enumerate() {
        for (key, value) in relative {
            out.push(format!("general.{kind}.{i}.{key}"), Value::Str(value.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{General, Sources};
    use crate::gguf::{Array, Metadata, Value};

    fn written(sources: &Sources<'_>) -> Vec<(String, Value)> {
        let mut metadata = Metadata::new();
        General::gather(sources).write(&mut metadata);
        metadata.iter().map(|(k, v)| (k.to_owned(), v.clone())).collect()
    }

    fn text(key: &str, value: &str) -> (String, Value) {
        (key.to_owned(), Value::Str(value.to_owned()))
    }

    #[test]
    fn a_card_gives_every_field_in_order() {
        let readme = "---\nlicense: apache-2.0\nlicense_link: https://x/y\ntags:\n- rl\n- agent\n\
            pipeline_tag: text-generation\nlanguage: en\nbase_model:\n- Qwen/Qwen3.5-2B-Base\n\
            - https://huggingface.co/a/b-v1\n- https://example.org/z\ndatasets: org/tasks\n---\n# x";
        let generation = serde_json::json!({"top_k": 20, "temperature": 0.6, "top_p": null});
        let sources = Sources {
            readme: Some(readme),
            generation: generation.as_object(),
            folder: "tmax-2b",
            total_params: 1_942_000_000,
            ..Sources::default()
        };
        assert_eq!(
            written(&sources),
            [
                ("general.sampling.top_k".into(), Value::I32(20)),
                ("general.sampling.temp".into(), Value::F32(0.6)),
                text("general.name", "Tmax 2b"),
                text("general.basename", "tmax"),
                text("general.size_label", "2B"),
                text("general.license", "apache-2.0"),
                text("general.license.link", "https://x/y"),
                ("general.base_model.count".into(), Value::U32(3)),
                text("general.base_model.0.name", "Qwen3.5 2B Base"),
                text("general.base_model.0.organization", "Qwen"),
                text(
                    "general.base_model.0.repo_url",
                    "https://huggingface.co/Qwen/Qwen3.5-2B-Base"
                ),
                text("general.base_model.1.name", "B v1"),
                text("general.base_model.1.version", "v1"),
                text("general.base_model.1.organization", "A"),
                text("general.base_model.1.repo_url", "https://huggingface.co/a/b-v1"),
                text("general.base_model.2.repo_url", "https://example.org/z"),
                ("general.dataset.count".into(), Value::U32(1)),
                text("general.dataset.0.name", "Tasks"),
                text("general.dataset.0.organization", "Org"),
                text("general.dataset.0.repo_url", "https://huggingface.co/org/tasks"),
                (
                    "general.tags".into(),
                    Value::Array(Array::Str(vec![
                        "rl".into(),
                        "agent".into(),
                        "text-generation".into()
                    ]))
                ),
                ("general.languages".into(), Value::Array(Array::Str(vec!["en".into()]))),
            ]
        );
    }

    #[test]
    fn names_fall_back_and_a_hostile_card_is_no_card() {
        let config = serde_json::json!({"_name_or_path": "/home/someone/ckpt/x"});
        let sources = Sources {
            readme: Some("---\n: [broken\n---\n"),
            config: config.as_object(),
            folder: "step_100",
            total_params: 5_000_000,
            ..Sources::default()
        };
        let expected = [text("general.name", "Step_100"), text("general.size_label", "5.0M")];
        assert_eq!(written(&sources), expected);
        let named = Sources { model_name: Some("Mine"), ..sources };
        assert_eq!(General::gather(&named).text("name"), Some("Mine"));
    }
}
