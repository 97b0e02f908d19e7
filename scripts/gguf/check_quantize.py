"""The second half of check_peer.py: files of all quantised types, against convert + llama-quantize.

For each checkpoint the peer's BF16 file goes through llama-quantize and ours is exported in one step;
then keys, tensor table and bytes are compared. What the one refuses the other must refuse.
"""

import subprocess
from pathlib import Path

TYPES = ["q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q2_k_s", "q3_k_s", "q3_k_m", "q3_k_l", "q4_k_s",
         "q4_k_m", "q5_k_s", "q5_k_m", "q6_k", "iq4_nl", "iq4_xs"]
# llama-quantize asks a vision tower for its groups of heads here, and aborts.
NOT_FOR_VISION = {"q2_k", "q2_k_s", "iq4_nl", "iq4_xs"}
FLAGS = [
    ("q4_k_m", ["--pure"]),
    ("q4_k_m", ["--leave-output-tensor"]),
    ("q5_k_s", ["--output-tensor-type", "q8_0"]),
    ("q4_k_m", ["--token-embedding-type", "q8_0"]),
    ("q4_k_m", ["--token-embedding-type", "q5_0", "--output-tensor-type", "f16"]),
    ("q3_k_m", ["--tensor-type", "attn_v=q6_k", "--tensor-type", r"blk\.[01]\.=q5_k",
                "--tensor-type", "ffn_down=iq4_nl"]),
    ("q4_k_s", ["--tensor-type", r"blk\.0\.ffn_down=q8_0", "--tensor-type", "attn_qkv=bf16"]),
    ("q8_0", ["--tensor-type", "ffn_.*=q4_0"]),
    ("q2_k", ["--pure", "--imatrix"]),
    ("q2_k_s", ["--tensor-type", "nextn|blk.4=q3_k", "--imatrix"]),
    ("q4_k_m", ["--imatrix-dat"]),
    ("f16", ["--output-tensor-type", "q8_0"]),
]


class Checker:
    def __init__(self, args, work, compare):
        # The working folder is another: what was given relative to this one must not be.
        self.bin = Path(args.bin).resolve()
        self.quantize = Path(args.llama_cpp).resolve() / "build/bin/llama-quantize"
        self.work, self.compare = work.resolve(), compare
        for side in ("quantized-ours", "quantized-peer"):
            (work / side).mkdir(exist_ok=True)

    def run(self, *command):
        done = subprocess.run([str(c) for c in command], cwd=self.work, capture_output=True, text=True)
        return done.returncode == 0, done.stdout[-1500:] + done.stderr[-1500:]

    def one(self, folder, source, out_type, flags, label, mmproj=()):
        """Compares one file: a result of compare.py, or None where both refuse."""
        name = f"{label}-{out_type}.gguf"
        ours, peer = self.work / "quantized-ours" / name, self.work / "quantized-peer" / name
        # The same words on both sides: the file's name is one of the keys.
        flags = [w for f in flags for w in self.words(f, folder.name)]
        made, log = self.run(self.bin, "export", "gguf", folder.resolve(), "--outtype", out_type, "-o", ours,
                             *flags, *mmproj)
        peer_made, peer_log = self.run(self.quantize, *flags, source.resolve(), peer,
                                       out_type.upper(), "2")
        if not peer_made:
            # It may have begun to write.
            peer.unlink(missing_ok=True)
        if made != peer_made:
            said = log if peer_made else peer_log
            return {"tensors": 0, "bytes": 0, "faults": [f"{label} {out_type}: one refuses: {said}"]}
        if not made:
            return None
        result = self.compare(ours, peer)
        result["faults"] = [f"{out_type}: {fault}" for fault in result["faults"]]
        ours.unlink()
        return result

    @staticmethod
    def words(flag, kind):
        files = {"--imatrix": f"{kind}.imatrix.gguf", "--imatrix-dat": f"{kind}.imatrix.dat"}
        return ["--imatrix", files[flag]] if flag in files else [flag]


def row(label, results):
    """One line of the table out of the results of many types."""
    faults = [fault for _, r in results if r for fault in r["faults"]]
    refused = [t for t, r in results if r is None]
    equal = len(results) - len(refused)
    verdict = "equal" if not faults else f"**{len(faults)} differ**: {faults[0]}"
    if refused:
        verdict += f"; both refuse {', '.join(refused)}"
    made = [r for _, r in results if r]
    line = (f"| {label} | {equal} | {sum(r['tensors'] for r in made)} | "
            f"{sum(r['bytes'] for r in made)} | {verdict} |")
    print(line, flush=True)
    return line, bool(faults)


def table(args, work, compare, checkpoints):
    """Returns the lines of the section, and whether anything differs.

    `checkpoints`: (folder, the peer's BF16 file, that of the vision tower or None)."""
    checker = Checker(args, work, compare)
    rows = []
    for folder, source, vision in checkpoints:
        wide = (work / f"{folder.name}.imatrix.gguf").exists()
        ways = [("", [], TYPES)]
        if wide:
            ways += [(" --imatrix", ["--imatrix"], TYPES + ["q8_0"])]
        for words, flags, types in ways:
            label = f"{folder.name}{words.replace(' --', '-')}"
            rows.append((folder.name + words, [(t, checker.one(folder, source, t, flags, label))
                                               for t in types]))
        if vision:
            label = f"{folder.name}-mmproj"
            rows.append((f"{folder.name} --mmproj", [
                (t, checker.one(folder, vision, t, [], label, ["--mmproj"]))
                for t in TYPES if t not in NOT_FOR_VISION]))
        if folder.name in ("wide-tied", "wide-vl"):
            for number, (out_type, flags) in enumerate(FLAGS):
                if "nextn" in str(flags) and folder.name == "wide-tied":
                    continue
                result = checker.one(folder, source, out_type, flags, f"{folder.name}-flags-{number}")
                words = " ".join([out_type, *flags]).replace("|", "\\|")
                rows.append((f"{folder.name} {words}", [(out_type, result)]))
    lines = ["", "## Quantised types", "",
             "convert (BF16) + llama-quantize against one `export gguf`: " + ", ".join(TYPES) + ".",
             "A row is one checkpoint with all of them, or with one and other flags; `--imatrix` is a",
             "made-up matrix without entries for head, embedding and MTP. What both refuse is Q2_K_S",
             "without an importance matrix, or with one that lacks the MTP block.", "",
             "| checkpoint | files | tensors | tensor bytes | result |", "|---|---:|---:|---:|---|"]
    made = [row(label, results) for label, results in rows]
    return lines + [line for line, _ in made], any(bad for _, bad in made)
