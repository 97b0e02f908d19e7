#!/usr/bin/env python3
"""Writes fixtures/broken: hostile and damaged inputs, each with what the program must answer.

Needs only Python's standard library; the same run gives the same bytes. Each case is a folder; a
case that damages a checkpoint starts from one of two tiny sound ones, written here by hand.
`expect.json` lists command, exit code and a fragment of the message for each.
"""

import hashlib
import json
import random
import shutil
import struct
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent / "fixtures" / "broken"
CASES = []

QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "dtype": "bfloat16",
    "vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
    "tie_word_embeddings": True, "hidden_act": "silu",
}
TEXT = {
    "model_type": "qwen3_5_text", "dtype": "bfloat16", "vocab_size": 16, "hidden_size": 8,
    "intermediate_size": 8, "num_hidden_layers": 1, "layer_types": ["full_attention"],
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4,
    "linear_num_key_heads": 1, "linear_num_value_heads": 1, "linear_key_head_dim": 4,
    "linear_value_head_dim": 4, "linear_conv_kernel_dim": 4, "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True, "mtp_num_hidden_layers": 0,
}
VISION = {
    "model_type": "qwen3_5", "depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 2,
    "in_channels": 3, "patch_size": 2, "temporal_patch_size": 2, "spatial_merge_size": 2,
    "out_hidden_size": 8, "num_position_embeddings": 4, "deepstack_visual_indexes": [],
}
QWEN3_5 = {
    "architectures": ["Qwen3_5ForConditionalGeneration"], "model_type": "qwen3_5",
    "tie_word_embeddings": True, "text_config": TEXT,
}


def layer(prefix, query_rows):
    """Names and shapes of one full-attention layer."""
    return {
        f"{prefix}input_layernorm.weight": [8],
        f"{prefix}mlp.down_proj.weight": [8, 8],
        f"{prefix}mlp.gate_proj.weight": [8, 8],
        f"{prefix}mlp.up_proj.weight": [8, 8],
        f"{prefix}post_attention_layernorm.weight": [8],
        f"{prefix}self_attn.k_norm.weight": [4],
        f"{prefix}self_attn.k_proj.weight": [4, 8],
        f"{prefix}self_attn.o_proj.weight": [8, 8],
        f"{prefix}self_attn.q_norm.weight": [4],
        f"{prefix}self_attn.q_proj.weight": [query_rows, 8],
        f"{prefix}self_attn.v_proj.weight": [4, 8],
    }


def qwen3_shapes():
    return {"model.embed_tokens.weight": [16, 8], **layer("model.layers.0.", 8),
            "model.norm.weight": [8]}


def qwen3_5_shapes():
    at = "model.language_model."
    return {f"{at}embed_tokens.weight": [16, 8], **layer(f"{at}layers.0.", 16),
            f"{at}norm.weight": [8]}


def count(shape):
    n = 1
    for axis in shape:
        n *= axis
    return n


def values(name, n):
    """BF16 values below one, from the name, so that no run differs."""
    rng = random.Random(name)
    return b"".join(struct.pack("<H", 0x3C00 + rng.randrange(0x380)) for _ in range(n))


def entries(shapes):
    """Header entries and data, without gaps."""
    header, data = {}, b""
    for name in sorted(shapes):
        part = values(name, count(shapes[name]))
        header[name] = {"dtype": "BF16", "shape": shapes[name],
                        "data_offsets": [len(data), len(data) + len(part)]}
        data += part
    return header, data


def safetensors(header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def sound(shapes):
    return safetensors(*entries(shapes))


def tokenizer(n=16):
    vocab = {chr(ord("a") + i) if i < 26 else f"x{i}": i for i in range(n)}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
            "normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None,
            "model": {"type": "BPE", "dropout": None, "unk_token": None,
                      "continuing_subword_prefix": None, "end_of_word_suffix": None,
                      "fuse_unk": False, "byte_fallback": False, "vocab": vocab, "merges": []}}


