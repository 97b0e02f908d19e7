#!/usr/bin/env python3
"""Writes fixtures/gguf/golden.json: what llama.cpp's converter makes of the fixtures, as hashes.

Usage: make_golden.py FOLDER_WITH_PEER_FILES OUT_JSON

The folder holds KIND-TYPE.gguf and, for the vision tower, mmproj-TYPE.gguf, as
check-gguf-peer.sh leaves them. A file's head (header, metadata, tensor table) is hashed whole,
each tensor by itself. Needs the `gguf` package.
"""

import hashlib
import json
import sys
from pathlib import Path

from gguf import GGUFReader


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def main():
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
