#!/usr/bin/env python3
"""Exports checkpoints with tmax-ckpt and with llama.cpp's converter, and compares the files.

Usage: check_peer.py --bin TMAX_CKPT --llama-cpp DIR --out MARKDOWN --wide DIR [--work DIR] CKPT...

Called by check-gguf-peer.sh, which says what the environment must hold. For each checkpoint and
each type: keys, tensor table and bytes; the quantised types are check_quantize.py's. Then perplexity:
llama-perplexity on our F32 file against transformers on the checkpoint, same tokens, same windows.
The checkpoints of --wide are for the quantised types alone. Exit status 1 on any difference.
"""

import argparse
import json
import math
import os
import platform
import re
import runpy
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

HERE = Path(__file__).parent
TYPES = ["f32", "f16", "bf16", "q8_0", "auto"]
WINDOW = 64


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", required=True)
    parser.add_argument("--llama-cpp", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--wide", required=True, type=Path)
    parser.add_argument("--work")
    parser.add_argument("checkpoints", nargs="+", type=Path)
    return parser.parse_args()


def call(*command, check=True):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if check and done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done


def convert(args, pre, *arguments):
    """Runs the converter in a fork: its imports take longer than a small checkpoint."""
    log = tempfile.TemporaryFile("w+")
    child = os.fork()
    if child == 0:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        sys.argv = ["convert_with_peer.py", args.llama_cpp, pre, *map(str, arguments)]
        status = 1
        try:
            runpy.run_path(str(HERE / "convert_with_peer.py"), run_name="__main__")
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    if os.waitpid(child, 0)[1] != 0:
        log.seek(0)
        sys.exit(f"the converter failed on {arguments}\n{log.read()[-4000:]}")


def facts(folder):
    config = json.loads((folder / "config.json").read_text())
    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = json.loads(index.read_text())["weight_map"]
    else:
        with open(folder / "model.safetensors", "rb") as file:
            names = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {
        "pre": "qwen2" if config["architectures"][0] == "Qwen3ForCausalLM" else "qwen35",
        "hybrid": config["architectures"][0] != "Qwen3ForCausalLM",
        "mtp": any(n.startswith("mtp.") for n in names),
        "vision": any("visual." in n for n in names),
    }


def stem_of(folder, extra):
    return folder.name if not extra else "mmproj" if folder.name == "vl" else f"{folder.name}-mmproj"


def quantized(args, work, folders):
    """The section on quantised types, from the BF16 files that the converter has left."""
    import check_quantize
    for path in args.wide.glob("*.imatrix.*"):
        (work / path.name).write_bytes(path.read_bytes())
    sources = []
    for folder in folders:
        source, vision = (work / "peer" / f"{stem_of(folder, extra)}-bf16.gguf"
                          for extra in ([], ["--mmproj"]))
        sources.append((folder, source, vision if vision.exists() else None))
    return check_quantize.table(args, work, compare.compare, sources)


def rows_of(args, folder, work):
    """Yields (label, comparison) of every type, and of the vision file."""
    fact = facts(folder)
    types = ["bf16"] if folder.parent == args.wide else TYPES
    jobs = [(t, []) for t in types]
    if fact["vision"]:
        jobs += [(t, ["--mmproj"]) for t in types]
    for out_type, extra in jobs:
        stem = stem_of(folder, extra)
        ours, peer = (work / who / f"{stem}-{out_type}.gguf" for who in ("ours", "peer"))
        for path in (ours, peer):
            path.parent.mkdir(exist_ok=True)
        call(args.bin, "export", "gguf", folder, "--outtype", out_type, "-o", ours, *extra)
        # Without the flag the converter stops at a bare assertion, or writes a file that does
        # not load, when there is no MTP layer.
        no_mtp = ["--no-mtp"] if fact["hybrid"] and not fact["mtp"] and not extra else []
        convert(args, fact["pre"], folder, "--outtype", out_type, "--outfile", peer, *extra,
                *no_mtp)
        label = f"{folder.name}{' --mmproj' if extra else ''}"
        yield label, out_type, compare.compare(ours, peer)


def peer_perplexity(args, gguf):
    """What llama.cpp makes of our file; caches in f32, so that only the weights are compared."""
    command = [f"{args.llama_cpp}/build/bin/llama-perplexity", "-m", gguf, "-f", HERE / "text.txt",
               "-c", WINDOW, "-b", WINDOW, "-ctk", "f32", "-ctv", "f32", "-fa", "off", "-t", "2"]
    # Its logger now and then loses the last line when the process ends.
    for _ in range(10):
        done = call(*command)
        found = re.search(r"Final estimate: PPL = ([0-9.]+)", done.stdout + done.stderr)
        if found:
            return float(found.group(1))
    sys.exit(f"llama-perplexity says nothing about {gguf}\n{done.stderr[-2000:]}")


def reference_perplexity(folder):
    """The same number from transformers: the second half of every window is scored."""
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    kind = getattr(transformers, config.architectures[0])
    model, info = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    # A tied head has no tensor of its own.
    missing = [n for n in info["missing_keys"] if n != "lm_head.weight"]
    assert not missing, f"transformers did not find {missing}"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer((HERE / "text.txt").read_text(), add_special_tokens=False)["input_ids"]
    total, count = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(ids) - WINDOW + 1, WINDOW):
            window = torch.tensor([ids[start:start + WINDOW]])
            logits = model(input_ids=window, use_cache=False).logits[0].double()
            scores = torch.log_softmax(logits, -1)
            for at in range(WINDOW // 2, WINDOW - 1):
                total -= scores[at, window[0, at + 1]].item()
                count += 1
    return math.exp(total / count)


def versions(args):
    import gguf
    import torch
    import transformers
    done = call(f"{args.llama_cpp}/build/bin/llama-perplexity", "--version", check=False)
    found = re.search(r"version: (.*)", done.stdout + done.stderr)
    return (f"llama.cpp {found.group(1) if found else '?'} (sdist llama-cpp-python 0.3.36), "
            f"gguf-py from the same tree, transformers {transformers.__version__}, "
            f"torch {torch.__version__}, Python {platform.python_version()}, "
            f"{call(args.bin, '--version').stdout.strip()}")


def preload(args):
    """Imports once what every fork needs."""
    global compare
    sys.path[:0] = [args.llama_cpp, args.llama_cpp + "/gguf-py", str(HERE)]
    import compare
    import conversion.qwen  # noqa: F401
    import conversion.qwen3vl  # noqa: F401
    import transformers  # noqa: F401


def main():
    args = arguments()
    preload(args)
    work = Path(args.work or tempfile.mkdtemp())
    wide = sorted(path for path in args.wide.iterdir() if path.is_dir())
    failed = False
    lines = ["# GGUF files against llama.cpp's converter and llama-quantize", "",
             "Made by `scripts/check-gguf-peer.sh`. " + versions(args), "",
             "Equal means: same keys in the same order with the same types and values, same tensors",
             "in the same order with the same shapes and types, and the same bytes; `ssm_a` to one",
             "unit in the last place, since the converter's exponential is not correctly rounded.", "",
             "| checkpoint | type | keys | tensors | tensor bytes | ssm_a ulp | result |",
             "|---|---|---:|---:|---:|---:|---|"]
    for folder in [*args.checkpoints, *wide]:
        for label, out_type, result in rows_of(args, folder, work):
            faults = result["faults"]
            failed |= bool(faults)
            verdict = "equal" if not faults else f"**{len(faults)} differ**: {faults[0]}"
            lines.append(f"| {label} | {out_type} | {result['keys']} | {result['tensors']} | "
                         f"{result['bytes']} | {result['ssm_a_ulp']} | {verdict} |")
            print(lines[-1], flush=True)
    more, differ = quantized(args, work, [*args.checkpoints, *wide])
    lines += more
    failed |= differ
    lines += ["", "## Perplexity", "", "Perplexity of our F32 file in llama-perplexity, and of the checkpoint in transformers",
              f"(F32, the same {WINDOW}-token windows of `scripts/gguf/text.txt`); to agree to 1e-3.", "",
              "| checkpoint | llama.cpp | transformers | relative difference |", "|---|---:|---:|---:|"]
    for folder in args.checkpoints:
        ours = peer_perplexity(args, work / "ours" / f"{folder.name}-f32.gguf")
        reference = reference_perplexity(folder)
        difference = abs(ours - reference) / reference
        failed |= difference > 1e-3
        lines.append(f"| {folder.name} | {ours:.4f} | {reference:.4f} | {difference:.1e} |")
        print(lines[-1], flush=True)
    Path(args.out).write_text("\n".join(lines) + "\n")
    sys.exit(1 if failed else 0)


main()
