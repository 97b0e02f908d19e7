#!/usr/bin/env python3
"""Writes a checkpoint with the shapes of Qwen3.5-2B (random weights, 4.5 GB), for benchmarks.

    make_bench_checkpoint.py OUT [--shards N] [--jobs N] [--seed N] [--value-heads N]
                             [--no-vision] [--no-mtp]

Text model, vision tower, one MTP layer and a 248k vocabulary: the files of a raw step branch. Needs
numpy alone. The same arguments give the same bytes, whatever the number of jobs.
"""

import argparse
import json
import os
import time
from multiprocessing import Pool
from pathlib import Path
from statistics import NormalDist

import numpy as np

HIDDEN, LAYERS, FFN, VOCAB = 2048, 24, 6144, 248320
HEADS, KV_HEADS, HEAD_DIM = 8, 2, 256
KEY_HEADS, LINEAR_DIM, TAPS = 16, 128, 4
VISION_HIDDEN, VISION_LAYERS, VISION_FFN, POSITIONS = 1024, 24, 4096, 2304
ITEM_BYTES = {"BF16": 2, "F32": 4}
PIECE = 1 << 23
FIRST_ADDED = 248044


def is_full(layer):
    return (layer + 1) % 4 == 0


# --- tensors: (name, shape, dtype, kind) ---------------------------------------------------------

def block(prefix, full, value_heads):
    out = [(f"{prefix}{norm}_layernorm.weight", [HIDDEN], "BF16", "zero")
           for norm in ("input", "post_attention")]
    out += [(f"{prefix}mlp.{name}_proj.weight", shape, "BF16", "matrix") for name, shape in (
        ("gate", [FFN, HIDDEN]), ("up", [FFN, HIDDEN]), ("down", [HIDDEN, FFN]))]
    if full:
        at = prefix + "self_attn."
        out += [(f"{at}{name}_proj.weight", shape, "BF16", "matrix") for name, shape in (
            ("q", [2 * HEADS * HEAD_DIM, HIDDEN]), ("k", [KV_HEADS * HEAD_DIM, HIDDEN]),
            ("v", [KV_HEADS * HEAD_DIM, HIDDEN]), ("o", [HIDDEN, HEADS * HEAD_DIM]))]
        out += [(f"{at}{name}_norm.weight", [HEAD_DIM], "BF16", "zero") for name in "qk"]
        return out
    at, value = prefix + "linear_attn.", value_heads * LINEAR_DIM
    mixed = 2 * KEY_HEADS * LINEAR_DIM + value
    return out + [
        (at + "in_proj_qkv.weight", [mixed, HIDDEN], "BF16", "matrix"),
        (at + "in_proj_z.weight", [value, HIDDEN], "BF16", "matrix"),
        (at + "in_proj_a.weight", [value_heads, HIDDEN], "BF16", "matrix"),
        (at + "in_proj_b.weight", [value_heads, HIDDEN], "BF16", "matrix"),
        (at + "conv1d.weight", [mixed, 1, TAPS], "BF16", "matrix"),
        (at + "dt_bias", [value_heads], "BF16", "matrix"),
        (at + "A_log", [value_heads], "F32", "decay"),
        (at + "norm.weight", [LINEAR_DIM], "F32", "one"),
        (at + "out_proj.weight", [HIDDEN, value], "BF16", "matrix"),
    ]


def text_tensors(value_heads):
    at = "model.language_model."
    out = [(at + "embed_tokens.weight", [VOCAB, HIDDEN], "BF16", "matrix")]
    for layer in range(LAYERS):
        out += block(f"{at}layers.{layer}.", is_full(layer), value_heads)
    return out + [(at + "norm.weight", [HIDDEN], "BF16", "zero")]


