"""From a response to the program that is run.

    response ── visible part ── <answer> block, if any ── last code block, or the bare text ── with the task's starter

- Code is looked for in the last complete `<answer>` block; without one, in everything after the reasoning.
- The last block fenced with ``` or ~~~ and marked with the task's language counts; if none is so marked, the last
  block. One that is never closed runs to the end, as in CommonMark. Without any fence the text itself is the program.
- If the task has a starter and the program does not define the function under test, the program is what the starter
  goes on with. If it does, only what the starter has before that function is put in front: imports, helpers it lacks.
- Braces that the starter opened and the program leaves open are closed. In C#, whose tests end the class, the class is
  left open.

Pure functions, linear in the length of the response. Nothing here is trusted: the outcome runs in the sandbox.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evaluator.extract import Response, answer_block

ALIASES: dict[str, frozenset[str]] = {
    "python": frozenset({"python", "py", "python3"}),
    "cpp": frozenset({"cpp", "c++", "cc", "cxx"}),
    "java": frozenset({"java"}),
    "javascript": frozenset({"javascript", "js", "node", "nodejs"}),
    "typescript": frozenset({"typescript", "ts"}),
    "csharp": frozenset({"csharp", "cs", "c#"}),
    "php": frozenset({"php"}),
    "bash": frozenset({"bash", "sh", "shell"}),
}
_PROGRAM_KEYS = ("starter", "entry_point")  # of a specification; the others are the job's

_FENCE = re.compile(r"([ \t]*)(`{3,}|~{3,})[ \t]*([^`\n]*)")
_C_TOKENS = r"""//[^\n]*|/\*(?:[^*]|\*(?!/))*+(?:\*/)?|"(?:[^"\\\n]|\\.)*+"?|'(?:[^'\\\n]|\\.)*+'?"""
_TEMPLATE = r"""`(?:[^`\\]|\\.)*+`?"""
_SHELL_TOKENS = r"""(?<![^\s;])\#[^\n]*|"(?:[^"\\]|\\.)*+"?|'[^']*+'?|\\."""
_TYPE_PREFIX = re.compile(r"[\w:<>,&*?\[\]\s~]*")
_NO_TYPE = frozenset({"return", "new", "throw", "else", "case", "await", "yield", "delete", "goto", "typeof", "echo"})
_PREFIX_CHARACTERS = 200


def job(code: Mapping[str, Any], response: Response) -> dict[str, Any] | None:
    """The fields of a `CodeJob` for `response`: `code` is a task's `spec["code"]`. None without a program."""
    source = program(response, str(code["language"]), code.get("entry_point"), code.get("starter"))
    if source is None:
        return None
    return {key: value for key, value in code.items() if key not in _PROGRAM_KEYS} | {"source": source}


def program(response: Response, language: str, entry_point: str | None, starter: str | None) -> str | None:
    """The whole program of `response`, to be run with the task's tests; None if it has none."""
    text = answer_block(response)
    text = response.visible if text is None else text
    blocks = fenced_blocks(text)
    aliases = ALIASES.get(language, frozenset({language}))
    marked = [block for block in blocks if block.mark in aliases]
    code = (marked or blocks)[-1].code if blocks else text
    if not code.strip():
        return None
    if not starter:
        return code
    return with_starter(code, language, entry_point, starter)


@dataclass(frozen=True)
class Block:
    """One fenced block. `mark`: first word after the fence, in small letters."""

    mark: str
    code: str


def fenced_blocks(text: str) -> list[Block]:
    """All fenced blocks of `text`, in order; the indentation of a fence is taken off its lines."""
    blocks: list[Block] = []
    lines: list[str] = []
    fence = mark = indent = ""
    for line in text.splitlines(keepends=True):
        found = _FENCE.match(line)
        if fence:
            if found and found[2].startswith(fence) and not found[3].strip():
                blocks.append(Block(mark, "".join(lines)))
                fence = ""
            else:
                lines.append(line.removeprefix(indent))
        elif found:
            indent, fence = found[1], found[2]
            words = found[3].strip().lstrip("{.").split(maxsplit=1)
            mark, lines = (words[0].rstrip("},").lower() if words else ""), []
    if fence:
        blocks.append(Block(mark, "".join(lines)))
    return blocks


def with_starter(code: str, language: str, entry_point: str | None, starter: str) -> str:
    """`code` as a program: after its starter, or after what the starter has before the function under test."""
    if language == "python":
        return _python(code, entry_point, starter)
    if language == "php":
        code = re.sub(r"\A\s*<\?php\b|\?>\s*\Z", "", code)
    start = _definition(starter, language, entry_point)
    before = starter
    if start is not None and _definition(code, language, entry_point) is not None:
        before = starter[: starter.rfind("\n", 0, start) + 1]
        before = _imports(before, language) if _declares_any(code, language, before) else before
    opened = brace_depth(before, language)[0] > 0
    whole = _join(before, code)
    return _balanced(whole, language) if opened or language == "csharp" else whole


