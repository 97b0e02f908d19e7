//! What will be written: every name, type, offset and file name, from headers and configs alone.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json};

use super::choices::Choices;
use super::general::{self, General};
use super::importance::Importance;
use super::keys::{self, Facts};
use super::requantize::Requantize;
use super::transforms::{Plane, RowRecipe};
use super::{ExportError, tokenizer};
use crate::arch::{GgufType, Part, Presence, QuantClass, Repeat, Transform};
use crate::checkpoint::{Checkpoint, CheckpointError, Tensor, expect};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::gguf::naming::{self, NameParts};
use crate::gguf::{Encoded, FileType, Metadata, TensorSpec, TensorType, Value, writer};
use crate::name::escape;

/// The type that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OutType {
    /// A file type.
    Type(FileType),
    /// The 16-bit type of the checkpoint's first matrix.
    #[default]
    Auto,
}

impl From<FileType> for OutType {
    fn from(file_type: FileType) -> Self {
        Self::Type(file_type)
    }
}

/// What a file is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Contents {
    /// The language model.
    #[default]
    Text,
    /// The vision tower, which llama.cpp wants in a file of its own.
    Mmproj,
}

/// What happens to MTP layers that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mtp {
    /// They are written.
    #[default]
    Keep,
    /// They are left out.
    Drop,
}

/// The user's choices.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The type of matrices.
    pub outtype: OutType,
    /// The types of some of them.
    pub choices: Choices,
    /// The file of the importance matrix.
    pub imatrix: Option<PathBuf>,
    /// Text or vision.
    pub contents: Contents,
    /// MTP layers.
    pub mtp: Mtp,
    /// A folder, a file name, or a name with `{ftype}`; the current folder if `None`.
    pub outfile: Option<PathBuf>,
    /// Tensor bytes after which a new file begins.
    pub split_max_bytes: Option<u64>,
    /// `general.name`.
    pub model_name: Option<String>,
    /// The step or other revision that the checkpoint is: part of default file names.
    pub revision: Option<String>,
    /// `tokenizer.ggml.pre`, whatever tokenizer.json says.
    pub pre: Option<String>,
}

/// A tensor to be written.
#[derive(Debug, Clone)]
pub struct PlannedTensor {
    /// Its name, shape and type in the file.
    pub spec: TensorSpec,
    /// Its offset in the file.
    pub offset: u64,
    /// Its place in [`Checkpoint::tensors`].
    pub source: usize,
    /// How its rows are made.
    pub recipe: RowRecipe,
    /// Elements of a row.
    pub row_len: u64,
    /// What it is to a mixture of types; `None` for what is never quantised.
    pub class: Option<QuantClass>,
    /// The weight of each column of the row in the file, of an importance matrix.
    pub importance: Option<Vec<f32>>,
}

/// A file to be written.
#[derive(Debug, Clone)]
pub struct PlannedFile {
    /// Its final path.
    pub path: PathBuf,
    /// Header, metadata, tensor table, padding.
    pub head: Vec<u8>,
    /// Its tensors, in order.
    pub tensors: Vec<PlannedTensor>,
    /// Its length.
    pub len_bytes: u64,
}

/// Everything that [`super::run`] needs.
#[derive(Debug)]
pub struct Plan<'a> {
    /// Where the tensors come from.
    pub checkpoint: &'a Checkpoint,
    /// The files, in order.
    pub files: Vec<PlannedFile>,
    /// The file's type.
    pub file_type: FileType,
    /// Metadata keys of the first file.
    pub metadata: Metadata,
    /// What is left out, and why, for people.
    pub notes: Vec<String>,
}

impl PlannedTensor {
    /// Returns the bytes of its data.
    ///
    /// # Panics
    /// Never for a tensor of a plan, whose sizes were checked.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.spec.bytes().expect("checked when planned")
    }
}

