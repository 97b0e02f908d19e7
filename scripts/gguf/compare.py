#!/usr/bin/env python3
"""Compares two GGUF files: keys (order, types, values), tensor table, and every byte.

Usage: compare.py OURS PEER [--json]

Exit status 0 when they are equal, `ssm_a` to one unit in the last place; 1 otherwise. Needs the
`gguf` package.
"""

import json
import sys

import numpy as np
from gguf import GGUFReader


def ulps(a, b):
    """Distance of two f32 arrays of equal signs, in units in the last place."""
    return np.abs(a.view(np.int32).astype(np.int64) - b.view(np.int32).astype(np.int64))


def keys(reader):
    return {k: (tuple(int(t) for t in f.types), f.contents())
            for k, f in reader.fields.items() if not k.startswith("GGUF.")}


def compare(ours_path, peer_path):
    ours, peer = GGUFReader(ours_path), GGUFReader(peer_path)
    faults = []
    ko, kp = keys(ours), keys(peer)
    if list(ko) != list(kp):
        faults.append(f"key order: ours {[k for k in ko if k not in kp]} "
                      f"peer {[k for k in kp if k not in ko]}, or order")
    faults += [f"key {k}: ours {str(ko[k])[:80]} peer {str(kp[k])[:80]}"
               for k in ko if k in kp and ko[k] != kp[k]]
    to, tp = [t.name for t in ours.tensors], [t.name for t in peer.tensors]
    if to != tp:
        faults.append(f"tensor order: ours {len(to)} peer {len(tp)}, "
                      f"only ours {sorted(set(to) - set(tp))}, only peer {sorted(set(tp) - set(to))}")
    by_name = {t.name: t for t in peer.tensors}
    total, worst = 0, 0
    for a in ours.tensors:
        b = by_name.get(a.name)
        if b is None:
            continue
        if a.tensor_type != b.tensor_type or list(a.shape) != list(b.shape):
            faults.append(f"{a.name}: {a.tensor_type.name} {list(a.shape)} "
                          f"{b.tensor_type.name} {list(b.shape)}")
            continue
        x, y = (np.asarray(t.data).reshape(-1) for t in (a, b))
        total += x.nbytes
        if np.array_equal(x.view(np.uint8), y.view(np.uint8)):
            continue
        distance = int(ulps(x, y).max()) if a.name.endswith("ssm_a") else None
        if distance == 1:
            worst = 1
        else:
            faults.append(f"{a.name}: data differ{'' if distance is None else f' by {distance} ulp'}")
    return {"keys": len(ko), "tensors": len(to), "bytes": total, "ssm_a_ulp": worst,
            "faults": faults}


def main():
    result = compare(sys.argv[1], sys.argv[2])
    if "--json" in sys.argv:
        print(json.dumps(result))
    else:
        print(f"{result['keys']} keys, {result['tensors']} tensors, {result['bytes']} bytes, "
              f"ssm_a within {result['ssm_a_ulp']} ulp, {len(result['faults'])} faults")
        for fault in result["faults"]:
            print("  " + fault)
    sys.exit(1 if result["faults"] else 0)


if __name__ == "__main__":
    main()
