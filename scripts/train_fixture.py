#!/usr/bin/env python3
"""Trains the tiny Qwen3.5 family of fixtures/tiny-raw: SFT on synthetic harness episodes.

    train_fixture.py train RUN           the drills and the broad phase; states in RUN/
    train_fixture.py narrow RUN          the narrow phase, from where the broad one ended
    train_fixture.py publish RUN OUT     writes the step branches
    train_fixture.py check RUN OUT       transformers loads each branch; its logits equal ours

Needs torch 2.11 (CPU) and transformers 5.17; see fixtures/README.md for versions, time and result.
"""

import argparse
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from tokenizers import Tokenizer

import fixture_episodes as episodes
from fixture_model import TinyQwen, initialise
from fixture_publish import check_branch, write_branch

SEED = 20261122
DRILL_STEPS = 150
BROAD_STEPS = 600
SAVE_EVERY = 25
PEAK = 4e-3
WARMUP = 20
LONG = ["three-folders", "find-and-copy", "follow-note", "two-notes", "ordered-steps",
    "four-words", "label-sum"]
SHORT = [name for name in episodes.FAMILIES if name not in LONG]
DRILL_SHARES = [(SHORT, 24), (LONG, 12)]
EPISODE_SHARES = [(SHORT, 6), (LONG, 4)]
# The narrow phase: one-command tasks alone, of a third of the words, at the full rate again.
NARROW_STEPS, NARROW_RATE, NARROW_WORDS = 60, PEAK, episodes.WORDS[::3]
NARROW_SHARES = [(SHORT, 12)]
PUBLISHED = {
    175: "plain", 300: "nested", 400: "sharded", 500: "float32", 600: "plain", 620: "no-mtp",
    660: "plain",
}


