#!/usr/bin/env python3
"""Makes fixtures/engine/nll.json: what transformers computes for the fixture's trajectories.

Needs torch 2.11, transformers 5.17 and jinja2 (CPU). Run from the repository's root:

    python scripts/make_fixture_nll.py

For every step of fixtures/tiny-raw and every file of fixtures/trajectories: the number of tokens
of the assistant and the sum of -ln p over them. Weights widened to f32, eager attention. Every
reply is found in the ids and not in the text: behind the ids of the prompt that the chat template
makes of all messages before it, up to the next `<|im_end|>`. Each reply is a forward pass of its
own.
"""
import hashlib, json, pathlib
import jinja2, torch, transformers
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

# Those that transformers itself reads as they are.
STEPS = ["step_175", "step_500", "step_600"]
# What `src/harness/prompts` offers where a trajectory does not say which tools there were.
TOOLS = json.loads(pathlib.Path("fixtures/trajectories/label-sum.json").read_text())
TOOLS = TOOLS["agent"]["tool_definitions"]


def messages_of(document):
    if isinstance(document, list):
        messages = json.loads(json.dumps(document))
        for message in messages:
            message["content"] = message["content"] or ""
            for call in message.get("tool_calls") or []:
                call["function"]["arguments"] = json.loads(call["function"]["arguments"])
        return messages
    messages = []
    for step in document["steps"]:
        if step["source"] != "agent":
            messages.append({"role": step["source"], "content": step["message"]})
            continue
        assert not step["extra"]["format_error"]
        calls = [{"type": "function", "id": call["tool_call_id"], "function": {
            "name": call["function_name"], "arguments": call["arguments"]}}
            for call in step["tool_calls"]]
        messages.append({"role": "assistant", "content": step["message"], "tool_calls": calls})
        for result in step["observation"]["results"]:
            messages.append({"role": "tool", "content": result["content"]})
    return messages


class Checkpoint:
    def __init__(self, folder):
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        env = jinja2.Environment(trim_blocks=True, lstrip_blocks=True,
                                 extensions=["jinja2.ext.loopcontrols"])
        env.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "sort_keys": False}
        env.globals["raise_exception"] = lambda text: 1 / 0
        self.template = env.from_string((folder / "chat_template.jinja").read_text())
        self.model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
        assert not info["missing_keys"], info["missing_keys"]

    def ids(self, messages, prompt):
        text = self.template.render(messages=messages, tools=TOOLS, add_generation_prompt=prompt)
        return self.tokenizer.encode(text).ids

    @torch.no_grad()
    def nll(self, messages):
        end = self.tokenizer.token_to_id("<|im_end|>")
        total, count = 0.0, 0
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            prompt, whole = self.ids(messages[:index], True), self.ids(messages[:index + 1], False)
            # The prompt opens an empty thought; where the reply has one of its own, the ids part.
            start = next((i for i, (a, b) in enumerate(zip(prompt, whole)) if a != b), len(prompt))
            # A token that holds both the prompt's end and the reply's beginning is cut by hand.
            told = self.tokenizer.decode(whole[:start], skip_special_tokens=False)
            full = self.tokenizer.decode(whole, skip_special_tokens=False)
            opened = self.tokenizer.decode(prompt, skip_special_tokens=False)
            common = len(told)
            while common < min(len(opened), len(full)) and opened[common] == full[common]:
                common += 1
            reply = full[common:full.rindex("<|im_end|>")]
            before = self.tokenizer.encode(full[:common]).ids
            after = self.tokenizer.encode(reply).ids + [end]
            tokens = torch.tensor([before + after])
            logits = self.model(tokens, use_cache=False).logits.float()
            chosen = torch.log_softmax(logits[:, :-1], -1).gather(-1, tokens[:, 1:, None])[0, :, 0]
            total -= chosen[len(before) - 1:].double().sum().item()
            count += len(after)
        return {"tokens": count, "nll": total}


def main():
    files = sorted(pathlib.Path("fixtures/trajectories").glob("*.json"))
    document = {
        "made_by": f"torch {torch.__version__}, transformers {transformers.__version__}",
        "trajectories": {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files},
        "steps": {},
    }
    for step in STEPS:
        checkpoint = Checkpoint(pathlib.Path("fixtures/tiny-raw") / step)
        document["steps"][step] = {
            f.name: checkpoint.nll(messages_of(json.loads(f.read_text()))) for f in files}
    pathlib.Path("fixtures/engine/nll.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
