#!/usr/bin/env python3
"""Makes the small checkpoints under fixtures/gguf, one of each kind that the GGUF export tells apart.

Usage: make_fixtures.py OUT_DIR

Needs numpy only; the same script yields the same bytes. Weights are seeded normals, tokenizers
are byte-level BPE with a handful of merges and the splitting expressions of Qwen3.5 and Qwen3.

kind        head    key/value heads   MTP   vision   config
tied        tied    2 = 2             no    no       qwen3_5_text
untied      stored  2 < 4             no    no       qwen3_5_text, as RL trainers save it
vl          stored  2 < 6             1     yes      qwen3_5, two shards, model card
qwen3       stored  -                 -     no       qwen3
"""

import json
import sys
from pathlib import Path

import numpy as np

REGEX_QWEN35 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
REGEX_QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
           "<|image_pad|>", "<|video_pad|>"]
PLAIN = ["<tool_call>", "</tool_call>", "<|fim_prefix|>", "<think>", "</think>"]
MERGES = ["h e", "Ġ t", "i n", "Ġt he", "e r", "o n", "r e", "a t", "Ġ a", "e n", "o r", "in g",
          "Ġ s", "a n", "Ġ w", "i t", "e s", "Ġ o", "o u", "Ġa n"]
TEMPLATE = ("{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
            "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}")
VOCAB_SIZE = 320
HIDDEN = 64
# Not a multiple of 32: q8_0 must fall back to F16 for the rows of down_proj.
INTERMEDIATE = 48


