"""Strip checkpoints in both layouts and compare their logits with the original's, by transformers.

Run by hand: needs torch and transformers 5.x, which the build does not.
  python scripts/check-strip-transformers.py target/debug/tmax-ckpt CHECKPOINT...
Every logit must be equal to the last bit: strip never changes a weight.
"""

import os
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")

import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


def logits(folder):
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, dtype=torch.float32
    )
    missing = [name for name in info["missing_keys"]]
    assert not missing, f"{folder}: transformers misses {missing[:3]}"
    ids = (torch.arange(150) * 7919 % model.config.vocab_size)[None]
    with torch.no_grad():
        return type(model).__name__, model(input_ids=ids).logits


def main():
    program, checkpoints = sys.argv[1], sys.argv[2:]
    for checkpoint in checkpoints:
        _, wanted = logits(checkpoint)
        for layout in ("composite", "text"):
            with tempfile.TemporaryDirectory() as scratch:
                out = os.path.join(scratch, "out")
                command = [program, "-q", "strip", checkpoint, "-o", out, "--layout", layout]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                subprocess.run([program, "-qq", "verify", out], check=True)
                name, got = logits(out)
                assert torch.equal(got, wanted), f"{checkpoint} {layout}: logits differ"
                print(f"{os.path.basename(checkpoint)} {layout}: {name}, logits equal", flush=True)


if __name__ == "__main__":
    main()
