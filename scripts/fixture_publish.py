"""Writes training states as raw step branches, in the layouts that are met on the Hub."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

import fixture_episodes as episodes
from fixture_model import CONFIG, TinyQwen

VISION = dict(
    model_type="qwen3_5", deepstack_visual_indexes=[], depth=1, hidden_act="gelu_pytorch_tanh",
    hidden_size=32, in_channels=3, initializer_range=0.02, intermediate_size=64, num_heads=2,
    num_position_embeddings=16, out_hidden_size=CONFIG["hidden_size"], patch_size=16,
    spatial_merge_size=2, temporal_patch_size=2,
)
MAX_POSITIONS = 2048
FLOAT32 = ("A_log", "linear_attn.norm.weight")


def vision_tensors(seed):
    """A vision tower that saw nothing: random, the same in all steps, as text RL leaves it."""
    g, h, f = torch.Generator().manual_seed(seed), VISION["hidden_size"], 64
    at, wide, out = "model.visual.", 4 * VISION["hidden_size"], {}

    def put(name, *shape, mean=0.0):
        out[at + name] = (mean + 0.02 * torch.randn(*shape, generator=g)).bfloat16()

    def linear(name, rows, columns):
        put(name + ".weight", rows, columns)
        put(name + ".bias", rows)

    def norm(name):
        put(name + ".weight", h, mean=1.0)
        put(name + ".bias", h)

    put("patch_embed.proj.weight", h, 3, 2, 16, 16)
    put("patch_embed.proj.bias", h)
    put("pos_embed.weight", VISION["num_position_embeddings"], h)
    for name in ("blocks.0.norm1", "blocks.0.norm2", "merger.norm"):
        norm(name)
    for name, rows, columns in (
            ("blocks.0.attn.qkv", 3 * h, h), ("blocks.0.attn.proj", h, h),
            ("blocks.0.mlp.linear_fc1", f, h), ("blocks.0.mlp.linear_fc2", h, f),
            ("merger.linear_fc1", wide, wide),
            ("merger.linear_fc2", VISION["out_hidden_size"], wide)):
        linear(name, rows, columns)
    return out


def mtp_tensors(model, seed):
    """One MTP layer: shaped as the model's full-attention layer, random."""
    g, h = torch.Generator().manual_seed(seed), CONFIG["hidden_size"]
    shapes = {f"layers.0.{k}": v.shape for k, v in model.layers[3].state_dict().items()}
    shapes |= {"fc.weight": (h, 2 * h), "norm.weight": (h,),
               "pre_fc_norm_embedding.weight": (h,), "pre_fc_norm_hidden.weight": (h,)}
    return {"mtp." + name: (0.02 * torch.randn(*shapes[name], generator=g)).bfloat16()
            for name in sorted(shapes)}


def text_config(mtp_layers):
    c = dict(CONFIG)
    rotary = int(c["head_dim"] * c["partial_rotary_factor"]) // 2
    section = [rotary - 2 * (rotary // 3), rotary // 3, rotary // 3]
    rope = {"mrope_interleaved": True, "mrope_section": section, "rope_type": "default",
            "rope_theta": c.pop("rope_theta"),
            "partial_rotary_factor": c.pop("partial_rotary_factor")}
    return {
        "model_type": "qwen3_5_text", **c, "attention_bias": False, "attention_dropout": 0.0,
        "attn_output_gate": True, "dtype": "bfloat16", "full_attention_interval": 4,
        "hidden_act": "silu", "initializer_range": 0.02,
        "layer_types": ["full_attention" if (i + 1) % 4 == 0 else "linear_attention"
                        for i in range(c["num_hidden_layers"])],
        "mamba_ssm_dtype": "float32", "max_position_embeddings": MAX_POSITIONS,
        "mlp_only_layers": [], "mtp_num_hidden_layers": mtp_layers,
        "mtp_use_dedicated_embeddings": False, "tie_word_embeddings": True, "use_cache": False,
        "rope_parameters": rope,
    }


def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def write_configs(out, tokenizer):
    ids = {s: tokenizer.token_to_id(s) for s in episodes.SPECIAL + episodes.NON_SPECIAL}
    text = text_config(1)
    text |= {"eos_token_id": ids["<|endoftext|>"], "bos_token_id": None, "pad_token_id": None}
    write_json(out / "config.json", {
        "architectures": ["Qwen3_5ForConditionalGeneration"], "model_type": "qwen3_5",
        "dtype": "bfloat16", "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"], "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"], "tie_word_embeddings": True,
        "text_config": text, "vision_config": VISION, "transformers_version": "5.17.0"})
    write_json(out / "generation_config.json", {
        "bos_token_id": ids["<|endoftext|>"], "do_sample": True,
        "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]],
        "pad_token_id": ids["<|endoftext|>"], "temperature": 0.7, "top_p": 0.95,
        "transformers_version": "5.17.0"})
    write_json(out / "preprocessor_config.json", {
        "size": {"longest_edge": 16777216, "shortest_edge": 65536}, "patch_size": 16,
        "temporal_patch_size": 2, "merge_size": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
        "processor_class": "Qwen3VLProcessor", "image_processor_type": "Qwen2VLImageProcessorFast"})
    write_json(out / "tokenizer_config.json", {
        "add_bos_token": False, "add_prefix_space": False, "bos_token": None,
        "clean_up_tokenization_spaces": False, "eos_token": "<|im_end|>", "errors": "replace",
        "model_max_length": MAX_POSITIONS, "pad_token": "<|endoftext|>",
        "split_special_tokens": False, "tokenizer_class": "Qwen2Tokenizer", "unk_token": None,
        "added_tokens_decoder": {str(i): {
            "content": s, "lstrip": False, "normalized": False, "rstrip": False,
            "single_word": False, "special": s in episodes.SPECIAL} for s, i in ids.items()}})
    (out / "chat_template.jinja").write_text(episodes.TEMPLATE)
    tokenizer.save(str(out / "tokenizer.json"))


