#!/usr/bin/env python3
"""Plays the committed tasks with a training state: a check while training, not the scorer.

    fixture_mirror.py RUN STEP... [--attempts N] [--out FILE]

The protocol is that of docs/formats/harness.md, cut down to what these models do; the replies are
sampled in batches by our own model code, commands run in bwrap. A command's outcome depends on the
task and the commands before it alone, so it is kept and not run twice.
"""

import argparse
import json
import re
import shutil
import subprocess
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

import fixture_episodes as episodes
from fixture_model import TinyQwen

TASKS = episodes.ROOT / "fixtures/tasks"
TEMPERATURE, TOP_P = 0.7, 0.95
MAX_TURNS, MAX_TOKENS = 8, 96
MARKER = "COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"
WRAP = """mkdir -p /tmp/.vanillux2
[ ! -f /tmp/.vanillux2/env ] || . /tmp/.vanillux2/env
cd "$(cat /tmp/.vanillux2/cwd 2> /dev/null || echo /app)"
{command}
code=$?
pwd > /tmp/.vanillux2/cwd
export -p > /tmp/.vanillux2/env
exit $code"""


class Shell:
    """Outcomes of command sequences in a task's sandbox, each run at most once."""

    def __init__(self):
        self.seen = {}

    def bwrap(self, root, task, command):
        binds = [x for d in ("usr", "bin", "lib", "lib64", "etc") if Path("/", d).exists()
                 for x in ("--ro-bind", f"/{d}", f"/{d}")]
        return subprocess.run(
            ["bwrap", *binds, "--dev", "/dev", "--proc", "/proc", "--unshare-all",
             "--bind", f"{root}/tmp", "/tmp", "--bind", f"{root}/app", "/app",
             "--bind", f"{root}/logs", "/logs", "--ro-bind", f"{TASKS / task}/tests", "/tests",
             "--chdir", "/app", "--clearenv", "--setenv", "PATH", "/usr/bin:/bin",
             "--die-with-parent", "bash", "-c", command],
            capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, timeout=20)

    def outcome(self, task, commands):
        """(observation of the last command, reward if the agent stopped here)."""
        key = (task, tuple(commands))
        if key not in self.seen:
            root = Path(tempfile.mkdtemp())
            try:
                self.seen[key] = self.play(root, task, commands)
            finally:
                shutil.rmtree(root, ignore_errors=True)
        return self.seen[key]

    def play(self, root, task, commands):
        for name in ("tmp", "logs/verifier"):
            (root / name).mkdir(parents=True)
        files = TASKS / task / "environment/files"
        shutil.copytree(files, root / "app") if files.exists() else (root / "app").mkdir()
        text = ""
        for command in commands:
            try:
                done = self.bwrap(root, task, WRAP.format(command=command))
                text = done.stdout + ("\n" if done.stdout and done.stderr else "") + done.stderr
                text = f"{text.rstrip()[:10000] or '(no output)'}\n\n(exit_code={done.returncode})"
            except subprocess.TimeoutExpired:
                text = "(no output)\n\n(exit_code=124)"
        self.bwrap(root, task, "sh /tests/test.sh")
        return text, read_reward(root / "logs/verifier")


def read_reward(folder):
    if (folder / "reward.json").exists():
        return float(json.loads((folder / "reward.json").read_text())["reward"])
    return float((folder / "reward.txt").read_text())


def command_of(text):
    """The first call's command, or None where the harness would see a format error."""
    found = re.search(r"<tool_call>\s*<function=bash>(.*?)</function>", text, re.S)
    if not found:
        return None
    value = re.search(r"<parameter=command>\n?(.*?)\n?</parameter>", found[1], re.S)
    return value[1].strip() if value else ""


def pick(logits, generator):
    probs = (logits / TEMPERATURE).softmax(-1)
    ordered, index = probs.sort(-1, descending=True)
    ordered[ordered.cumsum(-1) - ordered >= TOP_P] = 0
    return index.gather(-1, torch.multinomial(ordered, 1, generator=generator))[:, 0]


def select_rows(cache, rows):
    return {"at": cache["at"][rows],
            "layers": [{k: v if k == "next" else v[rows] for k, v in part.items()}
                       for part in cache["layers"]]}


def expand_rows(cache, count):
    return select_rows({"at": cache["at"], "layers": cache["layers"]}, torch.zeros(count).long())


def join_rows(parts):
    """Caches of several groups of rows as one, in the rows' order; keys padded to one width."""
    order = torch.cat([rows for rows, _ in parts]).argsort()
    layers = []
    for group in zip(*(cache["layers"] for _, cache in parts)):
        if "valid" in group[0]:
            wide = max(part["valid"].shape[1] for part in group)
            group = [{
                name: F.pad(x, (0, wide - x.shape[1]) if name == "valid"
                            else (0, 0, 0, wide - x.shape[2]))
                for name, x in part.items()} for part in group]
        layers.append({name: torch.cat([part[name] for part in group]) for name in group[0]})
    joined = {"at": torch.cat([cache["at"] for _, cache in parts]), "layers": layers}
    return select_rows(joined, order)


