#!/usr/bin/env python3
"""Renders conversations with Python's jinja2 as transformers does, and prints their SHA-256.

    python scripts/make_template_reference.py TEMPLATE TRAJECTORIES_DIR > tests/data/template-hashes.txt

Needs jinja2 alone. Environment and filters follow transformers 5.17 `chat_template_utils.py`:
sandboxed, trim_blocks, lstrip_blocks, loop controls, `tojson` without HTML escapes. Calls'
arguments are parsed first. A line: hash, bytes, file, how many messages, thinking kept or not.
"""
import hashlib, json, pathlib, sys
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

TOOLS = [{"type": "function", "function": {
    "name": "bash", "description": "Run a command <in> a new \"subshell\" — naïve & 'quick'",
    "parameters": {"type": "object", "properties": {
        "command": {"type": "string", "description": "a\nb"}, "limit": {"type": "number", "default": 1e-05}},
        "required": ["command"]}}}]


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                      sort_keys=sort_keys)


def raise_exception(message):
    raise ValueError(message)


def main(template, folder):
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                        extensions=[loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    compiled = env.from_string(pathlib.Path(template).read_text())
    for path in sorted(pathlib.Path(folder).glob("*.json")):
        messages = json.loads(path.read_text())
        for message in messages:
            for call in message.get("tool_calls") or []:
                try:
                    arguments = json.loads(call["function"]["arguments"])
                except ValueError:
                    continue
                if isinstance(arguments, dict):
                    call["function"]["arguments"] = arguments
        for count in sorted({2, 3, 4, len(messages) // 2, len(messages)}):
            for keep in (False, True):
                text = compiled.render(messages=messages[:count], tools=TOOLS, documents=None,
                                       add_generation_prompt=True, preserve_thinking=keep,
                                       force_thinking=keep)
                data = text.encode()
                print(hashlib.sha256(data).hexdigest(), len(data), path.name, count,
                      str(keep).lower())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