impl Plan<'_> {
    /// Iterates over all tensors, file by file.
    pub fn tensors(&self) -> impl Iterator<Item = &PlannedTensor> {
        self.files.iter().flat_map(|file| &file.tensors)
    }

    /// Returns what is never quantised, in the words of the checkpoint: `norms`, `A_log`.
    #[must_use]
    pub fn kept_kinds(&self) -> Vec<&'static str> {
        let mut kinds = Vec::new();
        for tensor in self.tensors().filter(|tensor| tensor.class.is_none()) {
            let Some((rule, _)) = self.checkpoint.tensors()[tensor.source].rule else { continue };
            let mut parts = rule.hf.rsplit('.').filter(|part| !["weight", "bias"].contains(part));
            let kind = parts.next().unwrap_or_default();
            let kind = if rule.hf.contains("norm") { "norms" } else { kind };
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        kinds
    }

    /// Returns the checkpoint's parts of which nothing is written, with their tensors' number.
    #[must_use]
    pub fn left_out(&self) -> Vec<(&'static str, usize)> {
        let part = |i: usize| self.checkpoint.tensors()[i].rule.map(|(rule, _)| rule.part);
        let written: Vec<Part> = self.tensors().filter_map(|t| part(t.source)).collect();
        let words = [(Part::Text, "text"), (Part::Mtp, "mtp"), (Part::Vision, "vision")];
        let count =
            |p| (0..self.checkpoint.tensors().len()).filter(|i| part(*i) == Some(p)).count();
        let missing = words.into_iter().filter(|(part, _)| !written.contains(part));
        missing.map(|(part, word)| (word, count(part))).filter(|(_, n)| *n > 0).collect()
    }

    /// Returns the bytes of all files.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.len_bytes).sum()
    }

    /// Returns the number of tensors.
    #[must_use]
    pub fn tensor_count(&self) -> usize {
        self.files.iter().map(|file| file.tensors.len()).sum()
    }
}

/// Plans an export.
///
/// # Errors
/// [`ExportError`], also for an importance matrix that cannot be read or is of another model;
/// [`CheckpointError::Incomplete`] when tensors are missing, misshapen or
/// unknown: llama.cpp would refuse the file, or the converter the checkpoint.
pub fn plan<'a>(checkpoint: &'a Checkpoint, options: &Options) -> Result<Plan<'a>> {
    let mtp_layers = match (options.contents, options.mtp) {
        (Contents::Text, Mtp::Keep) => checkpoint.mtp_layers_present(),
        _ => 0,
    };
    let parts: &[Part] = match options.contents {
        Contents::Text if mtp_layers > 0 => &[Part::Text, Part::Mtp],
        Contents::Text => &[Part::Text],
        Contents::Mmproj => &[Part::Vision],
    };
    check(checkpoint, options, parts)?;
    let sources = chosen(checkpoint, parts);
    let steps = Steps::of(checkpoint, &sources, options);
    let mut tensors = Vec::new();
    for source in sources {
        planned(checkpoint, source, steps.converted.base(), &mut tensors)?;
    }
    let mut notes = notes(checkpoint, options, mtp_layers);
    let importance = options.imatrix.as_deref().map(Importance::open).transpose()?;
    let aux = Aux::read(checkpoint, options.contents)?;
    let general = aux.general(checkpoint, options, &tensors);
    let file_type = steps.file_type();
    let mut metadata = aux.metadata(checkpoint, options, &general, mtp_layers, file_type)?;
    if let Some(file_type) = steps.quantized {
        let second = Requantize { checkpoint, options, file_type, mtp_layers };
        second.metadata(importance.as_ref(), &mut metadata);
        notes.extend(second.tensors(importance, &mut tensors)?);
    }
    let path = out_path(options, &general, file_type);
    let files = lay_out(&path, &metadata, tensors, options.split_max_bytes)?;
    Ok(Plan { checkpoint, files, file_type, metadata, notes })
}

