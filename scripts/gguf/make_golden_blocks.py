#!/usr/bin/env python3
"""Writes fixtures/quant/: values, importance weights, and what ggml makes of them.

Usage: make_golden_blocks.py LIBGGML_BASE_SO OUT_FOLDER

LIBGGML_BASE_SO is ggml's library of any x86-64 build of llama.cpp (libggml-base.so), or
ggml-quants.c and ggml.c alone, compiled without -march. Needs numpy. The same seed and library
give the same bytes.

    values.f32       [ROWS, COLUMNS], little-endian f32, row-major: every kind of hard block
    importance.f32   [COLUMNS]: some zeros, many orders of magnitude
    TYPE.alike       blocks without importance weights
    TYPE.weighted    blocks with them
    restored.sha256  of TYPE.alike, restored to f32, one line a type
"""

import ctypes
import hashlib
import os
import sys
from pathlib import Path

import numpy as np

COLUMNS = 768
TYPES = {
    "Q4_0": (2, 32, 18), "Q4_1": (3, 32, 20), "Q5_0": (6, 32, 22), "Q5_1": (7, 32, 24),
    "Q8_0": (8, 32, 34), "Q2_K": (10, 256, 84), "Q3_K": (11, 256, 110), "Q4_K": (12, 256, 144),
    "Q5_K": (13, 256, 176), "Q6_K": (14, 256, 210), "IQ4_NL": (20, 32, 18),
    "IQ4_XS": (23, 256, 136),
}


def rows(rng):
    """Yields rows of hard and of ordinary values, in f64."""
    normal = lambda: rng.standard_normal(COLUMNS)
    for scale in [1e-42, 1e-38, 1e-15, 1e-6, 0.02, 0.02, 1.0, 2e4]:
        yield normal() * scale
    yield rng.standard_t(3, COLUMNS) * 0.02
    yield rng.random(COLUMNS)
    yield -0.5 - rng.random(COLUMNS)
    yield np.zeros(COLUMNS)
    yield np.where(rng.random(COLUMNS) < 0.5, 0.0, -0.0)
    yield np.full(COLUMNS, 0.75)
    yield np.full(COLUMNS, -1.25)
    yield np.where(np.arange(COLUMNS) % 97 == 5, normal(), 0.0)
    yield np.where(rng.random(COLUMNS) < 0.7, 0.0, normal())
    yield np.repeat(rng.standard_normal(COLUMNS // 16), 16)
    yield np.where(rng.random(COLUMNS) < 0.5, 3.0, -3.0)
    # Ties: halves and quarters of whole steps.
    yield rng.integers(-130, 131, COLUMNS) / 2.0
    yield rng.integers(-31, 32, COLUMNS) / 4.0
    yield rng.choice([-127, -115.5, -104, -16, -4.5, 1, 7, 113, 101], COLUMNS)
    # Sub-blocks whose scales lie far apart, so that some are stored as 0.
    for spread in [1, 4, 12]:
        exponents = np.repeat(rng.uniform(-spread, 0, COLUMNS // 16), 16)
        yield normal() * 10.0 ** exponents
    yield normal() * 10.0 ** rng.uniform(-45, 3, COLUMNS)
    # As a checkpoint stores them.
    bits = np.float32(normal() * 0.02).view(np.uint32) & 0xffff0000
    yield bits.view(np.float32).astype(np.float64)
    yield np.float16(normal() * 0.02).astype(np.float64)


def main():
    lib = ctypes.CDLL(sys.argv[1], mode=os.RTLD_LAZY)
    out = Path(sys.argv[2])
    chunk = lib.ggml_quantize_chunk
    chunk.restype = ctypes.c_size_t
    chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64,
                      ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    rng = np.random.default_rng(20)
    values = np.array(list(rows(rng))).astype("<f4")
    importance = 10.0 ** rng.uniform(-6, 3, COLUMNS) * (rng.random(COLUMNS) > 0.1)
    importance = importance.astype("<f4")
    values.tofile(out / "values.f32")
    importance.tofile(out / "importance.f32")
    restored = []
    for name, (number, block_len, block_bytes) in TYPES.items():
        for kind, weights in [("weighted", importance.ctypes.data), ("alike", None)]:
            blocks = np.zeros(values.size // block_len * block_bytes, np.uint8)
            done = chunk(number, values.ctypes.data, blocks.ctypes.data, 0, *values.shape, weights)
            assert done == blocks.size, name
            blocks.tofile(out / f"{name}.{kind}")
        back = np.zeros(values.size, "<f4")
        function = name.lower() if name.startswith("IQ") else "q" + name[1:]
        dequantize = getattr(lib, f"dequantize_row_{function}")
        dequantize.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
        dequantize(blocks.ctypes.data, back.ctypes.data, back.size)
        assert np.isfinite(back).all(), name
        restored.append(f"{name} {hashlib.sha256(back.tobytes()).hexdigest()}\n")
    (out / "restored.sha256").write_text("".join(restored))


main()
