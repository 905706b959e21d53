r"""What of a text is prose: code, mathematics and marks are blanked out, so that no language is read into them.

Blanked: fenced and inline code (an unclosed fence runs to the end), `$...$`, `$$...$$`, `\(...\)`, `\[...\]`,
mathematical environments, `[asy]...[/asy]`, LaTeX commands with their arguments (of `\text{...}`, `\textbf{...}` and
the like only the name), `<<48/2=24>>` calculator marks, tags, web addresses. A dollar sign before an amount opens
nothing: inline mathematics has no blank inside its dollar signs, or holds no word, and no digit follows it.

Code without backticks and formulas without delimiters stay; `words.py` deals with their identifiers and operands.

One pass. A closing mark that was not found once is never looked for again, and braces are paired beforehand, so the
time is linear whatever the text.
"""

from __future__ import annotations

import regex

_ENVIRONMENTS = (
    "equation|align|aligned|alignat|gather|gathered|multline|split|eqnarray|array|cases|matrix|pmatrix|bmatrix|vmatrix|"
    "math|displaymath|tabular|tikzpicture|asy|verbatim|lstlisting"
)
_PROSE = "text textbf textit textrm textsf textmd textup emph underline item section subsection paragraph caption"
_PROSE_COMMANDS = frozenset(_PROSE.split())
_WORDLESS = r"(?:[^$\n\p{L}\\]|\\\p{L}+|\\[^\p{L}\n]|(?<!\p{L})\p{L}(?!\p{L}))*+"
_MARK = regex.compile(
    r"(?P<fence>`{3,})"
    r"|(?P<whole>`[^`\n]*+`|<<[^<>\n]*+>>|https?://\S++|<[^<>\s]++>)"
    r"|(?P<display>\$\$)"
    rf"|(?P<inline>\$(?=\S)[^$\n]*+(?<=\S)\$(?!\d)|\${_WORDLESS}\$)"
    r"|(?P<paired>\\\(|\\\[|\[asy\])"
    rf"|\\begin\{{(?P<environment>(?:{_ENVIRONMENTS})\*?)\}}"
    r"|\\(?P<command>\p{L}++)"
    r"|(?P<script>[_^](?=\{))"
    r"|(?P<escape>\\.)",
    regex.DOTALL,
)
_CLOSING = {"\\(": "\\)", "\\[": "\\]", "[asy]": "[/asy]"}


def prose(text: str) -> str:
    """`text` with a blank in the place of everything that is not prose."""
    braces = _pairs(text) if "{" in text else {}
    missing: set[str] = set()
    kept: list[str] = []
    start = position = 0
    while mark := _MARK.search(text, position):
        kind = str(mark.lastgroup)
        position = mark.end()
        match kind:
            case "fence":
                end = _after(text, mark.group(), position, missing) or len(text)
            case "whole" | "inline":
                end = position
            case "display" | "paired":
                end = _after(text, _CLOSING.get(mark.group(), "$$"), position, missing)
            case "environment":
                end = _after(text, f"\\end{{{mark.group(kind)}}}", position, missing)
            case "command" if mark.group(kind) in _PROSE_COMMANDS:
                end = position
            case "command" | "script":
                end = position
                while end in braces:
                    end = braces[end] + 1
            case _:
                end = position
        end = end or position  # an opening mark without its closing one is a mark and no more
        kept += (text[start : mark.start()], " ")
        start = position = end
    kept.append(text[start:])
    return "".join(kept)


def _after(text: str, closing: str, position: int, missing: set[str]) -> int:
    """Index after the next `closing`; 0, and never looked for again, if there is none."""
    if closing not in missing:
        found = text.find(closing, position)
        if found >= 0:
            return found + len(closing)
        missing.add(closing)
    return 0


def _pairs(text: str) -> dict[int, int]:
    """Index of every closed brace's partner."""
    opened: list[int] = []
    pairs: dict[int, int] = {}
    for brace in regex.finditer(r"[{}]", text):
        if brace.group() == "{":
            opened.append(brace.start())
        elif opened:
            pairs[opened.pop()] = brace.start()
    return pairs
