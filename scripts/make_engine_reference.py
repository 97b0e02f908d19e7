#!/usr/bin/env python3
"""Makes fixtures/engine: tiny random Qwen3.5 and Qwen3 checkpoints, and what transformers computes.

Needs torch 2.11 and transformers 5.17 (CPU). Run from the repository's root:

    python scripts/make_engine_reference.py fixtures/engine

Every parameter is random: transformers' own initialisation leaves norms at zero and hides a
forgotten `1 + w`. `reference.safetensors` of each checkpoint holds
  input_ids  [2, 80]      two sequences; 80 crosses the border of a 64-token chunk
  logits     [2, 80, 96]  f32
  logprobs   [2, 79]      ln p of each next token
  greedy     [24]         greedy continuation of the first 20 ids of sequence 0
"""
import hashlib, json, pathlib, sys
import torch, transformers
from safetensors.torch import save_file
from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3_5ForCausalLM, Qwen3_5TextConfig

COMMON = dict(vocab_size=96, hidden_size=40, intermediate_size=72, num_attention_heads=4,
              num_key_value_heads=2, max_position_embeddings=512, bos_token_id=None,
              eos_token_id=95, pad_token_id=None)
MODELS = {
    # Three value heads a key head: no power of two hides a wrong grouping.
    "qwen3_5": (Qwen3_5ForCausalLM, lambda: Qwen3_5TextConfig(
        **COMMON, num_hidden_layers=4, head_dim=24, tie_word_embeddings=True,
        linear_num_key_heads=2, linear_num_value_heads=6, linear_key_head_dim=16,
        linear_value_head_dim=12, linear_conv_kernel_dim=4,
        rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5,
                             mrope_section=[2, 2, 2], mrope_interleaved=True))),
    "qwen3": (Qwen3ForCausalLM, lambda: Qwen3Config(
        **COMMON, num_hidden_layers=3, head_dim=16, tie_word_embeddings=False,
        rope_theta=10000.0)),
}


def randomise(model):
    generator = torch.Generator().manual_seed(7)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() >= 2 and "conv1d" not in name:
            noise = noise / parameter.shape[-1] ** 0.5
        elif "norm" in name:
            # Around zero where the model adds one, around one where it does not.
            stored_around_zero = "qwen3_5" in model.config.model_type and "linear_attn" not in name
            noise = noise * 0.3 + (0.0 if stored_around_zero else 1.0)
        elif name.endswith("A_log"):
            noise = torch.rand(parameter.shape, generator=generator) * 2 - 1
        else:
            noise = noise * 0.5
        parameter.data.copy_(noise)


@torch.no_grad()
def reference(model):
    ids = torch.randint(0, 95, (2, 80), generator=torch.Generator().manual_seed(11))
    logits = model(ids).logits.float()
    chosen = torch.log_softmax(logits[:, :-1], -1).gather(-1, ids[:, 1:, None])[..., 0]
    tokens = ids[:1, :20]
    for _ in range(24):
        tokens = torch.cat([tokens, model(tokens).logits[:, -1].argmax(-1, keepdim=True)], 1)
    return {"input_ids": ids.to(torch.int32), "logits": logits.contiguous(),
            "logprobs": chosen.contiguous(), "greedy": tokens[0, 20:].to(torch.int32)}


def main(out):
    lines = [f"torch {torch.__version__}, transformers {transformers.__version__}", ""]
    for name, (cls, config) in MODELS.items():
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        model = cls(config()).eval()
        randomise(model)
        # As stored: bf16 for the matrices would round; f32 keeps the reference exact.
        model.float().save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        save_file({k: v.contiguous() for k, v in reference(model).items()},
                  folder / "reference.safetensors")
        for file in sorted(folder.iterdir()):
            file.chmod(0o644)
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            lines.append(f"{digest}  {name}/{file.name}")
    (out / "SHA256SUMS.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(pathlib.Path(sys.argv[1]))