def mtp_tensors(value_heads):
    out = [("mtp.fc.weight", [HIDDEN, 2 * HIDDEN], "BF16", "matrix")]
    out += [(f"mtp.{name}.weight", [HIDDEN], "BF16", "zero")
            for name in ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden")]
    return out + block("mtp.layers.0.", True, value_heads)


def vision_tensors():
    at, wide = "model.visual.", 4 * VISION_HIDDEN

    def linear(name, rows, columns):
        return [(f"{at}{name}.weight", [rows, columns], "BF16", "matrix"),
                (f"{at}{name}.bias", [rows], "BF16", "matrix")]

    def norm(name):
        return [(f"{at}{name}.weight", [VISION_HIDDEN], "BF16", "one"),
                (f"{at}{name}.bias", [VISION_HIDDEN], "BF16", "matrix")]

    out = [(at + "patch_embed.proj.weight", [VISION_HIDDEN, 3, 2, 16, 16], "BF16", "matrix"),
           (at + "patch_embed.proj.bias", [VISION_HIDDEN], "BF16", "matrix"),
           (at + "pos_embed.weight", [POSITIONS, VISION_HIDDEN], "BF16", "matrix")]
    for i in range(VISION_LAYERS):
        p = f"blocks.{i}."
        out += norm(p + "norm1") + norm(p + "norm2")
        out += linear(p + "attn.qkv", 3 * VISION_HIDDEN, VISION_HIDDEN)
        out += linear(p + "attn.proj", VISION_HIDDEN, VISION_HIDDEN)
        out += linear(p + "mlp.linear_fc1", VISION_FFN, VISION_HIDDEN)
        out += linear(p + "mlp.linear_fc2", VISION_HIDDEN, VISION_FFN)
    return (out + norm("merger.norm") + linear("merger.linear_fc1", wide, wide)
            + linear("merger.linear_fc2", HIDDEN, wide))


def size_bytes(shape, dtype):
    return int(np.prod(shape)) * ITEM_BYTES[dtype]


# --- values ----------------------------------------------------------------------------------------

def to_bf16(x):
    """Round to nearest even; no NaN comes here."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def normal_table(mean, deviation):
    """bf16 values of a normal distribution at 65,536 equal steps of probability."""
    steps = (np.arange(4096) + 0.5) / 4096
    coarse = np.array([NormalDist().inv_cdf(p) for p in steps])
    fine = np.interp((np.arange(65536) + 0.5) / 65536, steps, coarse)
    return to_bf16(mean + deviation * fine)


TABLES = {}


def piece_of(kind, dtype, count, seed):
    rng = np.random.Generator(np.random.SFC64(seed))
    if dtype == "F32":
        x = rng.standard_normal(count, dtype=np.float32)
        if kind == "decay":
            return np.log(1 + 15 / (1 + np.exp(-x))).astype(np.float32)
        return (1 + 0.05 * x).astype(np.float32)
    if not TABLES:
        TABLES.update(matrix=normal_table(0, 0.02), zero=normal_table(0, 0.05),
                      one=normal_table(1, 0.05))
    index = np.frombuffer(rng.bytes(2 * count), np.uint16)
    return TABLES[kind][index]


def write_piece(job):
    path, offset, kind, dtype, count, seed = job
    data = memoryview(piece_of(kind, dtype, count, seed)).cast("B")
    with open(path, "r+b", buffering=0) as file:
        while data:
            written = os.pwrite(file.fileno(), data, offset)
            offset, data = offset + written, data[written:]


def write_header(path, tensors):
    """Header and length of one shard; returns where each tensor starts in the file."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape, dtype, _ in tensors:
        end = at + size_bytes(shape, dtype)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)
    return {name: 8 + len(text) + header[name]["data_offsets"][0] for name, *_ in tensors}


