"""Prints the table of bench-engine.sh from its folder of NAME.ours.N and NAME.peer.N files."""
import json
import statistics
import sys
from pathlib import Path

TO_REACH = {"prefill": 0.5, "decode": 0.7}


def ours(paths):
    """Tokens a second of each run, by what was measured; seconds of each load."""
    rates, loads = {what: [] for what in TO_REACH}, []
    for path in paths:
        document = json.loads(path.read_text())
        loads.append(document["load_secs"])
        for what, found in rates.items():
            found += document[f"{what}_tokens_per_sec"]
    return rates, loads


def peer(paths):
    rates = {what: [] for what in TO_REACH}
    for path in paths:
        for row in json.loads(path.read_text()):
            tokens = row["n_prompt"] or row["n_gen"]
            rates["prefill" if row["n_prompt"] else "decode"] += [
                1e9 * tokens / ns for ns in row["samples_ns"]]
    return rates


def spread(values):
    digits = 0 if min(values) > 100 else 1
    three = (min(values), statistics.median(values), max(values))
    return " / ".join(f"{value:.{digits}f}" for value in three)


def main():
    folder = Path(sys.argv[1])
    print("| shapes | what | ours, tokens/s: min / median / max | llama.cpp | ratio | to reach |")
    print("|---|---|---|---|---|---|")
    notes = []
    for name in ("fixture", "2B"):
        files = sorted(folder.glob(f"{name}.ours.*"))
        if not files:
            continue
        mine, loads = ours(files)
        theirs = peer(sorted(folder.glob(f"{name}.peer.*")))
        for what, goal in TO_REACH.items():
            a, b = mine[what], theirs[what]
            ratio = statistics.median(a) / statistics.median(b)
            print(f"| {name} | {what} | {spread(a)} | {spread(b)} | {ratio:.2f} | {goal} |")
        notes.append(f"{name} {statistics.median(loads):.2f} s")
    print(f"\nLoading and quantising, median: {', '.join(notes)}.")


main()