fn check(checkpoint: &Checkpoint, options: &Options, parts: &[Part]) -> Result<()> {
    if options.contents == Contents::Mmproj
        && (checkpoint.config.vision.is_none() || !checkpoint.has_vision())
    {
        return Err(ExportError::NoVision.into());
    }
    let problems = expect::compare(&checkpoint.config, checkpoint.tensors(), parts);
    if !problems.is_empty() {
        return Err(CheckpointError::Incomplete { problems }.into());
    }
    if let Some(linear) = checkpoint.config.text.linear.as_ref()
        && linear.key_head_dim != linear.value_head_dim
    {
        let (k, v) = (linear.key_head_dim, linear.value_head_dim);
        let why = format!("linear_key_head_dim {k} and linear_value_head_dim {v} must be equal");
        return Err(ExportError::Unsupported { why }.into());
    }
    if let Some(vision) = checkpoint.config.vision.as_ref()
        && options.contents == Contents::Mmproj
        && vision.temporal_patch_size != 2
    {
        let why = format!("temporal_patch_size is {}, must be 2", vision.temporal_patch_size);
        return Err(ExportError::Unsupported { why }.into());
    }
    Ok(())
}

/// Returns the tensors to be written, in the converter's order: by file, then by stored name.
fn chosen(checkpoint: &Checkpoint, parts: &[Part]) -> Vec<usize> {
    let tensors = checkpoint.tensors();
    let tied = checkpoint.config.text.tie_word_embeddings;
    let wanted = |tensor: &Tensor| {
        tensor.rule.is_some_and(|(rule, _)| {
            parts.contains(&rule.part) && !(tied && rule.presence == Presence::UnlessTied)
        })
    };
    let mut chosen: Vec<usize> = (0..tensors.len()).filter(|i| wanted(&tensors[*i])).collect();
    chosen.sort_by_key(|i| (&checkpoint.files()[tensors[*i].file].name, &tensors[*i].stored));
    chosen
}

/// The steps of llama.cpp's tools that a file stands for. There is no file between them here.
struct Steps {
    /// What the converter writes.
    converted: FileType,
    /// What llama-quantize makes of that, if it has a part in it.
    quantized: Option<FileType>,
}

impl Steps {
    /// Resolves `auto`, and what is to be quantised in two steps: there the first keeps the
    /// checkpoint's own values.
    fn of(checkpoint: &Checkpoint, sources: &[usize], options: &Options) -> Self {
        let tensors = sources.iter().map(|i| &checkpoint.tensors()[*i]);
        let sixteen =
            |t: &&Tensor| t.shape.len() >= 2 && matches!(t.dtype, Dtype::Bf16 | Dtype::F16);
        let (auto, own) = match tensors.into_iter().find(sixteen).map(|t| t.dtype) {
            Some(Dtype::Bf16) => (FileType::BF16, FileType::BF16),
            Some(_) => (FileType::F16, FileType::F16),
            None => (FileType::F16, FileType::F32),
        };
        let asked = match options.outtype {
            OutType::Type(file_type) => file_type,
            OutType::Auto => auto,
        };
        // What the converter writes by itself.
        let simple = [FileType::F32, FileType::F16, FileType::BF16, FileType::Q8_0];
        let chosen = !options.choices.is_default() || options.imatrix.is_some();
        if simple.contains(&asked) && !chosen {
            Self { converted: asked, quantized: None }
        } else {
            Self { converted: own, quantized: Some(asked) }
        }
    }

    fn file_type(&self) -> FileType {
        self.quantized.unwrap_or(self.converted)
    }
}

