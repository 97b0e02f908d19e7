#!/usr/bin/env python3
"""Makes fixtures/engine/step_600.json: what transformers computes on the trained fixture.

Needs torch 2.11, transformers 5.17 and jinja2 (CPU). Run from the repository's root:

    python scripts/make_fixture_logprobs.py fixtures/tiny-raw/step_600 fixtures/engine/step_600.json

Weights widened to f32, eager attention. `ids` is the chat template over a system and a user
message, then transformers' own greedy answer of 96 tokens, `greedy`; `logprobs` are ln p of every
id but the first, f32 as the shortest decimal.
"""
import json, pathlib, sys
import jinja2, numpy, torch, transformers
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

MESSAGES = [
    {"role": "system", "content": "You work in a shell. Think, then call bash exactly once."},
    {"role": "user", "content": "Write the sum of the numbers in /app/numbers.txt, one a line, to "
                                "/app/sum.txt. Then submit."},
]
TOOLS = [{"type": "function", "function": {
    "name": "bash", "description": "Runs a command", "parameters": {
        "type": "object", "required": ["command"],
        "properties": {"command": {"type": "string"}}}}}]
ANSWER = 96


def prompt_ids(folder):
    env = jinja2.Environment(trim_blocks=True, lstrip_blocks=True,
                             extensions=["jinja2.ext.loopcontrols"])
    env.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "sort_keys": False}
    template = env.from_string((folder / "chat_template.jinja").read_text())
    text = template.render(messages=MESSAGES, tools=TOOLS, add_generation_prompt=True)
    return Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids


@torch.no_grad()
def main(folder, out):
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    assert not info["missing_keys"], info["missing_keys"]
    prompt = prompt_ids(folder)
    tokens = torch.tensor([prompt])
    for _ in range(ANSWER):
        best = model(tokens, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, best], 1)
    logits = model(tokens, use_cache=False).logits.float()
    chosen = torch.log_softmax(logits[:, :-1], -1).gather(-1, tokens[:, 1:, None])[0, :, 0]
    shortest = lambda x: float(numpy.format_float_positional(numpy.float32(x), unique=True))
    document = {
        "made_by": f"torch {torch.__version__}, transformers {transformers.__version__}",
        "checkpoint": "fixtures/tiny-raw/step_600",
        "prompt_tokens": len(prompt), "ids": tokens[0].tolist(),
        "greedy": tokens[0, len(prompt):].tolist(), "logprobs": [shortest(x) for x in chosen],
    }
    out.write_text(json.dumps(document) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
