"""Synthetic harness episodes in the words of fixtures/tasks, and the tokenizer for them.

Each family draws its own names, words and numbers; an instruction that equals a committed task's is
never drawn, so the tasks are unseen examples of seen families.
"""

import json
import random
from pathlib import Path

import yaml
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = (Path(__file__).parent / "fixture_chat_template.jinja").read_text()
PROMPTS = yaml.safe_load((ROOT / "src/harness/prompts/default.yaml").read_text())
TOOLS = json.loads(PROMPTS["tool_schemas"])
SUBMIT = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"

WORDS = (
    "amber anchor apple arrow basil birch bread brick cedar chalk cherry cloud clover copper coral "
    "cotton crane daisy eagle falcon fern flint garden ginger grape hazel heron honey iris island "
    "ivory jade lemon lily linen lotus maple marble meadow melon mint moss olive onyx orchid otter "
    "pearl pepper pine plum poppy quartz raven river robin rose saffron sage silver sparrow spruce "
    "stone tulip velvet walnut willow"
).split()
MODES = "400 440 444 500 550 600 640 660 664 700 750 755".split()
DONE = ("The task is done.", SUBMIT, None)


# Each family: how many words it needs, the instruction, and the turns as (thought, command, output).
# `n` is a family's own number or list of numbers, drawn by `draw`.
def family_table():
    def one(thought, command):
        return lambda v, n: [(thought, command(v, n), "")]

    def ordered(v, n):
        return [
            ("First write the word.", f"echo {v[0]} > {v[1]}.txt", ""),
            ("Now copy the file.", f"cp {v[1]}.txt {v[2]}.txt", ""),
            ("Now make the folder.", f"mkdir {v[3]}", ""),
            ("Now move the file.", f"mv {v[2]}.txt {v[3]}", ""),
        ]

    def four(v, n):
        order = ("first", "second", "third", "last")
        return [
            (f"Write the {order[i]} word.", f"echo {v[2 * i]} > {v[2 * i + 1]}.txt", "")
            for i in range(4)
        ]

    return {
        "write-word": (2, lambda v, n: f"Write the word {v[0]} into the file {v[1]}.txt.",
            one("Write the word.", lambda v, n: f"echo {v[0]} > {v[1]}.txt")),
        "rename-file": (2, lambda v, n: f"Rename the file {v[0]}.txt to {v[1]}.txt.",
            one("Rename the file.", lambda v, n: f"mv {v[0]}.txt {v[1]}.txt")),
        "make-folder": (2, lambda v, n: f"Make the folder {v[0]} and in it an empty file {v[1]}.txt.",
            one("Make the folder.", lambda v, n: f"mkdir {v[0]} && touch {v[0]}/{v[1]}.txt")),
        "count-lines": (2, lambda v, n:
            f"Count the lines of the file {v[0]}.txt and write the number into {v[1]}.txt.",
            one("Count the lines.", lambda v, n: f"wc -l < {v[0]}.txt > {v[1]}.txt")),
        "set-mode": (1, lambda v, n: f"Set the permissions of the file {v[0]}.txt to {n}.",
            one("Set the permissions.", lambda v, n: f"chmod {n} {v[0]}.txt")),
        "sort-lines": (2, lambda v, n:
            f"Sort the lines of the file {v[0]}.txt, keep each line once, "
            f"and write them into {v[1]}.txt.",
            one("Sort the lines.", lambda v, n: f"sort -u {v[0]}.txt > {v[1]}.txt")),
        "replace-word": (3, lambda v, n:
            f"In the file {v[0]}.txt replace every word {v[1]} by {v[2]}.",
            one("Replace the word.", lambda v, n: f"sed -i 's/{v[1]}/{v[2]}/g' {v[0]}.txt")),
        "pick-column": (2, lambda v, n:
            f"Write column {n} of the file {v[0]}.csv into the file {v[1]}.txt.",
            one("Cut the column.", lambda v, n: f"cut -d, -f{n} {v[0]}.csv > {v[1]}.txt")),
        "sum-numbers": (2, lambda v, n:
            f"Add the numbers in the file {v[0]}.txt and write the sum into the file {v[1]}.txt.",
            one("Add the numbers.",
                lambda v, n: "awk '{s+=$1} END {print s}' " + f"{v[0]}.txt > {v[1]}.txt")),
        "three-folders": (4, lambda v, n:
            f"Make the folders {v[0]}, {v[1]} and {v[2]}, each with an empty file {v[3]}.txt.",
            lambda v, n: [
                ("Make the folders.", f"mkdir {v[0]} {v[1]} {v[2]}", ""),
                ("Now make the files.", "touch " + " ".join(f"{d}/{v[3]}.txt" for d in v[:3]), ""),
            ]),
        "find-and-copy": (4, lambda v, n:
            f"One file in the folder {v[0]} holds the word {v[1]}. Copy that file to {v[2]}.txt.",
            lambda v, n: [
                ("Find the file.", f"grep -l {v[1]} {v[0]}/*", f"{v[0]}/{v[3]}.txt"),
                ("Now copy it.", f"cp {v[0]}/{v[3]}.txt {v[2]}.txt", ""),
            ]),
        "follow-note": (3, lambda v, n:
            f"The file {v[0]}.txt names another file. Write the word {v[1]} into that file.",
            lambda v, n: [
                ("Read the note.", f"cat {v[0]}.txt", f"{v[2]}.txt"),
                ("Now write the word.", f"echo {v[1]} > {v[2]}.txt", ""),
            ]),
        "two-notes": (4, lambda v, n:
            f"The file {v[0]}.txt names a second file, and the second file holds a word. "
            f"Write this word into the file {v[1]}.txt.",
            lambda v, n: [
                ("Read the note.", f"cat {v[0]}.txt", f"{v[2]}.txt"),
                ("Read the second file.", f"cat {v[2]}.txt", v[3]),
                ("Now write the word.", f"echo {v[3]} > {v[1]}.txt", ""),
            ]),
        "ordered-steps": (4, lambda v, n:
            f"Do this in order: write the word {v[0]} into the file {v[1]}.txt, copy {v[1]}.txt to "
            f"{v[2]}.txt, make the folder {v[3]}, move {v[2]}.txt into {v[3]}.", ordered),
        "four-words": (8, lambda v, n:
            f"Write the word {v[0]} into the file {v[1]}.txt, the word {v[2]} into the file "
            f"{v[3]}.txt, the word {v[4]} into the file {v[5]}.txt and the word {v[6]} into the "
            f"file {v[7]}.txt.", four),
        "label-sum": (3, lambda v, n:
            f"Add the numbers in the file {v[0]}.txt, then write the word {v[1]} and the sum, "
            f"with a space between, into the file {v[2]}.txt.",
            lambda v, n: [
                ("Add the numbers.", "awk '{s+=$1} END {print s}' " + f"{v[0]}.txt", str(n)),
                ("Now write the line.", f"echo {v[1]} {n} > {v[2]}.txt", ""),
            ]),
    }