def case(name, args, exit_code, says, files, links=None):
    """Writes one case; a value of `files` is bytes, text, or something to dump as JSON.

    `links` are symbolic links to targets, made by the test: none is kept in the repository.
    """
    folder = ROOT / name
    for path, content in files.items():
        if content is None:
            continue
        if not isinstance(content, (bytes, str)):
            content = json.dumps(content, indent=1) + "\n"
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else content.encode())
    # Nothing here needs a network; an endpoint is named only to get past its absence.
    args = args if "--endpoint-url" in args else [*args, "--offline"]
    links = {"links": links} if links else {}
    CASES.append({"case": name, "args": args, "exit_code": exit_code, "says": says, **links})


def damaged(name, exit_code, says, *, config=QWEN3, weights=None, extra=None, args=None):
    """A Qwen3 checkpoint with something replaced."""
    files = {"config.json": config, "tokenizer.json": tokenizer(),
             "model.safetensors": sound(qwen3_shapes()) if weights is None else weights}
    case(name, args or ["verify", "."], exit_code, says, files | (extra or {}))


def with_entry(name, **fields):
    """The sound header with one entry changed."""
    header, data = entries(qwen3_shapes())
    header[name] = header[name] | fields
    return safetensors(header, data)


def headers():
    def checkpoint(name, exit_code, says, **fields):
        damaged(name, exit_code, says, args=["inspect", "."], **fields)

    header, data = entries(qwen3_shapes())
    norm = "model.norm.weight"
    whole = sound(qwen3_shapes())
    checkpoint("header-too-long", 6, "the header claims", weights=struct.pack("<Q", 1 << 40) + whole[8:])
    checkpoint("header-longer-than-file", 6, "are needed for the header",
               weights=struct.pack("<Q", len(whole)) + whole[8:])
    checkpoint("header-cut", 6, "the file ends after", weights=whole[:5])
    checkpoint("header-not-json", 6, "is not a sound safetensors file",
               weights=safetensors(b"{nonsense", b""))
    checkpoint("header-deep", 6, "is not a sound safetensors file",
               weights=safetensors(b'{"a":' + b"[" * 4096 + b"]" * 4096 + b"}", b""))
    checkpoint("header-leading-space", 6, "the header must be a JSON object",
               weights=safetensors(b"  " + json.dumps(header).encode(), data))
    checkpoint("header-duplicate-key", 6, "occurs twice in the header",
               weights=safetensors(json.dumps(header)[:-1].encode() + b', "' + norm.encode() + b'": '
                                   + json.dumps(header[norm]).encode() + b"}", data))
    checkpoint("data-truncated", 6, "the header describes a file of", weights=whole[:-7])
    checkpoint("data-trailing", 6, "the header describes a file of", weights=whole + b"\0" * 16)
    begin, end = header[norm]["data_offsets"]
    checkpoint("ranges-overlap", 6, "begins at byte",
               weights=with_entry(norm, data_offsets=[begin - 16, end - 16]))
    checkpoint("ranges-hole", 6, "begins at byte",
               weights=safetensors(header | {norm: header[norm] | {
                   "data_offsets": [begin + 16, end + 16]}}, data + b"\0" * 16))
    checkpoint("range-backwards", 6, "has the byte range", weights=with_entry(norm, data_offsets=[end, begin]))
    checkpoint("shape-negative", 6, "is not a sound safetensors file", weights=with_entry(norm, shape=[-8]))
    checkpoint("shape-overflow", 6, "not its own size",
               weights=with_entry(norm, shape=[1 << 32, 1 << 32, 8]))
    checkpoint("dtype-unknown", 6, "has the unknown dtype", weights=with_entry(norm, dtype="BF17"))
    for label, name in (("name-climbs", "../../../etc/passwd"), ("name-escape-codes", "a\u001b[2Jb"),
                        ("name-reversed", "model.\u202enorm")):
        checkpoint(label, 6, "a tensor has a forbidden name",
                   weights=safetensors({name: {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}, b""))


checkpoint = damaged


def indexes():
    shapes = qwen3_shapes()
    names = sorted(shapes)
    first = {n: shapes[n] for n in names[:7]}
    second = {n: shapes[n] for n in names[7:]}
    one, two = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    good = {n: one for n in first} | {n: two for n in second}

    def sharded(label, says, weight_map, files=None, raw=None, exit_code=6):
        index = raw or {"metadata": {"total_size": 1}, "weight_map": weight_map}
        checkpoint(label, exit_code, says, args=["inspect", "."], extra={
            "model.safetensors": None, "model.safetensors.index.json": index,
            **({one: sound(first), two: sound(second)} if files is None else files)})

    sharded("index-climbs", "is not a plain .safetensors file name",
            good | {names[0]: "../../outside.safetensors"})
    sharded("index-absolute", "is not a plain .safetensors file name",
            good | {names[0]: "/etc/model.safetensors"})
    sharded("index-absent-shard", "is missing", good, {one: sound(first)}, exit_code=3)
    sharded("index-wrong-shard", "which does not hold it", good | {names[0]: two})
    sharded("index-forgets", "which the index does not say",
            {n: f for n, f in good.items() if n != names[0]})
    sharded("index-empty", "its weight_map is empty", {})
    sharded("index-not-json", "does not describe its shards", None, raw="[")
    sharded("index-duplicate", "is mapped twice", None,
            raw='{"weight_map": {"a": "%s", "a": "%s"}}' % (one, two))
    sharded("shard-truncated", "the header describes a file of", good,
            {one: sound(first), two: sound(second)[:-2]})


def configs():
    checkpoint("config-not-json", 6, "config.json is not a JSON object", config="{\n")
    checkpoint("config-array", 6, "config.json is not a JSON object", config=[QWEN3])
    checkpoint("config-deep", 6, "config.json is not a JSON object",
               config='{"a":' + "[" * 5000 + "]" * 5000 + "}")
    checkpoint("config-absurd", 6, "`num_hidden_layers`", config=QWEN3 | {"num_hidden_layers": 10**18})
    checkpoint("config-zero-heads", 6, "`num_key_value_heads`", config=QWEN3 | {"num_key_value_heads": 0})
    checkpoint("config-huge-vocab", 6, "`vocab_size`", config=QWEN3 | {"vocab_size": 1 << 62})
    checkpoint("architecture-unknown", 6, "architecture `LlamaForCausalLM` is not supported",
               config=QWEN3 | {"architectures": ["LlamaForCausalLM"], "model_type": "llama"})
    checkpoint("architecture-escape-codes", 6, "is not supported",
               config=QWEN3 | {"architectures": ["\u001b]0;owned\u0007"], "model_type": "x"})
    case("config-missing", ["verify", "."], 3, "has no config.json",
         {"model.safetensors": sound(qwen3_shapes())})
    case("weights-missing", ["verify", "."], 1, "has neither", {"config.json": QWEN3})
    case("nothing", ["verify", "."], 3, "has no config.json", {"readme.txt": "nothing here\n"})


def contents():
    shapes = qwen3_shapes()
    k_proj = "model.layers.0.self_attn.k_proj.weight"
    without = {n: s for n, s in shapes.items() if n != k_proj}
    checkpoint("k-proj-missing", 1, k_proj, weights=sound(without))
    checkpoint("k-proj-wrong-shape", 1, k_proj, weights=sound(shapes | {k_proj: [8, 8]}))
    checkpoint("tensor-unknown", 1, "model.layers.0.self_attn.z_proj.weight",
               weights=sound(shapes | {"model.layers.0.self_attn.z_proj.weight": [2]}))
    header, data = entries(shapes)
    begin = header[k_proj]["data_offsets"][0]
    nan = data[:begin] + struct.pack("<H", 0x7FC0) + data[begin + 2:]
    checkpoint("value-nan", 1, "NaN", weights=safetensors(header, nan), args=["verify", "--finite", "."])
    inf = data[:begin] + struct.pack("<H", 0xFF80) + data[begin + 2:]
    checkpoint("value-infinite", 1, "infinite", weights=safetensors(header, inf),
               args=["verify", "--finite", "."])
    checkpoint("vocab-too-large", 1, "tokenizer", extra={"tokenizer.json": tokenizer(24)})
    checkpoint("tokenizer-broken", 1, "tokenizer", extra={"tokenizer.json": '{"model": {"vocab": '})
    five = sound(qwen3_5_shapes())
    checkpoint("mtp-declared-but-absent", 0, "MTP", weights=five,
               config=QWEN3_5 | {"text_config": TEXT | {"mtp_num_hidden_layers": 1}})
    checkpoint("vision-declared-but-absent", 0, "vision", weights=five,
               config=QWEN3_5 | {"vision_config": VISION})


def sums():
    whole = sound(qwen3_shapes())
    wrong = "0" * 64 + "  model.safetensors\n"
    checkpoint("sums-mismatch", 1, "(SHA256SUMS)", extra={"SHA256SUMS": wrong})
    checkpoint("sums-climbs", 1, "SHA256SUMS", extra={"SHA256SUMS": "0" * 64 + "  ../../etc/passwd\n"})
    checkpoint("sums-nonsense", 1, "SHA256SUMS", extra={"SHA256SUMS": "what is this\n"})
    checkpoint("sums-absent-file", 1, "model-2.safetensors", extra={
        "SHA256SUMS": hashlib.sha256(whole).hexdigest() + "  model.safetensors\n"
        + "0" * 64 + "  model-2.safetensors\n"})


def settings():
    args = ["config", "show"]
    case("settings-unknown-key", args, 2, "has the unknown key `cach-dir`",
         {"tmax-ckpt.toml": 'cach-dir = "x"\n'})
    case("settings-wrong-type", args, 2, "`jobs` must be", {"tmax-ckpt.toml": 'jobs = "many"\n'})
    case("settings-not-toml", args, 2, "is not a valid configuration file",
         {"tmax-ckpt.toml": "jobs = = 1\n"})
    case("settings-endpoint", args, 2, "is not an http:// or https:// address",
         {"tmax-ckpt.toml": 'endpoint = "file:///etc/passwd"\n'})


TASK = """schema_version = "1.4"
[task]
name = "local/trap"
[verifier]
timeout_sec = 10.0
[agent]
timeout_sec = 10.0
"""


def task(label, exit_code, says, files, toml=TASK, links=None):
    """One task folder; the oracle agent is run on it."""
    base = {"tasks/trap/task.toml": toml, "tasks/trap/instruction.md": "Do nothing.\n",
            "tasks/trap/environment/Dockerfile": "FROM debian:bookworm-slim\n",
            "tasks/trap/solution/solve.sh": "#!/bin/bash\ntrue\n",
            "tasks/trap/tests/test.sh": "#!/bin/bash\necho 1 > /logs/verifier/reward.txt\n"}
    case(label, ["score", "--agent", "oracle", "-n", "--tasks", "tasks", "--output", "{scratch}"],
         exit_code, says, base | files, links)


def traps():
    """Values of task.toml that would harm, hang or mislead, and links out of the task."""
    def environment(label, says, line):
        task(label, 6, says, {}, toml=TASK + "[environment]\n" + line + "\n")

    task("task-timeout-absurd", 6, "agent.timeout_sec is not between", {},
         toml=TASK.replace("10.0", "1e30"))
    task("task-timeout-text", 6, "agent.timeout_sec is not a number", {},
         toml=TASK.replace("10.0", '"10"'))
    task("task-version-unknown", 6, "schema_version 9.9 is not supported", {},
         toml=TASK.replace("1.4", "9.9"))
    task("task-version-number", 6, "schema_version is not a string", {},
         toml=TASK.replace('"1.4"', "1.4"))
    task("task-version-escape-codes", 6, "schema_version \\u{1b}]0;owned\\u{7}", {},
         toml=TASK.replace("1.4", "\\u001b]0;owned\\u0007"))
    task("task-section-number", 6, "agent is not a table", {}, toml="agent = 3\n")
    task("task-toml-deep", 6, "task.toml", {}, toml="a = " + "[" * 5000 + "]" * 5000 + "\n")
    task("task-host-variable", 6, "a variable of the host", {},
         toml=TASK + '[verifier.env]\nTOKEN = "${HF_TOKEN}"\n')
    environment("task-memory-absurd", "environment.memory_mb is not a whole number",
                "memory_mb = 99999999999999")
    environment("task-memory-negative", "environment.memory_mb is not a whole number",
                "memory_mb = -1")
    environment("task-memory-text", "environment.memory is not a size", 'memory = "999999999G"')
    environment("task-cpus-fraction", "environment.cpus is not a whole number", "cpus = 1.5")
    environment("task-workdir-climbs", "environment.workdir is not an absolute path",
                'workdir = "/app/../../etc"')
    environment("task-workdir-relative", "environment.workdir is not an absolute path",
                'workdir = "app"')
    environment("task-variable-name", "environment.env.A=B", 'env = {"A=B" = "x"}')
    for label, name, target in (
            ("task-toml-link", "task.toml", "/etc/passwd"),
            ("task-instruction-link", "instruction.md", "/etc/passwd"),
            ("task-tests-link", "tests", "/etc"), ("task-environment-link", "environment", "/etc"),
            ("task-test-file-link", "tests/passwd", "/etc/passwd")):
        task(label, 6, f"{name} is", {}, links={f"tasks/trap/{name}": target})


def tasks():
    task("task-toml-broken", 6, "task.toml", {}, toml="[task\n")
    task("task-timeout-negative", 6, "timeout", {}, toml=TASK.replace("10.0", "-1.0"))
    task("task-timeout-nan", 6, "timeout", {}, toml=TASK.replace("10.0", "nan"))
    task("task-tests-missing", 6, "test.sh", {"tasks/trap/tests/test.sh": None})
    task("task-instruction-missing", 6, "instruction.md", {"tasks/trap/instruction.md": None})


def records():
    """A harness file and job folders from elsewhere."""
    sound_task = {"tasks/trap/task.toml": TASK, "tasks/trap/instruction.md": "Do nothing.\n",
                  "tasks/trap/environment/Dockerfile": "FROM debian:bookworm-slim\n",
                  "tasks/trap/tests/test.sh": "#!/bin/bash\ntrue\n"}
    args = ["score", "--endpoint-url", "http://127.0.0.1:9", "--model", "m", "--tasks", "tasks", "--output", "{scratch}",
            "--harness", "harness.yaml"]
    laughs = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9))
    for label, text in (("harness-not-yaml", "a: [\n"), ("harness-billion-laughs", laughs),
                        ("harness-wrong-keys", "agent: 1\n")):
        case(label, args, 6, "harness.yaml", sound_task | {"harness.yaml": text})
    case("records-empty", ["select", "--from", "jobs"], 3, "jobs", {"jobs/readme.txt": "no job\n"})
    case("records-not-json", ["select", "--from", "jobs"], 3, "holds no finished trial",
         {"jobs/step_1/result.json": "{", "jobs/step_1/config.json": "{",
          "jobs/step_1/t__1/result.json": "{"})


    for label, says, reward in (("two", "reward 2 is not in [0, 1]", "2"),
                                ("negative", "reward -0.5 is not in [0, 1]", "-0.5"),
                                ("text", "t__1/result.json", '"1"'),
                                ("not-a-number", "t__1/result.json", "NaN"),
                                ("infinite", "t__1/result.json", "1e999")):
        result = '{"task_name": "t", "verifier_result": {"rewards": {"reward": %s}}}\n' % reward
        sound_result = result.replace(reward, "1.0")
        jobs = {"jobs/t__0/result.json": sound_result, "jobs/t__1/result.json": result}
        case(f"reward-{label}", ["select", "--from", "jobs"], 6, says, jobs)
        case(f"reward-{label}-imported", ["score", "import", "jobs"], 6, "t__1/result.json", jobs)


