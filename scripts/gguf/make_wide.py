#!/usr/bin/env python3
"""Makes checkpoints whose rows are whole blocks of 256, for the types that need such rows.

Usage: make_wide.py [--configs JSON] OUT_DIR

They are too large to be committed. Their weights are a formula, so that tests/gguf_quant.rs makes the
same bytes; `--configs` also writes the configs that it reads. Beside each checkpoint lies an importance
matrix of it, KIND.imatrix.gguf and KIND.imatrix.dat, by a formula too. Needs numpy and gguf.

kind         head    key/value heads   query heads a key head   MTP   vision   layers
wide-tied    tied    2 = 2             4                        no    no       4
wide-untied  stored  2 = 2             2                        no    no       4
wide-heads   stored  2 < 8             4                        no    no       4
wide-vl      stored  2 < 6             2                        1     yes      4
wide-qwen3   stored  -                 2                        no    no       4
deep-vl      stored  2 < 6             4                        1     no       33
deep-qwen3   tied    -                 2                        no    no       36

The deep ones are for the choice of types alone.
"""

import argparse
import json
import math
import struct
from pathlib import Path

import make_fixtures as small
import numpy as np

WIDTH = 256
MASK = (1 << 64) - 1
# Values are whole numbers times this: sums of four uniform ones, about 0.036 wide.
STEP = 2.0 ** -20


def fnv(name):
    state = 0xCBF29CE484222325
    for byte in name.encode():
        state = ((state ^ byte) * 0x100000001B3) & MASK
    return state


def random(name, count):
    """SplitMix64, its state the hash of the name."""
    with np.errstate(over="ignore"):
        z = np.uint64(fnv(name)) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def weights(name, shape):
    """The values of a tensor, float32. Every row of 16 or more is one of 16 kinds."""
    count = math.prod(shape)
    bits = random(name, count)
    parts = [(bits >> np.uint64(16 * i)) & np.uint64(0xFFFF) for i in range(4)]
    whole = sum(p.astype(np.int64) for p in parts) - 131070
    values = (whole.astype(np.float32) * np.float32(STEP)).reshape(-1, shape[-1])
    if name.endswith("A_log"):
        # exp(0) is exact everywhere.
        return np.zeros(shape, np.float32)
    if len(shape) == 2 and shape[0] >= 16:
        row = np.arange(shape[0]) % 16
        values[row == 0] = 0.0
        values[row == 1, 7] = 8.0
        values[row == 2] = np.float32(0.0369873046875)
        values[row == 3] *= np.float32(2.0 ** -120)
        values[row == 4] *= np.float32(2.0 ** 12)
        # On ties of the rounding: few values, all of them multiples of one.
        ties = ((whole.reshape(values.shape) & 15) - 8).astype(np.float32) * np.float32(0.0625)
        values[row == 5] = ties[row == 5]
    return values.reshape(shape)


class Maker(small.Maker):
    def __init__(self):
        self.tensors = {}
        self.random = np.random.default_rng(0)  # drawn from, and not used

    def normal(self, name, *shape, **_):
        self.tensors[name] = small.bf16(weights(name, shape))

    def f32(self, name, values):
        self.tensors[name] = weights(name, np.shape(values))


def hybrid(layers, hv, tied, kv, **more):
    return {**small.text_config(hv, tied), "hidden_size": WIDTH, "intermediate_size": WIDTH,
            "num_hidden_layers": layers, "head_dim": 64, "num_key_value_heads": kv,
            "linear_key_head_dim": 32, "linear_value_head_dim": 32,
            "layer_types": ["full_attention" if i % 4 == 3 else "linear_attention"
                            for i in range(layers)],
            **more}


def text_only(config):
    return {"architectures": ["Qwen3_5ForCausalLM"], "model_type": "qwen3_5_text", **config}


def dense(layers, tied, kv):
    return {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3",
            "vocab_size": small.VOCAB_SIZE, "hidden_size": WIDTH, "intermediate_size": WIDTH,
            "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": kv,
            "head_dim": 64, "hidden_act": "silu", "max_position_embeddings": 40960,
            "rms_norm_eps": 1e-6, "rope_theta": 1000000, "rope_scaling": None,
            "attention_bias": False, "tie_word_embeddings": tied, "torch_dtype": "bfloat16"}