/// Appends the tensor, or the tensors, that one of the checkpoint becomes. Offsets come later.
fn planned(
    checkpoint: &Checkpoint,
    source: usize,
    out_type: TensorType,
    out: &mut Vec<PlannedTensor>,
) -> Result<()> {
    let tensor = &checkpoint.tensors()[source];
    let (rule, index) = tensor.rule.expect("only tensors with a rule are chosen");
    if !tensor.dtype.is_float() {
        let (tensor, dtype) = (escape(tensor.stored.as_str()), tensor.dtype);
        return Err(ExportError::Dtype { tensor, dtype }.into());
    }
    let config = &checkpoint.config;
    let name = rule.gguf_name(block(checkpoint, rule.repeat, rule.part, index));
    let linear = config.text.linear.as_ref();
    let planes = if rule.transform == Transform::SplitTemporal { tensor.shape[2] } else { 1 };
    for plane in 0..planes {
        let mut shape = tensor.shape.clone();
        if matches!(rule.transform, Transform::ConvChannels) {
            shape.remove(1);
        } else if planes > 1 {
            shape.remove(2);
        }
        let mut recipe = RowRecipe::new(rule.transform, linear, Plane { plane, planes });
        if shape.len() == 1 {
            recipe = recipe.for_vector();
        }
        let row_len = match (planes, shape.as_slice()) {
            (2.., [_, _, height, width]) => height * width,
            (_, shape) => *shape.last().expect("the table has no scalars"),
        };
        let tensor_type = tensor_type(rule.gguf_type, out_type, row_len);
        let class = match rule.gguf_type {
            GgufType::Out(class) => Some(class),
            GgufType::F32 | GgufType::PatchEmbed => None,
        };
        let name = if plane == 0 { name.clone() } else { format!("{name}.{plane}") };
        let spec = TensorSpec { name, shape, tensor_type };
        let (offset, importance) = (0, None);
        out.push(PlannedTensor { spec, offset, source, recipe, row_len, class, importance });
    }
    Ok(())
}

/// Returns the number that stands in the GGUF name: MTP blocks follow the model's own.
fn block(checkpoint: &Checkpoint, repeat: Repeat, part: Part, index: usize) -> usize {
    let layers = checkpoint.config.text.layer_kinds.len();
    match (repeat, part) {
        (_, Part::Mtp) => layers + index,
        (Repeat::Deepstack, _) => {
            let indexes = checkpoint.config.vision.as_ref().map(|v| &v.deepstack_visual_indexes);
            indexes.and_then(|list| list.get(index)).map_or(index, |n| *n as usize)
        }
        _ => index,
    }
}

fn tensor_type(class: GgufType, out_type: TensorType, row_len: u64) -> TensorType {
    match class {
        GgufType::F32 => TensorType::F32,
        GgufType::PatchEmbed if out_type == TensorType::F16 => TensorType::F16,
        GgufType::PatchEmbed => TensorType::F32,
        GgufType::Out(_) if row_len.is_multiple_of(out_type.block_len()) => out_type,
        GgufType::Out(_) => TensorType::F16,
    }
}

/// Distributes tensors over files: a file is closed when the next tensor would exceed the limit.
fn lay_out(
    path: &Path,
    metadata: &Metadata,
    tensors: Vec<PlannedTensor>,
    split_max_bytes: Option<u64>,
) -> Result<Vec<PlannedFile>> {
    let count = tensors.len();
    let mut groups: Vec<Vec<PlannedTensor>> = vec![Vec::new()];
    let mut used = 0;
    for tensor in tensors {
        let bytes = tensor.spec.bytes()?;
        let last = groups.last_mut().expect("starts with one group");
        if split_max_bytes.is_some_and(|max| !last.is_empty() && used + bytes > max) {
            groups.push(vec![tensor]);
            used = bytes;
        } else {
            last.push(tensor);
            used += bytes;
        }
    }
    let files = groups.len();
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut planned = Vec::with_capacity(files);
    for (number, mut tensors) in groups.into_iter().enumerate() {
        let mut metadata = if number == 0 { metadata.clone() } else { Metadata::new() };
        let mut path = path.to_owned();
        if files > 1 {
            let short = |n: usize| u16::try_from(n).map_err(|_| too_many_files(files));
            metadata.push("split.no", Value::U16(short(number)?));
            metadata.push("split.count", Value::U16(short(files)?));
            let total = i32::try_from(count).expect("tensor counts are capped by the header");
            metadata.push("split.tensors.count", Value::I32(total));
            path.set_file_name(naming::split_name(&name, number + 1, files));
        }
        let specs: Vec<TensorSpec> = tensors.iter().map(|t| t.spec.clone()).collect();
        let Encoded { head, offsets, len_bytes } = writer::encode(&metadata, &specs)?;
        for (tensor, offset) in tensors.iter_mut().zip(offsets) {
            tensor.offset = offset;
        }
        planned.push(PlannedFile { path, head, tensors, len_bytes });
    }
    Ok(planned)
}