def templates():
    """Chat templates are programs of strangers: they are tried before a model is loaded."""
    def template(label, text, says):
        files = {"tasks/trap/task.toml": TASK, "tasks/trap/instruction.md": "Do nothing.\n",
                 "tasks/trap/tests/test.sh": "#!/bin/bash\ntrue\n", "chat_template.jinja": text}
        checkpoint(f"template-{label}", 6, says, extra=files,
                   args=["score", ".", "--tasks", "tasks", "--output", "{scratch}"])

    refuses = "the chat template refuses the conversation"
    template("not-jinja", "{% if %}", "the chat template does not parse")
    template("endless", "{% for a in range(99999) %}{% for b in range(99999) %}{{ a }}"
             "{% endfor %}{% endfor %}", f"{refuses}: engine ran out of fuel")
    template("laughs", "{% set ns = namespace(x='lol') %}{% for a in range(64) %}"
             "{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}", f"{refuses}: engine ran out of fuel")
    template("recursion", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", refuses)
    template("nested", "{{ " + "(" * 4000 + "1" + ")" * 4000 + " }}", "the chat template")
    template("wide-field", "{{ '{:>100000000000}'.format('x') }}", refuses)
    template("replace-all", "{{ ('x' * 1000000).replace('x', 'y' * 1000000) }}", refuses)
    template("wide-json", "{{ messages | tojson(indent=1000000000000) }}", refuses)
    template("raises", "{{ raise_exception('\u001b[2J no') }}", f"{refuses}: \\u{{1b}}[2J no")
    template("includes", "{% include '/etc/passwd' %}", refuses)


def tokenizers():
    def broken(label, says, args=None, exit_code=1, **changes):
        sound_one = tokenizer()
        model = sound_one["model"] | changes.pop("model", {})
        checkpoint(f"tokenizer-{label}", exit_code, says, args=args,
                   extra={"tokenizer.json": sound_one | {"model": model} | changes})

    vocab = tokenizer()["model"]["vocab"]
    broken("id-negative", "has no whole number as its id", model={"vocab": vocab | {"a": -1}})
    broken("id-huge", "has id 1152921504606846976", model={"vocab": vocab | {"a": 1 << 60}})
    broken("id-shared", "share the id", model={"vocab": vocab | {"b": 0}})
    broken("vocab-list", "has no model.vocab", model={"vocab": ["a", "b"]})
    broken("escape-codes", "\\u{1b}[2J", model={"vocab": vocab | {"\u001b[2J": 99}})
    checkpoint("tokenizer-deep", 1, "is not JSON",
               extra={"tokenizer.json": '{"model":' + "[" * 5000 + "]" * 5000 + "}"})
    text = ["logprobs", ".", "--text", "a" * 40]
    split = {"type": "Split", "behavior": "Isolated", "invert": False}
    # A search in polynomial time, or given up: either way it ends.
    broken("regex-bomb", "logprobs", args=text, exit_code=0,
           pre_tokenizer=split | {"pattern": {"Regex": "(?=(a+)+$b)(a|a)*c"}})
    broken("regex-broken", "the tokenizer failed", args=text, exit_code=6,
           pre_tokenizer=split | {"pattern": {"Regex": "("}})
    broken("merge-unknown", "the tokenizer failed", args=text, exit_code=6,
           model={"merges": [["zz", "yy"]]})
    checkpoint("tokenizer-decoder-cut", 6, "the tokenizer failed", args=text,
               extra={"tokenizer.json": '{"version": "1.0", "added_tokens": [], "decoder":s'})
    broken("table-damaged", "precompiled table", args=text, exit_code=6,
           normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA/////w=="})
    broken("table-unnamed", "precompiled table", args=text, exit_code=6,
           normalizer={"type": "Precompiled", "precompi$led_charsmap": "AAAA/////w=="})
    # The second of two equal keys counts, and the first must not reach the library.
    twice = json.dumps(tokenizer()).replace(
        '"normalizer":', '"normalizer": {"type": "Precompiled"}, "normalizer":', 1)
    checkpoint("tokenizer-key-twice", 0, "logprobs", args=text, extra={"tokenizer.json": twice})
    broken("unknown-model", "the tokenizer failed", args=text, exit_code=6,
           model={"type": "Oracle"})


def main():
    shutil.rmtree(ROOT, ignore_errors=True)
    for make in (headers, indexes, configs, contents, sums, settings, tasks, traps, records,
                 templates, tokenizers):
        make()
    (ROOT / "expect.json").write_text(json.dumps(CASES, indent=1) + "\n")
    size = sum(p.stat().st_size for p in ROOT.rglob("*") if p.is_file())
    print(f"{len(CASES)} cases, {size} bytes")


if __name__ == "__main__":
    main()