def vision():
    return {"model_type": "qwen3_5", "depth": 2, "hidden_size": 64, "intermediate_size": WIDTH,
            "num_heads": 2, "in_channels": 3, "patch_size": 8, "spatial_merge_size": 2,
            "temporal_patch_size": 2, "out_hidden_size": WIDTH, "num_position_embeddings": 16,
            "deepstack_visual_indexes": [1], "hidden_act": "gelu_pytorch_tanh"}


def composite(text, **more):
    return {"architectures": ["Qwen3_5ForConditionalGeneration"], "model_type": "qwen3_5",
            "tie_word_embeddings": False, "text_config": {**text, "model_type": "qwen3_5_text",
                                                          "mtp_num_hidden_layers": 1}, **more}


CONFIGS = {
    "wide-tied": text_only(hybrid(4, 2, True, 1)),
    # Rows that are whole blocks of 32 and not of 256.
    "wide-untied": text_only(hybrid(4, 2, False, 2, intermediate_size=288)),
    "wide-heads": text_only(hybrid(4, 8, False, 1)),
    "wide-vl": composite(hybrid(4, 6, False, 2), vision_config=vision()),
    "wide-qwen3": dense(4, False, 2),
    "deep-vl": composite(hybrid(33, 6, False, 1)),
    "deep-qwen3": dense(36, True, 2),
}


def make(folder, config):
    text = config.get("text_config", config)
    small.HIDDEN, small.INTERMEDIATE = WIDTH, text["intermediate_size"]
    is_hybrid = text["model_type"] != "qwen3"
    folder.mkdir(parents=True, exist_ok=True)
    small.write_tokenizer(folder, small.REGEX_QWEN35 if is_hybrid else small.REGEX_QWEN2)
    small.put(folder / "config.json", config)
    maker = Maker()
    maker.text("model.", text, is_hybrid)
    if text is not config:
        maker.mtp(text)
    if "vision_config" in config:
        maker.vision(config["vision_config"])
        small.put(folder / "preprocessor_config.json",
                  {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.5, 0.5]})
    small.write_safetensors(folder / "model.safetensors", maker.tensors)
    return {gguf: shape[-1] for gguf, shape in matrices(maker.tensors, text)}


GGUF_NAMES = {
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "linear_attn.in_proj_qkv": "attn_qkv",
    "linear_attn.in_proj_z": "attn_gate", "linear_attn.in_proj_b": "ssm_beta",
    "linear_attn.in_proj_a": "ssm_alpha", "linear_attn.out_proj": "ssm_out",
}


def matrices(tensors, text):
    """The matrices that llama-imatrix has entries for: those of blocks that it runs."""
    for name, data in sorted(tensors.items()):
        parts = name.split(".")
        if parts[:2] == ["model", "layers"] and ".".join(parts[3:5]) in GGUF_NAMES:
            yield f"blk.{parts[2]}.{GGUF_NAMES['.'.join(parts[3:5])]}.weight", data.shape


def importance(name, columns):
    """Sums of squares by column, some of them zero, and how many were summed."""
    bits = random(name, columns)
    sums = (bits >> np.uint64(48)).astype(np.float32) * np.float32(2.0 ** -10)
    sums[bits % np.uint64(17) == 0] = 0.0
    return sums, 0.0 if name == "blk.1.ffn_up.weight" else 48.0


def write_imatrix(stem, entries):
    import gguf
    writer = gguf.GGUFWriter(f"{stem}.gguf", "")
    writer.kv_data[0].clear()
    writer.add_string("general.type", "imatrix")
    writer.add_array("imatrix.datasets", ["text.txt"])
    writer.add_uint32("imatrix.chunk_count", 3)
    writer.add_uint32("imatrix.chunk_size", 16)
    legacy = struct.pack("<i", len(entries))
    for name, columns in sorted(entries.items()):
        sums, count = importance(name, columns)
        writer.add_tensor(f"{name}.in_sum2", sums.reshape(1, -1))
        writer.add_tensor(f"{name}.counts", np.array([[count]], np.float32))
        # The old format holds means, and ones where nothing was counted, times the calls.
        means = (sums / np.float32(count) if count else np.ones_like(sums)) * np.float32(3)
        legacy += struct.pack("<i", len(name)) + name.encode()
        legacy += struct.pack("<ii", 3, columns) + means.astype("<f4").tobytes()
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    Path(f"{stem}.dat").write_bytes(legacy + struct.pack("<ii", 3, 8) + b"text.txt")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--configs", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    for kind, config in CONFIGS.items():
        entries = make(args.out / kind, config)
        write_imatrix(args.out / f"{kind}.imatrix", entries)
    if args.configs:
        lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in CONFIGS.items()]
        args.configs.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