def nested(name):
    """The names that transformers 5.4.0 writes for the whole model."""
    if name.startswith("model.visual."):
        return "model.language_model." + name.removeprefix("model.")
    text = "model.language_model."
    return name.replace(text, text + "language_model.language_model.", 1)


def branch_tensors(state, layout, seed):
    model = TinyQwen()
    model.load_state_dict(state)
    wide = layout == "float32"
    text = {f"model.language_model.{k}": (
                v.bfloat16().float() if wide and k.endswith(FLOAT32) else v.bfloat16())
            for k, v in model.state_dict().items()}
    tensors = text | vision_tensors(seed)
    if layout not in ("no-mtp", "nested"):
        tensors |= mtp_tensors(model, seed + 1)
    if layout == "nested":
        tensors = {nested(k): v for k, v in tensors.items()}
    return {k: tensors[k].contiguous() for k in sorted(tensors)}


def write_branch(out, state, tokenizer, layout, seed):
    """One folder as a raw step branch.

    `layout`: plain; sharded, with an index; float32, decays and gated norms so, and a trainer's
    marker file; no-mtp, declared in the config but absent; nested, as transformers 5.4.0 saves the
    whole model, which drops MTP too.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_configs(out, tokenizer)
    tensors = branch_tensors(state, layout, seed)
    if layout != "sharded":
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    else:
        write_shards(out, tensors, 2)
    if layout == "float32":
        (out / ".checkpoint_complete").touch()
    for file in out.iterdir():
        file.chmod(0o644)


def write_shards(out, tensors, count):
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    shards, done = [{} for _ in range(count)], 0
    for name, tensor in tensors.items():
        shards[min(count - 1, done * count // total)][name] = tensor
        done += tensor.numel() * tensor.element_size()
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{count:05d}.safetensors"
        save_file(shard, out / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    write_json(out / "model.safetensors.index.json", {
        "metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})


def un_nested(name):
    text = "model.language_model."
    return name.replace(text + "language_model.language_model.", "", 1).replace(text, "", 1)


@torch.no_grad()
def check_branch(folder, state, encoder_text):
    """Largest difference of logits between transformers' model of `folder` and ours."""
    import transformers
    from safetensors.torch import load_file

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(encoder_text, return_tensors="pt").input_ids
    files = sorted(Path(folder).glob("*.safetensors"))
    tensors = {k: v for f in files for k, v in load_file(f).items()}
    if any("language_model.language_model" in k for k in tensors):
        # transformers does not read these names: give it the state under the right ones.
        config = transformers.AutoConfig.from_pretrained(folder).text_config
        theirs = transformers.Qwen3_5ForCausalLM(config).float()
        text = {"model." + un_nested(k): v.float() for k, v in tensors.items()
                if k.startswith("model.language_model.language_model.")}
        missing, extra = theirs.load_state_dict(text, strict=False)
        assert set(missing) <= {"lm_head.weight"} and not extra, (missing, extra)
        theirs.tie_weights()
    else:
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = TinyQwen()
    model.load_state_dict({k: v.bfloat16().float() for k, v in state.items()})
    hidden, _ = model(ids, model.empty())
    ours = model.logits(hidden)
    wanted = theirs.eval()(ids).logits
    agree = (ours.argmax(-1) == wanted.argmax(-1)).float().mean().item()
    return (ours - wanted).abs().max().item(), wanted.abs().max().item(), agree