fn too_many_files(files: usize) -> ExportError {
    ExportError::KeyRange { key: "split.count".into(), value: files as u64 }
}

/// The text files beside the tensors.
struct Aux {
    readme: Option<String>,
    generation: Option<Map<String, Json>>,
    tokenizer: Option<Vec<u8>>,
    tokenizer_config: Option<Map<String, Json>>,
    template: Option<String>,
    template_json: Option<Map<String, Json>>,
    more_templates: Vec<(String, String)>,
    preprocessor: Map<String, Json>,
}

impl Aux {
    fn read(checkpoint: &Checkpoint, contents: Contents) -> Result<Self> {
        let text = contents == Contents::Text;
        let tokenizer = checkpoint.aux("tokenizer.json")?;
        if text && tokenizer.is_none() {
            return Err(ExportError::MissingFile { file: "tokenizer.json" }.into());
        }
        let preprocessor = if text { Map::new() } else { preprocessor(checkpoint)? };
        Ok(Self {
            readme: aux_text(checkpoint, "README.md")?,
            generation: aux_object(checkpoint, "generation_config.json")?,
            tokenizer,
            tokenizer_config: aux_object(checkpoint, "tokenizer_config.json")?,
            template: aux_text(checkpoint, "chat_template.jinja")?,
            template_json: aux_object(checkpoint, "chat_template.json")?,
            more_templates: more_templates(checkpoint)?,
            preprocessor,
        })
    }

    fn general(
        &self,
        checkpoint: &Checkpoint,
        options: &Options,
        tensors: &[PlannedTensor],
    ) -> General {
        General::gather(&general::Sources {
            model_name: options.model_name.as_deref(),
            readme: self.readme.as_deref(),
            config: Some(&checkpoint.config.raw),
            generation: self.generation.as_ref(),
            folder: &folder_name(&checkpoint.dir),
            total_params: tensors.iter().filter_map(|t| t.spec.elements()).sum(),
        })
    }

    fn metadata(
        &self,
        checkpoint: &Checkpoint,
        options: &Options,
        general: &General,
        mtp_layers: u64,
        file_type: FileType,
    ) -> Result<Metadata> {
        let config = &checkpoint.config;
        let facts = Facts {
            config,
            mtp_layers,
            file_type: file_type.id(),
            preprocessor: &self.preprocessor,
        };
        let (architecture, kind) = match options.contents {
            Contents::Text => (config.architecture.gguf_name(), "model"),
            Contents::Mmproj => ("clip", "mmproj"),
        };
        let mut out = Metadata::new();
        out.push("general.architecture", Value::Str(architecture.into()));
        out.push("general.type", Value::Str(kind.into()));
        general.write(&mut out);
        match options.contents {
            Contents::Text => keys::write_text(&facts, &mut out)?,
            Contents::Mmproj => keys::write_mmproj(&facts, &mut out)?,
        }
        out.push("general.quantization_version", Value::U32(2));
        if options.contents == Contents::Text {
            let sources = tokenizer::Sources {
                tokenizer: self.tokenizer.as_deref().unwrap_or_default(),
                tokenizer_config: self.tokenizer_config.as_ref(),
                config: Some(&config.raw),
                template: self.template.as_deref(),
                template_json: self.template_json.as_ref(),
                more_templates: &self.more_templates,
                vocab_size: config.text.vocab_size,
                pre: options.pre.as_deref(),
            };
            tokenizer::write(&sources, &mut out)?;
        }
        Ok(out)
    }
}

fn aux_text(checkpoint: &Checkpoint, file: &str) -> Result<Option<String>> {
    let bytes = checkpoint.aux(file)?;
    let text = bytes.map(String::from_utf8).transpose();
    Ok(text.map_err(|_| ExportError::NotText { file: file.to_owned() })?)
}

fn aux_object(checkpoint: &Checkpoint, file: &str) -> Result<Option<Map<String, Json>>> {
    let bad = |source| ExportError::BadFile { file: file.to_owned(), source };
    let Some(bytes) = checkpoint.aux(file)? else { return Ok(None) };
    match serde_json::from_slice(&bytes).map_err(|e| bad(Some(e)))? {
        Json::Object(map) => Ok(Some(map)),
        _ => Err(bad(None).into()),
    }
}

