#!/usr/bin/env python3
"""Runs llama.cpp's convert_hf_to_gguf.py with the pre-tokenizer given by name.

Usage: convert_with_peer.py LLAMA_CPP PRE ARG...

The converter knows pre-tokenizers by a hash of token ids, which only published vocabularies
have; our fixtures have their own. ARGs are the converter's.
"""

import runpy
import sys

llama_cpp, pre = sys.argv[1:3]
sys.path[:0] = [llama_cpp, llama_cpp + "/gguf-py"]
from conversion.base import TextModel  # noqa: E402

TextModel.get_vocab_base_pre = lambda self, tokenizer: pre
sys.argv = ["convert_hf_to_gguf.py", *sys.argv[3:]]
runpy.run_path(llama_cpp + "/convert_hf_to_gguf.py", run_name="__main__")