def _python(code: str, entry_point: str | None, starter: str) -> str:
    start = _definition(starter, "python", entry_point)
    if start is None or _definition(code, "python", entry_point) is None:
        return _join(starter.rstrip(" \t"), _indented(code))
    before = starter[:start]
    if not before.strip():
        return code
    if "__future__" in code:  # must stay in front
        future = re.findall(r"^from __future__ import .*$", code, re.MULTILINE)
        code = re.sub(r"^from __future__ import .*$", "", code, flags=re.MULTILINE)
        before = _join("\n".join(future), before)
    return _join(before, code)


def _indented(body: str) -> str:
    """The body of a function whose `def` comes before it: indented as a whole, or its first line alone.

    What stood directly behind a tag has lost the indentation of its first line; a body may have none at all.
    """
    lines = body.split("\n")
    first = next(index for index, line in enumerate(lines) if line.strip())
    if lines[first][0] in " \t":
        return body
    rest = [line for line in lines[first + 1 :] if line.strip()]
    if rest and all(line[0] in " \t" for line in rest):
        lines[first] = "    " + lines[first]
        return "\n".join(lines)
    return "\n".join("    " + line if line.strip() else line for line in lines)


def _definition(text: str, language: str, name: str | None) -> int | None:
    """Where `text` first defines `name`: start of the definition (Python), of the name (others); None if nowhere."""
    if not name:
        return None
    word = re.escape(name)
    text = text if language in ("python", "bash") else _masked(text, language)
    if language == "python":
        pattern = (
            rf"^(?:(?:async[ \t]+)?def|class)[ \t]+{word}\b|^{word}[ \t]*(?::[^=\n]*)?=(?!=)"
            rf"|^from[ \t]+[^\s]+[ \t]+import[ \t][^\n]*\b{word}\b"
        )
    elif language in ("javascript", "typescript"):
        pattern = rf"\b(?:function(?:\s*\*)?|const|let|var|class)\s+{word}\b"
    elif language == "php":
        pattern = rf"\bfunction\s+&?{word}\s*\("
    elif language == "bash":
        pattern = rf"^[ \t]*(?:function[ \t]+{word}\b|{word}[ \t]*\([ \t]*\))"
    else:
        return _typed_definition(text, word)
    found = re.search(pattern, text, re.MULTILINE)
    return found.start() if found else None


def _typed_definition(text: str, word: str) -> int | None:
    """C++, Java, C#: the name after a type and before a parenthesis, or after `class`."""
    for found in re.finditer(rf"\b{word}\s*([({{])", text):
        nearby = max(found.start() - _PREFIX_CHARACTERS, 0)
        line = text[nearby : found.start()].rpartition("\n")[2]
        words = re.findall(r"\w+", line)
        if found[1] == "{":
            if words and words[-1] in ("class", "struct"):
                return found.start()
        elif words and not _NO_TYPE.intersection(words) and line[-1] in " \t&*" and _TYPE_PREFIX.fullmatch(line):
            return found.start()
    return None


def _masked(text: str, language: str) -> str:
    """`text` with strings and comments blanked out, every other character where it was."""
    return re.sub(_tokens(language), lambda found: " " * len(found[0]), text, flags=re.DOTALL)


def _declares_any(code: str, language: str, before: str) -> bool:
    """Whether `code` declares a class or function that the text before the function under test declares too."""
    names = re.findall(r"\b(?:class|struct)\s+(\w+)|\b(\w+)\s*(?:\(|=\s*\()", before)
    return any(
        _definition(before, language, name) is not None and _definition(code, language, name) is not None
        for name in {first or second for first, second in names}
    )


def _imports(text: str, language: str) -> str:
    starts = {
        "cpp": ("#", "using "),
        "java": ("import ",),
        "csharp": ("using ",),
        "php": ("<?php",),
        "bash": ("#!",),
    }.get(language, ("import ",))
    return "".join(line for line in text.splitlines(keepends=True) if line.startswith(starts))


def _join(before: str, after: str) -> str:
    return before + after if not before or before.endswith("\n") else f"{before}\n{after}"


def _balanced(code: str, language: str) -> str:
    """Missing closing braces added; C#: the last one taken off, so that the class is open as its tests expect."""
    wanted = 1 if language == "csharp" else 0
    depth, last = brace_depth(code, language)
    if depth > wanted:
        return f"{code.rstrip()}\n" + "}\n" * (depth - wanted)
    if depth < wanted and last is not None:
        return f"{code[:last].rstrip()}\n"
    return code


def brace_depth(code: str, language: str) -> tuple[int, int | None]:
    """Opening less closing braces outside strings and comments, and where the last closing one is."""
    depth, last = 0, None
    for found in re.finditer(rf"{_tokens(language)}|[{{}}]", code, re.DOTALL):
        if found[0] == "{":
            depth += 1
        elif found[0] == "}":
            depth, last = depth - 1, found.start()
    return depth, last


def _tokens(language: str) -> str:
    """Strings and comments of a language, near enough (no nested templates, heredocs or regular expressions)."""
    if language == "bash":
        return _SHELL_TOKENS
    if language in ("javascript", "typescript"):
        return f"{_C_TOKENS}|{_TEMPLATE}"
    return rf"{_C_TOKENS}|\#[^\n]*" if language == "php" else _C_TOKENS