/// Reads the preprocessor's fields: those of processor_config.json and its `image_processor`
/// override those of preprocessor_config.json.
fn preprocessor(checkpoint: &Checkpoint) -> Result<Map<String, Json>> {
    let mut fields = aux_object(checkpoint, "preprocessor_config.json")?.unwrap_or_default();
    if let Some(processor) = aux_object(checkpoint, "processor_config.json")? {
        let nested = processor.get("image_processor").and_then(Json::as_object).cloned();
        fields.extend(processor);
        fields.extend(nested.into_iter().flatten());
    }
    for field in ["image_mean", "image_std"] {
        let numbers = |list: &Vec<Json>| !list.is_empty() && list.iter().all(Json::is_number);
        if !fields.get(field).and_then(Json::as_array).is_some_and(numbers) {
            return Err(ExportError::ImageStatistics { field }.into());
        }
    }
    Ok(fields)
}

/// Reads `additional_chat_templates/*.jinja`, sorted by name.
fn more_templates(checkpoint: &Checkpoint) -> Result<Vec<(String, String)>> {
    const FOLDER: &str = "additional_chat_templates";
    let Ok(entries) = std::fs::read_dir(checkpoint.dir.join(FOLDER)) else { return Ok(Vec::new()) };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".jinja")).collect();
    names.sort_unstable();
    let mut templates = Vec::new();
    for name in names {
        let text = aux_text(checkpoint, &format!("{FOLDER}/{name}"))?;
        let stem = name.trim_end_matches(".jinja").to_owned();
        templates.extend(text.map(|text| (stem, text)));
    }
    Ok(templates)
}

/// Returns the folder's name; for a snapshot in the Hub's cache, whose folder is named after a
/// commit, the repository's.
fn folder_name(dir: &Path) -> String {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut above = dir.ancestors().skip(1);
    if let (Some(snapshots), Some(repository)) = (above.next(), above.next())
        && snapshots.file_name() == Some(OsStr::new("snapshots"))
        && let Some(id) = name(repository).strip_prefix("models--")
    {
        return id.rsplit("--").next().unwrap_or(id).to_owned();
    }
    name(&dir)
}

fn out_path(options: &Options, general: &General, file_type: FileType) -> PathBuf {
    let type_name = file_type.name();
    let default_in = |dir: &Path| {
        let mmproj = options.contents == Contents::Mmproj;
        dir.join(naming::default_name(&NameParts {
            prefix: mmproj.then_some("mmproj"),
            name: general.text("name"),
            basename: general.text("basename"),
            size_label: general.text("size_label").filter(|_| !mmproj),
            finetune: general.text("finetune"),
            version: general.text("version"),
            revision: options.revision.as_deref(),
            file_type: type_name,
        }))
    };
    match options.outfile.as_deref() {
        None => default_in(Path::new("")),
        Some(path) if path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/") => {
            default_in(path)
        }
        Some(path) => {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            path.with_file_name(naming::fill_template(&name, type_name))
        }
    }
}

fn notes(checkpoint: &Checkpoint, options: &Options, mtp_layers: u64) -> Vec<String> {
    let mut notes = Vec::new();
    if options.contents == Contents::Mmproj {
        return notes;
    }
    let declared = checkpoint.config.text.mtp_num_hidden_layers;
    if checkpoint.has_vision() {
        notes.push("the vision tower is left out: `--mmproj` writes it to its own file".into());
    }
    if declared > 0 && checkpoint.mtp_layers_present() == 0 {
        notes.push(format!(
            "config.json declares {}, none is there: none is written",
            crate::units::plural(declared, "MTP layer")
        ));
    } else if mtp_layers == 0 && checkpoint.mtp_layers_present() > 0 {
        notes.push("MTP layers are left out".into());
    }
    if checkpoint.stored_duplicate_head() {
        notes.push("the stored head is left out: config.json ties it to the embedding".into());
    }
    notes
}