FAMILIES = family_table()


def draw_number(name, rng):
    if name == "set-mode":
        return rng.choice(MODES)
    if name == "pick-column":
        return rng.randint(1, 6)
    return rng.randint(10, 999)


def task_instructions():
    """The committed tasks' instructions by name; all must belong to a family of the same name."""
    folder = ROOT / "fixtures/tasks"
    return {t.name: (t / "instruction.md").read_text().strip() for t in sorted(folder.iterdir())}


HELD_OUT = set(task_instructions().values())


def check_tasks_fit_families():
    """Each committed instruction is its family's phrase with words of the list in it."""
    import re
    for name, text in task_instructions().items():
        count, phrase, _ = FAMILIES[name]
        shape = re.escape(phrase([f"SLOT{i}Q" for i in range(count)], "NUMBERQ"))
        shape = shape.replace("NUMBERQ", r"\d+")
        for i in range(count):
            head, sep, tail = shape.partition(f"SLOT{i}Q")
            shape = head + (f"(?P<s{i}>[a-z]+)" if sep else "") + tail.replace(
                f"SLOT{i}Q", f"(?P=s{i})")
        found = re.fullmatch(shape, text)
        assert found, f"{name}: not in the words of its family"
        assert set(found.groupdict().values()) <= set(WORDS), f"{name}: a word is not in the list"


def draw_task(rng, names, words):
    """Instruction and turns of a task of a family among `names`, made of `words`."""
    while True:
        name = rng.choice(names)
        count, phrase, solve = FAMILIES[name]
        v, n = rng.sample(words, count), draw_number(name, rng)
        instruction = phrase(v, n)
        if instruction not in HELD_OUT:
            return instruction, solve(v, n)


def draw_episode(rng, names, words):
    """Messages of one solved episode, exactly as the harness would hold it."""
    return episode_messages(*draw_task(rng, names, words))