@torch.no_grad()
def reply(model, encoder, cache, segments, generator):
    """Feeds each row its new tokens and samples a reply; (texts, cache)."""
    longest = max(map(len, segments))
    ids = torch.tensor([s + [0] * (longest - len(s)) for s in segments])
    valid = torch.tensor([[i < len(s) for i in range(longest)] for s in segments])
    hidden, cache = model(ids, cache, valid)
    hidden = hidden[torch.arange(len(ids)), valid.sum(1) - 1]
    cache = model.reserve(cache, MAX_TOKENS)
    rows, going = torch.arange(len(ids)), torch.ones(len(ids), dtype=torch.bool)
    out, parked = [[] for _ in segments], []
    for _ in range(MAX_TOKENS):
        token = pick(model.logits(hidden), generator)
        for at in going.nonzero()[:, 0].tolist():
            out[rows[at]].append(int(token[at]))
        step, cache = model(token[:, None], cache, going[:, None])
        hidden = step[:, 0]
        going = going & (token != encoder.end)
        if not going.any():
            break
        if going.sum() < 0.7 * len(going):
            done, left = (~going).nonzero()[:, 0], going.nonzero()[:, 0]
            parked.append((rows[done], model.release(select_rows(cache, done))))
            rows, hidden, going = rows[left], hidden[left], going[left]
            cache = select_rows(cache, left)
    cache = join_rows([*parked, (rows, model.release(cache))])
    return [encoder.tokenizer.decode(o, skip_special_tokens=False) for o in out], cache


def play_tasks(model, encoder, shell, tasks, attempts, seed):
    """Rewards by task of `attempts` trials each, played side by side."""
    generator = torch.Generator().manual_seed(seed)
    trials = [{"task": t, "commands": []} for t in tasks for _ in range(attempts)]
    texts = episodes.task_instructions()
    start = len(encoder.prefix)
    _, cache = model(torch.tensor([encoder.prefix]), model.empty())
    cache = expand_rows(cache, len(trials))
    segments = [encoder.ids(encoder.render(episodes.opening_messages(texts[t["task"]]), True))[
        start:] for t in trials]
    active = list(range(len(trials)))
    for _ in range(MAX_TURNS):
        replies, cache = reply(model, encoder, cache, segments, generator)
        keep, segments = [], []
        for row, (index, text) in enumerate(zip(active, replies)):
            trial = trials[index]
            command = command_of(text)
            if command is None:
                said = episodes.PROMPTS["format_error_template"].replace(
                    "{{error}}", episodes.PROMPTS["format_error_reason"]).strip()
                after = f"<|im_start|>user\n{said}<|im_end|>\n"
                trial["errors"] = trial.get("errors", 0) + 1
            else:
                trial["commands"].append(command)
                seen, _ = shell.outcome(trial["task"], trial["commands"])
                if MARKER in command or MARKER in seen:
                    continue
                after = ("<|im_start|>user\n<tool_response>\n" + seen
                         + "\n</tool_response><|im_end|>\n")
            keep.append(row)
            segments.append(encoder.ids("\n" + after) + encoder.head)
        if not keep:
            break
        active = [active[row] for row in keep]
        cache = select_rows(cache, torch.tensor(keep))
    rewards = defaultdict(list)
    for trial in trials:
        rewards[trial["task"]].append(shell.outcome(trial["task"], trial["commands"])[1])
    return dict(rewards), trials


def load(run, step):
    model = TinyQwen()
    state = torch.load(Path(run) / f"step_{step}.pt")
    model.load_state_dict({k: v.bfloat16().float() for k, v in state.items()})
    return model.eval()


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run")
    parser.add_argument("steps", nargs="+")
    parser.add_argument("--attempts", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, default=0)
    parser.add_argument("--out")
    args = parser.parse_args()
    torch.set_num_threads(1)
    encoder = episodes.Encoder(Tokenizer.from_file(str(Path(args.run) / "tokenizer.json")))
    shell, table = Shell(), {}
    tasks = list(episodes.task_instructions())
    for step in args.steps:
        rewards, trials = play_tasks(
            load(args.run, step), encoder, shell, tasks, args.attempts, args.seed)
        table[step] = {t: sum(r) / len(r) for t, r in rewards.items()}
        print(f"step {step} mean {sum(table[step].values()) / len(tasks):.3f} "
              + " ".join(f"{t}={p:.2f}" for t, p in table[step].items()), flush=True)
        shown = Counter((t["task"], " ; ".join(t["commands"])) for t in trials)
        for (task, commands), count in shown.most_common(args.show):
            print("   ", count, task, "|", commands[:200])
        if args.out:
            Path(args.out).write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
