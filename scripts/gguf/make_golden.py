#!/usr/bin/env python3
"""Writes fixtures/gguf/golden.json: what llama.cpp's converter makes of the fixtures, as hashes.

Usage: make_golden.py [--quantized] FOLDER_WITH_PEER_FILES OUT_JSON

The folder holds KIND-TYPE.gguf and, for the vision tower, mmproj-TYPE.gguf, as
check-gguf-peer.sh leaves them. A file's head (header, metadata, tensor table) is hashed whole,
each tensor by itself. Needs the `gguf` package.

With --quantized: fixtures/gguf/golden_quant.json, of the files that llama-quantize made of them and of
make_wide.py's checkpoints. Of each file the types (by kind of tensor, in the order of blocks), one hash
over the names, types and bytes of its tensors, and one of its head unless an importance matrix is named
in it. Of the deep checkpoints the types alone.
"""

import hashlib
import json
import sys
from pathlib import Path

from gguf import GGUFReader


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def runs(types):
    """["a", "a", "b"] as "a*2 b"."""
    parts = []
    for name in types:
        if parts and parts[-1][0] == name:
            parts[-1][1] += 1
        else:
            parts.append([name, 1])
    return " ".join(name if n == 1 else f"{name}*{n}" for name, n in parts)


def quantized(path):
    reader = GGUFReader(path)
    types, everything = {}, hashlib.sha256()
    for t in reader.tensors:
        stem = ".".join(part for part in t.name.split(".") if part != "blk" and not part.isdigit())
        types.setdefault(stem, []).append(t.tensor_type.name)
        everything.update(f"{t.name} {t.tensor_type.name}\n".encode())
        everything.update(t.data.tobytes())
    found = {"types": {stem: runs(names) for stem, names in types.items()
                       if set(names) != {"F32"}}}
    if not path.name.startswith("deep-"):
        found["data"] = everything.hexdigest()
        if "imatrix" not in path.name:
            found["head"] = sha256(path.read_bytes()[:reader.data_offset])
    return found


def all_quantized(folder, out):
    golden = {path.stem: quantized(path) for path in sorted(folder.glob("*.gguf"))
              if "-flags-" not in path.name}
    lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in golden.items()]
    out.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def main():
    if sys.argv[1] == "--quantized":
        return all_quantized(Path(sys.argv[2]), Path(sys.argv[3]))
    golden = {}
    for path in sorted(Path(sys.argv[1]).glob("*.gguf")):
        reader = GGUFReader(path)
        bytes_ = path.read_bytes()
        golden[path.stem] = {
            "head": sha256(bytes_[:reader.data_offset]),
            "len_bytes": len(bytes_),
            "tensors": {t.name: [t.tensor_type.name, sha256(t.data.tobytes())]
                        for t in reader.tensors},
        }
    lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in golden.items()]
    Path(sys.argv[2]).write_text("{\n" + ",\n".join(lines) + "\n}\n")


main()