def draw_drill(rng, names, words):
    """Pieces (text, own) of one solved task without the protocol's fixed words.

    Most tokens of an episode are the same in all; a drill is about what differs, so that the
    copying of names is learnt from a tenth of the tokens.
    """
    instruction, turns = draw_task(rng, names, words)
    pieces = [(instruction + "<|im_end|>\n", False)]
    for thought, command, output in turns:
        pieces.append((f"THOUGHT: {thought}\n\n<tool_call>\n{command}\n</tool_call>", True))
        if output:
            pieces.append((f"<tool_response>\n{output}\n</tool_response>", False))
    return pieces


def opening_messages(instruction):
    user = PROMPTS["instance_template"].replace("{{task}}", instruction.strip())
    return [
        {"role": "system", "content": PROMPTS["system_template"]},
        {"role": "user", "content": user},
    ]


def call_message(thought, command):
    call = {"type": "function", "function": {"name": "bash", "arguments": {"command": command}}}
    return {"role": "assistant", "content": f"THOUGHT: {thought}", "tool_calls": [call]}


def episode_messages(instruction, turns):
    messages = opening_messages(instruction)
    for thought, command, output in [*turns, DONE]:
        messages.append(call_message(thought, command))
        if output is not None:
            text = f"{output or '(no output)'}\n\n(exit_code=0)"
            messages.append({"role": "tool", "content": text})
    return messages


# --- tokenizer ---------------------------------------------------------------------------------

PRE_TOKENIZER = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = [f"<|{s}|>" for s in (
    "endoftext im_start im_end object_ref_start object_ref_end box_start box_end quad_start "
    "quad_end vision_start vision_end vision_pad image_pad video_pad").split()]
NON_SPECIAL = ["<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>",
    "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<tool_response>",
    "</tool_response>", "<think>", "</think>"]
VOCAB_SIZE = 1280


def renderer():
    """The chat template as transformers runs it, without its tokenizer class."""
    import jinja2.sandbox

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    env = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    env.filters["tojson"] = lambda x: json.dumps(x, ensure_ascii=False)
    env.globals["raise_exception"] = raise_exception
    template = env.from_string(TEMPLATE)
    return lambda messages, prompt=False: template.render(
        messages=messages, tools=TOOLS, add_generation_prompt=prompt)


def train_tokenizer(seed):
    """Byte-level BPE in Qwen3.5's form over rendered episodes and common words of a shell."""
    rng, render = random.Random(seed), renderer()
    names = list(FAMILIES)
    corpus = [render(draw_episode(rng, names, WORDS)) for _ in range(3000)]
    corpus = [piece for text in corpus for piece in split_added(text)]
    text = Tokenizer(models.BPE(byte_fallback=False, fuse_unk=False))
    text.normalizer = normalizers.NFC()
    text.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PRE_TOKENIZER), "isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    byte_level = dict(add_prefix_space=False, trim_offsets=False, use_regex=False)
    text.decoder = decoders.ByteLevel(**byte_level)
    text.post_processor = processors.ByteLevel(**byte_level)
    text.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIAL) - len(NON_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    text.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in SPECIAL])
    text.add_tokens([AddedToken(s, normalized=False, special=False) for s in NON_SPECIAL])
    return text


def split_added(text):
    import re
    return [p for p in re.split("|".join(map(re.escape, SPECIAL + NON_SPECIAL)), text) if p]


class Encoder:
    """Renders episodes to token ids and marks the assistant's own tokens."""

    def __init__(self, tokenizer):
        self.tokenizer, self.render = tokenizer, renderer()
        self.end = tokenizer.token_to_id("<|im_end|>")
        self.start = tokenizer.token_to_id("<|im_start|>")
        self.head = self.ids("<|im_start|>assistant\n<think>\n\n</think>\n\n")
        a = self.ids(self.render(opening_messages("Amber"), True))
        b = self.ids(self.render(opening_messages("Willow"), True))
        shared = next(i for i, (x, y) in enumerate(zip(a, b)) if x != y)
        self.prefix = a[:shared]

    def ids(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def drill(self, pieces):
        """Ids of one drill and 1 for each of them that is the assistant's."""
        ids, mask = [], []
        for text, own in pieces:
            piece = self.ids(text)
            ids += piece
            mask += [int(own)] * len(piece)
        return ids, mask

    def episode(self, messages):
        """Ids after the shared prefix, and 1 for each of them that the assistant wrote."""
        ids = self.ids(self.render(messages))
        mask, i, n = [0] * len(ids), 0, len(self.head)
        while i < len(ids):
            if ids[i:i + n] == self.head:
                i += n
                while True:
                    mask[i] = 1
                    if ids[i] == self.end:
                        break
                    i += 1
            i += 1
        k = len(self.prefix)
        assert ids[:k] == self.prefix
        return ids[k:], mask[k:]