def split_shards(tensors, shards):
    total = sum(size_bytes(shape, dtype) for _, shape, dtype, _ in tensors)
    out, done = [[] for _ in range(shards)], 0
    for tensor in tensors:
        out[min(shards - 1, done * shards // total)].append(tensor)
        done += size_bytes(tensor[1], tensor[2])
    return [shard for shard in out if shard], total


def write_tensors(out, tensors, args):
    shards, total = split_shards(tensors, args.shards)
    jobs, weight_map, order = [], {}, {t[0]: i for i, t in enumerate(tensors)}
    for number, shard in enumerate(shards, 1):
        name = ("model.safetensors" if len(shards) == 1
                else f"model-{number:05d}-of-{len(shards):05d}.safetensors")
        starts = write_header(out / name, shard)
        for tensor, shape, dtype, kind in shard:
            weight_map[tensor] = name
            count = int(np.prod(shape))
            for piece, at in enumerate(range(0, count, PIECE)):
                jobs.append((out / name, starts[tensor] + at * ITEM_BYTES[dtype], kind, dtype,
                             min(PIECE, count - at), [args.seed, order[tensor], piece]))
    if len(shards) > 1:
        write_json(out / "model.safetensors.index.json",
                   {"metadata": {"total_size": total}, "weight_map": weight_map})
    with Pool(args.jobs) as pool:
        for _ in pool.imap_unordered(write_piece, jobs, chunksize=4):
            pass
    return total


# --- the other files -------------------------------------------------------------------------------

PRE_TOKENIZER = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SPECIAL = [f"<|{s}|>" for s in (
    "endoftext im_start im_end object_ref_start object_ref_end box_start box_end quad_start "
    "quad_end vision_start vision_end vision_pad image_pad video_pad").split()]
NON_SPECIAL = ("<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> "
               "<|repo_name|> <|file_sep|> <tool_response> </tool_response> <think> "
               "</think>").split()
IDS = {s: FIRST_ADDED + i for i, s in enumerate(SPECIAL + NON_SPECIAL)}
CHAT_TEMPLATE = (
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}")


def write_json(path, value, **how):
    path.write_text(json.dumps(value, ensure_ascii=False, **how))


def byte_alphabet():
    """The 256 characters that byte-level BPE writes bytes as, in code point order."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return sorted(chr(c) for c in own + [256 + i for i in range(256 - len(own))])


def write_tokenizer(out):
    """Every pair of bytes, then pairs with one byte more, until the vocabulary is full."""
    letters = byte_alphabet()
    pairs = [(a, b) for a in letters for b in letters]
    triples = ((a + b, c) for a, b in pairs for c in letters)
    merges = pairs + [next(triples) for _ in range(FIRST_ADDED - len(letters) - len(pairs))]
    vocab = {token: i for i, token in enumerate(letters + [a + b for a, b in merges])}
    added = [{"id": i, "content": s, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": s in SPECIAL} for s, i in IDS.items()]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False,
                  "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": PRE_TOKENIZER}, "behavior": "Isolated",
             "invert": False}
    write_json(out / "tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": "", "end_of_word_suffix": "", "fuse_unk": False,
                  "byte_fallback": False, "ignore_merges": False, "vocab": vocab,
                  "merges": [list(m) for m in merges]}})
    write_json(out / "tokenizer_config.json", {
        "add_bos_token": False, "add_prefix_space": False, "bos_token": None,
        "clean_up_tokenization_spaces": False, "eos_token": "<|im_end|>", "errors": "replace",
        "model_max_length": 262144, "pad_token": "<|endoftext|>", "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer", "unk_token": None,
        "added_tokens_decoder": {str(a["id"]): {k: a[k] for k in a if k != "id"} for a in added},
    }, indent=2)
    (out / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def text_config(args):
    return {
        "model_type": "qwen3_5_text", "attention_bias": False, "attention_dropout": 0.0,
        "attn_output_gate": True, "dtype": "bfloat16", "eos_token_id": IDS["<|endoftext|>"],
        "full_attention_interval": 4, "head_dim": HEAD_DIM, "hidden_act": "silu",
        "hidden_size": HIDDEN, "initializer_range": 0.02, "intermediate_size": FFN,
        "layer_types": ["full_attention" if is_full(i) else "linear_attention"
                        for i in range(LAYERS)],
        "linear_conv_kernel_dim": TAPS, "linear_key_head_dim": LINEAR_DIM,
        "linear_num_key_heads": KEY_HEADS, "linear_num_value_heads": args.value_heads,
        "linear_value_head_dim": LINEAR_DIM, "mamba_ssm_dtype": "float32",
        "max_position_embeddings": 262144, "mlp_only_layers": [],
        "mtp_num_hidden_layers": int(args.mtp), "mtp_use_dedicated_embeddings": False,
        "num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "num_key_value_heads": KV_HEADS,
        "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "use_cache": True, "vocab_size": VOCAB,
        "rope_parameters": {"mrope_interleaved": True, "mrope_section": [11, 11, 10],
                            "rope_type": "default", "rope_theta": 10000000,
                            "partial_rotary_factor": 0.25},
    }


def write_configs(out, args):
    vision = {
        "model_type": "qwen3_5", "deepstack_visual_indexes": [], "depth": VISION_LAYERS,
        "hidden_act": "gelu_pytorch_tanh", "hidden_size": VISION_HIDDEN, "in_channels": 3,
        "initializer_range": 0.02, "intermediate_size": VISION_FFN, "num_heads": 16,
        "num_position_embeddings": POSITIONS, "out_hidden_size": HIDDEN, "patch_size": 16,
        "spatial_merge_size": 2, "temporal_patch_size": 2}
    config = {
        "architectures": ["Qwen3_5ForConditionalGeneration"], "model_type": "qwen3_5",
        "dtype": "bfloat16", "image_token_id": IDS["<|image_pad|>"],
        "video_token_id": IDS["<|video_pad|>"], "vision_start_token_id": IDS["<|vision_start|>"],
        "vision_end_token_id": IDS["<|vision_end|>"], "tie_word_embeddings": True,
        "text_config": text_config(args), "transformers_version": "5.17.0"}
    if args.vision:
        config["vision_config"] = vision
        write_json(out / "preprocessor_config.json", {
            "size": {"longest_edge": 16777216, "shortest_edge": 65536}, "patch_size": 16,
            "temporal_patch_size": 2, "merge_size": 2, "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3, "processor_class": "Qwen3VLProcessor",
            "image_processor_type": "Qwen2VLImageProcessorFast"}, indent=2)
    write_json(out / "config.json", config, indent=2)
    write_json(out / "generation_config.json", {
        "bos_token_id": IDS["<|endoftext|>"], "do_sample": True,
        "eos_token_id": [IDS["<|im_end|>"], IDS["<|endoftext|>"]],
        "pad_token_id": IDS["<|endoftext|>"], "temperature": 1.0, "top_k": 20, "top_p": 0.95,
        "transformers_version": "5.17.0"}, indent=2)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--value-heads", type=int, default=16, help="32: as the 4B and 9B have")
    parser.add_argument("--no-vision", dest="vision", action="store_false")
    parser.add_argument("--no-mtp", dest="mtp", action="store_false")
    args = parser.parse_args()
    began = time.time()
    args.out.mkdir(parents=True, exist_ok=True)
    write_configs(args.out, args)
    write_tokenizer(args.out)
    tensors = text_tensors(args.value_heads)
    tensors += mtp_tensors(args.value_heads) if args.mtp else []
    tensors += vision_tensors() if args.vision else []
    total = write_tensors(args.out, tensors, args)
    print(f"{args.out}: {len(tensors)} tensors, {total / 1e9:.2f} GB, {time.time() - began:.1f} s")


if __name__ == "__main__":
    main()