def byte_alphabet():
    """The 256 characters by which byte-level BPE writes bytes, in byte order."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    extra = iter(range(256, 512))
    return [chr(b) if b in keep else chr(next(extra)) for b in range(256)]


def write_tokenizer(folder, regex):
    tokens = byte_alphabet() + [m.replace(" ", "") for m in MERGES]
    vocab = {token: i for i, token in enumerate(tokens)}
    added = []
    for text in SPECIAL + PLAIN:
        added.append({"id": len(vocab) + len(added), "content": text, "single_word": False,
                      "lstrip": False, "rstrip": False, "normalized": False,
                      "special": text in SPECIAL})
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False,
             "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "post_processor": level, "decoder": level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": "", "end_of_word_suffix": "", "fuse_unk": False,
                  "byte_fallback": False, "ignore_merges": False, "vocab": vocab,
                  "merges": [m.split(" ") for m in MERGES]},
    }
    put(folder / "tokenizer.json", tokenizer)
    put(folder / "tokenizer_config.json", {
        "add_prefix_space": False, "bos_token": None, "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>", "errors": "replace", "model_max_length": 4096,
        "pad_token": "<|endoftext|>", "tokenizer_class": "Qwen2Tokenizer", "unk_token": None,
        "added_tokens_decoder": {str(a["id"]): {k: v for k, v in a.items() if k != "id"}
                                 for a in added}})
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return {a["content"]: a["id"] for a in added}


def put(path, value):
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def bf16(values):
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return rounded.astype(np.uint16)


def write_safetensors(path, tensors):
    """Writes F32 arrays (dtype float32) and BF16 ones (dtype uint16)."""
    header, offset, blobs = {"__metadata__": {"format": "pt"}}, 0, []
    for name in sorted(tensors):
        data = tensors[name].tobytes()
        dtype = "BF16" if tensors[name].dtype == np.uint16 else "F32"
        header[name] = {"dtype": dtype, "shape": list(tensors[name].shape),
                        "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
        blobs.append(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blobs))


class Maker:
    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.tensors = {}

    def normal(self, name, *shape, scale=0.06, mean=0.0):
        values = mean + scale * self.random.standard_normal(shape)
        self.tensors[name] = bf16(values)

    def f32(self, name, values):
        self.tensors[name] = np.asarray(values, dtype=np.float32)

    def norm(self, name, size, mean):
        self.normal(name, size, scale=0.1, mean=mean)

    def mlp(self, prefix):
        self.normal(f"{prefix}.mlp.gate_proj.weight", INTERMEDIATE, HIDDEN)
        self.normal(f"{prefix}.mlp.up_proj.weight", INTERMEDIATE, HIDDEN)
        self.normal(f"{prefix}.mlp.down_proj.weight", HIDDEN, INTERMEDIATE)

    def attention(self, prefix, c, mean, gate):
        nh, nkv, hd = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        self.normal(f"{prefix}.self_attn.q_proj.weight", nh * hd * (2 if gate else 1), HIDDEN)
        self.normal(f"{prefix}.self_attn.k_proj.weight", nkv * hd, HIDDEN)
        self.normal(f"{prefix}.self_attn.v_proj.weight", nkv * hd, HIDDEN)
        self.normal(f"{prefix}.self_attn.o_proj.weight", HIDDEN, nh * hd)
        self.norm(f"{prefix}.self_attn.q_norm.weight", hd, mean)
        self.norm(f"{prefix}.self_attn.k_norm.weight", hd, mean)

    def linear(self, prefix, c):
        hk, hv = c["linear_num_key_heads"], c["linear_num_value_heads"]
        dk, dv, k = c["linear_key_head_dim"], c["linear_value_head_dim"], c["linear_conv_kernel_dim"]
        p = f"{prefix}.linear_attn"
        self.normal(f"{p}.in_proj_qkv.weight", 2 * hk * dk + hv * dv, HIDDEN)
        self.normal(f"{p}.in_proj_z.weight", hv * dv, HIDDEN)
        self.normal(f"{p}.in_proj_b.weight", hv, HIDDEN)
        self.normal(f"{p}.in_proj_a.weight", hv, HIDDEN)
        self.normal(f"{p}.conv1d.weight", 2 * hk * dk + hv * dv, 1, k, scale=0.3)
        self.normal(f"{p}.dt_bias", hv, scale=0.5, mean=-2.0)
        self.f32(f"{p}.A_log", np.log(1 + 15 * self.random.random(hv)))
        self.f32(f"{p}.norm.weight", 1 + 0.1 * self.random.standard_normal(dv))
        self.normal(f"{p}.out_proj.weight", HIDDEN, hv * dv)

    def text(self, prefix, c, hybrid):
        mean = 0.0 if hybrid else 1.0
        self.normal(f"{prefix}embed_tokens.weight", VOCAB_SIZE, HIDDEN)
        if not c["tie_word_embeddings"]:
            self.normal("lm_head.weight", VOCAB_SIZE, HIDDEN)
        self.norm(f"{prefix}norm.weight", HIDDEN, mean)
        for i in range(c["num_hidden_layers"]):
            layer = f"{prefix}layers.{i}"
            self.norm(f"{layer}.input_layernorm.weight", HIDDEN, mean)
            self.norm(f"{layer}.post_attention_layernorm.weight", HIDDEN, mean)
            self.mlp(layer)
            if hybrid and c["layer_types"][i] == "linear_attention":
                self.linear(layer, c)
            else:
                self.attention(layer, c, mean, hybrid)

    def mtp(self, c):
        self.normal("mtp.fc.weight", HIDDEN, 2 * HIDDEN)
        for name in ["norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden",
                     "layers.0.input_layernorm", "layers.0.post_attention_layernorm"]:
            self.norm(f"mtp.{name}.weight", HIDDEN, 0.0)
        self.mlp("mtp.layers.0")
        self.attention("mtp.layers.0", c, 0.0, True)

    def vision(self, v):
        h, f, p = v["hidden_size"], v["intermediate_size"], v["patch_size"]
        merged = h * v["spatial_merge_size"] ** 2
        self.normal("model.visual.patch_embed.proj.weight", h, 3, 2, p, p)
        self.normal("model.visual.patch_embed.proj.bias", h, scale=0.02)
        self.normal("model.visual.pos_embed.weight", v["num_position_embeddings"], h)
        for i in range(v["depth"]):
            b = f"model.visual.blocks.{i}"
            for norm in ["norm1", "norm2"]:
                self.norm(f"{b}.{norm}.weight", h, 1.0)
                self.normal(f"{b}.{norm}.bias", h, scale=0.02)
            for name, rows, columns in [("attn.qkv", 3 * h, h), ("attn.proj", h, h),
                                        ("mlp.linear_fc1", f, h), ("mlp.linear_fc2", h, f)]:
                self.normal(f"{b}.{name}.weight", rows, columns)
                self.normal(f"{b}.{name}.bias", rows, scale=0.02)
        mergers = [("model.visual.merger", h)]
        mergers += [(f"model.visual.deepstack_merger_list.{j}", merged)
                    for j in range(len(v["deepstack_visual_indexes"]))]
        for m, width in mergers:
            self.norm(f"{m}.norm.weight", width, 1.0)
            self.normal(f"{m}.norm.bias", width, scale=0.02)
            for name, rows in [("linear_fc1", merged), ("linear_fc2", v["out_hidden_size"])]:
                self.normal(f"{m}.{name}.weight", rows, merged)
                self.normal(f"{m}.{name}.bias", rows, scale=0.02)


def text_config(hv, tied):
    return {
        "vocab_size": VOCAB_SIZE, "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
        "linear_conv_kernel_dim": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
        "linear_num_key_heads": 2, "linear_num_value_heads": hv, "max_position_embeddings": 4096,
        "layer_types": ["linear_attention"] * 3 + ["full_attention"], "full_attention_interval": 4,
        "rms_norm_eps": 1e-6, "attn_output_gate": True, "mamba_ssm_dtype": "float32",
        "rope_parameters": {"mrope_interleaved": True, "mrope_section": [2, 1, 1],
                            "rope_type": "default", "rope_theta": 10000000,
                            "partial_rotary_factor": 0.25},
        "dtype": "bfloat16", "tie_word_embeddings": tied,
    }


def text_only(folder, seed, hv, tied):
    ids = write_tokenizer(folder, REGEX_QWEN35)
    config = {"architectures": ["Qwen3_5ForCausalLM"], "model_type": "qwen3_5_text",
              **text_config(hv, tied), "eos_token_id": ids["<|im_end|>"], "bos_token_id": None,
              "pad_token_id": ids["<|endoftext|>"]}
    put(folder / "config.json", config)
    put(folder / "generation_config.json", {"do_sample": True, "temperature": 0.7, "top_p": 0.95,
                                            "eos_token_id": [ids["<|im_end|>"]]})
    maker = Maker(seed)
    # What transformers saves from such a model: composite names under a text-only config.
    maker.text("model.language_model." if tied else "model.", config, True)
    write_safetensors(folder / "model.safetensors", maker.tensors)


def vl(folder):
    ids = write_tokenizer(folder, REGEX_QWEN35)
    text = {**text_config(6, False), "model_type": "qwen3_5_text", "mtp_num_hidden_layers": 1,
            "eos_token_id": ids["<|endoftext|>"], "mtp_use_dedicated_embeddings": False}
    vision = {"model_type": "qwen3_5", "depth": 2, "hidden_size": 16, "intermediate_size": 40,
              "num_heads": 2, "in_channels": 3, "patch_size": 8, "spatial_merge_size": 2,
              "temporal_patch_size": 2, "out_hidden_size": HIDDEN, "num_position_embeddings": 16,
              "deepstack_visual_indexes": [1], "hidden_act": "gelu_pytorch_tanh"}
    put(folder / "config.json", {
        "architectures": ["Qwen3_5ForConditionalGeneration"], "model_type": "qwen3_5",
        "image_token_id": ids["<|image_pad|>"], "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"], "tie_word_embeddings": False,
        "text_config": text, "vision_config": vision})
    put(folder / "generation_config.json", {
        "bos_token_id": ids["<|endoftext|>"], "do_sample": True, "temperature": 1.0, "top_k": 20,
        "top_p": 0.95, "repetition_penalty": 1.05, "eos_token_id": [ids["<|im_end|>"]]})
    put(folder / "preprocessor_config.json", {
        "patch_size": 8, "temporal_patch_size": 2, "merge_size": 2, "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.25, 0.5, 0.5], "image_processor_type": "Qwen2VLImageProcessorFast"})
    (folder / "README.md").write_text(
        "---\nlicense: apache-2.0\nlibrary_name: transformers\npipeline_tag: image-text-to-text\n"
        "base_model:\n- Qwen/Qwen3.5-2B-Base\ntags:\n- rl\n- agent\nlanguage:\n- en\n- no\n"
        "datasets:\n- allenai/tmax-tasks\n---\n\n# A small checkpoint for tests\n")
    maker = Maker(3)
    maker.text("model.language_model.", text, True)
    maker.mtp(text)
    maker.vision(vision)
    names = sorted(maker.tensors)
    shards = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, members in shards.items():
        write_safetensors(folder / file, {n: maker.tensors[n] for n in members})
    size = sum(t.nbytes for t in maker.tensors.values())
    put(folder / "model.safetensors.index.json", {
        "metadata": {"total_size": size},
        "weight_map": {n: f for f, members in shards.items() for n in members}})


def qwen3(folder):
    ids = write_tokenizer(folder, REGEX_QWEN2)
    config = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3",
              "vocab_size": VOCAB_SIZE, "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE,
              "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
              "head_dim": 32, "hidden_act": "silu", "max_position_embeddings": 40960,
              "rms_norm_eps": 1e-6, "rope_theta": 1000000, "rope_scaling": None,
              "attention_bias": False, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
              "bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"]}
    put(folder / "config.json", config)
    maker = Maker(4)
    maker.text("model.", config, False)
    write_safetensors(folder / "model.safetensors", maker.tensors)


def main():
    out = Path(sys.argv[1])
    kinds = {"tied": lambda d: text_only(d, 1, 2, True),
             "untied": lambda d: text_only(d, 2, 4, False), "vl": vl, "qwen3": qwen3}
    for kind, make in kinds.items():
        # The folder's name becomes `general.name`.
        folder = out / kind
        folder.mkdir(parents=True, exist_ok=True)
        make(folder)
        print(kind, sum(f.stat().st_size for f in folder.iterdir()), "bytes")


if __name__ == "__main__":
    main()
