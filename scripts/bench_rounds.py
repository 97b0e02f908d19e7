#!/usr/bin/env python3
"""Times commands in turn and prints a Markdown table of ratios against one of them.

    scripts/bench_rounds.py [--runs 5] [--before COMMAND] [--warm GB] LABEL=COMMAND LABEL=COMMAND …

The first command is the peer. Rounds rather than blocks, so that a busy minute does not fall on
one command alone; a warm-up round is run and thrown away. `--before` runs, untimed, before each
(remove the last output, sync). `--warm` touches so much memory before each and gives it back: the
host of a virtual machine takes free pages away and hands them out again slowly, to whoever asks
first. Wall and CPU (user + system, children included) are given as min /
median / max, ratios as those of the medians. Memory is the peak of anonymous pages of the whole
process tree, sampled every 10 ms: pages of mapped files are not counted, as the kernel can drop
them at any time.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import threading
import time


def tree(pid):
    """The process and all its descendants."""
    found, todo = [], [pid]
    while todo:
        at = todo.pop()
        found.append(at)
        try:
            for task in os.listdir(f"/proc/{at}/task"):
                with open(f"/proc/{at}/task/{task}/children") as children:
                    todo += [int(child) for child in children.read().split()]
        except OSError:
            pass
    return found


def anonymous_kb(pid):
    """RssAnon of a process, 0 once it is gone."""
    try:
        with open(f"/proc/{pid}/status") as status:
            return next((int(line.split()[1]) for line in status if line.startswith("RssAnon")), 0)
    except OSError:
        return 0


def once(command):
    """Runs a command; returns wall s, CPU s and the peak of anonymous memory in MB."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    process = subprocess.Popen(
        ["bash", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    peak, ended = 0, threading.Event()

    def sample():
        nonlocal peak
        while not ended.wait(0.01):
            peak = max(peak, sum(anonymous_kb(pid) for pid in tree(process.pid)))

    sampler = threading.Thread(target=sample)
    sampler.start()
    output = process.communicate()[0]
    wall = time.monotonic() - start
    ended.set()
    sampler.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode != 0:
        sys.exit(f"exit {process.returncode}: {command}\n{output.decode(errors='replace')}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, peak / 1000


def spread(values):
    return f"{min(values):.2f} / {statistics.median(values):.2f} / {max(values):.2f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--before", default="true")
    parser.add_argument("--warm", type=int, default=0, metavar="GB")
    parser.add_argument("commands", nargs="+", metavar="LABEL=COMMAND")
    args = parser.parse_args()
    commands = dict(text.split("=", 1) for text in args.commands)
    runs = {label: [] for label in commands}
    for turn in range(args.runs + 1):
        for label, command in commands.items():
            subprocess.run(["bash", "-c", args.before], check=True)
            touch = f"b'x' * ({args.warm} << 30)"
            subprocess.run([sys.executable, "-c", touch], check=True)
            result = once(command)
            if turn > 0:
                runs[label].append(result)
        load = os.getloadavg()[0]
        print(f"round {turn} of {args.runs} done, load {load:.1f}", file=sys.stderr)
    print("| what | wall s, min / median / max | ratio | CPU s, min / median / max | ratio | peak MB |")
    print("|---|---|---:|---|---:|---:|")
    peer = next(iter(runs.values()))
    for label, rows in runs.items():
        cells = []
        for column in (0, 1):
            values = [row[column] for row in rows]
            base = statistics.median(row[column] for row in peer)
            ratio = f"{statistics.median(values) / base:.2f}" if base else "-"
            cells += [spread(values), ratio]
        memory = max(row[2] for row in rows)
        print(f"| {label} | {' | '.join(cells)} | {memory:.0f} |")


if __name__ == "__main__":
    main()