def optimisers(model):
    """Muon for the matrices between the embedding and the head, AdamW for all else."""
    matrices, rest = [], []
    for name, p in model.named_parameters():
        inner = p.ndim == 2 and "embed" not in name and min(p.shape) >= 32
        (matrices if inner else rest).append(p)
    return [
        torch.optim.Muon(matrices, lr=PEAK, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=PEAK, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def tensors_of(rows):
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for i, (row, own) in enumerate(rows):
        ids[i, :len(row)] = torch.tensor(row)
        mask[i, :len(own)] = torch.tensor(own, dtype=torch.bool)
    return ids, mask


def episode_batches(encoder, rng, shares, words):
    """One batch for each (families, count) of `shares`: episodes of like length lie together."""
    for names, count in shares:
        yield tensors_of([
            encoder.episode(episodes.draw_episode(rng, names, words)) for _ in range(count)])


def drill_batches(encoder, rng, shares, words):
    for names, count in shares:
        yield tensors_of([
            encoder.drill(episodes.draw_drill(rng, names, words)) for _ in range(count)])


def scores_of(model, prefix, ids, mask):
    """Logits of the assistant's tokens and the tokens; the shared prefix is computed once."""
    cache = model.empty()
    if prefix is not None:
        _, cache = model(prefix, cache)
    hidden, _ = model(ids[:, :-1], cache)
    wanted = mask[:, 1:]
    return model.logits(hidden[wanted]), ids[:, 1:][wanted]


def update(model, opts, prefix, batches, rate):
    batches, total = list(batches), 0.0
    tokens = sum(int(mask[:, 1:].sum()) for _, mask in batches)
    for ids, mask in batches:
        loss = F.cross_entropy(*scores_of(model, prefix, ids, mask), reduction="sum") / tokens
        loss.backward()
        total += loss.item()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for opt in opts:
        for group in opt.param_groups:
            group["lr"] = rate
        opt.step()
        opt.zero_grad(set_to_none=True)
    return total


@torch.no_grad()
def exact_share(model, prefix, ids, mask):
    """Share of episodes in which every token of the assistant is the likeliest one."""
    logits, wanted = scores_of(model, prefix, ids, mask)
    row = torch.arange(len(ids))[:, None].expand(mask[:, 1:].shape)[mask[:, 1:]]
    wrong = torch.zeros(len(ids)).index_add(0, row, (logits.argmax(-1) != wanted).float())
    return (wrong == 0).float().mean().item(), 1 - wrong.sum().item() / len(wanted)


def run_phase(model, opts, encoder, steps, rate, batches, out, save_every=SAVE_EVERY):
    prefix, began = torch.tensor([encoder.prefix]), time.time()
    probe_rng = random.Random(SEED + 1)
    probe = tensors_of([encoder.episode(episodes.draw_episode(probe_rng, [name], episodes.WORDS))
        for name in episodes.FAMILIES for _ in range(3)])
    for step in steps:
        opening = None if step <= DRILL_STEPS else prefix
        loss = update(model, opts, opening, batches(step), rate(step))
        if step % 10 == 0:
            print(f"{step} loss {loss:.4f} {time.time() - began:.0f}s "
                  f"cpu {time.process_time():.0f}s", flush=True)
        if step % save_every == 0:
            torch.save(model.state_dict(), out / f"step_{step}.pt")
            print("   exact %.3f tokens %.4f" % exact_share(model, prefix, *probe), flush=True)


def broad_rate(step):
    if step <= WARMUP:
        return PEAK * step / WARMUP
    left = (BROAD_STEPS - step) / (BROAD_STEPS - WARMUP)
    return PEAK * (0.1 + 0.9 * min(1.0, 2 * left))


def train(args):
    out = Path(args.run)
    out.mkdir(parents=True, exist_ok=True)
    episodes.check_tasks_fit_families()
    tokenizer = episodes.train_tokenizer(SEED)
    tokenizer.save(str(out / "tokenizer.json"))
    encoder = episodes.Encoder(tokenizer)
    model = initialise(TinyQwen(), SEED)
    print(sum(p.numel() for p in model.parameters()), "parameters", flush=True)
    opts, rng = optimisers(model), random.Random(SEED)

    def batches(step):
        if step <= DRILL_STEPS:
            return drill_batches(encoder, rng, DRILL_SHARES, episodes.WORDS)
        return episode_batches(encoder, rng, EPISODE_SHARES, episodes.WORDS)

    run_phase(model, opts, encoder, range(1, BROAD_STEPS + 1), broad_rate, batches, out)
    torch.save({"model": model.state_dict(), "opts": [o.state_dict() for o in opts]},
               out / "broad.pt")


def narrow(args):
    out = Path(args.run)
    encoder = episodes.Encoder(Tokenizer.from_file(str(out / "tokenizer.json")))
    saved = torch.load(out / "broad.pt")
    model = TinyQwen()
    model.load_state_dict(saved["model"])
    opts, rng = optimisers(model), random.Random(SEED + 2)
    for opt, state in zip(opts, saved["opts"]):
        opt.load_state_dict(state)
    run_phase(model, opts, encoder, range(BROAD_STEPS + 1, BROAD_STEPS + NARROW_STEPS + 1),
              lambda step: NARROW_RATE,
              lambda step: episode_batches(encoder, rng, NARROW_SHARES, NARROW_WORDS), out,
              save_every=20)


def publish(args):
    run, out = Path(args.run), Path(args.out)
    tokenizer = Tokenizer.from_file(str(run / "tokenizer.json"))
    for step, layout in PUBLISHED.items():
        state = torch.load(run / f"step_{step}.pt")
        write_branch(out / f"step_{step}", state, tokenizer, layout, SEED)


def check(args):
    text = episodes.renderer()(
        episodes.draw_episode(random.Random(SEED), LONG, episodes.WORDS))
    for step, layout in PUBLISHED.items():
        state = torch.load(Path(args.run) / f"step_{step}.pt")
        difference, largest, agree = check_branch(Path(args.out) / f"step_{step}", state, text)
        print(f"step_{step} {layout}: logits up to {largest:.1f} differ by {difference:.1e}, "
              f"likeliest token equal in {100 * agree:.1f} %")
        assert difference < 1e-3 and agree == 1.0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("action", choices=["train", "narrow", "publish", "check"])
    parser.add_argument("run")
    parser.add_argument("out", nargs="?")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(SEED)
    actions = {"train": train, "narrow": narrow, "publish": publish, "check": check}
    actions[args.action](args)


if __name__ == "__main__":
    main()
