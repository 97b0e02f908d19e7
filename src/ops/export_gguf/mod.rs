//! GGUF files out of a checkpoint, as llama.cpp's converter would write them.
//!
//! [`plan`] decides everything: names, types, order, offsets, file names. [`run`] moves bytes and
//! decides nothing. Keys, order and bytes equal those of `convert_hf_to_gguf.py` at 0c1e57098,
//! and for types that it does not write, or where the user chooses types, those of its file in
//! the checkpoint's own type after `llama-quantize`, but for these, on purpose:
//!
//! * `ssm_a` is the correctly rounded `-exp`; the peer's differs by one unit in the last place
//!   in about one value of a hundred;
//! * a head that is stored although it is tied to the embedding is left out: the peer writes it,
//!   which llama.cpp then loads as a second matrix;
//! * MTP layers are counted from the tensors, not from the config, which often declares layers
//!   that a fine-tune no longer has;
//! * several chat templates are listed in sorted order, not in that of a hash table.

pub mod choices;
mod error;
mod general;
mod identity;
mod importance;
mod keys;
mod mixture;
mod plan;
mod requantize;
mod run;
mod tokenizer;
mod transforms;

pub use choices::{Choices, Head, Mix, TensorTypeChoice};
pub use error::ExportError;
pub use plan::{Contents, Mtp, Options, OutType, Plan, PlannedFile, PlannedTensor, plan};
pub use run::{Written, check_outputs, run};
pub use transforms::{Elementwise, HeadOrder, Plane, RowRecipe};
